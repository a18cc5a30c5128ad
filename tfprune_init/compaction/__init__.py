"""Compaction: dead units and channels removed for real, in a smaller plain model with the same outputs.

The network is followed once from its inputs, for what is constant, and once from its outputs, for what is used
(`network`, by the rules in `graph.layer_rules`); `folding` decides which channels can go and what their constants add
to biases; `rebuilding` makes the smaller model; `result` is the account of it.
"""

from tfprune_init.compaction.removal import compact
from tfprune_init.compaction.result import Compaction, LayerChannels
from tfprune_init.graph.cost import ModelCost

__all__ = [
    "Compaction",
    "LayerChannels",
    "ModelCost",
    "compact",
]
