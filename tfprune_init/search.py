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
from tfprune_init.criteria import Criterion
from tfprune_init.errors import OptionError, ScoreError
from tfprune_init.masks import Masks
from tfprune_init.methods import Method
from tfprune_init.probe import Arrays, Probe
from tfprune_init.schedules import densities
from tfprune_init.scopes import kept_count, scope_named
from tfprune_init.targets import Targets


@dataclass(frozen=True)
class Step:
    """One step of a search.

    Attributes:
        number: Counted from 1.
        density: Density asked for at this step.
        kept: Number of weights kept.
        seconds: Wall time of scoring and choosing.
        objective: Sum of the kept connections' scores, judged at the network these masks give, on the
            batches that follow: for FORCE, the objective it maximizes. None for methods without gradients.
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


def density_for(sparsity: Any, size: int) -> float:
    """The share of weights to keep.

    Raises:
        OptionError: If `sparsity` is no number in [0, 1), or would leave no weight of `size`.
    """
    if isinstance(sparsity, (bool, np.bool_)) or not isinstance(sparsity, (int, float, np.integer, np.floating)):
        raise OptionError(f"sparsity must be a number in [0, 1). Received: {sparsity!r}.")
    if not math.isfinite(sparsity) or not 0.0 <= sparsity < 1.0:
        hint = f" Did you mean {sparsity / 100:g}?" if 1.0 < sparsity < 100.0 else ""
        raise OptionError(f"sparsity is the share of weights to remove, in [0, 1). Received: {sparsity!r}.{hint}")
    density = 1.0 - float(sparsity)
    if kept_count(size, density) == 0:
        raise OptionError(f"sparsity={sparsity!r} keeps none of the model's {size:,} prunable weights.")
    return density


def search(
    probe: Probe, targets: Targets, method: Method, density: float, *, verbose: str | int | bool = "auto"
) -> Search:
    """Find masks with one method.

    Args:
        probe: An entered probe of the model.
        targets: The variables it looks at.
        method: The recipe, with the caller's options in it.
        density: Share of weights to keep, in (0, 1].
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.

    Raises:
        ScoreError: If scores are NaN or Inf, or all zero for the dense network.
        NetworkCollapseError: If the network dies on the way or at the end.
    """
    began = time.perf_counter()
    choose = scope_named(method.scope)
    plan = densities(method.schedule, density, method.steps)
    masks: Arrays = {t.path: np.ones(t.shape, bool) for t in targets.prunable}
    steps: list[Step] = []
    for number, wanted in enumerate(
        track(plan, f"{method.name}", console=Console(stderr=True), disable=not _shown(verbose), transient=True),
        1,
    ):
        start = time.perf_counter()
        scores = _scores(probe, method.scorer, masks, None if method.regrow else masks, number)
        _judge_last(steps, method, scores, masks)
        alive = None if method.regrow or number == 1 else masks
        del masks  # large networks: the old masks are not needed beside the new ones
        masks = choose(scores, wanted, alive)
        del scores, alive
        probe.mask(masks)
        kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
        steps.append(Step(number, wanted, kept, time.perf_counter() - start, None))
    connectivity = examine(probe, targets.prunable, masks, len(plan))
    if method.needs_data:
        _judge_last(steps, method, method.scorer.score(probe), masks)
    return Search(Masks(masks), tuple(steps), connectivity, probe.traces, time.perf_counter() - began)


def _scores(probe: Probe, scorer: Criterion, masks: Arrays, candidates: Arrays | None, number: int) -> Arrays:
    scores = finite_scores(probe, scorer)
    dead = not any((s if candidates is None else s[candidates[p]]).any() for p, s in scores.items())
    if dead and number > 1:
        raise collapse(masks, number - 1, "every connection scores 0")
    if dead:
        raise ScoreError(
            f"Every connection of the dense network scores 0 under {scorer.name!r}. Check that the loss depends "
            "on the outputs, the data is not constant, and the weights are initialized."
        )
    return scores


def finite_scores(probe: Probe, scorer: Criterion) -> Arrays:
    """Scores of the network the probe looks at.

    Raises:
        ScoreError: If one is NaN or Inf, or a shape is not its variable's.
    """
    scores = scorer.score(probe)
    if {p: s.shape for p, s in scores.items()} != {p: w.shape for p, w in probe.weights.items()}:
        raise ScoreError(f"Criterion {scorer.name!r} must give one score for each prunable weight, in their order.")
    for path, score in scores.items():
        if not np.isfinite(score).all():
            raise ScoreError(f"Scores of {path} under {scorer.name!r} hold NaN or Inf.")
    return {path: scores[path] for path in probe.weights}


def _judge_last(steps: list[Step], method: Method, scores: Mapping[str, np.ndarray], masks: Arrays) -> None:
    """Give the last step its objective, which only the scores at its own network can tell."""
    if steps and method.needs_data:
        objective = sum(float(np.sum(s, where=masks[p], dtype=np.float64)) for p, s in scores.items())
        steps[-1] = replace(steps[-1], objective=objective)


def _shown(verbose: str | int | bool) -> bool:
    if verbose not in ("auto", 0, 1):
        raise OptionError(f'verbose must be 0, 1 or "auto". Received: {verbose!r}.')
    return bool(verbose) if verbose != "auto" else sys.stderr.isatty()
