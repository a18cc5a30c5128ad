"""Second order: gradient flow after pruning (GraSP), and the loss's curvature in a weight (optimal brain damage)."""

from __future__ import annotations

import numpy as np

from tfprune_init.criteria.registry import criterion
from tfprune_init.probe import Probe


@criterion("gradient_flow")
def gradient_flow(probe: Probe, *, temperature: float = 200.0) -> dict[str, np.ndarray]:
    """What a connection contributes, to first order, to the squared norm of the loss's gradient.

    The paper's S = -w * Hg is what removing the weight adds to that norm, up to a factor; it removes the largest. So
    w * Hg is kept where it is largest.

    Formula:
        w * (H g), H and g at logits / temperature

    Cost:
        1 gradient and 1 Hessian-vector product

    Follows:
        The code: signs, temperature 200, BatchNorm on batch statistics. Its division by the sum of all scores
        changes no order and is left out. Gradient and product see the same batches; the balanced batch of 10 examples
        a class that it collects is yours to choose as data. The code scores a fresh initialization of the classifier,
        feeds halves of sorted classes, and keeps one weight too many: not copied. Statistics of BatchNorm are
        differentiated exactly; Keras alone gets second derivatives through them wrong.

    References:
        Wang et al., Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020.
    """
    gradients = probe.gradients(temperature=temperature)
    if probe.masks is not None:
        gradients = {path: gradient * probe.masks[path] for path, gradient in gradients.items()}
    products = probe.hessian_product(gradients, temperature=temperature)
    return {path: weight * products.pop(path) for path, weight in probe.weights.items()}


@criterion("curvature")
def curvature(probe: Probe, *, estimator: str = "auto", samples: int = 1) -> dict[str, np.ndarray]:
    """How much the loss curves in a weight, at the size of the weight: optimal brain damage.

    Formula:
        w^2 * d2L/dw2

    Cost:
        1 Hessian-vector product a sample; exact: one a weight

    Follows:
        The reproduction report on SNIP: signed, the largest stay; LeCun's factor 1/2 changes no order. The
        report has no code. `estimator="hutchinson"` is an unbiased estimate from `samples` random sign vectors,
        "exact" the diagonal itself, "auto" exact up to 5,000 weights.

    References:
        LeCun et al., Optimal Brain Damage, NeurIPS 1990.
    """
    diagonal = probe.hessian_diagonal(estimator, samples)
    return {path: weight**2 * diagonal.pop(path) for path, weight in probe.weights.items()}


@criterion("second_order")
def second_order(probe: Probe, *, estimator: str = "auto", samples: int = 1) -> dict[str, np.ndarray]:
    """How much the loss moves, to second order, when a connection is removed.

    Formula:
        abs(w * dL/dw - w^2 / 2 * d2L/dw2)

    Cost:
        1 gradient, and 1 Hessian-vector product a sample; exact: one a weight

    Follows:
        SNIP's extended abstract, which prints abs(g - h w / 2), with the weight lost. Options as for curvature;
        both derivatives are taken on the same batches.

    References:
        Lee et al., SNIP, extended abstract.
    """
    diagonal = probe.hessian_diagonal(estimator, samples)
    gradients = probe.gradients(fresh=False)
    scores = {}
    for path, weight in probe.weights.items():
        scores[path] = np.abs(weight * gradients.pop(path) - 0.5 * weight**2 * diagonal.pop(path))
    return scores
