"""Criteria that look at no data: the weights alone, or nothing at all. The field's baselines."""

from __future__ import annotations

import numpy as np

from tfprune_init.criteria.registry import criterion
from tfprune_init.probe import Probe


@criterion("magnitude", uses_gradients=False)
def magnitude(probe: Probe) -> dict[str, np.ndarray]:
    """|w|: the largest initial weights stay.

    Reference:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015;
        as a baseline at initialization, Frankle et al., Pruning Neural Networks at Initialization, ICLR 2021.
    """
    return {path: np.abs(weight) for path, weight in probe.weights.items()}


@criterion("chance", uses_gradients=False, options=frozenset(["seed"]))
def chance(probe: Probe) -> dict[str, np.ndarray]:
    """Uniform random scores, so that every weight has the same chance to stay."""
    return {path: probe.rng.random(weight.shape, np.float32) for path, weight in probe.weights.items()}
