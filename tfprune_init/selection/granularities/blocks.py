"""Granularities "block", "channel" and "tflite": rectangles of the matrix view of each variable."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from tfprune_init.errors import OptionError
from tfprune_init.selection.granularity import Granularity, Groups, Pool, register_granularity
from tfprune_init.selection.matrix_layout import Layout, Layouts
from tfprune_init.selection.top_k import Arrays

_Sides = tuple[int, int]
_TFLITE_INPUTS = 4


class Rectangles(Granularity):
    """Keep or prune rectangles of the matrix view of each variable (see `Layout`), by the sum of their scores.

    Where a side does not divide evenly, the rectangles at the edge are smaller and count as one all the same. Where
    some positions are no candidates, a rectangle is what is left of it, and no candidate if nothing is. Ties go to
    earlier variables first, then row by row.
    """

    def sides(self, layout: Layout, **options: Any) -> _Sides:
        """Return rows and columns of a rectangle in one variable."""
        raise NotImplementedError

    def kind(self, layout: Layout) -> str:
        """Return what the rectangles of a variable compete with: those of variables of the same kind."""
        return ""

    def pools(self, layouts: Layouts, **options: Any) -> dict[str, Pool]:
        """Return one pool a variable."""
        found = {}
        for path, layout in layouts.items():
            height, width = self.sides(layout, **options)
            found[path] = Pool(-(-layout.rows // height) * -(-layout.columns // width), (path,), self.kind(layout))
        return found

    def group(self, scores: Arrays, alive: Arrays | None, layouts: Layouts, **options: Any) -> Groups:
        """Add up the scores of each rectangle, in float64."""
        sums, left = {}, {}
        for path, score in scores.items():
            view, sides = layouts[path].to_matrix, self.sides(layouts[path], **options)
            inside = score if alive is None else np.where(alive[path], score, 0)
            sums[path] = _combine(np.add, view(inside), sides, np.float64)
            if alive is not None:
                left[path] = _combine(np.logical_or, view(alive[path]), sides, np.bool_)
        return Groups(sums, None if alive is None else left)

    def spread(
        self, chosen: dict[str, np.ndarray], alive: Arrays | None, layouts: Layouts, **options: Any
    ) -> dict[str, np.ndarray]:
        """Keep the candidates inside chosen rectangles."""
        masks = {}
        for path, rectangles in chosen.items():
            layout = layouts[path]
            height, width = self.sides(layout, **options)
            matrix = rectangles.repeat(height, axis=0)[: layout.rows].repeat(width, axis=1)[:, : layout.columns]
            masks[path] = layout.from_matrix(matrix)
        return masks if alive is None else {path: mask & alive[path] for path, mask in masks.items()}


@register_granularity
class Blocks(Rectangles):
    """Keep or prune blocks of `block_size` = (rows, columns): consecutive inputs by consecutive outputs.

    TFLite's sparse kernels for Dense layers want 4 consecutive inputs of one output: (4, 1) here, although it is 1 x 4
    there, because TFLite stores the weights of Dense layers transposed.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.graph.kernel_axes import KernelAxes
        >>> from tfprune_init.selection import Layout, choose_masks
        >>> scores = {"kernel": np.array([[9.0, 0.0, 5.0], [0.0, 0.0, 5.0]])}
        >>> layouts = {"kernel": Layout((2, 3), KernelAxes((0,), (1,)))}
        >>> masks = choose_masks(scores, 0.5, layouts, granularity="block", block_size=(2, 2))
        >>> masks["kernel"].astype(int)
        array([[0, 0, 1],
               [0, 0, 1]])
    """

    name, counts_in = "block", "blocks"
    summary = "blocks of block_size=(inputs, outputs), by the sum of their scores"

    def pools(self, layouts: Layouts, *, block_size: Any = (1, 4), **options: Any) -> dict[str, Pool]:
        """Return one pool a variable."""
        return super().pools(layouts, block_size=block_size)

    def check(self, density: Fraction, layouts: Layouts, *, block_size: Any = (1, 4), **options: Any) -> None:
        """Raise OptionError if `block_size` is not two positive integers."""
        _check_sides(block_size)

    def sides(self, layout: Layout, *, block_size: Any = (1, 4), **options: Any) -> _Sides:
        """Return the block size."""
        return _check_sides(block_size)


@register_granularity
class Channels(Rectangles):
    """Keep or prune whole filters and units, each in its own variable: all weights that feed one output.

    Channels differ in size, so the share of weights that stay is not exactly the density, and sums favor large
    channels. What belongs to a channel elsewhere stays: for that, use granularity "units".
    """

    name, counts_in = "channel", "channels"
    summary = "whole filters and units of one kernel, by the sum of their scores"

    def sides(self, layout: Layout, **options: Any) -> _Sides:
        """Return one whole column."""
        return layout.rows, 1


@register_granularity
class TFLiteBlocks(Rectangles):
    """Keep or prune what TFLite can leave out: blocks of 4 inputs in Dense kernels, single weights elsewhere.

    Of the B blocks floor(B * density) are kept, of the N other weights floor(N * density). TFLite has a sparse kernel
    for such blocks in Dense layers of float32. A kernel whose inputs don't divide by 4 is not read by it, so its
    weights compete with the others; so do those of convolutions, whose sparse kernels (XNNPACK's, on ARM) read single
    weights.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.graph.kernel_axes import KernelAxes
        >>> from tfprune_init.selection import Layout, choose_masks
        >>> scores = {"kernel": np.array([[9.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 8.0]])}
        >>> layouts = {"kernel": Layout((4, 2), KernelAxes((0,), (1,)))}
        >>> choose_masks(scores, 0.5, layouts, granularity="tflite")["kernel"].astype(int)
        array([[0, 1],
               [0, 1],
               [0, 1],
               [0, 1]])
    """

    name = "tflite"
    summary = "blocks of 4 inputs in Dense kernels, where TFLite runs them faster; single weights elsewhere"

    def sides(self, layout: Layout, **options: Any) -> _Sides:
        """Return 4 inputs of one output in Dense kernels, one weight elsewhere."""
        return (_TFLITE_INPUTS, 1) if self.kind(layout) else (1, 1)

    def kind(self, layout: Layout) -> str:
        """Return "blocks" for a matrix of inputs by outputs whose inputs divide by 4."""
        reads_blocks = len(layout.shape) == 2 and bool(layout.axes.inputs) and layout.rows % _TFLITE_INPUTS == 0
        return "blocks" if reads_blocks else ""


def _check_sides(block_size: Any) -> _Sides:
    pair = isinstance(block_size, (tuple, list)) and len(block_size) == 2
    if not pair or not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in block_size):
        raise OptionError(
            f"block_size must be two positive integers, rows by columns, like (1, 4). Received: {block_size!r}."
        )
    return block_size[0], block_size[1]


def _combine(combine: np.ufunc, matrix: np.ndarray, sides: _Sides, dtype: Any) -> np.ndarray:
    """Return one value for each rectangle; combine along its longer side first, which leaves less to do."""
    for axis in sorted((0, 1), key=lambda axis: -sides[axis]):
        starts = np.arange(0, matrix.shape[axis], sides[axis])
        matrix = combine.reduceat(matrix, starts, axis=axis, dtype=dtype)
    return matrix
