"""Importance of the scale that a normalization multiplies a channel with."""

from __future__ import annotations

import numpy as np

from tfprune_init.channels.importance_registry import register_importance
from tfprune_init.channels.network import ChannelNetwork


@register_importance("normalization_scale")
def take_scales(network: ChannelNetwork) -> dict[str, np.ndarray]:
    """Absolute scale (gamma) of the channel in BatchNormalization and other normalizations.

    It tells something only where gammas were trained, best with an L1 penalty; they all begin at 1. Channels behind
    which no normalization with a scale stands have none, and stay.

    Reference:
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017.
    """
    return {path: np.abs(scale) for path, scale in network.find_scales().items()}
