"""The exact change of the loss without each weight, which other criteria approximate."""

from __future__ import annotations

import numpy as np

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.scoring import ScoringEngine
from tfprune_init.scoring.criteria.criterion_registry import register_criterion


@register_criterion("loss_change", needs_float64=True)
def loss_change(engine: ScoringEngine, *, sample: int | None = None) -> dict[str, np.ndarray]:
    """Compute the actual change of the loss when a weight is set to zero.

    Formula:
        abs(L(w_j = 0) - L(w))

    Cost:
        1 forward pass a weight

    Follows:
        The definition, in float64, as `snipR` in gahaalt's code for SNIP. That code keeps Dropout and
        BatchNorm in training mode, whose noise is larger than most differences; here `training=False` is the
        default. `sample=1000` tries that many weights, chosen at random, and gives NaN for the others
        (`tpi.score` only).

    References:
        Lee et al., SNIP, ICLR 2019, equation 3.
    """
    sizes = {path: weight.size for path, weight in engine.weights.items()}
    total = sum(sizes.values())
    if sample is None:
        chosen = {path: np.arange(size) for path, size in sizes.items()}
    elif check_integer("sample", sample, 1) > total:
        raise OptionError(f"sample must be a number of weights, 1 to {total:,}. Received: sample={sample!r}.")
    else:
        picked = np.sort(engine.rng.choice(total, sample, replace=False))
        ends = np.cumsum(list(sizes.values()))
        parts = np.split(picked, np.searchsorted(picked, ends[:-1]))
        chosen = {p: part - (end - sizes[p]) for p, part, end in zip(sizes, parts, ends, strict=True)}
    scores = {path: np.full(weight.shape, np.nan) for path, weight in engine.weights.items()}
    for path, change in engine.loss_changes(chosen).items():
        scores[path].reshape(-1)[chosen[path]] = np.abs(change)
    return scores
