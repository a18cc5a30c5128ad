"""What a run is made of: one method at one sparsity and seed, with the hash that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfprune_init.errors import OptionError
from tfprune_init.methods import recipe_for

DENSE = "dense"
"""The method of the baseline: nothing is pruned."""

# What a comparison gives each run itself.
_OURS = ("sparsity", "seed", "loss", "verbose")


@dataclass(frozen=True)
class Contender:
    """A method with its options, under one name.

    Attributes:
        method: One of `tpi.methods()`, or "dense".
        options: Options of `prune_at_init`.
        label: What tables and plots call it.
        seeded: Whether the method draws anything itself, so that it takes a seed.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    seeded: bool = False

    @classmethod
    def of(cls, given: str | Mapping[str, Any] | Contender, data: Any) -> Contender:
        """A contender from a method's name, or a mapping of "method", options and perhaps "label".

        Raises:
            OptionError: If the method or an option is unknown, or an option has no effect on it.
        """
        if isinstance(given, Contender):
            return given
        if isinstance(given, str):
            given = {"method": given}
        if not isinstance(given, Mapping) or not isinstance(given.get("method"), str):
            raise OptionError(
                'A method is a name, such as "force", or a mapping such as {"method": "force", "steps": 10}. '
                f"Received: {given!r}."
            )
        options = {key: value for key, value in given.items() if key not in ("method", "label")}
        ours = [key for key in _OURS if key in options]
        if ours:
            raise OptionError(f"The comparison sets {', '.join(ours)} itself. Received: {dict(given)!r}.")
        method = given["method"]
        seeded = False
        if method != DENSE:
            recipe = recipe_for(method, data, {k: v for k, v in options.items() if k not in ("filters", "prune_bias")})
            seeded = recipe.shuffle or "seed" in recipe.method.options
        elif options:
            raise OptionError(f"The dense baseline takes no options. Received: {options!r}.")
        shown = " ".join([method, *(f"{key}={value}" for key, value in options.items())])
        return cls(method, options, given.get("label") or shown, seeded)


@dataclass(frozen=True)
class Setting:
    """Everything that decides what a run gives.

    Attributes:
        contender: The method.
        sparsity: Share of the prunable weights to remove; 0.0 for the dense baseline.
        seed: Seed of initial weights, order of examples and method.
        epochs: Passes over the training data.
        model: Fingerprint of the untrained, compiled model at this seed.
        data: Fingerprint of the data.
        versions: Versions of what it runs on.
    """

    contender: Contender
    sparsity: float
    seed: int
    epochs: int
    model: str
    data: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """All of it but the label, which decides nothing, in types that JSON knows."""
        return {
            "method": self.contender.method,
            "options": plain(self.contender.options),
            "sparsity": self.sparsity,
            "seed": self.seed,
            "epochs": self.epochs,
            "model": self.model,
            "data": self.data,
            "versions": self.versions,
        }

    @property
    def id(self) -> str:
        """The name of the run's folder: 16 digits of a SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Options in types that JSON knows; functions by their qualified names."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)


def contenders_of(methods: Iterable[Any], data: Any, dense: bool) -> list[Contender]:
    """The contenders of a comparison, the dense baseline first.

    Raises:
        OptionError: If one is malformed, or two have one label.
    """
    if isinstance(methods, (str, Mapping)):
        raise OptionError(f'methods is a list, such as ["snip", "force"]. Received: {methods!r}.')
    found = [Contender.of(given, data) for given in methods]
    if not found:
        raise OptionError("methods is empty. Give at least one, such as methods=['force'].")
    if dense and not any(one.method == DENSE for one in found):
        found.insert(0, Contender(DENSE, label=DENSE))
    labels = [one.label for one in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise OptionError(f"Two methods have one label: {', '.join(twice)}. Give each its own with label=.")
    return found
