"""Granularity "per_unit": the same number of inputs for each output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tfprune_init.selection.granularities.equal_counts import EqualCounts
from tfprune_init.selection.granularity import Share, register_granularity
from tfprune_init.selection.matrix_layout import Layout, Layouts


@register_granularity
class PerUnit(EqualCounts):
    """Keep the same number of inputs of each output unit, and of each filter: the best of its column (see `Layout`).

    A unit of f inputs keeps the share of its layer of them, rounded down, at least 1: floor(f * density) with
    allocation "uniform". So fewer than density * N weights may stay in all, by less than one a unit, and a bias, of
    one row, stays whole.

    With method "random" these are the sparse weights of Ahmad & Scheinkman, whose code rounds f * density to the
    nearest whole number.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.graph.kernel_axes import KernelAxes
        >>> from tfprune_init.selection import Layout, choose_masks
        >>> scores = {"kernel": np.array([[9.0, 1.0], [8.0, 1.0], [7.0, 2.0], [6.0, 3.0], [5.0, 0.0]])}
        >>> layouts = {"kernel": Layout((5, 2), KernelAxes((0,), (1,)))}
        >>> choose_masks(scores, 0.5, layouts, granularity="per_unit")["kernel"].astype(int).T
        array([[1, 1, 0, 0, 0],
               [0, 0, 1, 1, 0]])

    Reference:
        Ahmad & Scheinkman, "How can we be so dense? The benefits of using highly sparse representations", 2019,
        https://arxiv.org/abs/1903.11257
    """

    name = "per_unit"
    summary = "the same number of inputs of each output"

    def group_size(self, layout: Layout, **options: Any) -> int:
        """Return the number of inputs of an output."""
        return max(1, layout.rows)

    def count_in_groups(self, shares: Sequence[Share], layouts: Layouts, **options: Any) -> dict[str, int]:
        """Return the number of inputs that each output of a variable keeps."""
        counts = {}
        for share in shares:
            (path,) = share.pools
            asked = Fraction(share.keep, max(1, layouts[path].size)) if share.density is None else share.density
            counts[path] = max(1, math.floor(asked * layouts[path].rows))
        return counts
