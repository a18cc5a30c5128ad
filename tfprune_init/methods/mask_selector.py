"""From scores to masks for one model: granularity and allocation, with what they must know of its variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from tfprune_init.backend.batches import Batches
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.replicas import find_replicas
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph import DependencyGraph, build_dependency_graph
from tfprune_init.graph.cost import CostModel
from tfprune_init.graph.variables import EXCLUDED, PrunableVariables, SkippedVariable, list_variables
from tfprune_init.methods import ResolvedMethod
from tfprune_init.methods.goal import Goal, Limit
from tfprune_init.selection import (
    Allocation,
    Granularity,
    Layout,
    PerLayer,
    UnitLayouts,
    count_kept,
)
from tfprune_init.selection.allocation import Proportional
from tfprune_init.selection.budget import Budget, parse_sparsity
from tfprune_init.selection.granularity import Groups, Pool
from tfprune_init.selection.mask_selection import choose_among
from tfprune_init.selection.matrix_layout import Layouts
from tfprune_init.selection.top_k import Arrays


@dataclass(frozen=True)
class MaskSelector:
    """A granularity and an allocation at work on one model.

    Attributes:
        variables: The variables that get masks, and the others with their reasons.
        layouts: How the weights of each lie.
        granularity: What is kept or pruned as one.
        allocation: How the budget is shared out among layers.
        options: Options of the granularity.
        normalize: What each variable's scores are divided by first: "l2", "sum" or None.
    """

    variables: PrunableVariables
    layouts: Layouts
    granularity: Granularity
    allocation: Allocation
    options: Mapping[str, Any]
    normalize: str | None

    @cached_property
    def pools(self) -> dict[str, Pool]:
        """What the allocation shares the budget out among."""
        return self.granularity.pools(self.layouts, **self.options)

    @property
    def count(self) -> int:
        """Number of things that density is a share of."""
        return sum(pool.size for pool in self.pools.values())

    def resolve_goal(self, sparsity: Any, budget: Budget | None, model: Model, data: Any) -> Goal:
        """Say exactly how much is to stay.

        Args:
            sparsity: A number in [0, 1), or None.
            budget: A limit in place of a sparsity, or None.
            model: The model.
            data: The caller's data, or None; a subclassed model is run on one example to count multiply-adds.

        Raises:
            OptionError: If not exactly one of the two is given, one is out of range, or a budget has no effect.
        """
        if budget is None:
            return Goal(self.resolve_density(sparsity))
        if not isinstance(budget, Budget):
            raise OptionError(f"budget= is a tpi.Budget, such as tpi.Budget(weights=5_000). Received: {budget!r}.")
        if budget.kind in ("units", "latency"):
            raise OptionError(
                f"A budget of {budget.kind} is for tpi.find_channels. Here sparsity= with granularity='units' says the "
                f"share of units to remove. Received: {budget!r}."
            )
        if sparsity is not None or isinstance(self.allocation, PerLayer):
            other = "sparsity" if sparsity is not None else "allocation"
            raise OptionError(f"budget= says how much stays, so a number in {other}= cannot. Received: both.")
        limit = Limit(budget, self, lambda: CostModel(model, take_example(model, data)))
        return Goal(Fraction(limit.most, limit.dense), limit)

    def resolve_density(self, sparsity: Any) -> Fraction:
        """Return the exact share to keep.

        Args:
            sparsity: A number in [0, 1); None where a dict gives each layer its own, for others to stay whole.

        Raises:
            OptionError: If `sparsity` is no number in [0, 1), is missing or has no effect, would leave nothing, or the
                granularity cannot do it.
        """
        own = self.allocation.match(self.pools) if isinstance(self.allocation, PerLayer) else {}
        if own:
            for density in own.values():
                self.granularity.check(density, self.layouts, **self.options)
            if len(own) == len(self.pools) and sparsity is not None:
                raise OptionError(
                    "allocation= gives every layer its own sparsity, so sparsity= has no effect; leave it out. "
                    f"Received: sparsity={sparsity!r}."
                )
            if sparsity is None:
                return Fraction(1)
        if sparsity is None:
            raise OptionError("sparsity= or budget= says how much to remove. Received: neither.")
        density = 1 - parse_sparsity(sparsity)
        if isinstance(self.allocation, Proportional):
            # What the allocation counts out needs no whole number in each layer, but enough for all of them.
            least = self.granularity.count_least(self.layouts, **self.options)
            if count_kept(self.count, density) < least:
                raise OptionError(
                    f"granularity={self.granularity.name!r} keeps at least {least:,} of the {self.count:,} "
                    f"{self.granularity.counts_in} of this network. Received: sparsity={sparsity!r}; use a lower one."
                )
        else:
            self.granularity.check(density, self.layouts, **self.options)
        if not own and count_kept(self.count, density) == 0:
            raise OptionError(
                f"sparsity={sparsity!r} keeps none of the model's {self.count:,} prunable {self.granularity.counts_in}."
            )
        return density

    def choose(
        self, scores: Arrays, density: Fraction, alive: Arrays | None, final: Fraction | None = None
    ) -> dict[str, np.ndarray]:
        """Return masks that keep the best of the candidates.

        Args:
            scores: Scores of the weights, by path.
            density: Share to keep.
            alive: The candidates; all by default.
            final: Density of the last step, which `density` is on the way to.
        """
        return self.choose_among(self.group(scores, alive), density, alive, final)

    def group(self, scores: Arrays, alive: Arrays | None) -> Groups:
        """Return the scores of what competes, pool by pool."""
        if self.normalize:
            scores = {path: _normalize(score, self.normalize) for path, score in scores.items()}
        return self.granularity.group(scores, alive, self.layouts, **self.options)

    def choose_among(
        self, groups: Groups, density: Fraction, alive: Arrays | None, final: Fraction | None = None
    ) -> dict[str, np.ndarray]:
        """Return masks that keep the best of what `group` gave."""
        masks = choose_among(
            groups, density, self.layouts, self.granularity, self.allocation, alive=alive, final=final, **self.options
        )
        return {one.path: masks[one.path] for one in self.variables.prunable}


def make_selector(
    model: Model,
    variables: PrunableVariables,
    resolved: ResolvedMethod,
    data: Any,
    prune_bias: bool,
    *,
    strict: bool = False,
) -> MaskSelector:
    """Put a method's granularity and allocation to work on a model.

    Args:
        model: The model.
        variables: Its prunable variables.
        resolved: The method.
        data: The caller's data, or None; one example of it shows which units belong together.
        prune_bias: Whether the caller asked for biases.
        strict: As for `build_dependency_graph`, where whole units are removed.

    Raises:
        OptionError: If `prune_bias` has no effect with this granularity, or no unit may be removed.
        ModelError: If units are removed and no layer of the model has any.
    """
    layouts: Layouts = _layouts(variables)
    if resolved.granularity.of_units:
        if prune_bias:
            raise OptionError(
                "prune_bias has no effect with granularity='units': the bias of a unit goes with it. Leave it out."
            )
        graph = build_dependency_graph(model, take_example(model, data), strict=strict)
        if resolved.method.scorer.of_units:
            scored = {one.path for one in variables.prunable if one.channel_axis is not None}
            graph = graph.pin_all_but(scored, "is not scored: heads and recurrent units have no output channel to gate")
        variables = _with_units(model, variables, graph)
        layouts = UnitLayouts(_layouts(variables), graph)
    return MaskSelector(
        variables, layouts, resolved.granularity, resolved.allocation, resolved.granularity_options, resolved.normalize
    )


def take_example(model: Model, data: Any) -> Any:
    """Return the inputs of the first batch; None without data."""
    return None if data is None else Batches.of(data, find_replicas(model)).peek().x


def _layouts(variables: PrunableVariables) -> dict[str, Layout]:
    return {target.path: Layout(target.shape, target.units) for target in variables.prunable}


def _with_units(model: Model, variables: PrunableVariables, graph: DependencyGraph) -> PrunableVariables:
    """Return what whole units consist of: kernels of layers with units, and what belongs to these units."""
    kernels = {one.path for one in variables.prunable}
    reasons = {skipped.path: skipped.reason for skipped in variables.skipped}
    excluded = {path for path, reason in reasons.items() if reason == EXCLUDED}
    prunable, skipped = [], []
    for one in list_variables(model):
        if one.path in graph.entries and one.path not in excluded:
            prunable.append(one)
        else:
            unknown = graph.unlabelled.get(one.path, "has no units of its own")
            skipped.append(SkippedVariable(one.path, one.shape, unknown if one.path in kernels else reasons[one.path]))
    if not prunable:
        raise ModelError(
            f"Model {model.name!r} has no layer with units. Use granularity='weights'. Received: granularity='units'."
        )
    return PrunableVariables(tuple(prunable), tuple(skipped))


def _normalize(score: np.ndarray, by: str) -> np.ndarray:
    norm = np.linalg.norm(score.ravel()) if by == "l2" else np.abs(score).sum(dtype=np.float64)
    return score / norm.astype(score.dtype) if norm > 0 else score
