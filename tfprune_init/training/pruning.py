"""Pruning within a run: masks found among what earlier pruning left, judged at the weights as they are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.masking.attachment import attach
from tfprune_init.masking.events import search_at_event
from tfprune_init.methods import ResolvedMethod, find_method, resolve_method
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
    began = time.perf_counter()
    which = split_exclusions(options)[0]
    resolved = resolve_pruning(run, method, options)
    bias = bool(which.get("prune_bias", False))
    judged = 1
    if run.state.masks is None and density is None:
        found = find(
            run.model, run.data.train, resolved, sparsity=run.goal.sparsity, budget=run.goal.budget, verbose=0, **which
        )
        report = conclude_search(run.model, found, bias)
        judged = len(found.steps) + (len(found.steps) > 1 and resolved.method.iterative)
    else:
        variables = find_prunable_variables(run.model, **which)
        report = search_at_event(
            run.model,
            make_selector(run.model, variables, resolved, run.data.train, bias),
            resolved,
            run.data.train,
            run.goal.density if density is None else density,
            last=run.goal.density,
            left=None if run.state.masks is None else dict(run.state.masks),
            prune_bias=bias,
        )
    masks = report.masks
    attach(run.model, masks)
    run.state.masks, run.state.search = masks, report.to_dict()
    run.state.seconds["pruning"] += time.perf_counter() - began
    run.count(0, judged * count_judged_batches(resolved), masks)


def check_pruning(run: ProcedureRun, method: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a method does not take, and names of layers that the network of a run does not have.

    Raises:
        OptionError: As `tpi.find_masks`.
    """
    which = split_exclusions(options)[0]
    resolved = resolve_pruning(run, method, options)
    variables = find_prunable_variables(run.model, **which)
    if isinstance(resolved.allocation, PerLayer):
        selector = make_selector(run.model, variables, resolved, run.data.train, bool(which.get("prune_bias", False)))
        resolved.allocation.match(selector.pools)


def split_exclusions(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that say which variables are prunable, and those of the method."""
    which = {name: options[name] for name in ("exclude", "prune_bias") if name in options}
    return which, {name: value for name, value in options.items() if name not in which}


def complete_options(run: ProcedureRun, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method with what the run decides: its seed, and what a network is that collapses."""
    takes_seed = "seed" in find_method(method).options or bool(options.get("shuffle"))
    return {"on_collapse": run.on_collapse, **({"seed": run.seed} if takes_seed else {}), **options}


def resolve_pruning(run: ProcedureRun, method: str, options: Mapping[str, Any]) -> ResolvedMethod:
    """Resolve a method with its options and those of the run."""
    return resolve_method(method, run.data.train, complete_options(run, method, split_exclusions(options)[1]))


def count_judged_batches(resolved: ResolvedMethod) -> int:
    """Return how many batches a method looks at to judge a network once; 0 without data."""
    return (resolved.engine_options["batches"] or 1) if resolved.method.needs_data else 0
