"""First-order criteria: sensitivity of the loss, or of its gradient, to a connection (SNIP, FORCE, GRASP-It)."""

from __future__ import annotations

import numpy as np

from tfprune_init.scoring import ScoringEngine
from tfprune_init.scoring.criteria.criterion_registry import register_criterion


@register_criterion("sensitivity")
def sensitivity(engine: ScoringEngine) -> dict[str, np.ndarray]:
    """Compute the connection sensitivity: the first-order change of the loss.

    The gradient is taken at the masked network; w is the unmasked weight. For the dense network this is SNIP's |dL/dm|
    at m = 1. For a pruned network it is FORCE's foresight sensitivity. A pruned connection has one too: the change of
    the loss if the connection came back.

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
    gradients = engine.gradients()
    scores = {}
    for path, weight in engine.weights.items():
        score = weight * gradients.pop(path)
        scores[path] = np.abs(score, out=score)
    return scores


@register_criterion("gradient_norm")
def gradient_norm(engine: ScoringEngine) -> dict[str, np.ndarray]:
    """Compute the magnitude of the gradient, whatever the weight.

    Formula:
        abs(dL/dw)

    Cost:
        1

    Follows:
        The usual baseline: no paper prunes by it alone.
    """
    return {path: np.abs(gradient) for path, gradient in engine.gradients().items()}


@register_criterion("gradient_power")
def gradient_power(engine: ScoringEngine) -> dict[str, np.ndarray]:
    """Compute a connection's contribution to the squared norm of the gradient.

    Formula:
        (dL/dw)^2

    Cost:
        1

    Follows:
        FORCE's code, where pruned weights score below everything else; here they are no candidates. There weights
        that a tie turns on again stay zero in the working copy; here only the mask counts.

    References:
        de Jorge et al., Progressive Skeletonization, ICLR 2021, appendix, and its code.
    """
    return {path: np.square(gradient) for path, gradient in engine.gradients().items()}
