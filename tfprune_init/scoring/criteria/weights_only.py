"""Criteria that need no data: the weights alone, or nothing at all. They are the usual baselines."""

from __future__ import annotations

import numpy as np

from tfprune_init.scoring import ScoringEngine
from tfprune_init.scoring.criteria.criterion_registry import register_criterion


@register_criterion("magnitude", uses_gradients=False)
def magnitude(engine: ScoringEngine) -> dict[str, np.ndarray]:
    """Score a weight by its absolute initial value.

    Formula:
        abs(w)

    Cost:
        0

    Follows:
        The baseline as it is used at initialization: global by default.

    References:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015; at
        initialization, Frankle et al., Pruning Neural Networks at Initialization, ICLR 2021.
    """
    return {path: np.abs(weight) for path, weight in engine.weights.items()}


@register_criterion("chance", uses_gradients=False, options=frozenset(["seed"]))
def chance(engine: ScoringEngine) -> dict[str, np.ndarray]:
    """Score every weight at random, so that all have the same chance to stay.

    Formula:
        uniform random numbers

    Cost:
        0

    Follows:
        Exactly the share asked for; several codes keep it in expectation only.
    """
    return {path: engine.rng.random(weight.shape, np.float32) for path, weight in engine.weights.items()}
