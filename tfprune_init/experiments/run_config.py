"""The configuration of a run: one method at one sparsity and seed, with the hash that names its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfprune_init.errors import OptionError
from tfprune_init.options import OPTIONS
from tfprune_init.training.events import Event, Train
from tfprune_init.training.named_procedures import RunGoal, check_options, make_events
from tfprune_init.training.recipe_registry import RECIPES

DENSE = "dense"
"""The method of the baseline: nothing is pruned."""

# What a comparison gives each run itself.
_OURS = ("sparsity", "seed", "loss", "verbose")


@dataclass(frozen=True)
class MethodSpec:
    """A method with its options, under one name.

    Attributes:
        method: A method of `tpi.list_methods()`, a procedure of `tpi.training.RECIPES`, or "dense".
        options: Its options.
        label: Its name in tables and plots.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @classmethod
    def of(cls, given: str | Mapping[str, Any] | MethodSpec, data: Any) -> MethodSpec:
        """Make a method from its name, or from a mapping of "method", options and, if given, "label".

        Raises:
            OptionError: If the method or an option is unknown, or an option has no effect on it.
        """
        if isinstance(given, MethodSpec):
            return given
        if isinstance(given, str):
            given = {"method": given}
        if not isinstance(given, Mapping) or not isinstance(given.get("method"), str):
            raise OptionError(
                'A method must be a name, such as "force", or a mapping such as {"method": "force", "steps": 10}. '
                f"Received: {given!r}."
            )
        options = {key: value for key, value in given.items() if key not in ("method", "label")}
        ours = [key for key in _OURS if key in options]
        if ours:
            raise OptionError(f"The comparison sets {', '.join(ours)} itself. Received: {dict(given)!r}.")
        method = given["method"]
        if method == DENSE and options:
            raise OptionError(f"The dense baseline takes no options. Received: {options!r}.")
        if method != DENSE:
            OPTIONS["on_collapse"].check(options.get("on_collapse", "raise"))
            check_options(method, data, {key: value for key, value in options.items() if key != "on_collapse"})
        shown = " ".join([method, *(f"{key}={value}" for key, value in options.items())])
        return cls(method, options, given.get("label") or shown)

    @property
    def decides_sparsity(self) -> bool:
        """Whether it takes no sparsity: the dense baseline, and procedures that find themselves how much stays."""
        return self.method == DENSE or (self.method in RECIPES and RECIPES[self.method].decides_sparsity)

    @property
    def on_collapse(self) -> str:
        """What a network is that pruning cut in two."""
        return str(self.options.get("on_collapse", OPTIONS["on_collapse"].default))

    def make_goal(self, sparsity: float | None) -> RunGoal:
        """Return how much is to stay."""
        return RunGoal(None if self.decides_sparsity else sparsity)

    def make_events(self, sparsity: float | None, epochs: int, steps_per_epoch: int) -> list[Event]:
        """Make its events.

        Raises:
            OptionError: If an option is out of range for a training of this length.
        """
        steps = epochs * steps_per_epoch
        if self.method == DENSE:
            return [Train(steps)]
        options = {key: value for key, value in self.options.items() if key != "on_collapse"}
        return make_events(self.method, self.make_goal(sparsity), steps, steps_per_epoch, options)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the result of a run.

    Attributes:
        spec: The method.
        sparsity: Share of the prunable weights to remove; 0.0 for the dense baseline, None for a procedure that finds
            itself how much stays.
        seed: Seed of initial weights, order of examples and method.
        epochs: Passes over the training data.
        model: Fingerprint of the untrained, compiled model at this seed.
        data: Fingerprint of the data.
        versions: Versions of what it runs on.
    """

    spec: MethodSpec
    sparsity: float | None
    seed: int
    epochs: int
    model: str
    data: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Convert all but the label, which decides nothing, to types that JSON knows."""
        return {
            "method": self.spec.method,
            "options": to_plain_values(self.spec.options),
            "sparsity": self.sparsity,
            "seed": self.seed,
            "epochs": self.epochs,
            "model": self.model,
            "data": self.data,
            "versions": self.versions,
        }

    @property
    def id(self) -> str:
        """Name of the run's folder: the first 16 hexadecimal digits of a SHA-256 of the configuration."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def to_plain_values(value: Any) -> Any:
    """Convert options to types that JSON knows; functions to their qualified names."""
    if isinstance(value, Mapping):
        return {str(key): to_plain_values(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain_values(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)


def parse_methods(methods: Iterable[Any], data: Any, dense: bool, on_collapse: str) -> list[MethodSpec]:
    """List the methods of a comparison, the dense baseline first.

    Args:
        methods: What the caller gave.
        data: What connections are judged by.
        dense: Whether the baseline is wanted.
        on_collapse: The option of that name, for each method that does not have its own.

    Raises:
        OptionError: If one is malformed, or two have one label.
    """
    if isinstance(methods, (str, Mapping)):
        raise OptionError(f'methods must be a list, such as ["snip", "force"]. Received: {methods!r}.')
    found = [MethodSpec.of(given, data) for given in methods]
    if OPTIONS["on_collapse"].check(on_collapse) != OPTIONS["on_collapse"].default:
        found = [
            one if one.method == DENSE else replace(one, options={"on_collapse": on_collapse, **one.options})
            for one in found
        ]
    if not found:
        raise OptionError("methods is empty. Give at least one, such as methods=['force'].")
    if dense and not any(one.method == DENSE for one in found):
        found.insert(0, MethodSpec(DENSE, label=DENSE))
    labels = [one.label for one in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise OptionError(f"Two methods have one label: {', '.join(twice)}. Give each its own with label=.")
    return found
