"""The wiring of a network: for each unit, all weights that go when it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.targets import Target, all_variables, find_targets
from tfprune_init.wiring.ledger import NONE, Ledger, compact, spread, unlabelled
from tfprune_init.wiring.record import Call, record
from tfprune_init.wiring.rules import Use, rule_of


@dataclass(frozen=True, eq=False)
class Wiring:
    """Which weights belong to which unit. Units that can only go together, as in a residual network, are one group.

    Attributes:
        units: For each kernel whose units are known, the group of each output unit.
        entries: For each variable that serves units, its axes that are indexed by units, with the group at each index
            (-1: none). Along an output axis these are incoming weights, along an input axis outgoing ones.
        removable: Whether each group may be removed; units that make up an output of the model may not.
        unlabelled: For each other prunable variable, why its units are not known.
        shapes: Shapes of the variables in `entries`.
    """

    units: dict[str, np.ndarray]
    entries: dict[str, tuple[tuple[int, np.ndarray], ...]]
    removable: np.ndarray
    unlabelled: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    def masks(self, removed: np.ndarray) -> dict[str, np.ndarray]:
        """What is kept once groups are removed.

        Args:
            removed: Whether each group is removed.

        Returns:
            A boolean mask, True where a weight is kept, for each variable in `entries`.

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
            raise OptionError(
                "Units whose group may not be removed have to stay; `removable` says which those are. "
                f"Received: groups {stuck[:8].tolist()}, units of {', '.join(owners[:4])}."
            )
        kept = np.append(~removed, True)  # the last, so that -1, no unit, is kept
        masks = {path: np.ones(shape, bool) for path, shape in self.shapes.items()}
        for path, axes in self.entries.items():
            for axis, labels in axes:
                masks[path] &= spread(kept[labels], axis, self.shapes[path])
        return masks


def find_wiring(model: Any, example: Any = None) -> Wiring:
    """Find which weights belong to which unit of a network.

    A unit is a filter of a convolution or a neuron of a Dense layer. With it go its incoming weights, its bias, its
    scale and offset in normalizations, and its outgoing weights: rows of the kernels that take it, as many as it has
    pixels behind Flatten. The model runs once on an example, in inference, and units are followed from layer to layer:
    through activations, normalization, Dropout, pooling, padding, reshaping, depthwise convolution, Concatenate,
    TimeDistributed, and through sums and products, whose operands go together.

    Attention, recurrent and custom layers, Lambda and operations outside of layers end the trail. A unit can be
    removed before such an end too: its channel then holds one value for all inputs, which is 0 unless an activation
    like sigmoid makes something else of 0, or BatchNorm without gamma; that constant still enters what follows. So it
    does where a kernel's row takes several units, in grouped convolution, and next to an operand without units.

    Units stay that reach an output of the model, that pass through a softmax over units, whose kernel is not
    prunable, or whose bias or scale serves others as well. At the end of a trail those stay that make up as many
    numbers as an output of the model, or after which no layer with weights is called on anything unknown.

    Args:
        model: A built model, Keras 3 or tf_keras.
        example: One batch of inputs, best a small one: what every layer gives is held at once. Made up for
            Sequential and functional models.

    Returns:
        Wiring; the same for the same model.

    Raises:
        ModelError: If nothing is prunable, or the model is subclassed and there is no example.
        DataError: If the model cannot run on the example.

    Example:
        >>> import keras
        >>> from tfprune_init.wiring import find_wiring
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2, name="head")]
        ... )
        >>> wiring = find_wiring(model)
        >>> wiring.removable
        array([ True,  True,  True, False, False])
        >>> masks = wiring.masks(wiring.removable & [True, False, False, False, False])
        >>> {path: int(mask.sum()) for path, mask in masks.items()}
        {'hidden/kernel': 8, 'hidden/bias': 2, 'head/kernel': 4, 'head/bias': 2}
    """
    kerases.check_model(model)
    if example is None:
        if not kerases.is_symbolic(model):
            raise ModelError(
                f"The units of a subclassed model are found by running it. Received: {type(model).__name__} and "
                "example=None; pass example=..., one small batch of its inputs."
            )
        example = kerases.example_input(model, np.random.default_rng(0))
    calls, outputs = record(model, example, lambda layer: rule_of(layer) is not None)
    variables = {target.path: target for target in all_variables(model)}
    prunable = {target.path: target for target in find_targets(model).prunable}
    ledger = Ledger()
    _follow(ledger, calls, outputs, {id(target.variable): target for target in variables.values()})
    units, entries, removable = ledger.settle(list(variables))
    for path in units.keys() - prunable.keys():
        removable[units[path]] = False
    axes = {path: tuple((key[1], labels) for key, labels in entries.items() if key[0] == path) for path, _ in entries}
    called = {id(call.layer) for call in calls}
    return Wiring(
        units=units,
        entries=axes,
        removable=removable,
        unlabelled={path: _reason(target, called) for path, target in prunable.items() if path not in units},
        shapes={path: variables[path].shape for path in axes},
    )


def _follow(ledger: Ledger, calls: list[Call], outputs: list[tf.Tensor], targets: dict[int, Target]) -> None:
    """Carry labels along the tensors of a run, and protect what makes up the outputs."""
    carried: dict[int, np.ndarray] = {}
    ends: dict[int, int] = {}
    last_unknown = -1

    def labels_of(tensor: tf.Tensor) -> np.ndarray:
        return carried.get(id(tensor), unlabelled(tuple(tensor.shape[1:])))

    for time, call in enumerate(calls):
        inputs = tuple(labels_of(tensor) for tensor in call.inputs)
        if call.layer.variables and (call.output is None or any((one == NONE).any() for one in inputs)):
            last_unknown = time
        if call.output is None:
            continue
        rule = rule_of(call.layer)
        assert rule is not None
        for tensor in call.inputs:
            ends.pop(id(tensor), None)
        carried[id(call.output)] = rule(ledger, Use(call.layer, inputs, tuple(call.output.shape[1:]), targets))
        ends[id(call.output)] = time
    for output in outputs:
        ledger.protect(labels_of(output))
    for end, time in ends.items():
        if time >= last_unknown or any(_as_many(carried[end], output) for output in outputs):
            ledger.protect(carried[end])


def _as_many(labels: np.ndarray, output: tf.Tensor) -> bool:
    """Whether units, or the numbers they give, are as many as an output has classes, or numbers."""
    shape = tuple(output.shape[1:]) or (1,)
    return np.unique(compact([labels])[0]).size == shape[-1] or labels.size == np.prod(shape)


def _reason(target: Target, called: set[int]) -> str:
    """Why the units of a prunable variable are not known."""
    kind = type(target.layer).__name__
    if target.name == "depthwise_kernel" or "Depthwise" in kind:
        return f"the channels of {kind} are the units of the layer before it"
    if rule_of(target.layer) is None:
        return f"{kind} is not a layer whose units are followed"
    if id(target.layer) not in called:
        return "its layer was not called on the example"
    return f"{kind}.{target.name} is not the kernel of units"
