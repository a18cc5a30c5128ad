"""Pruning within a run: masks found among what earlier pruning left, judged at the weights as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.graph.variables import ModelVariable, find_prunable_variables
from tfprune_init.masking.attachment import attach
from tfprune_init.masking.events import search_at_event
from tfprune_init.masks import Masks
from tfprune_init.methods import find_method, resolve_method
from tfprune_init.methods.mask_search import find
from tfprune_init.methods.mask_selector import make_selector
from tfprune_init.report import conclude_search

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
    given = {"seed": run.seed, **options} if _takes_seed(method, options) else dict(options)
    resolved = resolve_method(method, run.data.train, given)
    judged = 1
    if run.state.masks is None and density is None:
        found = find(
            run.model,
            run.data.train,
            resolved,
            sparsity=run.sparsity,
            budget=run.budget,
            exclude=exclude,
            prune_bias=prune_bias,
            verbose=0,
        )
        conclude_search(run.model, found, prune_bias)
        masks = found.masks
        judged = len(found.steps) + (len(found.steps) > 1 and resolved.method.iterative)
    else:
        variables = find_prunable_variables(run.model, exclude=exclude, prune_bias=prune_bias)
        selector = make_selector(run.model, variables, resolved, run.data.train, prune_bias)
        masks = search_at_event(
            run.model,
            selector,
            resolved,
            run.data.train,
            run.density if density is None else density,
            last=run.density,
            left=find_left(run, selector.variables.prunable),
            prune_bias=prune_bias,
        )
    hold(run, masks)
    batches = resolved.engine_options["batches"] or 1
    run.count(0, judged * batches if resolved.method.needs_data else 0, run.state.masks)


def find_left(run: ProcedureRun, targets: Sequence[ModelVariable]) -> dict[str, np.ndarray] | None:
    """Return what earlier pruning left of some variables, all of those that it left alone; None before any pruning."""
    masks = run.state.masks
    if masks is None:
        return None
    return {target.path: masks.get(target.path, np.ones(target.shape, bool)) for target in targets}


def hold(run: ProcedureRun, masks: Masks) -> None:
    """Attach masks to a run's model. Variables that they do not name keep the masks that they have."""
    merged = {**(run.state.masks or {}), **masks}
    run.state.masks = Masks({path: merged[path] for path in run.state.paths if path in merged}, masks.collapse)
    attach(run.model, run.state.masks)


def _takes_seed(method: str, options: Mapping[str, Any]) -> bool:
    return "seed" in find_method(method).options or bool(options.get("shuffle"))
