"""Pruning within a run: masks found among what earlier pruning left, judged at the weights as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.masking.attachment import attach
from tfprune_init.methods import ResolvedMethod, find_method, resolve_method
from tfprune_init.methods.goal import Goal
from tfprune_init.methods.mask_search import SearchResult, find, search_masks
from tfprune_init.methods.mask_selector import make_selector
from tfprune_init.report import conclude_search
from tfprune_init.scoring import ScoringEngine

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


def prune(run: ProcedureRun, method: str, density: Fraction | None, options: Mapping[str, Any]) -> None:
    """Find masks among what is left of a run's network, attach them, and count what that cost.

    Args:
        run: The run.
        method: Name of the method.
        density: Share of the prunable weights that stays; the goal of the run for None.
        options: Options of the method.

    Raises:
        PruningError: As `tpi.find_masks`.
    """
    given = {"seed": run.seed, **options} if _takes_seed(method, options) else dict(options)
    resolved = resolve_method(method, run.data.train, given)
    if run.state.masks is None and density is None:
        found = find(run.model, run.data.train, resolved, sparsity=run.sparsity, budget=run.budget, verbose=0)
    else:
        found = _find_further(run, resolved, run.density if density is None else density)
    conclude_search(run.model, found, False)
    attach(run.model, found.masks)
    run.state.masks = found.masks
    batches = resolved.engine_options["batches"] or 1
    judged = resolved.method.needs_data
    steps = (len(found.steps) + (len(found.steps) > 1 and resolved.method.iterative)) * batches if judged else 0
    run.count(0, steps, found.masks)


def _find_further(run: ProcedureRun, resolved: ResolvedMethod, density: Fraction) -> SearchResult:
    variables = find_prunable_variables(run.model)
    selector = make_selector(run.model, variables, resolved, run.data.train, False)
    once = replace(resolved, method=replace(resolved.method, schedule="one_shot", steps=1))
    left = None if run.state.masks is None else dict(run.state.masks)
    targets = selector.variables.prunable
    with ScoringEngine(run.model, targets, data=run.data.train, **once.engine_options) as engine:
        return search_masks(engine, selector, once, Goal(density, last=run.density), left=left, verbose=0)


def _takes_seed(method: str, options: Mapping[str, Any]) -> bool:
    return "seed" in find_method(method).options or bool(options.get("shuffle"))
