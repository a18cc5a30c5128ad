"""Pruning within a run: masks found among what earlier pruning left, judged at the weights as they are."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.masking.attachment import attach
from tfprune_init.masking.events import search_at_event
from tfprune_init.methods import find_method, resolve_method
from tfprune_init.methods.mask_search import find
from tfprune_init.methods.mask_selector import make_selector
from tfprune_init.report import conclude_search
from tfprune_init.selection import PerLayer

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
    resolved = resolve_method(method, run.data.train, add_seed(run, method, options))
    judged = 1
    if run.state.masks is None and density is None:
        found = find(run.model, run.data.train, resolved, sparsity=run.sparsity, budget=run.budget, verbose=0)
        conclude_search(run.model, found, False)
        masks = found.masks
        judged = len(found.steps) + (len(found.steps) > 1 and resolved.method.iterative)
    else:
        selector = make_selector(run.model, find_prunable_variables(run.model), resolved, run.data.train, False)
        masks = search_at_event(
            run.model,
            selector,
            resolved,
            run.data.train,
            run.density if density is None else density,
            last=run.density,
            left=None if run.state.masks is None else dict(run.state.masks),
        )
    attach(run.model, masks)
    run.state.masks = masks
    run.count(0, judged * count_judged_batches(run, method, options), masks)


def check_pruning(run: ProcedureRun, method: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a method does not take, and names of layers that the network of a run does not have.

    Raises:
        OptionError: As `tpi.find_masks`.
    """
    resolved = resolve_method(method, run.data.train, add_seed(run, method, options))
    if isinstance(resolved.allocation, PerLayer):
        selector = make_selector(run.model, find_prunable_variables(run.model), resolved, run.data.train, False)
        resolved.allocation.match(selector.pools)


def add_seed(run: ProcedureRun, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method with the seed of the run among them, where it takes one and was given none."""
    takes_seed = "seed" in find_method(method).options or bool(options.get("shuffle"))
    return {"seed": run.seed, **options} if takes_seed else dict(options)


def count_judged_batches(run: ProcedureRun, method: str, options: Mapping[str, Any]) -> int:
    """Return how many batches a method looks at to judge a network once; 0 without data."""
    resolved = resolve_method(method, run.data.train, add_seed(run, method, options))
    return (resolved.engine_options["batches"] or 1) if resolved.method.needs_data else 0
