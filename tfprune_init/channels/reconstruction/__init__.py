"""Reconstruction: channels removed layer by layer, and the next layer's weights rewritten so that it hardly notices.

What the next layer gets is sampled (`windows`, `sampling`); pure functions choose channels and fit weights on the
columns (`channel_selection`, `refits`); `unit_pairs` finds in the dependency graph which kernel takes the units of
which; `layer_by_layer` puts it together, and `result` is what comes out.
"""

from tfprune_init.channels.reconstruction.layer_by_layer import reconstruct_channels
from tfprune_init.channels.reconstruction.result import ChannelReconstruction, ReconstructedLayer

__all__ = ["ChannelReconstruction", "ReconstructedLayer", "reconstruct_channels"]
