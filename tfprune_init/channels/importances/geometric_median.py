"""Importance by the distance to the other filters of a layer."""

from __future__ import annotations

import numpy as np

from tfprune_init.channels.importance_registry import register_importance
from tfprune_init.channels.network import ChannelNetwork


@register_importance("geometric_median")
def sum_distances(network: ChannelNetwork) -> dict[str, np.ndarray]:
    """Sum of the Euclidean distances of the channel's kernel weights to those of all channels of the kernel.

    A channel near the geometric median of its layer can be replaced by the others. The time grows with the square of
    the number of channels.

    Reference:
        He et al., Filter Pruning via Geometric Median for Deep Neural Networks Acceleration, CVPR 2019.
    """
    found = {}
    for path in network.kernels:
        rows = np.ascontiguousarray(network.get_columns(path).T, np.float64)
        found[path] = np.array([np.sqrt(np.square(rows - row).sum(axis=1)).sum() for row in rows])
    return found
