"""Which axes of a weight array are the layer's input units, and which its output units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_CONVOLUTIONS = [f"Conv{n}D{suffix}" for n in (1, 2, 3) for suffix in ("", "Transpose")]


class KernelAxes(NamedTuple):
    """Axes of a weight array that index a layer's input units and its output units."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def find_kernel_axes(layer_classes: frozenset[str], name: str, rank: int, equation: str | None = None) -> KernelAxes:
    """Find the unit axes of one weight array.

    Args:
        layer_classes: Names of the layer's class and its bases.
        name: Last part of the variable's path, e.g. "kernel".
        rank: Number of axes of the array.
        equation: The layer's einsum equation, for EinsumDense.

    Returns:
        Input axes and output axes. What is unknown is read as (..., inputs, outputs), Keras's usual layout.
    """
    if rank == 1 or name == "bias":
        return KernelAxes((), tuple(range(rank)))
    if equation is not None:
        operands, result = equation.split("->")
        data, kernel = operands.split(",")
        return KernelAxes(
            tuple(i for i, label in enumerate(kernel) if label in data and label not in result),
            tuple(i for i, label in enumerate(kernel) if label in result),
        )
    if name == "depthwise_kernel" or any(c.startswith("DepthwiseConv") for c in layer_classes):
        return KernelAxes((rank - 2,), (rank - 2, rank - 1))
    if any(c.endswith("Transpose") for c in layer_classes):
        return KernelAxes((rank - 1,), (rank - 2,))
    return KernelAxes((rank - 2,), (rank - 1,))


def find_channel_axis(layer_classes: frozenset[str], name: str, data_format: str | None = None) -> int | None:
    """Return the axis of a layer's output that runs over the units of one kernel.

    Args:
        layer_classes: Names of the layer's class and its bases.
        name: Last part of the variable's path, e.g. "kernel".
        data_format: The layer's, if it has one.

    Returns:
        1 or -1; None where the output is not one channel a unit: recurrent cells, attention's EinsumDense,
        depthwise convolution.
    """
    convolves = any(c in layer_classes for c in _CONVOLUTIONS)
    if not (
        (name == "kernel" and ("Dense" in layer_classes or convolves))
        or (name == "pointwise_kernel" and layer_classes & {"SeparableConv1D", "SeparableConv2D"})
    ):
        return None
    return 1 if data_format == "channels_first" else -1


def count_dead_units(mask: np.ndarray, axes: tuple[int, ...]) -> int:
    """Return the number of units along `axes` that keep not one weight.

    Args:
        mask: Boolean array, True where a weight is kept.
        axes: Axes that index the units, as from `find_kernel_axes`.
    """
    if not axes:
        return 0
    others = tuple(i for i in range(mask.ndim) if i not in axes)
    return int(np.count_nonzero(~mask.any(axis=others))) if others else int(np.count_nonzero(~mask))
