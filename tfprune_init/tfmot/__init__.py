"""The TF-MOT plug-in: masks found at initialization, held by TF-MOT wrappers, on models of tf_keras.

    from tfprune_init import tfmot

    model = tfmot.prune_at_init(model, train, sparsity=0.95, method="force")
    model.fit(train, epochs=5)
    model = tfmot.strip(model)

The wrapped model works with TF-MOT's UpdatePruningStep, PruningSummaries and strip_pruning, and needs none of them.
"""

from __future__ import annotations

from tfprune_init.tfmot.enforcement import EnforceMasks, callbacks
from tfprune_init.tfmot.one_call import get_report, prune_at_init
from tfprune_init.tfmot.schedule import FixedMasks
from tfprune_init.tfmot.wrapper import PruneAtInit
from tfprune_init.tfmot.wrapping import get_masks, strip, unmasked_variables, wrap

__all__ = [
    "EnforceMasks",
    "FixedMasks",
    "PruneAtInit",
    "callbacks",
    "get_masks",
    "get_report",
    "prune_at_init",
    "strip",
    "tfmot",
    "unmasked_variables",
    "wrap",
]
