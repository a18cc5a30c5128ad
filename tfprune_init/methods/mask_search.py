"""The loop that finds masks: score, choose, look again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tfprune_init.backend.batches import Batches
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.replicas import find_replicas
from tfprune_init.errors import ScoreError
from tfprune_init.graph.variables import PrunableVariables, find_prunable_variables
from tfprune_init.masks import Masks
from tfprune_init.methods import ResolvedMethod
from tfprune_init.methods.goal import Goal
from tfprune_init.methods.layer_collapse import compute_scores, count_kept_weights, prune_avoiding_layer_collapse
from tfprune_init.methods.mask_selector import MaskSelector, make_selector
from tfprune_init.progress import is_progress_shown, track
from tfprune_init.scoring import Arrays, ScoringEngine
from tfprune_init.selection import Budget
from tfprune_init.selection.connectivity import Connectivity, check_connectivity, describe_collapse
from tfprune_init.selection.schedules import compute_densities


@dataclass(frozen=True)
class PruningStep:
    """One step of a search.

    Attributes:
        number: Counted from 1.
        density: Density asked for at this step.
        kept: Number of weights kept.
        seconds: Wall time of scoring and choosing.
        objective: Sum of the kept connections' scores, judged at the network these masks give, on the
            batches that follow: for FORCE, the objective it maximizes. None for a search of one step, or
            without gradients.
    """

    number: int
    density: float
    kept: int
    seconds: float
    objective: float | None


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        masks: The masks.
        steps: How it went.
        connectivity: What is left of the network.
        traces: How often a measurement was traced; 0 where earlier searches of the model left all traces behind.
        seconds: Wall time of the whole search.
        variables: The variables that got masks, and the others with their reasons.
        resolved: The method with the caller's options in it.
        goal: How much was to stay.
        loss: The loss that judged, in words; None if none did.
        collapse: How the network collapsed, and what to try; None if it did not. A search whose network dies on the
            way ends there, as nothing tells any more which of its weights to remove.
    """

    masks: Masks
    steps: tuple[PruningStep, ...]
    connectivity: Connectivity
    traces: int
    seconds: float
    variables: PrunableVariables
    resolved: ResolvedMethod
    goal: Goal
    loss: str | None
    collapse: str | None


def find(
    model: Model,
    data: Any,
    resolved: ResolvedMethod,
    *,
    sparsity: Any = None,
    budget: Budget | None = None,
    exclude: Any = None,
    prune_bias: bool = False,
    verbose: str | int | bool = "auto",
) -> SearchResult:
    """Find masks of a model, without touching it.

    Args:
        model: A built model.
        data: As in `tpi.find_masks`.
        resolved: The method with the caller's options in it.
        sparsity: Share to remove, in [0, 1), or None.
        budget: A limit in place of a sparsity.
        exclude: What not to prune.
        prune_bias: Whether biases are prunable too.
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.

    Raises:
        PruningError: As `tpi.prune_at_init`, but for a network that collapses: the result says so.
    """
    variables = find_prunable_variables(model, exclude=exclude, prune_bias=prune_bias)
    # One walk for all that looks at data: a generator gives its batches only once.
    data = None if data is None else Batches.of(data, find_replicas(model))
    selector = make_selector(model, variables, resolved, data, prune_bias)
    goal = selector.resolve_goal(sparsity, budget, model, data)
    with ScoringEngine(model, selector.variables.prunable, data=data, **resolved.engine_options) as engine:
        found = search_masks(engine, selector, resolved, goal, verbose=verbose)
        engine.replicas.check_identical(
            [np.packbits(found.masks[path]) for path in found.masks],
            "masks",
            "They have different seeds, weights or hardware: give all the same seed, or find masks on one of them, "
            "save them, and tpi.attach them on all.",
        )
        return found


def search_masks(
    engine: ScoringEngine,
    selector: MaskSelector,
    resolved: ResolvedMethod,
    goal: Goal,
    *,
    left: Arrays | None = None,
    verbose: str | int | bool = "auto",
) -> SearchResult:
    """Find masks with one method.

    Args:
        engine: An entered engine of the model.
        selector: How masks are chosen from scores, for the variables that the engine looks at.
        resolved: The method with the caller's options in it.
        goal: How much is to stay.
        left: What earlier pruning left; all by default.
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.

    Raises:
        ScoreError: If scores are NaN or Inf, or all zero for the dense network.
    """
    began = time.perf_counter()
    method = resolved.method
    final = (goal.last or goal.share) if goal.limit is None else None
    plan = compute_densities(method.schedule, goal.share, method.steps)
    targets = selector.variables.prunable
    masks: Arrays = {t.path: np.ones(t.shape, bool) for t in targets} if left is None else left
    if left is not None:
        engine.mask(left)
    steps: list[PruningStep] = []
    scores: Arrays | None = None
    collapse = None
    engine.show_progress = len(plan) == 1 and is_progress_shown(verbose)
    bar = track(plan, method.name, shown=len(plan) > 1 and is_progress_shown(verbose))
    for number, share in enumerate(bar, 1):
        start = time.perf_counter()
        if scores is None:
            scores = compute_scores(engine, resolved)
        _judge_last(steps, resolved, scores, masks)
        if _is_dead(scores, None if method.regrow else masks):
            if number == 1 and left is None:
                raise ScoreError(
                    f"Every connection of the dense network scores 0 under {method.criterion!r}. Check that the loss "
                    "depends on the outputs, the data is not constant, and the weights are initialized."
                )
            collapse = describe_collapse(masks, number - 1, "every connection scores 0")
            break
        alive = None if method.regrow or (number == 1 and left is None) else masks
        wanted = share if goal.limit is None else goal.limit.find_density(scores, share, alive)
        if method.avoid_layer_collapse:
            masks, scores = prune_avoiding_layer_collapse(engine, selector, resolved, scores, wanted, alive, final)
        else:
            del masks  # large networks: the old masks are not needed beside the new ones
            masks = selector.choose(scores, wanted, alive, final)
            scores = alive = None
            engine.mask(masks)
        kept = count_kept_weights(masks)
        steps.append(PruningStep(number, float(wanted), kept, time.perf_counter() - start, None))
    if resolved.shuffle:
        masks = dict(Masks(masks).shuffled(resolved.engine_options["seed"]))
        engine.mask(masks)
    connectivity = check_connectivity(engine, targets, masks)
    if collapse is None and connectivity.lost:
        lost = ", ".join(connectivity.lost)
        collapse = describe_collapse(masks, len(plan), f"no signal from the inputs reaches {lost}")
    if len(plan) > 1 and _has_objective(resolved):
        _judge_last(steps, resolved, method.scorer.score(engine, **resolved.criterion_options), masks)
    seconds = time.perf_counter() - began
    return SearchResult(
        masks=Masks(masks, collapse=collapse),
        steps=tuple(steps),
        connectivity=connectivity,
        traces=engine.traces,
        seconds=seconds,
        variables=selector.variables,
        resolved=resolved,
        goal=goal,
        loss=engine.judged_by,
        collapse=collapse,
    )


def _is_dead(scores: Arrays, candidates: Arrays | None) -> bool:
    return not any((s if candidates is None else s[candidates[p]]).any() for p, s in scores.items())


def _has_objective(resolved: ResolvedMethod) -> bool:
    return resolved.method.needs_data and resolved.method.iterative


def _judge_last(
    steps: list[PruningStep], resolved: ResolvedMethod, scores: Mapping[str, np.ndarray], masks: Arrays
) -> None:
    """Give the last step its objective, which only the scores at its own network can tell."""
    if steps and _has_objective(resolved):
        objective = sum(float(np.sum(s, where=masks[p], dtype=np.float64)) for p, s in scores.items())
        steps[-1] = replace(steps[-1], objective=objective)
