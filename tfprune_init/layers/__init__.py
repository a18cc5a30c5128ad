"""Layers that make activations sparse: k winners, decisions for each example; gates of channels, their optimizer.

`tfprune_init.layers.legacy` has the k-winners layers for tf_keras.
"""

from tfprune_init.layers.boosting import BoostDecay
from tfprune_init.layers.channel_decisions import ApplyDecisions, ChannelDecisions
from tfprune_init.layers.channel_gate import ChannelGate
from tfprune_init.layers.decision_cost import CostTerm, DecisionCost
from tfprune_init.layers.gates import GATE_KINDS, GateLayer, register_gate
from tfprune_init.layers.k_winners import KWinners, KWinners2D
from tfprune_init.layers.proximal_sgd import ProximalSGD
from tfprune_init.layers.winners import Entropy

__all__ = [
    "GATE_KINDS",
    "ApplyDecisions",
    "BoostDecay",
    "ChannelDecisions",
    "ChannelGate",
    "CostTerm",
    "DecisionCost",
    "Entropy",
    "GateLayer",
    "KWinners",
    "KWinners2D",
    "ProximalSGD",
    "register_gate",
]
