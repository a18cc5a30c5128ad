"""First and second derivatives of the loss with respect to the prunable weights, and of the outputs to the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.probe.network import Network, scores_dtype
from tfprune_init.surgery import exact_moments


def gradients(
    network: Network, x: Any, y: Any, sample_weight: Any, scale: tf.Tensor, temperature: float
) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """Loss of a batch and its gradient for every target."""
    tensors = [target.tensor for target in network.targets]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors)
        loss = network.judged(x, y, sample_weight, temperature)
        scaled = loss * tf.cast(scale, loss.dtype)
    return loss, [None if g is None else _dense(g) for g in tape.gradient(scaled, tensors)]


def hessian_product(
    network: Network, x: Any, y: Any, sample_weight: Any, scale: tf.Tensor, *arguments: Any
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Loss of a batch and the product of its Hessian with one vector over all targets.

    To be traced within `twice_differentiable`.
    """
    *vectors, temperature = arguments
    tensors = [target.tensor for target in network.targets]
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(tensors)
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(tensors)
            loss = network.judged(x, y, sample_weight, temperature)
            scaled = loss * tf.cast(scale, loss.dtype)
        slope = _directional(inner.gradient(scaled, tensors), vectors)
    products = outer.gradient(slope, tensors)
    return loss, [tf.zeros_like(v) if p is None else _dense(p) for p, v in zip(products, vectors, strict=True)]


def twice_differentiable(network: Network) -> AbstractContextManager[None]:
    """Let BatchNorm's statistics be differentiated twice, which Keras by itself gets wrong."""
    return exact_moments()


def signal(network: Network, x: Any) -> list[tf.Tensor]:
    """For each output the largest absolute derivative of a fixed random projection of it to the inputs."""
    x = kerases.differentiable_input(network.model, x)
    sources = [leaf for leaf in tf.nest.flatten(x) if leaf.dtype.is_floating]
    sources += kerases.embedding_tables(network.model)
    with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
        tape.watch(sources)
        outputs = tf.nest.flatten(kerases.call(network.model, x, network.training))
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
    return scores_dtype(tf.convert_to_tensor(gradient))
