"""The widest network within a budget: channels in the order of their gates, as many as fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfprune_init.errors import ModelError, OptionError
from tfprune_init.gates.channel_choice import choose_channels
from tfprune_init.gates.places import GatePlace
from tfprune_init.graph.cost import CostModel, ModelCost
from tfprune_init.graph.dependency_graph import DependencyGraph
from tfprune_init.selection.budget import Budget, find_largest_count


@dataclass(frozen=True, eq=False)
class WidthSearch:
    """What a search for widths found.

    Attributes:
        kept: For each gate whether each channel stays.
        masks: What is kept of the weights, by path.
        limit: What the budget allows.
        cost: What the network costs without the channels that go.
        next_cost: What it would cost with one channel more, which is above the limit.
    """

    kept: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    limit: int
    cost: ModelCost
    next_cost: ModelCost


def find_widths(
    costs: CostModel,
    graph: DependencyGraph,
    places: list[GatePlace],
    factors: Mapping[str, np.ndarray],
    budget: Budget,
    plain: ModelCost,
) -> WidthSearch:
    """Find how many channels fit into a budget, if they come in the order of their factors, by bisection.

    Each layer keeps its best channel. One channel more costs more, so that the search is exact.

    Args:
        costs: Costs of the network.
        graph: Its dependency graph.
        places: Where its gates stand.
        factors: Factors of each gate, by its name.
        budget: What may stay, in multiply-adds or parameters; a share is one of `plain`.
        plain: What the network costs that the budget is a share of.

    Raises:
        OptionError: If the budget is one of weights, all channels fit into it, or not even one of each layer.
        ModelError: If multiply-adds depend on sizes that the model leaves open.
    """
    kind = budget.kind
    if kind == "weights":
        raise OptionError(f"Widths are found for multiply_adds= or parameters=. Received: {budget!r}.")

    def measure(cost: ModelCost) -> int:
        size = cost.multiply_adds if kind == "multiply_adds" else cost.parameters
        if size is None:
            raise ModelError(
                "The model leaves sizes open that its multiply-adds depend on. Give its Input a full shape."
            )
        return size

    def remove(keep: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], ModelCost]:
        kept = choose_channels(factors, keep)
        removed = np.zeros(graph.removable.size, bool)
        for place in places:
            removed[place.units[~kept[place.name]]] = True
        masks = graph.masks(removed)
        return kept, masks, costs.count_without_units(masks, graph)

    limit = budget.resolve(measure(plain))
    total = sum(values.size for values in factors.values())
    words = kind.replace("_", "-")
    if measure(costs.count()) <= limit:
        raise OptionError(
            f"The budget has no effect: all channels fit into it. Received: {budget!r}, which is {limit:,} {words}, "
            f"for a network of {measure(costs.count()):,}. Ask for less, or for a larger expansion."
        )
    least = measure(remove(len(places))[2])
    if least > limit:
        raise OptionError(
            f"The budget is too small: with one channel of each layer the network has {least:,} {words}. "
            f"Received: {budget!r}, which is {limit:,}. What has no gate cannot shrink."
        )
    keep = find_largest_count(lambda count: measure(remove(count)[2]) <= limit, total)
    kept, masks, cost = remove(keep)
    return WidthSearch(kept, masks, limit, cost, remove(keep + 1)[2])
