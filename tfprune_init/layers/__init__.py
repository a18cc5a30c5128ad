"""Layers that make activations sparse, gates that learn which channels a network needs, and what trains them.

`tfprune_init.layers.legacy` has the same layers for tf_keras.
"""

from tfprune_init.layers.boosting import BoostDecay
from tfprune_init.layers.channel_gate import ChannelGate
from tfprune_init.layers.gates import GATE_KINDS, GateLayer, register_gate
from tfprune_init.layers.k_winners import KWinners, KWinners2D
from tfprune_init.layers.proximal_sgd import ProximalSGD
from tfprune_init.layers.winners import Entropy

__all__ = [
    "GATE_KINDS",
    "BoostDecay",
    "ChannelGate",
    "Entropy",
    "GateLayer",
    "KWinners",
    "KWinners2D",
    "ProximalSGD",
    "register_gate",
]
