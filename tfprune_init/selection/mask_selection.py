"""From scores to masks: a granularity, an allocation and a density."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from tfprune_init.errors import OptionError
from tfprune_init.selection.allocation import Allocation, find_allocation
from tfprune_init.selection.budget import to_fraction
from tfprune_init.selection.granularity import GRANULARITIES, Granularity, Groups
from tfprune_init.selection.matrix_layout import Layouts
from tfprune_init.selection.top_k import Arrays


def choose_masks(
    scores: Arrays,
    density: float | Fraction,
    layouts: Layouts,
    *,
    granularity: str | Granularity = "weights",
    allocation: str | Mapping[str, float] | Allocation | None = None,
    alive: Arrays | None = None,
    final: float | Fraction | None = None,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Keep the best of what competes.

    Args:
        scores: Finite scores of the weights by variable path, in the fixed order of variables; higher = keep.
        density: Share to keep, in (0, 1].
        layouts: How the weights of each variable lie.
        granularity: What is kept or pruned as one: a name, or one itself.
        allocation: How the budget is shared out among layers: a name, a dict of sparsities by layer, or one itself;
            the granularity's usual one by default.
        alive: Where given, only True positions are candidates.
        final: The density of the last step that `density` is on the way to; `density` itself by default.
        **options: Options of the granularity.

    Returns:
        Boolean masks of the scores' shapes, True where a weight is kept. Units also mask what belongs to them.

    Raises:
        OptionError: If the two cannot be combined, or an option is out of range.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.graph.kernel_axes import KernelAxes
        >>> from tfprune_init.selection import Layout, choose_masks
        >>> scores = {"a": np.array([[3.0, 1.0]]), "b": np.array([[2.0, 4.0]])}
        >>> layouts = {path: Layout((1, 2), KernelAxes((0,), (1,))) for path in scores}
        >>> choose_masks(scores, 0.5, layouts, allocation="uniform")
        {'a': array([[ True, False]]), 'b': array([[False,  True]])}
    """
    what = granularity if isinstance(granularity, Granularity) else GRANULARITIES.find(granularity)
    how = (
        allocation
        if isinstance(allocation, Allocation)
        else find_allocation(what.usual_allocation if allocation is None else allocation)
    )
    check_combination(what, how)
    groups = what.group(scores, alive, layouts, **options)
    last = None if final is None else to_fraction(final)
    return choose_among(groups, to_fraction(density), layouts, what, how, alive=alive, final=last, **options)


def choose_among(
    groups: Groups,
    density: Fraction,
    layouts: Layouts,
    granularity: Granularity,
    allocation: Allocation,
    *,
    alive: Arrays | None = None,
    final: Fraction | None = None,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Keep the best of groups that are scored already.

    Args:
        groups: What `granularity.group` gave.
        density: As in `choose_masks`, like all others.
        layouts: As in `choose_masks`.
        granularity: What the groups are.
        allocation: How the budget is shared out among layers.
        alive: What the groups were made of.
        final: As in `choose_masks`.
        **options: Options of the granularity.
    """
    pools = granularity.pools(layouts, **options)
    shares = allocation.share_out(pools, groups.count_left(), density, layouts, density if final is None else final)
    return granularity.spread(granularity.choose(groups, shares, layouts, **options), alive, layouts, **options)


def check_combination(granularity: Granularity, allocation: Allocation) -> None:
    """Refuse a granularity and an allocation that make no sense together.

    Raises:
        OptionError: If groups of one layer have to keep the same number, and layers were to compete.
    """
    if not granularity.layers_compete and allocation.name == "global":
        raise OptionError(
            f"With granularity={granularity.name!r} every group of a layer keeps the same number of weights, so "
            "weights of different layers do not compete. Received: allocation='global'; use 'uniform', 'erk', 'er', "
            "'balanced' or a dict."
        )
