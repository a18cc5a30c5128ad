"""The control: channels in a random order."""

from __future__ import annotations

import numpy as np

from tfprune_init.channels.importance_registry import register_importance
from tfprune_init.channels.network import ChannelNetwork
from tfprune_init.checks import check_integer


@register_importance("random")
def draw_numbers(network: ChannelNetwork, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Random number for each group, from the seed: the control for all others."""
    drawn = np.random.default_rng(check_integer("seed", seed, 0)).random(network.graph.removable.size)
    return {path: drawn[network.get_groups(path)] for path in network.kernels}
