"""The TF-MOT plug-in: masks found at initialization, held by TF-MOT wrappers, on models of tf_keras.

    from tfprune_init import tfmot

    model = tfmot.prune_at_init(model, train, sparsity=0.95, method="force")
    model.fit(train, epochs=5)
    model = tfmot.strip(model)

The wrapped model works with TF-MOT's UpdatePruningStep, PruningSummaries and strip_pruning, and needs none of them.
"""

from __future__ import annotations

from tfprune_init.tfmot.pruning import prune_at_init, report_of
from tfprune_init.tfmot.schedule import FixedMasks
from tfprune_init.tfmot.training import HoldZeros, callbacks
from tfprune_init.tfmot.wrapper import PruneAtInit
from tfprune_init.tfmot.wrapping import left_alone, masks_of, strip, wrap

__all__ = [
    "FixedMasks",
    "HoldZeros",
    "PruneAtInit",
    "callbacks",
    "left_alone",
    "masks_of",
    "prune_at_init",
    "report_of",
    "strip",
    "wrap",
]
