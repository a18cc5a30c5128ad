"""What each kind of layer does to channels, constants and use: a new kind is one row of the table at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune_init import kerases
from tfprune_init.compaction import mixing
from tfprune_init.compaction.signals import Signal, any_along, known
from tfprune_init.compaction.uses import Book, Use
from tfprune_init.wiring.ledger import along, spread
from tfprune_init.wiring.rules import is_elementwise, rule_of


@dataclass(frozen=True)
class Rule:
    """What a kind of layer does.

    Attributes:
        forward: What is known of the output; what goes together, stays and shrinks is written into the book.
        backward: Whether each number of each input is seen in what is used of the output.
        mixes: Whether it has a kernel, so that constants that go can be added to its bias.
    """

    forward: Callable[[Book, Use], Signal]
    backward: Callable[[Use, Signal], list[np.ndarray]]
    mixes: bool = False


def rule_for(layer: Any) -> Rule | str:
    """The rule of a layer, or why there is none."""
    keras = [base.__name__ for base in type(layer).__mro__ if base.__module__.split(".")[0] in ("keras", "tf_keras")]
    kind = keras[0] if keras else ""
    if "Layer" not in keras:
        return f"{kind} is an operation outside of layers; a layer (Add, Multiply, ...) in its place is followed"
    if kind in _WHOLE:
        return f"{kind} {_WHOLE[kind]}"
    # What computes in a way of its own, or with weights that are quantized, is nothing that is known.
    if kind not in _RULES or rule_of(layer) is None:
        return f"{type(layer).__name__} is not a layer whose channels are followed"
    if getattr(layer, "groups", 1) != 1:
        return f"{kind} in groups is not followed"
    return _doubt(layer, kind) or _RULES[kind]


def _doubt(layer: Any, kind: str) -> str | None:
    """Why a layer of a known kind is not understood with these options."""
    activation = getattr(layer, "activation", None)
    # Keras 3 may give an activation its weights only once the layer is called on numbers.
    if getattr(activation, "variables", None) or "PReLU" in kerases.class_names(activation):
        return f"{kind} has an activation with weights of its own"
    if kind == "Activation" and not is_elementwise(activation):
        return f"the activation of {kind} looks at several channels at once"
    if kind == "Rescaling" and np.ndim(layer.scale) + np.ndim(layer.offset):
        return "Rescaling has numbers for each channel"
    if getattr(layer, "interpolation", "nearest") not in ("nearest", "bilinear"):
        return f"{kind} interpolates with weights below zero"
    if np.size(getattr(layer, "axis", 0)) != 1 or getattr(layer, "renorm", False):
        return f"{kind} with these options is not followed"
    return None


def _pass(book: Book, use: Use) -> Signal:
    """Elementwise layers: ReLU, Dropout, ..."""
    x = use.first
    for name, target in use.variables.items():
        if x.axis is not None and target.shape[x.axis] == len(x.channels) > 1:
            book.serves(use, name, x.axis, x.channels)  # slopes of PReLU
    return known(x.varies, use.run(x.value), use.unsized, x.axis, x.channels)


def _pass_back(use: Use, output: Signal) -> list[np.ndarray]:
    return [output.used]


def _scale(book: Book, use: Use) -> Signal:
    """BatchNorm in inference: a scale and an offset for each channel, and nothing passes a scale of zero."""
    x, axis = use.first, _axis(use)
    channels = book.along(x, axis, use)
    for name in use.variables:
        book.serves(use, name, 0, channels)
    varies = x.varies & _passes(use)
    return known(varies, use.run(x.value), use.unsized, axis, channels)


def _scale_back(use: Use, output: Signal) -> list[np.ndarray]:
    return [output.used & _passes(use)]


def _passes(use: Use) -> np.ndarray:
    axis = _axis(use)
    return spread(use.alive.get("gamma", np.ones(use.first.shape[axis], bool)), axis, use.first.shape)


def _axis(use: Use) -> int:
    """The one axis that the layer names, counted within one example; -1 is the batch."""
    return int(np.ravel(use.layer.axis)[0]) % (len(use.first.shape) + 1) - 1


def _resize(book: Book, use: Use) -> Signal:
    """Pooling, padding, cropping, upsampling: each channel by itself."""
    channels = book.along(use.first, use.channel_axis(len(use.first.shape)), use)
    varies = use.run(use.first.varies) > 0
    return known(varies, use.run(use.first.value), use.unsized, use.channel_axis(varies.ndim), channels)


def _resize_back(use: Use, output: Signal) -> list[np.ndarray]:
    shape = use.first.shape
    return [spread(any_along(output.used, use.channel_axis(len(output.shape))), use.channel_axis(len(shape)), shape)]


def _rearrange(book: Book, use: Use) -> Signal:
    """Flatten, Reshape, Permute: the same numbers in another shape, where channels may still fill whole slices."""
    x = use.first
    labels = use.run(x.labels).astype(np.int64)
    axes = [i for i in range(labels.ndim) if (spread(along(labels, i), i, labels.shape) == labels).all()]
    if not axes:
        book.leave(use, f"{type(use.layer).__name__} mixes channels with positions")
        return known(use.run(x.varies) > 0, use.run(x.value), use.unsized)
    channels = along(labels, axes[-1])
    target = getattr(use.layer, "target_shape", None)
    if target is not None and target[axes[-1]] != -1:
        book.shrinks(use, "target_shape", axes[-1], channels)
    return known(use.run(x.varies) > 0, use.run(x.value), use.unsized, axes[-1], channels)


def _rearrange_back(use: Use, output: Signal) -> list[np.ndarray]:
    shape = use.first.shape
    used = np.zeros(shape, bool)
    used.flat[use.run(np.arange(used.size).reshape(shape)).astype(np.int64).ravel()] = output.used.ravel()
    return [used]


def _concatenate(book: Book, use: Use) -> Signal:
    """Channels side by side; or channels that go together, side by side along another axis."""
    axis = _axis(use)
    axes = [x.axis for x in use.inputs if x.axis not in (None, axis)]
    value = use.run(*(x.value for x in use.inputs))
    varies = np.concatenate([x.varies for x in use.inputs], axis)
    if not axes:
        return known(varies, value, use.unsized, axis, np.concatenate([book.along(x, axis, use) for x in use.inputs]))
    common = axes[0]
    return known(varies, value, use.unsized, common, _together(book, use, common))


def _concatenate_back(use: Use, output: Signal) -> list[np.ndarray]:
    axis = _axis(use)
    return np.split(output.used, np.cumsum([x.shape[axis] for x in use.inputs])[:-1], axis)


def _merge(book: Book, use: Use) -> Signal:
    """Sums, products and the like: channels at the same place go together."""
    varies = np.any(np.broadcast_arrays(*(x.varies for x in use.inputs)), axis=0)
    axis = next((x.axis for x in use.inputs if x.axis is not None and x.shape[x.axis] == varies.shape[x.axis]), None)
    value = use.run(*(x.value for x in use.inputs))
    if axis is None:
        for x in use.inputs:
            book.groups.hold(x.channels, f"is spread over others by {use.path}")
        return known(varies, value, use.unsized)
    return known(varies, value, use.unsized, axis, _together(book, use, axis))


def _merge_back(use: Use, output: Signal) -> list[np.ndarray]:
    return [_summed(output.used, x.shape) for x in use.inputs]


def _multiply(book: Book, use: Use) -> Signal:
    """A product: 0 times anything is 0."""
    signal = _merge(book, use)
    zero = np.any(np.broadcast_arrays(*(_is_zero(x) for x in use.inputs)), axis=0)
    return known(signal.varies & ~zero, signal.value, use.unsized, signal.axis, signal.channels)


def _multiply_back(use: Use, output: Signal) -> list[np.ndarray]:
    zeros = [_is_zero(x) for x in use.inputs]
    others = [[*zeros[:i], *zeros[i + 1 :]] for i in range(len(zeros))]
    return [
        _summed(output.used & ~np.any(np.broadcast_arrays(*rest), axis=0), x.shape)
        for x, rest in zip(use.inputs, others, strict=True)
    ]


def _is_zero(x: Signal) -> np.ndarray:
    return ~x.varies & (x.value == 0)


def _summed(used: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Whether any is used of what a number of this shape was spread over."""
    axes = tuple(i for i, size in enumerate(shape) if size == 1 < used.shape[i])
    return np.asarray(used.any(axis=axes, keepdims=True))


def _together(book: Book, use: Use, axis: int) -> np.ndarray:
    """Label at each index of an axis, tied over all inputs; one that is spread along it keeps its channel."""
    size = max(x.shape[axis] for x in use.inputs)
    whole = [x for x in use.inputs if x.shape[axis] == size]
    for x in use.inputs:
        if x.shape[axis] != size:
            book.groups.hold(x.channels, f"is spread over others by {use.path}")
    first, *others = [book.along(x, axis, use) for x in whole]
    for other in others:
        book.groups.tie(first, other, use.path)
    return first


_ND = ("1D", "2D", "3D")
_MIX = (
    "Dense",
    *(f"Conv{nd}{suffix}" for nd in _ND for suffix in ("", "Transpose")),
    "SeparableConv1D",
    "SeparableConv2D",
)
_PASS = (
    *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU", "Identity", "Rescaling"),
    *("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "ActivityRegularization"),
    *(f"SpatialDropout{nd}" for nd in _ND),
)
_RESIZE = (
    *(f"{kind}Pooling{nd}" for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for nd in _ND),
    *(f"{kind}{nd}" for kind in ("ZeroPadding", "Cropping", "UpSampling") for nd in _ND),
    "RepeatVector",
)
_RULES = {
    **dict.fromkeys(_MIX, Rule(mixing.mix, mixing.seen, mixes=True)),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), Rule(mixing.mix_by_depth, mixing.seen)),
    **dict.fromkeys(_PASS, Rule(_pass, _pass_back)),
    **dict.fromkeys(("BatchNormalization", "SyncBatchNormalization"), Rule(_scale, _scale_back)),
    **dict.fromkeys(_RESIZE, Rule(_resize, _resize_back)),
    **dict.fromkeys(("Flatten", "Reshape", "Permute"), Rule(_rearrange, _rearrange_back)),
    "Concatenate": Rule(_concatenate, _concatenate_back),
    **dict.fromkeys(("Add", "Subtract", "Average", "Maximum", "Minimum"), Rule(_merge, _merge_back)),
    "Multiply": Rule(_multiply, _multiply_back),
}
_WHOLE = {
    **{f"{kind}Normalization": "normalizes over its channels" for kind in ("Layer", "Group", "RMS", "Unit")},
    "Softmax": "looks at several channels at once",
}
