"""Whole units: how the loss answers to a factor on a unit's output (SNAP-it, skeletonization)."""

from __future__ import annotations

import numpy as np

from tfprune_init.criteria.registry import criterion
from tfprune_init.probe import Probe


@criterion("unit_sensitivity", of_units=True)
def unit_sensitivity(probe: Probe) -> dict[str, np.ndarray]:
    """How much the loss moves, to first order, when a unit's output does.

    c multiplies the output of a unit, bias included. Each weight of the unit's kernel carries an equal part of its
    unit's score, so that the weights of a unit sum to it.

    Formula:
        abs(dL/dc) at c = 1

    Cost:
        1

    Follows:
        SNAP-it's code. There c is shared by a layer's output and the next one's input and residual networks are
        refused; here units that meet in a sum are one group with the sum of their scores. An activation inside the
        layer counts as part of its output.

    References:
        Verdenius et al., Pruning via Iterative Ranking of Sensitivity Statistics, 2020.
    """
    return probe.spread({path: np.abs(derivative) for path, derivative in probe.gates().items()})


@criterion("unit_relevance", of_units=True)
def unit_relevance(probe: Probe) -> dict[str, np.ndarray]:
    """How much the loss would rise, to first order, without a unit.

    Formula:
        -dL/dc at c = 1

    Cost:
        1

    Follows:
        The paper, signed: a unit whose removal lowers the loss goes first. The paper measures relevance by the
        linear error, averages it over time while training, and removes one unit after the other; here it is the
        model's own loss on the given batches.

    References:
        Mozer & Smolensky, Skeletonization, NeurIPS 1988.
    """
    return probe.spread({path: -derivative for path, derivative in probe.gates().items()})
