"""Pruning within a run: masks found among what earlier pruning left, judged at the weights as they are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.graph.variables import ModelVariable, find_prunable_variables
from tfprune_init.masking.attachment import attach
from tfprune_init.masking.events import search_at_event
from tfprune_init.masks import Masks
from tfprune_init.methods import ResolvedMethod, find_method, resolve_method
from tfprune_init.methods.mask_search import find
from tfprune_init.methods.mask_selector import make_selector
from tfprune_init.report import PruningReport, conclude_search
from tfprune_init.selection import PerLayer

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


def prune(
    run: ProcedureRun,
    method: str,
    density: Fraction | None,
    options: Mapping[str, Any],
    *,
    exclude: Sequence[str] = (),
    prune_bias: bool = False,
) -> None:
    """Find masks among what is left of a run's network, attach them, and count what that cost.

    Args:
        run: The run.
        method: Name of the method.
        density: Share of the prunable weights that stays; the goal of the run for None.
        options: Options of the method.
        exclude: What not to prune: names or glob patterns. It keeps the masks that it has.
        prune_bias: Whether biases are prunable too.

    Raises:
        PruningError: As `tpi.find_masks`.
    """
    began = time.perf_counter()
    resolved = resolve_pruning(run, method, options)
    judged = 1
    if run.state.masks is None and density is None:
        found = find(
            run.model,
            run.data.train,
            resolved,
            sparsity=run.goal.sparsity,
            budget=run.goal.budget,
            exclude=exclude,
            prune_bias=prune_bias,
            verbose=0,
        )
        report = conclude_search(run.model, found, prune_bias)
        judged = len(found.steps) + (len(found.steps) > 1 and resolved.method.iterative)
    else:
        variables = find_prunable_variables(run.model, exclude=exclude, prune_bias=prune_bias)
        report = search_at_event(
            run.model,
            make_selector(run.model, variables, resolved, run.data.train, prune_bias),
            resolved,
            run.data.train,
            run.goal.density if density is None else density,
            last=run.goal.density,
            left=find_left(run, variables.prunable),
            prune_bias=prune_bias,
        )
    hold(run, report)
    run.state.seconds["pruning"] += time.perf_counter() - began
    run.count(0, judged * count_judged_batches(resolved), run.state.masks)


def find_left(run: ProcedureRun, targets: Sequence[ModelVariable]) -> dict[str, np.ndarray] | None:
    """Return what earlier pruning left of some variables, all of those that it left alone; None before any pruning."""
    masks = run.state.masks
    if masks is None:
        return None
    return {target.path: masks.get(target.path, np.ones(target.shape, bool)) for target in targets}


def hold(run: ProcedureRun, report: PruningReport) -> None:
    """Attach the masks of a search to a run's model. Variables that they do not name keep the masks that they have."""
    masks = report.masks
    merged = {**(run.state.masks or {}), **masks}
    run.state.masks = Masks({path: merged[path] for path in run.state.paths if path in merged}, masks.collapse)
    run.state.search = report.to_dict()
    attach(run.model, run.state.masks)


def check_pruning(
    run: ProcedureRun, method: str, options: Mapping[str, Any], exclude: Sequence[str], prune_bias: bool
) -> None:
    """Refuse options that a method does not take, and names of layers that the network of a run does not have.

    Raises:
        OptionError: As `tpi.find_masks`.
    """
    resolved = resolve_pruning(run, method, options)
    variables = find_prunable_variables(run.model, exclude=exclude, prune_bias=prune_bias)
    if isinstance(resolved.allocation, PerLayer):
        selector = make_selector(run.model, variables, resolved, run.data.train, prune_bias)
        resolved.allocation.match(selector.pools)


def complete_options(run: ProcedureRun, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method with what the run decides: its seed, and what a network is that collapses."""
    takes_seed = "seed" in find_method(method).options or bool(options.get("shuffle"))
    return {"on_collapse": run.on_collapse, **({"seed": run.seed} if takes_seed else {}), **options}


def resolve_pruning(run: ProcedureRun, method: str, options: Mapping[str, Any]) -> ResolvedMethod:
    """Resolve a method with its options and those of the run."""
    return resolve_method(method, run.data.train, complete_options(run, method, options))


def count_judged_batches(resolved: ResolvedMethod) -> int:
    """Return how many batches a method looks at to judge a network once; 0 without data."""
    return (resolved.engine_options["batches"] or 1) if resolved.method.needs_data else 0
