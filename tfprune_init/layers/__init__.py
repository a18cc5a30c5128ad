"""Layers that make activations sparse: k winners, and channels that are decided on for each example.

`tfprune_init.layers.legacy` has the k-winners layers for tf_keras.
"""

from tfprune_init.layers.boosting import BoostDecay
from tfprune_init.layers.channel_decisions import ApplyDecisions, ChannelDecisions
from tfprune_init.layers.decision_cost import CostTerm, DecisionCost
from tfprune_init.layers.k_winners import KWinners, KWinners2D
from tfprune_init.layers.winners import Entropy

__all__ = [
    "ApplyDecisions",
    "BoostDecay",
    "ChannelDecisions",
    "CostTerm",
    "DecisionCost",
    "Entropy",
    "KWinners",
    "KWinners2D",
]
