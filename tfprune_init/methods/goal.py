"""How much is to stay: a share, or a budget in weights, parameters or multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.errors import OptionError
from tfprune_init.graph.cost import CostModel
from tfprune_init.selection import Budget, UnitLayouts
from tfprune_init.selection.budget import find_largest_count
from tfprune_init.selection.top_k import Arrays

if TYPE_CHECKING:
    from tfprune_init.methods.mask_selector import MaskSelector


@dataclass(frozen=True)
class Goal:
    """How much is to stay in the end.

    Attributes:
        share: Share to keep, in (0, 1]: of the groups, or of what the budget limits.
        limit: The budget; None where a sparsity was asked for.
        last: Share to keep after the last of several searches, of which this is one; None if it is the only one.
    """

    share: Fraction
    limit: Limit | None = None
    last: Fraction | None = None


class Limit:
    """A budget for one model.

    Args:
        budget: The budget.
        selector: What selects masks for the model.
        make_costs: Makes the cost model; not called for a budget of weights.

    Raises:
        OptionError: If the multiply-adds of the model are not known, or the budget has no effect.

    Attributes:
        budget: The budget.
        dense: What the dense network has of what is limited.
        most: The limit as an integer.
    """

    def __init__(self, budget: Budget, selector: MaskSelector, make_costs: Callable[[], CostModel]):
        self.budget = budget
        self._selector = selector
        self._make_costs = make_costs
        if budget.kind == "multiply_adds":
            self._check_counted()
        self.dense = self.cost({one.path: np.ones(one.shape, bool) for one in selector.variables.prunable})
        self.most = budget.resolve(self.dense)

    @cached_property
    def _costs(self) -> CostModel:
        return self._make_costs()

    def _check_counted(self) -> None:
        prunable = {one.path for one in self._selector.variables.prunable}
        unknown = [f"{path} ({why})" for path, why in self._costs.uncounted.items() if path in prunable]
        unknown += [
            f"{path} (depends on a size that is open)" for path, uses in self._costs.uses.items() if uses is None
        ]
        if unknown:
            raise OptionError(
                f"The multiply-adds of this network are not known: {'; '.join(unknown[:4])}. Limit weights or "
                f"parameters, exclude these variables, or build the model for a fixed size. Received: {self.budget!r}."
            )

    def cost(self, masks: Arrays) -> int:
        """Return what a network under masks has of what is limited."""
        if self.budget.kind == "weights":
            return sum(int(np.count_nonzero(mask)) for mask in masks.values())
        if isinstance(self._selector.layouts, UnitLayouts):
            left = self._costs.count_without_units(masks, self._selector.layouts.graph)
        else:
            left = self._costs.count_nonzero(masks)
        return left.parameters if self.budget.kind == "parameters" else int(left.multiply_adds or 0)

    def describe(self, masks: Arrays) -> dict[str, Any]:
        """Return what was asked for and what masks leave, for reports."""
        return {
            "kind": self.budget.kind,
            "asked": self.budget.limit,
            "limit": self.most,
            "dense": self.dense,
            "got": self.cost(masks),
            "counted": self.counted,
        }

    @property
    def counted(self) -> str:
        """How it is counted, in words."""
        if self.budget.kind == "weights":
            return "nonzero prunable weights"
        units = self._selector.granularity.of_units
        if self.budget.kind == "parameters":
            return "what compact leaves" if units else "nonzero prunable weights and all other parameters"
        return "what compact leaves" if units else "nonzero weights times positions"

    def find_density(self, scores: Arrays, share: Fraction, alive: Arrays | None) -> Fraction:
        """Return the density of the largest selection in rank order that fits.

        Args:
            scores: Scores of the weights.
            share: Share of the dense network's cost that may stay at this step.
            alive: The candidates; all by default.

        Raises:
            OptionError: If nothing fits.
        """
        total = self._selector.count
        most = math.floor(self.dense * share)

        groups = self._selector.group(scores, alive)

        def cost(count: int) -> int:
            return self.cost(self._selector.choose_among(groups, Fraction(count, total), alive))

        found = find_largest_count(lambda count: cost(count) <= most, sum(groups.count_left().values()))
        if found == 0:
            what = self.budget.kind.replace("_", "-")
            raise OptionError(
                f"The budget leaves nothing: with 1 of the {self._selector.granularity.counts_in} kept the network "
                f"still has {cost(1):,} {what}. Received: {self.budget!r}."
            )
        return Fraction(found, total)
