"""One step of a search: checked scores, and the step that cuts off no layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from tfprune_init.errors import ScoreError
from tfprune_init.methods import ResolvedMethod
from tfprune_init.methods.mask_selector import MaskSelector
from tfprune_init.scoring import Arrays, ScoringEngine, is_all_finite


def compute_scores(engine: ScoringEngine, resolved: ResolvedMethod) -> Arrays:
    """Scores of the network the engine looks at.

    Raises:
        ScoreError: If one is NaN or Inf, or a shape is not its variable's.
    """
    scorer = resolved.method.scorer
    scores = scorer.score(engine, **resolved.criterion_options)
    if {p: s.shape for p, s in scores.items()} != {p: w.shape for p, w in engine.weights.items()}:
        raise ScoreError(f"Criterion {scorer.name!r} must give one score for each prunable weight, in their order.")
    sampled = resolved.samples  # what was not tried has no score
    for path, score in scores.items():
        if not is_all_finite(np.nan_to_num(score, posinf=np.inf, neginf=-np.inf) if sampled else score):
            raise ScoreError(f"Scores of {path} under {scorer.name!r} hold NaN or Inf.")
    return {path: scores[path] for path in engine.weights}


def prune_avoiding_layer_collapse(
    engine: ScoringEngine,
    selector: MaskSelector,
    resolved: ResolvedMethod,
    scores: Arrays,
    wanted: Fraction,
    alive: Arrays | None,
    final: Fraction | None,
) -> tuple[Arrays, Arrays]:
    """Take a step to density `wanted` that cuts off no layer as long as another choice is left.

    A layer is cut off when none of its weights scores any more. The best weight of each layer stays. A step that cuts
    one off nevertheless, because its other weights led to what went, is halved, down to a single weight; a
    single weight that cuts one off is spared.

    Args:
        engine: An entered engine that looks at the network under `alive`.
        selector: How masks are chosen.
        resolved: The method.
        scores: Scores of that network.
        wanted: Density asked for.
        alive: What is left of the network; None for the dense one.
        final: Density of the last step.

    Returns:
        The masks, and the scores of the network under them, which the engine looks at.
    """
    held = sum(score.size for score in scores.values()) if alive is None else count_kept_weights(alive)
    size = sum(score.size for score in scores.values())
    share, least = wanted, 0
    spared = {path: np.zeros(score.shape, bool) for path, score in scores.items()}
    while True:
        masks = selector.choose({p: _raised(s, spared[p]) for p, s in scores.items()}, share, alive, final)
        kept = count_kept_weights(masks)
        engine.mask(masks)
        after = compute_scores(engine, resolved)
        cut = any(score.any() and not after[path].any() for path, score in scores.items())
        halved = min(math.ceil(math.sqrt(held * kept)), held - 1)
        if cut and halved > max(kept, least):
            share, least = Fraction(halved, size), halved
        elif cut and _spare(spared, masks, alive):
            least = 0
        elif share == wanted:
            return masks, after
        else:
            scores, alive, held, share, least = after, masks, kept, wanted, 0


def _raised(score: np.ndarray, spared: np.ndarray) -> np.ndarray:
    """Return the scores of a variable with its best, if it scores at all, and what is spared beyond all others."""
    raised = score.copy()
    raised[spared] = np.inf
    best = int(np.argmax(score))
    if score.flat[best] > 0:
        raised.flat[best] = np.inf
    return raised


def _spare(spared: Arrays, masks: Arrays, alive: Arrays | None) -> bool:
    """Spare what the masks would remove; whether that is anything new."""
    new = False
    for path, mask in masks.items():
        removed = ~mask if alive is None else alive[path] & ~mask
        new = new or bool((removed & ~spared[path]).any())
        spared[path] |= removed
    return new


def count_kept_weights(masks: Mapping[str, np.ndarray]) -> int:
    """Return the number of weights that masks keep."""
    return sum(int(np.count_nonzero(mask)) for mask in masks.values())
