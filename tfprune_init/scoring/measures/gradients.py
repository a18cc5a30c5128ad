"""First and second derivatives of the loss by the prunable weights, and derivatives of the outputs by the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_inputs import find_embedding_tables, to_differentiable_input
from tfprune_init.backend.moments import use_differentiable_moments
from tfprune_init.scoring.masked_model import MaskedModel, to_score_dtype


def measure_gradients(
    network: MaskedModel, x: Any, y: Any, sample_weight: Any, scale: tf.Tensor, temperature: float
) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """Compute the loss of a batch and its gradient for every prunable variable."""
    tensors = [target.tensor for target in network.targets]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors)
        loss = network.compute_loss(x, y, sample_weight, temperature)
        scaled = loss * tf.cast(scale, loss.dtype)
    return loss, [None if g is None else _dense(g) for g in tape.gradient(scaled, tensors)]


def measure_hessian_product(
    network: MaskedModel, x: Any, y: Any, sample_weight: Any, scale: tf.Tensor, *arguments: Any
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Compute the loss of a batch, and its Hessian times one vector over all prunable variables.

    To be traced within `use_second_derivatives`.
    """
    *vectors, temperature = arguments
    tensors = [target.tensor for target in network.targets]
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(tensors)
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(tensors)
            loss = network.compute_loss(x, y, sample_weight, temperature)
            scaled = loss * tf.cast(scale, loss.dtype)
        slope = _directional(inner.gradient(scaled, tensors), vectors)
    products = outer.gradient(slope, tensors)
    return loss, [tf.zeros_like(v) if p is None else _dense(p) for p, v in zip(products, vectors, strict=True)]


def use_second_derivatives(network: MaskedModel) -> AbstractContextManager[None]:
    """Let BatchNorm's statistics be differentiated twice, which Keras by itself gets wrong."""
    return use_differentiable_moments()


def measure_signal(network: MaskedModel, x: Any, behind: tuple[Any, ...]) -> list[tf.Tensor]:
    """Compute the largest absolute derivative of a random projection of each output by the inputs.

    The projection is fixed.

    Args:
        network: An entered network.
        x: Inputs.
        behind: The part of the model that takes them, alone in a tuple; an empty one for all of the model.

    Returns:
        A number for each output; none where nothing about the inputs can be differentiated.
    """
    (model,) = behind or (network.model,)
    x = to_differentiable_input(model, x)
    sources = [leaf for leaf in tf.nest.flatten(x, expand_composites=True) if leaf.dtype.is_floating]
    sources += find_embedding_tables(model)
    if not sources:
        return []
    with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
        tape.watch(sources)
        outputs = tf.nest.flatten(compat.call_model(model, x, network.training))
        projections = [
            tf.reduce_sum(out * tf.random.stateless_normal(tf.shape(out), seed=[i, 1], dtype=out.dtype))
            for i, out in enumerate(outputs)
        ]
    strengths = []
    for projection in projections:
        derivatives = [tf.convert_to_tensor(g) for g in tape.gradient(projection, sources) if g is not None]
        peaks = [tf.reduce_max(tf.abs(tf.cast(g, tf.float32))) for g in derivatives]
        strengths.append(tf.reduce_max(tf.stack(peaks)) if peaks else tf.zeros(()))
    return strengths


def _directional(gradients: Sequence[Any], vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    parts = [tf.reduce_sum(_dense(g) * v) for g, v in zip(gradients, vectors, strict=True) if g is not None]
    return tf.add_n(parts)


def _dense(gradient: Any) -> tf.Tensor:
    return to_score_dtype(tf.convert_to_tensor(gradient))
