"""Layers that make activations sparse, for networks that are sparse in both weights and activations.

`tfprune_init.layers.legacy` has the same layers for tf_keras.
"""

from tfprune_init.layers.boosting import BoostDecay
from tfprune_init.layers.k_winners import KWinners, KWinners2D
from tfprune_init.layers.winners import Entropy

__all__ = [
    "BoostDecay",
    "Entropy",
    "KWinners",
    "KWinners2D",
]
