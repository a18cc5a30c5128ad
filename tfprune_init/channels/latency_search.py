"""The search for a latency budget: a few smaller networks measured, along the same ranking."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfprune_init.channels.budget_search import BudgetAccount
from tfprune_init.channels.ranking import Ranking
from tfprune_init.errors import OptionError
from tfprune_init.export.latency_ratio import LatencyRatio
from tfprune_init.selection.budget import Budget, find_largest_count

MEASUREMENTS = 7
"""Networks that are measured at most: that of the least of each layer, and six between it and the dense one."""

_EDGE = 0.1
"""Share of the interval from whose ends a guess stays away, so that each measurement narrows it."""


def fit_latency(
    ranking: Ranking,
    budget: Budget,
    count_cost: Callable[[np.ndarray], int],
    measure: Callable[[np.ndarray], LatencyRatio],
) -> tuple[int, BudgetAccount]:
    """Return how many bundles of a ranking fit a latency budget, of those that were measured, and the account of it.

    The first network that is measured keeps the least of each layer. Each further one lies between the largest that
    fits and the smallest that does not, where a straight line between their latencies over multiply-adds meets the
    budget.

    Args:
        ranking: The ranking.
        budget: A budget of latency.
        count_cost: Multiply-adds of what is left where groups are removed.
        measure: Measures what is left where groups are removed.

    Raises:
        OptionError: If even the least of each layer takes longer.
    """
    limit, every = float(budget.limit), len(ranking.bundles)
    measured: dict[int, LatencyRatio] = {}

    def cost(count: int) -> int:
        return count_cost(ranking.remove_after(count))

    def take_time(count: int) -> float:
        measured[count] = measure(ranking.remove_after(count))
        return measured[count].ratio

    low, high = (ranking.least, take_time(ranking.least)), (every, 1.0)
    smallest = low[1]
    if smallest > limit:
        raise OptionError(
            f"The budget is less than the least of every layer takes: {smallest:.3f} of the dense network's latency, "
            f"measured here. Ask for more, such as tpi.Budget(latency={min(1.0, np.ceil(smallest * 110) / 100):g}), or "
            f"use a smaller min_channels or round_to. Received: {budget!r}."
        )
    if limit >= 1:
        low = high
    while len(measured) < MEASUREMENTS and high[0] - low[0] > 1:
        share = (limit - low[1]) / (high[1] - low[1]) if high[1] > low[1] else 0.5
        share = min(max(share, _EDGE), 1 - _EDGE)
        count = _find_count(cost, low[0], high[0], share)
        ratio = take_time(count)
        low, high = ((count, ratio), high) if ratio <= limit else (low, (count, ratio))
    why = (
        f"Measured, not counted: of {len(measured)} networks this one is the largest that fits; the next larger one, "
        f"with {high[0] - low[0]:,} more bundles of channels, took {high[1]:.3f}."
        if low[0] < every
        else "The budget is met exactly."
    )
    account = BudgetAccount(
        "latency", limit, limit, 1.0, low[1], smallest, why, len(measured), tuple(measured[n] for n in sorted(measured))
    )
    return low[0], account


def _find_count(cost: Callable[[int], int], low: int, high: int, share: float) -> int:
    """Return a count between two others whose cost is about that share of the way from one to the other."""
    target = cost(low) + share * (cost(high) - cost(low))
    return low + max(1, find_largest_count(lambda more: cost(low + more) <= target, high - low - 1))
