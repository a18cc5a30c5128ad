"""What is known of one tensor of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfprune_init.graph.channel_groups import NO_LABEL, spread_labels


@dataclass(eq=False)
class Signal:
    """What is known of one tensor, for one example.

    Attributes:
        varies: Whether each number may depend on the inputs.
        value: The number where it does not, float64; 0 where it does.
        axis: The axis that shrinks when channels go; None where nothing can.
        channels: Label of the channel at each index of that axis.
        unsized: Axes whose size is not fixed. What is known is the same all along them.
        used: Whether anything that varies here would be seen in the outputs. Filled in from the outputs backwards.
    """

    varies: np.ndarray
    value: np.ndarray
    axis: int | None
    channels: np.ndarray
    unsized: tuple[int, ...]
    used: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.varies.shape

    @property
    def labels(self) -> np.ndarray:
        """Label of each number, a view."""
        if self.axis is None:
            return np.broadcast_to(np.int64(NO_LABEL), self.shape)
        return spread_labels(self.channels, self.axis, self.shape)

    @property
    def live(self) -> np.ndarray:
        """Whether each number varies and is used."""
        return np.asarray(self.varies & self.used)


def make_signal(
    varies: np.ndarray,
    value: np.ndarray,
    unsized: Sequence[int],
    axis: int | None = None,
    channels: np.ndarray | None = None,
) -> Signal:
    """Return a signal, not used so far.

    Constants that differ along an axis without fixed size, or are no numbers, vary.
    """
    varies = varies | ~np.isfinite(value)
    for along in unsized:
        first = value.take([0], along)
        varies = varies | np.broadcast_to((varies | (value != first)).any(axis=along, keepdims=True), varies.shape)
    labels = np.zeros(0, np.int64) if channels is None else channels
    return Signal(varies, np.where(varies, 0.0, value), axis, labels, tuple(unsized), np.zeros(varies.shape, bool))


def make_unknown_signal(shape: Sequence[int], unsized: Sequence[int]) -> Signal:
    """Return a signal of which nothing is known."""
    return make_signal(np.ones(tuple(shape), bool), np.zeros(tuple(shape)), unsized)


def any_along(array: np.ndarray, axis: int) -> np.ndarray:
    """Return whether any is true at each index of an axis."""
    return np.asarray(array.any(axis=tuple(i for i in range(array.ndim) if i != axis)))
