"""The same number of every group of inputs: what "n_m" and "per_unit" share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfprune_init.selection.granularity import Granularity, Groups, Pool, Share
from tfprune_init.selection.matrix_layout import Layout, Layouts
from tfprune_init.selection.top_k import Arrays


class EqualCounts(Granularity):
    """Keep the same number of every `group_size` consecutive rows of each column of the matrix view (see `Layout`).

    The number is the same within a variable.
    """

    usual_allocation = "uniform"
    layers_compete = False

    def group_size(self, layout: Layout, **options: Any) -> int:
        """Return how many rows of a variable make a group."""
        raise NotImplementedError

    def count_in_groups(self, shares: Sequence[Share], layouts: Layouts, **options: Any) -> dict[str, int]:
        """Return how many of each group of a variable stay, at least 1, by path."""
        raise NotImplementedError

    def count_least(self, layouts: Layouts, **options: Any) -> int:
        """Return the number of weights that stay with 1 of every group."""
        return sum(count_weights(layout, 1, self.group_size(layout, **options)) for layout in layouts.values())

    def pools(self, layouts: Layouts, **options: Any) -> dict[str, Pool]:
        """Return one pool a variable, whose groups are its weights."""
        return {path: Pool(layout.size, (path,), path) for path, layout in layouts.items()}

    def group(self, scores: Arrays, alive: Arrays | None, layouts: Layouts, **options: Any) -> Groups:
        """Take the scores as they are."""
        return Groups(dict(scores), None if alive is None else dict(alive))

    def choose(
        self, groups: Groups, shares: Sequence[Share], layouts: Layouts, **options: Any
    ) -> dict[str, np.ndarray]:
        """Keep the best of every group, as many as the share of each variable says; ties go to the lower row."""
        masks = {}
        for path, count in self.count_in_groups(shares, layouts, **options).items():
            size = self.group_size(layouts[path], **options)
            score = groups.scores[path]
            candidates = score if groups.left is None else np.where(groups.left[path], score, -np.inf)
            mask = layouts[path].from_matrix(_top_of_groups(layouts[path].to_matrix(candidates), count, size))
            masks[path] = mask if groups.left is None else mask & groups.left[path]
        return masks

    def spread(
        self, chosen: dict[str, np.ndarray], alive: Arrays | None, layouts: Layouts, **options: Any
    ) -> dict[str, np.ndarray]:
        """Take what is chosen as it is."""
        return chosen


def count_weights(layout: Layout, count: int, size: int) -> int:
    """Return the number of weights that stay with `count` of every `size`."""
    whole, rest = divmod(layout.rows, size)
    return layout.columns * (whole * min(count, size) + min(count, rest))


def _top_of_groups(matrix: np.ndarray, keep: int, size: int) -> np.ndarray:
    """Return True at the `keep` highest of every `size` rows of each column, ties to the lower row."""
    rows, columns = matrix.shape
    groups = -(-rows // size)
    lowest_first = np.full((groups * size, columns), np.inf, matrix.dtype)
    np.negative(matrix, out=lowest_first[:rows])
    lowest_first = lowest_first.reshape(groups, size, columns)
    best = np.argsort(lowest_first, axis=1, kind="stable")[:, :keep]
    top = np.zeros(lowest_first.shape, bool)
    np.put_along_axis(top, best, True, axis=1)
    return top.reshape(groups * size, columns)[:rows]
