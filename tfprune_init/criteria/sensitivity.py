"""First order: how much the loss, or its gradient, answers to a connection (SNIP, Iter-SNIP, FORCE, GRASP-It)."""

from __future__ import annotations

import numpy as np

from tfprune_init.criteria.registry import criterion
from tfprune_init.probe import Probe


@criterion("sensitivity")
def sensitivity(probe: Probe) -> dict[str, np.ndarray]:
    """How much the loss moves, to first order, when a connection does.

    The gradient is taken at the masked network, w is the unmasked weight. For the dense network this is
    SNIP's |dL/dm| at m = 1. For a pruned one it is FORCE's foresight sensitivity, which a pruned connection has too:
    what it would do to the loss if it came back.

    Formula:
        abs(w * dL/dw)

    Cost:
        1

    Follows:
        The papers. Gradients are averaged over batches before the absolute value is taken (FORCE, SNIP-MB). The
        loss is the model's own: FORCE's and SNIP-it's code apply a negative log likelihood to raw logits, which is
        no cross-entropy. Exactly the share asked for is kept, ties or not; those codes keep every tie at the
        threshold, all weights if the network collapsed.

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


@criterion("gradient_norm")
def gradient_norm(probe: Probe) -> dict[str, np.ndarray]:
    """How steep the loss is in a connection, whatever its weight.

    Formula:
        abs(dL/dw)

    Cost:
        1

    Follows:
        The baseline of the field: no paper prunes by it alone.
    """
    return {path: np.abs(gradient) for path, gradient in probe.gradients().items()}


@criterion("gradient_power")
def gradient_power(probe: Probe) -> dict[str, np.ndarray]:
    """What a connection contributes to the squared norm of the gradient.

    Formula:
        (dL/dw)^2

    Cost:
        1

    Follows:
        FORCE's code, where what was pruned scores below everything else; here it is no candidate. There weights
        that a tie turns on again stay zero in the working copy; here the mask is what counts.

    References:
        de Jorge et al., Progressive Skeletonization, ICLR 2021, appendix, and its code.
    """
    return {path: np.square(gradient) for path, gradient in probe.gradients().items()}
