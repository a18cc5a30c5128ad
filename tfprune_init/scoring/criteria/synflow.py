"""Synaptic flow: a criterion that needs no data."""

from __future__ import annotations

import numpy as np

from tfprune_init.scoring import ScoringEngine
from tfprune_init.scoring.criteria.criterion_registry import register_criterion


@register_criterion("synaptic_flow", uses_gradients=False, options=frozenset(["jit_compile"]), needs_float64=True)
def synaptic_flow(engine: ScoringEngine) -> dict[str, np.ndarray]:
    """Compute a connection's share of the flow through the network: the sum of all paths through it.

    R is the sum of the outputs of the network with absolute values for all variables, for one example of ones,
    BatchNorm in inference mode, at the masked weights.

    Formula:
        abs(w) * dR/d abs(w)

    Cost:
        1 on one example, in float64

    Follows:
        The paper: R is a product of absolute weights, without activation functions. The code keeps them. ReLU
        does not change positive flow, but ReLU6 and tanh saturate and would give every layer before them 0.
        BatchNorm's scale, offset and statistics are absolute too, as in the code. Computed in float64: the code's
        float32 overflows or underflows in deep networks. Where a model ends in a softmax, R sums what goes into it.
        With an input of ones all attention weights are equal, so queries and keys carry no flow and are pruned first.
        No step removes a whole layer that could be kept: its best weight stays, and steps are halved where needed.
        avoid_layer_collapse=False prunes as the code does: every step keeps the largest scores, whatever they cut off.
        Before the last step the code rounds numbers of weights up; a schedule of those densities gives its very masks.

    References:
        Tanaka et al., Pruning neural networks without any data by iteratively conserving synaptic flow, NeurIPS 2020.
    """
    return engine.flow()
