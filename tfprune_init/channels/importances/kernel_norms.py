"""Importances of the weights alone: norms of a channel's kernel weights."""

from __future__ import annotations

import numpy as np

from tfprune_init.channels.importance_registry import register_importance
from tfprune_init.channels.network import ChannelNetwork


@register_importance("l1")
def sum_magnitudes(network: ChannelNetwork) -> dict[str, np.ndarray]:
    """Sum of the absolute weights that feed the channel.

    Reference:
        Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017.
    """
    return {path: np.abs(network.get_columns(path)).sum(axis=0, dtype=np.float64) for path in network.kernels}


@register_importance("l2")
def measure_lengths(network: ChannelNetwork) -> dict[str, np.ndarray]:
    """Square root of the sum of the squared weights that feed the channel."""
    squared = {path: np.square(network.get_columns(path), dtype=np.float64) for path in network.kernels}
    return {path: np.sqrt(square.sum(axis=0)) for path, square in squared.items()}
