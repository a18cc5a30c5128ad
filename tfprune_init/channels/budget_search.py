"""The longest beginning of a ranking whose cost fits a budget, and why it is not more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tfprune_init.channels.ranking import Ranking
from tfprune_init.errors import OptionError
from tfprune_init.export.latency_ratio import LatencyRatio
from tfprune_init.selection.budget import Budget, find_largest_count

Describe = Callable[[np.ndarray], str]


@dataclass(frozen=True)
class BudgetAccount:
    """What was asked for, what there is, and why it is not the same.

    Attributes:
        kind: What is limited: "parameters", "multiply_adds", "units" or "latency".
        asked: The limit, as it was given.
        limit: The limit as a number of what is limited.
        dense: What the dense network has of it.
        got: What the network that is left has of it, once it is compacted.
        smallest: What is left where every layer keeps its least.
        why: Why `got` is not `limit`.
        evaluations: How often a cost was computed or measured.
        measured: What was measured for a latency budget, from the smallest network on: shares of the dense network's
            latency with their spread.
    """

    kind: str
    asked: int | float
    limit: int | float
    dense: int | float
    got: int | float
    smallest: int | float
    why: str
    evaluations: int
    measured: tuple[LatencyRatio, ...] = ()


def fit_ranking(
    ranking: Ranking, budget: Budget, count_cost: Callable[[np.ndarray], int], describe: Describe
) -> tuple[int, BudgetAccount]:
    """Return how many bundles of a ranking fit a budget, by bisection, and the account of it.

    Args:
        ranking: The ranking.
        budget: A budget of parameters, multiply-adds or units.
        count_cost: What is left where groups are removed, of what the budget limits; the more are removed, the less.
        describe: Says in words which channels a bundle is.

    Raises:
        OptionError: If the budget has no effect, or is less than what the least of each layer costs.
    """
    costs = _Costs(ranking, count_cost)
    every = len(ranking.bundles)
    dense, smallest = costs.of_first(every), costs.of_first(ranking.least)
    limit = budget.resolve(dense)
    if smallest > limit:
        share = np.ceil(smallest / dense * 10_000) / 10_000  # rounded up, so that it can be met too
        raise OptionError(
            f"The budget is less than the least of every layer costs: {smallest:,} of {dense:,} "
            f"{name_kind(budget.kind)}. The smallest that can be met is tpi.Budget({budget.kind}={smallest}), a share "
            f"of {share:.4f}; a smaller min_channels or round_to, or fewer exclusions, leave less. "
            f"Received: {budget!r}."
        )
    more = find_largest_count(lambda more: costs.of_first(ranking.least + more) <= limit, every - ranking.least)
    found = ranking.least + more
    got, why = costs.of_first(found), _explain(costs, found, limit, describe)
    asked = float(budget.limit) if isinstance(budget.limit, Fraction) else budget.limit
    return found, BudgetAccount(budget.kind, asked, limit, dense, got, smallest, why, costs.evaluations)


class _Costs:
    """Costs of beginnings of a ranking, each counted once."""

    def __init__(self, ranking: Ranking, count_cost: Callable[[np.ndarray], int]):
        self.ranking = ranking
        self.evaluations = 0
        self._count_cost = count_cost
        self._known: dict[int, int] = {}

    def of_first(self, count: int) -> int:
        """Return the cost where the first so many bundles are kept."""
        if count not in self._known:
            self._known[count] = self.without(self.ranking.remove_after(count))
        return self._known[count]

    def without(self, removed: np.ndarray) -> int:
        """Return the cost without groups."""
        self.evaluations += 1
        return self._count_cost(removed)


def name_kind(kind: str) -> str:
    """Return what a kind of budget is called in sentences."""
    return kind.replace("_", "-")


def _explain(costs: _Costs, found: int, limit: int, describe: Describe) -> str:
    """Say why the first so many bundles do not cost the limit."""
    if costs.of_first(found) == limit:
        return "The budget is met exactly."
    following, with_all = costs.ranking.bundles[found], costs.of_first(found + 1)
    if following.size > 1:
        removed = costs.ranking.remove_after(found)
        removed[following[0]] = False
        with_one = costs.without(removed)
        if with_one <= limit:
            return (
                f"Rounding: the next {following.size} channel groups, beginning with {describe(following)}, would make "
                f"it {with_all:,}; the first of them alone would fit, with {with_one:,}."
            )
    return f"The next in order does not fit: {describe(following)} would make it {with_all:,}."
