"""Importance by the change of the loss without a channel, to first order in its weights."""

from __future__ import annotations

import numpy as np

from tfprune_init.channels.importance_registry import register_importance
from tfprune_init.channels.network import ChannelNetwork


@register_importance("taylor", uses_gradients=True)
def estimate_loss_changes(network: ChannelNetwork) -> dict[str, np.ndarray]:
    """Square of the sum of gradient times weight, over the weights that feed the channel.

    The gradient is that of the mean loss over the batches. The paper squares batch by batch and averages over many.

    Reference:
        Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, equation 8.
    """
    gradients = network.engine.gradients()
    products = {
        path: network.get_columns(path, gradients[path]).astype(np.float64) * network.get_columns(path)
        for path in network.kernels
    }
    return {path: np.square(product.sum(axis=0)) for path, product in products.items()}
