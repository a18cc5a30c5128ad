"""The report of the masks that a run ends with, however it found them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfprune_init.graph.variables import ModelVariable, find_prunable_variables
from tfprune_init.methods.mask_search import PruningStep
from tfprune_init.report import PruningReport, list_layers, list_versions
from tfprune_init.scoring import ScoringEngine
from tfprune_init.selection.connectivity import check_connectivity

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


def report_masks(run: ProcedureRun, method: str, options: Mapping[str, Any]) -> PruningReport:
    """Report what the masks of a run leave of its network, as it is now.

    Steps, their seconds and the loss that judged connections are those of the last search.

    Args:
        run: A run that has pruned.
        method: Name of its procedure.
        options: Options of the procedure.
    """
    masks, search = run.state.masks, run.state.search or {}
    assert masks is not None

    def has_none(target: ModelVariable) -> bool:
        return target.path not in masks

    bias = any(path.endswith("/bias") for path in masks)
    everything = find_prunable_variables(run.model, prune_bias=bias)
    some_left = any(has_none(target) for target in everything.prunable)
    variables = find_prunable_variables(run.model, exclude=has_none if some_left else None, prune_bias=bias)
    with ScoringEngine(run.model, variables.prunable, data=run.data.train) as engine:
        engine.mask(dict(masks))
        left = check_connectivity(engine, variables.prunable, dict(masks))
    layers = list_layers(run.model, variables.prunable, masks, left)
    cut = any(one.makes_outputs and one.dead_outputs for one in layers)
    return PruningReport(
        model=run.model.name,
        method=method,
        options=dict(options),
        loss=search.get("loss"),
        masks=masks,
        requested_sparsity=run.goal.sparsity,
        budget=search.get("budget"),
        layers=layers,
        skipped=variables.skipped,
        steps=tuple(PruningStep(**step) for step in search.get("steps", ())),
        empty=left.empty,
        collapse=masks.collapse,
        connected=False if cut or masks.collapse else left.connected,
        signal=left.signal,
        seconds=run.state.seconds["pruning"],
        versions=list_versions(run.model),
    )
