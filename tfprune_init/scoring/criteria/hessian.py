"""Second-order criteria: gradient flow after pruning (GraSP), and curvature of the loss (optimal brain damage)."""

from __future__ import annotations

import numpy as np

from tfprune_init.scoring import ScoringEngine
from tfprune_init.scoring.criteria.criterion_registry import register_criterion


@register_criterion("gradient_flow")
def gradient_flow(engine: ScoringEngine, *, temperature: float = 200.0) -> dict[str, np.ndarray]:
    """Compute a connection's first-order contribution to the squared norm of the gradient.

    The paper's S = -w * Hg is, up to a factor, what removing the weight adds to that norm. The paper removes the
    weights with the largest S, so here the largest w * Hg are kept.

    Formula:
        w * (H g), H and g at logits / temperature

    Cost:
        1 gradient and 1 Hessian-vector product

    Follows:
        The code: signs, temperature 200, BatchNorm on batch statistics. Its division by the sum of all scores
        changes no order and is left out. Gradient and product see the same batches. The code collects a balanced batch
        of 10 examples a class; here that is left to the data you pass. The code scores a fresh initialization of the
        classifier, feeds halves of sorted classes, and keeps one weight too many: not copied. Statistics of BatchNorm
        are differentiated exactly; Keras alone gets second derivatives through them wrong.

    References:
        Wang et al., Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020.
    """
    gradients = engine.gradients(temperature=temperature)
    if engine.masks is not None:
        gradients = {path: gradient * engine.masks[path] for path, gradient in gradients.items()}
    products = engine.hessian_product(gradients, temperature=temperature)
    return {path: weight * products.pop(path) for path, weight in engine.weights.items()}


@register_criterion("curvature")
def curvature(engine: ScoringEngine, *, estimator: str = "auto", samples: int = 1) -> dict[str, np.ndarray]:
    """Compute the curvature of the loss in a weight, times the squared weight: optimal brain damage.

    Formula:
        w^2 * d2L/dw2

    Cost:
        1 Hessian-vector product a sample; exact: one a weight

    Follows:
        The reproduction report on SNIP: signed, the largest stay; LeCun's factor 1/2 changes no order. No
        reference implementation was published. `estimator="hutchinson"` is an unbiased estimate from
        `samples` random sign vectors, "exact" the diagonal itself, "auto" exact up to 5,000 weights.

    References:
        LeCun et al., Optimal Brain Damage, NeurIPS 1990.
    """
    diagonal = engine.hessian_diagonal(estimator, samples)
    return {path: weight**2 * diagonal.pop(path) for path, weight in engine.weights.items()}


@register_criterion("second_order")
def second_order(engine: ScoringEngine, *, estimator: str = "auto", samples: int = 1) -> dict[str, np.ndarray]:
    """Compute the second-order change of the loss when a connection is removed.

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
    diagonal = engine.hessian_diagonal(estimator, samples)
    gradients = engine.gradients(fresh=False)
    scores = {}
    for path, weight in engine.weights.items():
        scores[path] = np.abs(weight * gradients.pop(path) - 0.5 * weight**2 * diagonal.pop(path))
    return scores
