"""Compaction: dead units and channels removed for real, in a smaller plain model with the same outputs.

The network is followed once from its inputs, for what is constant, and once from its outputs, for what is used
(`network`, by the `rules` of each kind of layer); `folding` decides which channels can go and what their constants
add to biases; `rebuilding` makes the smaller model; `compaction` is the account of it.
"""

from tfprune_init.compaction.compact import compact
from tfprune_init.compaction.compaction import Compaction, LayerChannels, Size

__all__ = ["Compaction", "LayerChannels", "Size", "compact"]
