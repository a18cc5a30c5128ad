"""Granularity "n_m": n of every m consecutive inputs of each output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.selection.granularity import Granularity, Groups, Pool, Share, register_granularity
from tfprune_init.selection.matrix_layout import Layout, Layouts
from tfprune_init.selection.top_k import Arrays


@register_granularity
class NOfM(Granularity):
    """Keep n of every m consecutive rows of each column of the matrix view (see `Layout`).

    n is the same within a variable: density * m with allocation "uniform", 2 of 4 at density 0.5. Allocations that
    give each layer its own share ("erk", "er", "balanced") give it its own n: its share rounded down, at least 1, and
    what that leaves goes to the largest remainders as long as it fits. A dict gives each layer the n of its sparsity.

    A last group of r < m rows keeps min(n, r), as if padded with pruned zeros; so with "uniform" more than density * N
    weights may stay in all, and a bias, of one row, stays whole. On the way to its density, an iterative method
    keeps the next whole number of each group.
    """

    name = "n_m"
    summary = "n of every m=4 consecutive inputs of each output"
    usual_allocation = "uniform"

    def pools(self, layouts: Layouts, *, m: Any = 4, **options: Any) -> dict[str, Pool]:
        """Return one pool a variable, whose groups are its weights."""
        return {path: Pool(layout.size, (path,), path) for path, layout in layouts.items()}

    def check(self, density: Fraction, layouts: Layouts, *, m: Any = 4, **options: Any) -> None:
        """Raise OptionError if density * m is no whole number."""
        kept = density * check_integer("m", m, 1)
        if kept.denominator == 1 and kept >= 1:
            return
        nearest = sorted({1 - Fraction(max(1, math.floor(kept)), m), 1 - Fraction(max(1, math.ceil(kept)), m)})
        raise OptionError(
            f"granularity='n_m' keeps a whole number, at least 1, of every m={m} weights. "
            f"Received: sparsity={float(1 - density):g}. "
            f"Try sparsity={' or '.join(f'{float(one):g}' for one in nearest)}, or another m."
        )

    def count_least(self, layouts: Layouts, *, m: Any = 4, **options: Any) -> int:
        """Return the number of weights that stay with 1 of every m."""
        return sum(_cost(layout, 1, check_integer("m", m, 1)) for layout in layouts.values())

    def group(self, scores: Arrays, alive: Arrays | None, layouts: Layouts, *, m: Any = 4, **options: Any) -> Groups:
        """Take the scores as they are."""
        return Groups(dict(scores), None if alive is None else dict(alive))

    def choose(
        self, groups: Groups, shares: Sequence[Share], layouts: Layouts, *, m: Any = 4, **options: Any
    ) -> dict[str, np.ndarray]:
        """Keep the best n of every m weights, n by the share of each variable."""
        sizes = _choose_n(shares, layouts, check_integer("m", m, 1))
        masks = {}
        for path, n in sizes.items():
            score = groups.scores[path]
            candidates = score if groups.left is None else np.where(groups.left[path], score, -np.inf)
            mask = layouts[path].from_matrix(_top_of_groups(layouts[path].to_matrix(candidates), n, m))
            masks[path] = mask if groups.left is None else mask & groups.left[path]
        return masks

    def spread(
        self, chosen: dict[str, np.ndarray], alive: Arrays | None, layouts: Layouts, **options: Any
    ) -> dict[str, np.ndarray]:
        """Take what is chosen as it is."""
        return chosen


def _choose_n(shares: Sequence[Share], layouts: Layouts, m: int) -> dict[str, int]:
    """Return n for each variable."""
    sizes: dict[str, int] = {}
    wanted: dict[str, Fraction] = {}
    for share in shares:
        (path,) = share.pools
        if share.density is not None:
            sizes[path] = math.ceil(share.density * m)
        else:
            wanted[path] = min(Fraction(share.keep * m, max(1, layouts[path].size)), Fraction(m))
            sizes[path] = max(1, math.floor(wanted[path]))
    total = sum(share.keep for share in shares if share.density is None)
    spent = sum(_cost(layouts[path], sizes[path], m) for path in wanted)
    for path in sorted(wanted, key=lambda path: math.floor(wanted[path]) - wanted[path]):
        more = _cost(layouts[path], sizes[path] + 1, m) - _cost(layouts[path], sizes[path], m)
        if sizes[path] < wanted[path] and spent + more <= total:
            sizes[path] += 1
            spent += more
    return sizes


def _cost(layout: Layout, n: int, m: int) -> int:
    """Return the number of weights that stay with n of every m."""
    whole, rest = divmod(layout.rows, m)
    return layout.columns * (whole * min(n, m) + min(n, rest))


def _top_of_groups(matrix: np.ndarray, keep: int, m: int) -> np.ndarray:
    """Return True at the `keep` highest of every m rows of each column, ties to the lower row."""
    rows, columns = matrix.shape
    groups = -(-rows // m)
    lowest_first = np.full((groups * m, columns), np.inf, matrix.dtype)
    np.negative(matrix, out=lowest_first[:rows])
    lowest_first = lowest_first.reshape(groups, m, columns)
    best = np.argsort(lowest_first, axis=1, kind="stable")[:, :keep]
    top = np.zeros(lowest_first.shape, bool)
    np.put_along_axis(top, best, True, axis=1)
    return top.reshape(groups * m, columns)[:rows]
