"""Scopes with structure: blocks, channels, and n of every m weights, in the matrix view of each variable."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tfprune_init.errors import OptionError
from tfprune_init.scopes.layout import Layout, Layouts
from tfprune_init.scopes.registry import scope
from tfprune_init.scopes.selection import Arrays, keep_top, kept_count

_Sides = tuple[int, int]
# density * m counts as a whole number if it is off by no more than float error.
_WHOLE = 1e-9


def _count_blocks(layouts: Layouts, *, block_size: Any = (1, 4)) -> int:
    height, width = _sides(block_size)
    return sum(-(-layout.rows // height) * -(-layout.columns // width) for layout in layouts.values())


def _check_blocks(density: float, layouts: Layouts, *, block_size: Any = (1, 4)) -> None:
    _sides(block_size)


def _count_channels(layouts: Layouts) -> int:
    return sum(layout.columns for layout in layouts.values())


def _check_n_m(density: float, layouts: Layouts, *, m: Any = 4) -> None:
    kept = density * _group(m)
    if round(kept) >= 1 and abs(kept - round(kept)) <= _WHOLE:
        return
    nearest = sorted({1 - max(1, math.floor(kept)) / m, 1 - math.ceil(kept) / m})
    raise OptionError(
        f"scope='n_m' keeps a whole number, at least 1, of every m={m} weights. Received: sparsity={1 - density:g}. "
        f"Try sparsity={' or '.join(f'{sparsity:g}' for sparsity in nearest)}, or another m."
    )


@scope(
    "block",
    summary="blocks of weights compete over the whole network",
    compares_layers=True,
    count=_count_blocks,
    check=_check_blocks,
    counts_in="blocks",
)
def block(
    scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts, *, block_size: Any = (1, 4)
) -> dict[str, np.ndarray]:
    """Blocks compete over the whole network, by the sum of their scores: floor(blocks * density) are kept.

    A block of (height, width) is `height` consecutive rows, the inputs, by `width` consecutive columns, the outputs,
    of the matrix view (see `Layout`). Where a side does not divide evenly, the blocks at the edge are smaller and
    count as one all the same. TFLite's sparse kernels for Dense layers want 4 consecutive inputs of one output:
    (4, 1) here, although it is 1 x 4 there, because TFLite stores the weights of Dense layers transposed.

    Where some positions are no candidates, a block is what is left of it, and no candidate if nothing is.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.scopes import SCOPES, Layout
        >>> from tfprune_init.units import UnitAxes
        >>> scores = {"kernel": np.array([[9.0, 0.0, 5.0], [0.0, 0.0, 5.0]])}
        >>> layouts = {"kernel": Layout((2, 3), UnitAxes((0,), (1,)))}
        >>> SCOPES["block"].choose(scores, 0.5, None, layouts, block_size=(2, 2))["kernel"].astype(int)
        array([[0, 0, 1],
               [0, 0, 1]])
    """
    sides = _sides(block_size)
    return _choose_blocks(scores, density, alive, layouts, dict.fromkeys(scores, sides))


@scope(
    "channel",
    summary="whole filters and units compete over the whole network",
    compares_layers=True,
    count=_count_channels,
    counts_in="channels",
)
def channel(scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts) -> dict[str, np.ndarray]:
    """Whole filters and units compete, by the sum of their scores: floor(channels * density) are kept.

    A channel is all weights of one variable that feed one output: a column of the matrix view (see `Layout`). Channels
    differ in size, so the share of weights that stay is not exactly the density, and sums favor large channels.
    """
    return _choose_blocks(scores, density, alive, layouts, {path: (layouts[path].rows, 1) for path in scores})


@scope("n_m", summary="n of every m consecutive inputs of each output stay", compares_layers=False, check=_check_n_m)
def n_m(scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts, *, m: Any = 4) -> dict[str, np.ndarray]:
    """Of every m consecutive rows of each column, n = density * m weights are kept: 2 of 4 at density 0.5.

    Rows and columns are those of the matrix view (see `Layout`). A last group of r < m rows keeps min(n, r), as if
    padded with pruned zeros; so more than density * N weights may stay in all, and a bias, of one row, stays whole.
    On the way to its density, an iterative method keeps the next whole number of each group.
    """
    kept = math.ceil(density * _group(m) - _WHOLE)
    masks = {}
    for path, score in scores.items():
        candidates = score if alive is None else np.where(alive[path], score, -np.inf)
        mask = layouts[path].from_matrix(_top_of_groups(layouts[path].to_matrix(candidates), kept, m))
        masks[path] = mask if alive is None else mask & alive[path]
    return masks


def _sides(block_size: Any) -> _Sides:
    pair = isinstance(block_size, (tuple, list)) and len(block_size) == 2
    if not pair or not all(_is_positive(side) for side in block_size):
        raise OptionError(
            f"block_size must be two positive integers, rows by columns, like (1, 4). Received: {block_size!r}."
        )
    return block_size[0], block_size[1]


def _group(m: Any) -> int:
    if not _is_positive(m):
        raise OptionError(f"m must be a positive integer, like 4. Received: {m!r}.")
    return m


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _choose_blocks(
    scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts, sides: dict[str, _Sides]
) -> dict[str, np.ndarray]:
    """The blocks of the highest sums; where sums are equal, earlier variables first, row-major within a view."""
    sums, left = {}, {}
    for path, score in scores.items():
        view = layouts[path].to_matrix
        sums[path] = _of_blocks(
            np.add, view(score if alive is None else np.where(alive[path], score, 0)), sides[path], np.float64
        )
        if alive is not None:
            left[path] = _of_blocks(np.logical_or, view(alive[path]), sides[path], np.bool_)
    keep = kept_count(sum(s.size for s in sums.values()), density)
    chosen = keep_top(sums, keep, None if alive is None else left)
    masks = {path: _spread(blocks, layouts[path], sides[path]) for path, blocks in chosen.items()}
    return masks if alive is None else {path: mask & alive[path] for path, mask in masks.items()}


def _of_blocks(combine: np.ufunc, matrix: np.ndarray, sides: _Sides, dtype: Any) -> np.ndarray:
    """One value for each block; along its longer side first, which leaves less to do."""
    for axis in sorted((0, 1), key=lambda axis: -sides[axis]):
        starts = np.arange(0, matrix.shape[axis], sides[axis])
        matrix = combine.reduceat(matrix, starts, axis=axis, dtype=dtype)
    return matrix


def _spread(blocks: np.ndarray, layout: Layout, sides: _Sides) -> np.ndarray:
    """What is true of blocks, for each of their weights."""
    matrix = blocks.repeat(sides[0], axis=0)[: layout.rows].repeat(sides[1], axis=1)[:, : layout.columns]
    return layout.from_matrix(matrix)


def _top_of_groups(matrix: np.ndarray, keep: int, m: int) -> np.ndarray:
    """True at the `keep` highest of every m rows of each column, ties to the lower row."""
    rows, columns = matrix.shape
    groups = -(-rows // m)
    lowest_first = np.full((groups * m, columns), np.inf, matrix.dtype)
    np.negative(matrix, out=lowest_first[:rows])
    lowest_first = lowest_first.reshape(groups, m, columns)
    best = np.argsort(lowest_first, axis=1, kind="stable")[:, :keep]
    top = np.zeros(lowest_first.shape, bool)
    np.put_along_axis(top, best, True, axis=1)
    return top.reshape(groups * m, columns)[:rows]
