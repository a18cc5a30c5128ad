"""The dependency graph of a network: for each unit, all weights that go when it goes."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_inputs import find_string_inputs, make_example_input
from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.channel_groups import (
    NO_LABEL,
    ChannelGroups,
    labels_along,
    make_unlabelled,
    spread_labels,
    squeeze_broadcast,
)
from tfprune_init.graph.layer_rules import LabelContext, LayerRule, find_channel_rule, find_rule
from tfprune_init.graph.layer_rules.contexts import find_channel_axis
from tfprune_init.graph.trace import LayerCall, trace_calls
from tfprune_init.graph.variables import ModelVariable, find_prunable_variables, list_variables


@dataclass(frozen=True, eq=False)
class DependencyGraph:
    """Which weights belong to which unit. Units that can only go together, as in a residual network, are one group.

    Attributes:
        units: For each kernel whose units are known, the group of each output unit.
        entries: For each variable that serves units, its axes that are indexed by units, with the group at each index
            (-1: none). Along an output axis these are incoming weights, along an input axis outgoing ones.
        removable: Whether each group may be removed; units that make up an output of the model may not.
        unlabelled: For each other prunable variable, why its units are not known.
        shapes: Shapes of the variables in `entries` and `cells`.
        cells: For each variable whose weights go with units one by one, as in a grouped convolution, the group of each
            weight (-1: none), of the variable's shape.
        followers: For each variable that is cut but not masked, as statistics are, its axes that are indexed by units.
        reasons: Why each group that may not be removed has to stay.
    """

    units: dict[str, np.ndarray]
    entries: dict[str, tuple[tuple[int, np.ndarray], ...]]
    removable: np.ndarray
    unlabelled: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    cells: dict[str, np.ndarray] = field(default_factory=dict)
    followers: dict[str, tuple[tuple[int, np.ndarray], ...]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)

    def pin_all_but(self, paths: Container[str], reason: str) -> DependencyGraph:
        """Return a graph in which groups without a unit in some kernels may not be removed.

        Args:
            paths: Those kernels.
            reason: Why the others have to stay.
        """
        among = np.zeros(self.removable.size, bool)
        for path, labels in self.units.items():
            among[labels] |= path in paths
        fresh = dict.fromkeys(np.flatnonzero(self.removable & ~among).tolist(), reason)
        return replace(self, removable=self.removable & among, reasons={**self.reasons, **fresh})

    def masks(self, removed: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is kept once groups are removed.

        Args:
            removed: Whether each group is removed.

        Returns:
            A boolean mask, True where a weight is kept, for each variable in `entries` and `cells`.

        Raises:
            OptionError: If `removed` does not fit, or names a group that may not be removed.
        """
        removed = np.asarray(removed)
        if removed.dtype != bool or removed.shape != self.removable.shape:
            raise OptionError(
                f"Removal takes one boolean for each of the {self.removable.size} groups of units. "
                f"Received: {removed.dtype} of shape {removed.shape}."
            )
        stuck = np.flatnonzero(removed & ~self.removable)
        if stuck.size:
            owners = [path for path, labels in self.units.items() if np.isin(labels, stuck).any()]
            reasons = dict.fromkeys(self.reasons[group] for group in stuck.tolist() if group in self.reasons)
            raise OptionError(
                "Units whose group may not be removed have to stay; `removable` says which those are. "
                f"Received: groups {stuck[:8].tolist()}, units of {', '.join(owners[:4])}; "
                f"such a group {', '.join(list(reasons)[:3]) or 'has to stay'}."
            )
        kept = np.append(~removed, True)  # the last, so that -1, no unit, is kept
        masks = {path: np.ones(shape, bool) for path, shape in self.shapes.items()}
        for path, axes in self.entries.items():
            for axis, labels in axes:
                masks[path] &= spread_labels(kept[labels], axis, self.shapes[path])
        for path, labels in self.cells.items():
            masks[path] &= kept[labels]
        return masks


def build_dependency_graph(model: Model, example: Any = None, *, strict: bool = False) -> DependencyGraph:
    """Find which weights belong to which unit of a network.

    A unit is a filter of a convolution, a neuron of a Dense layer, a unit of an LSTM or GRU, or a head of attention.
    With it go its incoming weights, its bias, its scale and offset in normalizations, and its outgoing weights: rows of
    the kernels that take it, as many as it has pixels behind Flatten. With a recurrent unit go its columns in all gates
    and its recurrent row, with a head its part of all projections. The model runs once on an example, in inference, and
    units are followed from layer to layer: through activations, normalization, Dropout, pooling, padding, reshaping,
    depthwise convolution, Concatenate, TimeDistributed, and through sums and products, whose operands go together (so a
    gate and the channels it multiplies). In a grouped convolution each weight goes with the channel it takes.

    Custom layers, Lambda, operations outside of layers, and layers without a rule end the trail. A unit can be removed
    before such an end too: its channel then holds one value for all inputs, which is 0 unless an activation like
    sigmoid makes something else of 0, or BatchNorm without gamma; that constant still enters what follows. So it does
    where a kernel's row takes several units, and next to an operand without units.

    Units stay that reach an output of the model, that pass through a softmax over units, whose kernel is not prunable,
    whose bias or scale serves others as well, or that are added to an embedding; `reasons` says why. At the end of a
    trail those stay that make up as many numbers as an output of the model, or after which no layer with weights is
    called on anything unknown.

    Args:
        model: A built model, Keras 3 or tf_keras.
        example: One batch of inputs, best a small one: what every layer gives is held at once. Made up for
            Sequential and functional models.
        strict: Whether only what `compact` can cut out of the network may be removed: no unit that enters what ends the
            trail, and units at the same place of all groups of a grouped convolution together.

    Returns:
        The graph; the same for the same model.

    Raises:
        ModelError: If nothing is prunable, or the model is subclassed and there is no example.
        DataError: If the model cannot run on the example.

    Example:
        >>> import keras
        >>> from tfprune_init.graph import build_dependency_graph
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2, name="head")]
        ... )
        >>> graph = build_dependency_graph(model)
        >>> graph.removable
        array([ True,  True,  True, False, False])
        >>> masks = graph.masks(graph.removable & [True, False, False, False, False])
        >>> {path: int(mask.sum()) for path, mask in masks.items()}
        {'hidden/kernel': 8, 'hidden/bias': 2, 'head/kernel': 4, 'head/bias': 2}
    """
    compat.check_model(model)
    if example is None:
        if not compat.is_symbolic(model):
            raise ModelError(
                f"The units of a subclassed model are found by running it. Received: {type(model).__name__} and "
                "example=None; pass example=..., one small batch of its inputs."
            )
        example = make_example_input(model, np.random.default_rng(0))
    if example is None:
        raise ModelError(
            f"The units of model {model.name!r} are found by running it, and no example can be made up for its inputs "
            f"of strings, {', '.join(map(repr, find_string_inputs(model)))}. Pass data, or example=..., one small "
            "batch; or use tpi.cut_string_inputs(model), which shares its weights."
        )
    calls, outputs = trace_calls(model, example, _find_inputs_to_cut if strict else _find_inputs)
    variables = {target.path: target for target in list_variables(model)}
    skipped = {one.path: one.reason for one in find_prunable_variables(model).skipped}
    groups = ChannelGroups(strict=strict)
    _follow(groups, calls, outputs, {id(target.variable): target for target in variables.values()})
    for path, labels in groups.units.items():
        if path in skipped:
            groups.pin(labels, f"has a kernel that is not pruned, {path}: {skipped[path]}")
    found = groups.resolve(list(variables))
    paths = dict.fromkeys([path for path, _ in found.consumers] + list(found.cells))
    called = {id(call.layer) for call in calls}
    unlabelled = [target for path, target in variables.items() if path not in skipped and path not in found.units]
    return DependencyGraph(
        units=found.units,
        entries=_by_path(found.consumers),
        removable=found.removable,
        unlabelled={target.path: _find_reason(target, called) for target in unlabelled},
        shapes={path: variables[path].shape for path in paths},
        cells=found.cells,
        followers=_by_path(found.followers),
        reasons=found.reasons,
    )


def _by_path(found: Mapping[tuple[str, int], np.ndarray]) -> dict[str, tuple[tuple[int, np.ndarray], ...]]:
    return {
        path: tuple((axis, labels) for (known, axis), labels in found.items() if known == path)
        for path in dict.fromkeys(path for path, _ in found)
    }


def _find_inputs(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    rule = find_rule(layer)
    return rule.find_inputs(layer, args, kwargs) if rule is not None and rule.follows_units else None


def _find_inputs_to_cut(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    return None if isinstance(find_channel_rule(layer), str) else _find_inputs(layer, args, kwargs)


def _follow(
    groups: ChannelGroups, calls: list[LayerCall], outputs: list[tf.Tensor], targets: Mapping[int, ModelVariable]
) -> None:
    """Carry labels along the tensors of a run, and pin what makes up the outputs."""
    carried: dict[int, np.ndarray] = {}
    ends: dict[int, int] = {}
    last_unknown = -1

    def labels_of(tensor: tf.Tensor) -> np.ndarray:
        return carried.get(id(tensor), make_unlabelled(tuple(tensor.shape[1:])))

    for time, call in enumerate(calls):
        inputs = tuple(labels_of(tensor) for tensor in call.inputs)
        has_weights = bool(getattr(call.layer, "variables", ()))  # operations of Keras 3 have none
        if has_weights and (not call.outputs or any((one == NO_LABEL).any() for one in inputs)):
            last_unknown = time
        if not call.outputs:
            for labels in inputs if groups.strict else ():
                groups.pin(labels, f"enters {call.layer.name}, of which it is not known what it does")
            continue
        (output,) = call.outputs
        rule = find_rule(call.layer)
        assert rule is not None
        for tensor in call.inputs:
            ends.pop(id(tensor), None)
        variables = {name: targets[id(one)] for name, one in rule.find_variables(call.layer).items()}
        carried[id(output)] = rule.label(groups, LabelContext(call.layer, inputs, tuple(output.shape[1:]), variables))
        if groups.strict:
            _pin_lost(groups, rule, call.layer, inputs, carried[id(output)])
        ends[id(output)] = time
    for output in outputs:
        groups.pin(labels_of(output), "is an output of the model")
    for end, time in ends.items():
        if groups.strict or time >= last_unknown or any(_as_many(carried[end], output) for output in outputs):
            groups.pin(carried[end], "may be an output of the model: what takes it is not known")


def _pin_lost(
    groups: ChannelGroups, rule: LayerRule, layer: Layer, inputs: tuple[np.ndarray, ...], output: np.ndarray
) -> None:
    """Let channels stay that neither lie along the channel axis of a layer with units, nor go on behind another."""
    for labels in inputs:
        passed = labels_along(labels, find_channel_axis(layer, labels.ndim)) if rule.makes_units else output
        groups.pin(groups.find_missing(labels, passed), f"cannot be followed through {layer.name}")


def _as_many(labels: np.ndarray, output: tf.Tensor) -> bool:
    """Return whether units, or the numbers they give, are as many as an output has classes, or numbers."""
    shape = tuple(output.shape[1:]) or (1,)
    return bool(np.unique(squeeze_broadcast([labels])[0]).size == shape[-1] or labels.size == np.prod(shape))


def _find_reason(target: ModelVariable, called: set[int]) -> str:
    """Return why the units of a prunable variable are not known."""
    kind = type(target.layer).__name__
    if target.name == "depthwise_kernel" or "Depthwise" in kind:
        return f"the channels of {kind} are the units of the layer before it"
    rule = find_rule(target.layer)
    if rule is None or not rule.follows_units:
        return f"{kind} is not a layer whose units are followed"
    if id(target.layer) not in called:
        return "its layer was not called on the example"
    return f"{kind}.{target.name} is not the kernel of units"
