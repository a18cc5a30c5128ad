"""The loop that finds masks: score, choose, look again."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from tfprune_init.connectivity import Connectivity, collapse, examine
from tfprune_init.errors import OptionError, ScoreError
from tfprune_init.masks import Masks
from tfprune_init.methods import Recipe
from tfprune_init.probe import Arrays, Probe
from tfprune_init.schedules import densities
from tfprune_init.scopes import kept_count
from tfprune_init.selector import Selector
from tfprune_init.steps import finite_scores, kept_weights, step_without_cutting


@dataclass(frozen=True)
class Step:
    """One step of a search.

    Attributes:
        number: Counted from 1.
        density: Density asked for at this step.
        kept: Number of weights kept.
        seconds: Wall time of scoring and choosing.
        objective: Sum of the kept connections' scores, judged at the network these masks give, on the
            batches that follow: for FORCE, the objective it maximizes. None for methods of one step or
            without gradients.
    """

    number: int
    density: float
    kept: int
    seconds: float
    objective: float | None


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        masks: The masks.
        steps: How it went.
        connectivity: What is left of the network.
        traces: How often the gradient step was traced.
        seconds: Wall time of the whole search.
    """

    masks: Masks
    steps: tuple[Step, ...]
    connectivity: Connectivity
    traces: int
    seconds: float


def density_for(sparsity: Any, selector: Selector) -> float:
    """The share to keep.

    Raises:
        OptionError: If `sparsity` is no number in [0, 1), would leave nothing, or the scope cannot do it.
    """
    if isinstance(sparsity, (bool, np.bool_)) or not isinstance(sparsity, (int, float, np.integer, np.floating)):
        raise OptionError(f"sparsity must be a number in [0, 1). Received: {sparsity!r}.")
    if not math.isfinite(sparsity) or not 0.0 <= sparsity < 1.0:
        hint = f" Did you mean {sparsity / 100:g}?" if 1.0 < sparsity < 100.0 else ""
        raise OptionError(f"sparsity is the share of weights to remove, in [0, 1). Received: {sparsity!r}.{hint}")
    density = 1.0 - float(sparsity)
    selector.check(density)
    if kept_count(selector.count, density) == 0:
        raise OptionError(
            f"sparsity={sparsity!r} keeps none of the model's {selector.count:,} prunable {selector.scope.counts_in}."
        )
    return density


def search(
    probe: Probe,
    selector: Selector,
    recipe: Recipe,
    density: float,
    *,
    left: Arrays | None = None,
    verbose: str | int | bool = "auto",
) -> Search:
    """Find masks with one method.

    Args:
        probe: An entered probe of the model.
        selector: How masks are chosen from scores, for the variables that the probe looks at.
        recipe: The method with the caller's options in it.
        density: Share to keep, in (0, 1].
        left: What earlier pruning left; all by default.
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.

    Raises:
        ScoreError: If scores are NaN or Inf, or all zero for the dense network.
        NetworkCollapseError: If the network dies on the way or at the end.
    """
    began = time.perf_counter()
    method = recipe.method
    plan = densities(method.schedule, density, method.steps)
    targets = selector.targets.prunable
    masks: Arrays = {t.path: np.ones(t.shape, bool) for t in targets} if left is None else left
    if left is not None:
        probe.mask(left)
    steps: list[Step] = []
    scores: Arrays | None = None
    probe.show_progress = len(plan) == 1 and shown(verbose)
    hidden = len(plan) == 1 or not shown(verbose)
    bar = track(plan, method.name, console=Console(stderr=True), disable=hidden, transient=True)
    for number, wanted in enumerate(bar, 1):
        start = time.perf_counter()
        if scores is None:
            scores = finite_scores(probe, recipe)
        _check_alive(scores, masks, None if method.regrow else masks, number, method.criterion)
        _judge_last(steps, recipe, scores, masks)
        alive = None if method.regrow or (number == 1 and left is None) else masks
        if method.keeps_layers:
            masks, scores = step_without_cutting(probe, selector, recipe, scores, wanted, alive)
        else:
            del masks  # large networks: the old masks are not needed beside the new ones
            masks = selector.choose(scores, wanted, alive)
            scores = alive = None
            probe.mask(masks)
        kept = kept_weights(masks)
        steps.append(Step(number, wanted, kept, time.perf_counter() - start, None))
    if recipe.shuffle:
        masks = dict(Masks(masks).shuffled(recipe.probing["seed"]))
        probe.mask(masks)
    connectivity = examine(probe, targets, masks, len(plan))
    if _has_objective(recipe):
        _judge_last(steps, recipe, method.scorer.score(probe, **recipe.scoring), masks)
    return Search(Masks(masks), tuple(steps), connectivity, probe.traces, time.perf_counter() - began)


def shown(verbose: str | int | bool) -> bool:
    """Whether to show progress.

    Raises:
        OptionError: If `verbose` is not 0, 1 or "auto".
    """
    if verbose not in ("auto", 0, 1):
        raise OptionError(f'verbose must be 0, 1 or "auto". Received: {verbose!r}.')
    return bool(verbose) if verbose != "auto" else sys.stderr.isatty()


def _check_alive(scores: Arrays, masks: Arrays, candidates: Arrays | None, number: int, criterion: str) -> None:
    dead = not any((s if candidates is None else s[candidates[p]]).any() for p, s in scores.items())
    if dead and number > 1:
        raise collapse(masks, number - 1, "every connection scores 0")
    if dead:
        raise ScoreError(
            f"Every connection of the dense network scores 0 under {criterion!r}. Check that the loss depends "
            "on the outputs, the data is not constant, and the weights are initialized."
        )


def _has_objective(recipe: Recipe) -> bool:
    return recipe.method.needs_data and recipe.method.iterative


def _judge_last(steps: list[Step], recipe: Recipe, scores: Mapping[str, np.ndarray], masks: Arrays) -> None:
    """Give the last step its objective, which only the scores at its own network can tell."""
    if steps and _has_objective(recipe):
        objective = sum(float(np.sum(s, where=masks[p], dtype=np.float64)) for p, s in scores.items())
        steps[-1] = replace(steps[-1], objective=objective)
