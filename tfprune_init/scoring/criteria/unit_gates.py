"""Criteria for whole units: effect of a factor on a unit's output on the loss (SNAP-it, skeletonization)."""

from __future__ import annotations

import numpy as np

from tfprune_init.scoring import ScoringEngine
from tfprune_init.scoring.criteria.criterion_registry import register_criterion


@register_criterion("unit_sensitivity", of_units=True)
def unit_sensitivity(engine: ScoringEngine) -> dict[str, np.ndarray]:
    """Compute the first-order change of the loss when a unit's output changes.

    c multiplies the output of a unit, bias included. Each weight of the unit's kernel gets an equal part of the unit's
    score, so that the scores of a unit's weights add up to it.

    Formula:
        abs(dL/dc) at c = 1

    Cost:
        1

    Follows:
        SNAP-it's code. There c is shared by a layer's output and the next one's input, and residual networks are
        refused. Here units that meet in a sum are one group with the sum of their scores. An activation inside the
        layer counts as part of its output.

    References:
        Verdenius et al., Pruning via Iterative Ranking of Sensitivity Statistics, 2020.
    """
    return engine.spread({path: np.abs(derivative) for path, derivative in engine.gates().items()})


@register_criterion("unit_relevance", of_units=True)
def unit_relevance(engine: ScoringEngine) -> dict[str, np.ndarray]:
    """Compute the first-order increase of the loss without a unit.

    Formula:
        -dL/dc at c = 1

    Cost:
        1

    Follows:
        The paper, signed: a unit whose removal lowers the loss goes first. The paper measures relevance by the
        linear error, averages it over time while training, and removes one unit after another. Here it is measured
        by the model's own loss on the given batches.

    References:
        Mozer & Smolensky, Skeletonization, NeurIPS 1988.
    """
    return engine.spread({path: -derivative for path, derivative in engine.gates().items()})
