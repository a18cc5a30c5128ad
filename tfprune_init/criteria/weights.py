"""Criteria that look at no data: the weights alone, or nothing at all. The field's baselines."""

from __future__ import annotations

import numpy as np

from tfprune_init.criteria.registry import criterion
from tfprune_init.probe import Probe


@criterion("magnitude", uses_gradients=False)
def magnitude(probe: Probe) -> dict[str, np.ndarray]:
    """The largest initial weights stay.

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
    return {path: np.abs(weight) for path, weight in probe.weights.items()}


@criterion("chance", uses_gradients=False, options=frozenset(["seed"]))
def chance(probe: Probe) -> dict[str, np.ndarray]:
    """Every weight has the same chance to stay.

    Formula:
        uniform random numbers

    Cost:
        0

    Follows:
        Exactly the share asked for in the scope; several codes keep it in expectation only.
    """
    return {path: probe.rng.random(weight.shape, np.float32) for path, weight in probe.weights.items()}
