"""Reconstruction: channels removed layer by layer, and the next layer's weights rewritten so that it hardly notices.

What the next layer gets is sampled (`windows`, `sampling`); pure functions choose channels and fit weights on the
columns (`channel_selection`, `refits`); `unit_pairs` finds in the dependency graph which kernel takes the units of
which; `reconstruction_plan` checks what is asked, `layer_by_layer` does it, and `result` is what comes out.
"""

from tfprune_init.channels.reconstruction.layer_by_layer import reconstruct_channels
from tfprune_init.channels.reconstruction.reconstruction_plan import plan_reconstruction
from tfprune_init.channels.reconstruction.result import ChannelReconstruction, ReconstructedLayer

__all__ = ["ChannelReconstruction", "ReconstructedLayer", "plan_reconstruction", "reconstruct_channels"]
