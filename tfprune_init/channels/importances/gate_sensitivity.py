"""Importance by how much the loss answers to a gate on a channel."""

from __future__ import annotations

import numpy as np

from tfprune_init.channels.importance_registry import register_importance
from tfprune_init.channels.network import ChannelNetwork


@register_importance("gate_sensitivity", uses_gradients=True)
def measure_sensitivities(network: ChannelNetwork) -> dict[str, np.ndarray]:
    """Absolute derivative of the loss with respect to a factor on the layer's output channel, at 1: SNIP's, by channel.

    It needs no trained weights. Heads of attention and recurrent units have no output channel that a factor could
    multiply, and stay.

    Reference:
        Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019, for channels as in
        Verdenius et al., Pruning via Iterative Ranking of Sensitivity Statistics, 2020.
    """
    gates = network.engine.gates()
    return {path: np.abs(gates[path]).ravel() for path in network.kernels if path in gates}
