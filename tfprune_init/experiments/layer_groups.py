"""The layers of a model that are judged one by one, each with the variables that belong to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model
from tfprune_init.checks import suggest
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.trace import is_graph, walk_calls
from tfprune_init.graph.variables import (
    NORMALIZATIONS,
    ModelVariable,
    SkippedVariable,
    is_named_by,
    list_variables,
)
from tfprune_init.masking.constraint import get_holding_constraint
from tfprune_init.masking.initializers import draw_initial_values, find_initializer

Layers = str | Iterable[str] | Mapping[str, str | Iterable[str]]


@dataclass(frozen=True, eq=False)
class LayerVariable:
    """One variable of a judged layer.

    Attributes:
        target: The variable.
        position: Its place among all variables of the model, which its draws depend on.
    """

    target: ModelVariable
    position: int

    @property
    def path(self) -> str:
        """Path of the variable."""
        return self.target.path

    @cached_property
    def is_trained(self) -> bool:
        """Whether optimizers move it, or would if its layer were not frozen; statistics and other states are not.

        In a frozen layer, what it says the initializer of is taken to be a parameter, but moving statistics.
        """
        target = self.target
        if target.layer.trainable:
            return any(target.variable is one for one in target.layer.trainable_variables)
        return find_initializer(target) is not None and not target.name.startswith("moving_")

    @property
    def kept(self) -> np.ndarray:
        """True where a weight is neither pruned by an attached mask nor frozen at another value."""
        held = get_holding_constraint(self.target.variable)
        return np.ones(self.target.shape, bool) if held is None else held.mask

    def read(self) -> np.ndarray:
        """Return the values, as the variable holds them."""
        return np.array(self.target.tensor)

    def write(self, values: np.ndarray) -> None:
        """Set the values; what a mask prunes stays exactly 0.0, what is frozen stays as it is."""
        dtype = self.target.tensor.dtype.as_numpy_dtype
        self.target.tensor.assign(np.where(self.kept, values, self.read()).astype(dtype))

    def draw(self, seed: int, number: int) -> np.ndarray | None:
        """Draw values from the layer's own initializer; None for a state that has none and keeps its value.

        Args:
            seed: Seed of all draws.
            number: Which draw it is.

        Raises:
            ModelError: If it is trained and the layer has no initializer for it, or one that cannot be repeated.
        """
        if not self.is_trained and find_initializer(self.target) is None:
            return None
        sequence = np.random.SeedSequence([seed, number, self.position])
        return draw_initial_values(self.target, sequence, 1, "leave the layer out of layers=, or set draws=0")[0]


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """What is replaced together: a layer, or several.

    Attributes:
        name: Path of the layer, or the name that the caller gave.
        variables: Its variables of floating point.
    """

    name: str
    variables: tuple[LayerVariable, ...]


def find_layer_groups(
    model: Model, layers: Layers | None, with_normalization: bool
) -> tuple[list[LayerGroup], list[SkippedVariable]]:
    """Find the layers of a model that have weights, in its order.

    Args:
        model: A built model.
        layers: Glob patterns of layers, or a mapping from name to the patterns of what is replaced together.
        with_normalization: Whether a normalization goes with the layer whose output it takes.

    Returns:
        The groups, and the variables that belong to none of the layers that could be named, with the reason.

    Raises:
        OptionError: If a pattern names no layer with weights, or `with_normalization` has no effect.
        ModelError: If the model has no layer with weights, or is subclassed where its graph is needed.
    """
    parts, skipped = _find_parts(model)
    if not parts:
        raise ModelError(f"Model {model.name!r} has no layer with weights. Received: {len(skipped)} other variables.")
    owners = _find_owners(model, parts) if with_normalization else {}
    if isinstance(layers, Mapping):
        chosen = {str(name): _match(patterns, parts, model) for name, patterns in layers.items()}
    else:
        chosen = {name: [name] for name in (parts if layers is None else _match(layers, parts, model))}
        # A normalization stands in the row of its layer, where that has one.
        chosen = {name: names for name, names in chosen.items() if owners.get(name) not in chosen}
    if not chosen:
        raise OptionError(f"layers= names no layer. {suggest('', parts)} Received: layers={layers!r}.")
    if with_normalization and not any(owner in names for names in chosen.values() for owner in owners.values()):
        raise OptionError(
            "with_normalization=True has no effect: no normalization takes the output of one of these layers. "
            f"Received: layers={layers!r}."
        )
    return [_join(name, names, parts, owners) for name, names in chosen.items()], skipped


def _find_parts(model: Model) -> tuple[dict[str, list[LayerVariable]], list[SkippedVariable]]:
    """Return the variables of each layer with weights, by its path, and all others."""
    owned: dict[str, list[LayerVariable]] = {}
    skipped: list[SkippedVariable] = []
    for position, target in enumerate(list_variables(model)):
        if tf.as_dtype(target.tensor.dtype).is_floating:
            owned.setdefault(target.path.rpartition("/")[0] or model.name, []).append(LayerVariable(target, position))
        else:
            skipped.append(SkippedVariable(target.path, target.shape, "not of floating point (a state)"))
    parts = {}
    for name, variables in owned.items():
        if any(one.is_trained or find_initializer(one.target) is not None for one in variables):
            parts[name] = variables
        else:
            skipped += [
                SkippedVariable(one.path, one.target.shape, "a state that no optimizer trains") for one in variables
            ]
    return parts, skipped


def _find_owners(model: Model, parts: Mapping[str, list[LayerVariable]]) -> dict[str, str]:
    """Return for each normalization the layer whose output it takes, both by path."""
    if not is_graph(model):
        raise ModelError(
            "Which normalization follows a layer is known of Sequential and functional models alone. Name what belongs "
            f"together: layers={{'conv1': ['conv1', 'bn1']}}. Received: with_normalization=True, model {model.name!r}."
        )
    paths = {id(variables[0].target.layer): name for name, variables in parts.items()}
    makers: dict[int, str] = {}
    owners: dict[str, str] = {}
    for call in walk_calls(model):
        path = paths.get(id(call.layer))
        if path is None:
            continue
        makers |= {id(output): path for output in call.outputs}
        if compat.get_class_names(call.layer) & NORMALIZATIONS and id(call.inputs[0]) in makers:
            owners.setdefault(path, makers[id(call.inputs[0])])
    return owners


def _match(patterns: Any, parts: Iterable[str], model: Model) -> list[str]:
    """Return the layers that patterns name, in the order of the model."""
    if not isinstance(patterns, Iterable):
        raise OptionError(f"layers= holds patterns of layers, 'dense*' or a list of such. Received: {patterns!r}.")
    listed, known = [patterns] if isinstance(patterns, str) else list(patterns), list(parts)
    for pattern in listed:
        if not any(_is_named(name, pattern) for name in known):
            raise OptionError(
                f"layers= names {pattern!r}, which is no layer with weights of model {model.name!r}. "
                f"{suggest(pattern, known)}"
            )
    return [name for name in known if any(_is_named(name, pattern) for pattern in listed)]


def _is_named(layer: str, pattern: Any) -> bool:
    return isinstance(pattern, str) and is_named_by(f"{layer}/", pattern)


def _join(
    name: str, names: list[str], parts: Mapping[str, list[LayerVariable]], owners: Mapping[str, str]
) -> LayerGroup:
    members = [part for part in parts if part in names or owners.get(part) in names]
    return LayerGroup(name, tuple(one for part in members for one in parts[part]))
