"""Layouts: the shape of a variable, its unit axes, and its view as a matrix of inputs by outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tfprune_init.graph.kernel_axes import KernelAxes


@dataclass(frozen=True)
class Layout:
    """How the weights of one variable lie.

    Its matrix view has one column for each index over the output axes, and one row for each index over all other
    axes, both in the order of the axes. A Conv2D kernel (kh, kw, in, out) is seen as (kh * kw * in, out), a
    Conv2DTranspose kernel (kh, kw, out, in) as (kh * kw * in, out), a depthwise kernel (kh, kw, in, multiplier) as
    (kh * kw, in * multiplier), a Dense kernel as itself and a bias as a single row.

    Attributes:
        shape: Shape of the variable.
        axes: Its axes of input units and of output units.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.selection import Layout
        >>> from tfprune_init.graph.kernel_axes import KernelAxes
        >>> layout = Layout((2, 3, 4), KernelAxes((2,), (1,)))
        >>> layout.rows, layout.columns
        (8, 3)
        >>> layout.to_matrix(np.arange(24).reshape(2, 3, 4))[:, 1].tolist()
        [4, 5, 6, 7, 16, 17, 18, 19]
    """

    shape: tuple[int, ...]
    axes: KernelAxes

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """Rows of the matrix view: weights that feed one output."""
        return self.extent(self._row_axes)

    @property
    def columns(self) -> int:
        """Columns of the matrix view: outputs."""
        return self.extent(self.axes.outputs)

    def extent(self, axes: Iterable[int]) -> int:
        """Return the number of indices over some of the axes."""
        return math.prod(self.shape[axis] for axis in axes)

    def to_matrix(self, array: np.ndarray) -> np.ndarray:
        """Return the matrix view of an array of the variable's shape; shares its memory where that is possible."""
        return array.transpose(self._order).reshape(self.rows, self.columns)

    def from_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """Return the array, in row-major order, whose matrix view is given."""
        moved = matrix.reshape([self.shape[axis] for axis in self._order])
        back = sorted(range(len(self.shape)), key=self._order.__getitem__)
        return np.asarray(moved.transpose(back), order="C")

    @property
    def _row_axes(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.axes.outputs)

    @property
    def _order(self) -> tuple[int, ...]:
        return (*self._row_axes, *self.axes.outputs)


Layouts = Mapping[str, Layout]
