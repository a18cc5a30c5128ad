"""Which kernel takes the units of which: the pairs of layers that are pruned and refitted together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.channels.reconstruction.windows import find_window_obstacle
from tfprune_init.graph.dependency_graph import DependencyGraph
from tfprune_init.graph.layer_rules import find_rule
from tfprune_init.graph.trace import trace_calls
from tfprune_init.graph.variables import ModelVariable, list_variables


@dataclass(frozen=True, eq=False)
class UnitPair:
    """A kernel with units that may go, and the kernel that takes them.

    Attributes:
        maker: The kernel of the units.
        axis: Its axis that runs over them.
        groups: The group of each unit in the dependency graph.
        taker: The one kernel that takes them; None where there is an obstacle.
        unit_at_row: The unit that each row of that kernel takes; -1 where it takes something else.
        obstacle: Why what the next layer gets cannot be computed; None if it can.
    """

    maker: ModelVariable
    axis: int
    groups: np.ndarray
    taker: ModelVariable | None
    unit_at_row: np.ndarray
    obstacle: str | None


def find_unit_pairs(model: Model, graph: DependencyGraph, example: Any) -> tuple[list[UnitPair], dict[str, str]]:
    """Find the kernels whose units can be removed by themselves.

    Args:
        model: A built model.
        graph: Its dependency graph.
        example: A batch of inputs.

    Returns:
        The pairs in the order in which the makers are called, and for each other prunable kernel the reason.
    """
    variables = {target.path: target for target in list_variables(model)}
    rules = {id(target.layer): find_rule(target.layer) for target in variables.values()}

    def find_inputs(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        rule = rules.get(id(layer))
        return None if rule is None else rule.find_inputs(layer, args, kwargs)

    calls = [id(call.layer) for call in trace_calls(model, example, find_inputs)[0]]
    pairs, skipped = [], dict(graph.unlabelled)
    for path, groups in graph.units.items():
        reason = _find_reason(path, graph, variables)
        if reason is None:
            pairs.append(_pair(variables[path], groups, graph, variables, Counter(calls)))
        else:
            skipped[path] = reason
    order = {layer: place for place, layer in reversed(list(enumerate(calls)))}
    return sorted(pairs, key=lambda pair: order.get(id(pair.maker.layer), len(calls))), skipped


def _find_reason(path: str, graph: DependencyGraph, variables: Mapping[str, ModelVariable]) -> str | None:
    """Return why the units of a kernel are not removed by themselves."""
    groups = graph.units[path]
    stuck = [group for group in groups.tolist() if not graph.removable[group]]
    if stuck:
        return graph.reasons.get(stuck[0], "has to stay")
    if variables[path].channel_axis is None or len(np.unique(groups)) < len(groups):
        return "its units are not channels of their own"
    others = [other for other, labels in graph.units.items() if other != path and np.isin(labels, groups).any()]
    return f"its units go only together with those of {', '.join(others[:3])}" if others else None


def _pair(
    maker: ModelVariable,
    groups: np.ndarray,
    graph: DependencyGraph,
    variables: Mapping[str, ModelVariable],
    calls: Counter[int],
) -> UnitPair:
    (axis,) = maker.units.outputs
    takers = [
        (variables[path], labels)
        for path, axes in graph.entries.items()
        for along, labels in axes
        if along in variables[path].units.inputs
        and along not in variables[path].units.outputs
        and np.isin(labels, groups).any()
    ]
    in_groups = [path for path, labels in graph.cells.items() if np.isin(labels, groups).any()]
    obstacle = _find_obstacle([target for target, _ in takers], in_groups, calls)
    if obstacle is not None:
        return UnitPair(maker, axis, groups, None, np.zeros(0, int), obstacle)
    ((taker, labels),) = takers
    unit = {group: place for place, group in enumerate(groups.tolist())}
    unit_at_row = np.array([unit.get(label, -1) for label in labels.tolist()])
    return UnitPair(maker, axis, groups, taker, unit_at_row, None)


def _find_obstacle(takers: list[ModelVariable], in_groups: list[str], calls: Counter[int]) -> str | None:
    paths = [target.path for target in takers] + in_groups
    if not paths:
        return "what takes its units is not known"
    if len(paths) > 1:
        return f"its units are taken by several kernels, {', '.join(paths[:3])}"
    if in_groups:
        return f"its units are taken by {in_groups[0]}, whose layer is a convolution in groups"
    (taker,) = takers
    reason = find_window_obstacle(taker.layer)
    if reason is not None:
        return f"its units are taken by {taker.path}, and {reason}"
    if calls[id(taker.layer)] != 1:
        return f"its units are taken by {taker.path}, whose layer is called {calls[id(taker.layer)]} times"
    return None
