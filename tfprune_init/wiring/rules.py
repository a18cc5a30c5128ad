"""What each kind of layer does to the labels of units: a new kind is one row of the table at the end.

Labels have the shape of one example. Where a tensor bears the label of a unit it holds one value for all inputs once
that unit is removed; where a rule cannot promise that, it gives no label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.targets import Target
from tfprune_init.units import unit_axes
from tfprune_init.wiring.ledger import NONE, Ledger, along, compact, spread, unlabelled


@dataclass(frozen=True, eq=False)
class Use:
    """One call of a layer, as its rule sees it.

    Attributes:
        layer: The layer.
        inputs: Labels of its inputs, each of the shape of one example.
        shape: Shape of its output, for one example.
        targets: Variables of the model, by their ids.
    """

    layer: Any
    inputs: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    targets: Mapping[int, Target]

    @property
    def labels(self) -> np.ndarray:
        """Labels of the first input."""
        return self.inputs[0]

    def variables(self) -> dict[str, Target]:
        """The layer's own variables, by name."""
        own = kerases.own_variables(self.layer)
        return {kerases.variable_name(self.layer, one): self.targets[id(one)] for one in own}

    def channels(self) -> np.ndarray:
        """Label of each channel of the first input."""
        return along(self.labels, self._channel_axis(self.labels.ndim))

    def over_channels(self, labels: np.ndarray) -> np.ndarray:
        """The output, with a label for each channel."""
        return spread(labels, self._channel_axis(len(self.shape)), self.shape)

    def _channel_axis(self, rank: int) -> int:
        return 0 if getattr(self.layer, "data_format", None) == "channels_first" else rank - 1


Rule = Callable[[Ledger, Use], np.ndarray]


def rule_of(layer: Any) -> Rule | None:
    """What a layer does to labels; None where that is not known, as for a class that computes in its own way."""
    mro = type(layer).__mro__
    known = next((i for i, base in enumerate(mro) if base.__module__.split(".")[0] in ("keras", "tf_keras")), None)
    changed = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    if known is None or changed or any({"call", "convolution_op"} & set(vars(base)) for base in mro[:known]):
        return None
    if mro[known].__name__ == "TimeDistributed" and rule_of(layer.layer) is None:
        return None
    return _RULES.get(mro[known].__name__)


def _unit_layer(ledger: Ledger, use: Use) -> np.ndarray:
    variables, taken, name = use.variables(), use.channels(), "kernel"
    if "depthwise_kernel" in variables:
        taken, name = _by_depth(ledger, variables["depthwise_kernel"], taken), "pointwise_kernel"
    kernel = variables[name]
    axes = unit_axes(kerases.class_names(use.layer), name, len(kernel.shape))
    (rows,), (columns,) = axes.inputs, axes.outputs
    if kernel.shape[rows] == len(taken):  # not so in groups, where a row serves one channel of each group
        ledger.serves(kernel.path, rows, taken)
    labels = ledger.units(kernel.path, columns, kernel.shape[columns])
    if (labels != NONE).all():
        ledger.silences(kernel.path, columns, labels)
    return _biased(ledger, use, labels)


def _depthwise(ledger: Ledger, use: Use) -> np.ndarray:
    return _biased(ledger, use, _by_depth(ledger, use.variables()["kernel"], use.channels()))


def _by_depth(ledger: Ledger, kernel: Target, taken: np.ndarray) -> np.ndarray:
    ledger.serves(kernel.path, len(kernel.shape) - 2, taken)
    return np.repeat(taken, kernel.shape[-1])


def _biased(ledger: Ledger, use: Use, labels: np.ndarray) -> np.ndarray:
    bias = use.variables().get("bias")
    if bias is not None:
        ledger.silences(bias.path, 0, labels)
    return _activated(ledger, replace(use, inputs=(use.over_channels(labels),)))


def _activated(ledger: Ledger, use: Use) -> np.ndarray:
    if not is_elementwise(use.layer.activation):
        ledger.protect(use.labels)
    return _same(ledger, use)


def is_elementwise(function: Any) -> bool:
    """Whether an activation, a function or a layer, makes of each number something by itself; None does."""
    if function is None:
        return True
    if kerases.class_names(function):
        rule = rule_of(function)
        return rule is _same or (rule is _activated and is_elementwise(function.activation))
    before = np.array([[0.3, -0.7, 1.1, -0.2]], np.float32)
    after = before + np.array([[0, 0, 0, 0.9]], np.float32)
    try:
        one, other = (np.asarray(function(tf.constant(values))) for values in (before, after))
    except (TypeError, ValueError, tf.errors.OpError):
        return False
    return one.shape == before.shape and np.array_equal(one[:, :3], other[:, :3], equal_nan=True)


def _same(ledger: Ledger, use: Use) -> np.ndarray:
    return use.labels if use.labels.shape == use.shape else unlabelled(use.shape)


def _softmax(ledger: Ledger, use: Use) -> np.ndarray:
    if any(axis < 0 or (use.labels != use.labels.take([0], axis)).any() for axis in _axes(use)):
        ledger.protect(use.labels)
    return _same(ledger, use)


def _axes(use: Use) -> list[int]:
    """The axes that the layer names, counted within one example; -1 is the batch."""
    return [int(axis) % (use.labels.ndim + 1) - 1 for axis in np.atleast_1d(use.layer.axis)]


def _by_channel(ledger: Ledger, use: Use) -> np.ndarray:
    return use.over_channels(use.channels())


def _mixed_and_scaled(ledger: Ledger, use: Use) -> np.ndarray:
    # What enters mixes in the other channels; only a scale of zero takes that out again.
    return _scaled(ledger, use) if {"gamma", "scale"} & set(use.variables()) else unlabelled(use.shape)


def _scaled(ledger: Ledger, use: Use) -> np.ndarray:
    axes = _axes(use)
    if len(axes) != 1 or axes[0] < 0:
        return unlabelled(use.shape)
    labels = along(use.labels, axes[0])
    for name, variable in use.variables().items():
        if name in ("gamma", "scale", "beta"):
            ledger.silences(variable.path, 0, labels)
    return spread(labels, axes[0], use.shape)


def _flattened(ledger: Ledger, use: Use) -> np.ndarray:
    first = getattr(use.layer, "data_format", None) == "channels_first" and use.labels.ndim > 1
    return (np.moveaxis(use.labels, 0, -1) if first else use.labels).reshape(use.shape)


def _reshaped(ledger: Ledger, use: Use) -> np.ndarray:
    return use.labels.reshape(use.shape)


def _permuted(ledger: Ledger, use: Use) -> np.ndarray:
    return use.labels.transpose([axis - 1 for axis in use.layer.dims])


def _concatenated(ledger: Ledger, use: Use) -> np.ndarray:
    (axis,) = _axes(use)
    if axis < 0:
        return unlabelled(use.shape)
    return np.broadcast_to(np.concatenate(compact(use.inputs, axis), axis), use.shape)


def _merged(ledger: Ledger, use: Use) -> np.ndarray:
    first, *others = compact(np.broadcast_arrays(*use.inputs))
    # Next to what bears no label nothing is silent: the other goes on.
    all_labelled = np.all([one != NONE for one in (first, *others)], axis=0)
    for other in others:
        ledger.couple(first[all_labelled], other[all_labelled])
    return np.broadcast_to(np.where(all_labelled, first, NONE), use.shape)


def _each_step(ledger: Ledger, use: Use) -> np.ndarray:
    rule = rule_of(use.layer.layer)
    assert rule is not None
    at_all_steps = np.where((use.labels == use.labels[0]).all(axis=0), use.labels[0], NONE)
    one = replace(use, layer=use.layer.layer, inputs=(at_all_steps,), shape=use.shape[1:])
    return np.broadcast_to(rule(ledger, one), use.shape)


_ND = ("1D", "2D", "3D")
_RULES: dict[str, Rule] = {
    "Dense": _unit_layer,
    **{f"Conv{nd}{suffix}": _unit_layer for nd in _ND for suffix in ("", "Transpose")},
    **{f"SeparableConv{nd}": _unit_layer for nd in _ND[:2]},
    **{f"DepthwiseConv{nd}": _depthwise for nd in _ND[:2]},
    **dict.fromkeys(("ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU", "Identity", "Rescaling"), _same),
    **dict.fromkeys(("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "ActivityRegularization"), _same),
    **{f"SpatialDropout{nd}": _same for nd in _ND},
    "Activation": _activated,
    "Softmax": _softmax,
    **dict.fromkeys(("BatchNormalization", "SyncBatchNormalization"), _scaled),
    **{f"{kind}Normalization": _mixed_and_scaled for kind in ("Layer", "Group", "RMS")},
    **{f"{kind}Pooling{nd}": _by_channel for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for nd in _ND},
    **{f"Adaptive{kind}Pooling{nd}": _by_channel for kind in ("Max", "Average") for nd in _ND},
    **{f"{kind}{nd}": _by_channel for kind in ("ZeroPadding", "Cropping", "UpSampling") for nd in _ND},
    "RepeatVector": _by_channel,
    "Flatten": _flattened,
    "Reshape": _reshaped,
    "Permute": _permuted,
    "Concatenate": _concatenated,
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _merged),
    "TimeDistributed": _each_step,
}
