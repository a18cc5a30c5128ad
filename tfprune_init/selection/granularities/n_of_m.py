"""Granularity "n_m": n of every m consecutive inputs of each output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.selection.granularities.equal_counts import EqualCounts, count_weights
from tfprune_init.selection.granularity import Pool, Share, register_granularity
from tfprune_init.selection.matrix_layout import Layout, Layouts


@register_granularity
class NOfM(EqualCounts):
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

    def pools(self, layouts: Layouts, *, m: Any = 4, **options: Any) -> dict[str, Pool]:
        """Return one pool a variable, whose groups are its weights."""
        return super().pools(layouts)

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

    def group_size(self, layout: Layout, *, m: Any = 4, **options: Any) -> int:
        """Return m."""
        return check_integer("m", m, 1)

    def count_in_groups(
        self, shares: Sequence[Share], layouts: Layouts, *, m: Any = 4, **options: Any
    ) -> dict[str, int]:
        """Return n for each variable."""
        m = check_integer("m", m, 1)
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
        spent = sum(count_weights(layouts[path], sizes[path], m) for path in wanted)
        for path in sorted(wanted, key=lambda path: math.floor(wanted[path]) - wanted[path]):
            more = count_weights(layouts[path], sizes[path] + 1, m) - count_weights(layouts[path], sizes[path], m)
            if sizes[path] < wanted[path] and spent + more <= total:
                sizes[path] += 1
                spent += more
        return sizes
