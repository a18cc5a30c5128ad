"""Connection sensitivity: how much the loss moves when a connection does (SNIP, Iter-SNIP, FORCE)."""

from __future__ import annotations

import numpy as np

from tfprune_init.criteria.registry import criterion
from tfprune_init.probe import Probe


@criterion("sensitivity")
def sensitivity(probe: Probe) -> dict[str, np.ndarray]:
    """|w dL/dw|, with the gradient taken at the masked network and w the unmasked weight.

    For the dense network this is SNIP's |dL/dm| at m = 1. For a pruned one it is FORCE's foresight
    sensitivity, which a pruned connection has too: what it would do to the loss if it came back.
    Gradients are averaged over batches before the absolute value is taken.

    References:
        Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019.
        de Jorge et al., Progressive Skeletonization, ICLR 2021.
    """
    gradients = probe.gradients()
    scores = {}
    for path, weight in probe.weights.items():
        score = weight * gradients.pop(path)
        scores[path] = np.abs(score, out=score)
    return scores
