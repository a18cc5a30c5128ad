"""Layers that mix channels by a kernel: what reaches what through the weights that are left, and what constants add."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.compaction.running import run
from tfprune_init.compaction.signals import Signal, known
from tfprune_init.compaction.uses import Book, Use
from tfprune_init.units import unit_axes
from tfprune_init.wiring.rules import is_elementwise

# Examples that run together when constants are looked at one by one.
_AT_ONCE = 16


def mix(book: Book, use: Use) -> Signal:
    """Dense, convolution, transposed and separable convolution: each unit takes every channel."""
    x, name = use.first, "kernel"
    taken = book.along(x, use.channel_axis(len(x.shape)), use)
    if "pointwise_kernel" in use.variables:
        taken, name = _by_depth(book, use, "depthwise_kernel", taken), "pointwise_kernel"
    shape = use.variables[name].shape
    axes = unit_axes(kerases.class_names(use.layer), name, len(shape))
    (rows,), (columns,) = axes.inputs, axes.outputs
    book.serves(use, name, rows, taken)
    units = book.units(use, shape[columns])
    book.serves(use, name, columns, units)
    book.shrinks(use, "units" if hasattr(use.layer, "units") else "filters", None, units)
    return _activated(book, use, units)


def mix_by_depth(book: Book, use: Use) -> Signal:
    """Depthwise convolution: each channel by itself."""
    x = use.first
    taken = book.along(x, use.channel_axis(len(x.shape)), use)
    return _activated(book, use, _by_depth(book, use, "kernel", taken))


def _by_depth(book: Book, use: Use, name: str, taken: np.ndarray) -> np.ndarray:
    shape = use.variables[name].shape
    book.serves(use, name, len(shape) - 2, taken)
    return np.repeat(taken, shape[-1])


def _activated(book: Book, use: Use, channels: np.ndarray) -> Signal:
    if "bias" in use.variables:
        book.serves(use, "bias", 0, channels)
    varies = reached(use)
    if not is_elementwise(use.layer.activation):
        book.groups.hold(channels, f"the activation of {use.path} looks at several channels at once")
        varies = np.full_like(varies, varies.any())
    return known(varies, use.run(use.first.value), use.unsized, use.channel_axis(varies.ndim), channels)


def reached(use: Use) -> np.ndarray:
    """Whether anything that varies reaches each number of the output."""
    varies = use.first.varies | (borders_unknown(use) & (use.first.value != 0))
    return np.asarray(run(use.layer, varies[None].astype(float), _open(use), linear=True))[0] > 0.5


def seen(use: Use, output: Signal) -> list[np.ndarray]:
    """Whether each number of the input is seen in what is used of the output."""
    x = tf.Variable(np.zeros((1, *use.first.shape)))
    with tf.GradientTape() as tape:
        # Of a sum with no negative weights the gradient says how many ways lead from there.
        ways = tf.reduce_sum(run(use.layer, x, _open(use), linear=True) * needed(use, output))
    return [np.asarray(tape.gradient(ways, x))[0] > 0.5]


def needed(use: Use, output: Signal) -> np.ndarray:
    """Whether each number before the activation is seen in what is used of the output."""
    return output.used if is_elementwise(use.layer.activation) else np.broadcast_to(output.used.any(), output.shape)


def added(use: Use, constants: np.ndarray, absolute: bool = False) -> np.ndarray:
    """What constants, of shape [batch, ...] add to the output before bias and activation, or their absolute values."""
    weights = {name: np.zeros_like(value) if name == "bias" else value for name, value in use.values.items()}
    if absolute:
        constants, weights = np.abs(constants), {name: np.abs(value) for name, value in weights.items()}
    return np.asarray(run(use.layer, constants, weights, linear=True))


def added_by_each(use: Use, constants: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The same for the constants of each label by itself."""
    distinct = np.unique(labels[constants != 0])
    for start in range(0, len(distinct), _AT_ONCE):
        some = distinct[start : start + _AT_ONCE]
        alone = np.stack([np.where(labels == label, constants, 0.0) for label in some])
        yield from zip(some.tolist(), added(use, alone), strict=True)


def _open(use: Use) -> dict[str, np.ndarray]:
    """1 for each weight that is left; where sizes are not fixed, for each of its channels."""
    weights = {}
    for name, alive in use.alive.items():
        if use.first.unsized and alive.ndim > 2:
            alive = np.broadcast_to(alive.any(axis=tuple(range(alive.ndim - 2)), keepdims=True), alive.shape)
        weights[name] = np.zeros(alive.shape) if name == "bias" else alive.astype(float)
    return weights


def borders_unknown(use: Use) -> bool:
    """Whether padding beside inputs of no fixed size makes constants differ in ways that are not known."""
    extent = max((max(target.shape[:-2], default=1) for target in use.variables.values()), default=1)
    return bool(use.first.unsized) and extent > 1 and getattr(use.layer, "padding", "valid") != "valid"
