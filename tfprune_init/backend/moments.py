"""Batch statistics that can be differentiated twice, and those of a batch whose examples several replicas share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.contracts import require
from tfprune_init.backend.overrides import disable_fused_normalization
from tfprune_init.backend.thread_overrides import override_for_thread


@contextmanager
def use_differentiable_moments() -> Iterator[None]:
    """Let batch statistics be differentiated twice while this thread traces a function.

    `tf.nn.moments`, which both Keras versions normalize with, stops the gradient at the mean inside the variance. That
    is right for gradients and wrong for Hessians. Without the stop both are right.
    """
    with _override_moments(_moments):
        yield


@contextmanager
def sync_batch_statistics(model: Any) -> Iterator[None]:
    """Let batch statistics be those of the whole batch while this thread traces a function that several replicas run.

    Whatever layer takes moments over the examples takes them over the examples of all replicas, each counted once.
    They can be differentiated twice. Losses are not divided by the number of replicas, which is Keras's way to have
    them added up.
    """
    scaling = "keras loss" if compat.is_keras3(model) else "tf_keras losses_utils"
    with ExitStack() as undo:
        for layer in compat.walk_layers(model):
            # tf_keras has a kernel of its own for normalization, which knows no other replicas.
            undo.enter_context(disable_fused_normalization(layer))
        undo.enter_context(_override_moments(_moments_across))
        undo.enter_context(override_for_thread(f"{scaling}.scale_loss_for_distribution", lambda original, loss: loss))
        yield


@contextmanager
def _override_moments(replacement: Callable[..., Any]) -> Iterator[None]:
    if "tf_keras" in sys.modules:
        require("tf_keras BatchNormalizationBase.moments")
    # tf_keras knows the function by another module.
    with (
        override_for_thread("tensorflow nn.moments", replacement),
        override_for_thread("tensorflow compat.v2.nn.moments", replacement),
    ):
        yield


def _moments(
    original: Any, x: Any, axes: Any, shift: Any = None, keepdims: bool = False, name: str | None = None
) -> Any:
    return _moments_by(lambda value: value, x, axes, keepdims)


def _moments_across(
    original: Any, x: Any, axes: Any, shift: Any = None, keepdims: bool = False, name: str | None = None
) -> Any:
    over_examples = 0 in {int(axis) % x.shape.rank for axis in np.atleast_1d(axes)}
    if not over_examples:
        return _moments(original, x, axes, keepdims=keepdims)
    replica = tf.distribute.get_replica_context()
    return _moments_by(lambda value: replica.all_reduce(tf.distribute.ReduceOp.SUM, value), x, axes, keepdims)


def _moments_by(add: Callable[[tf.Tensor], tf.Tensor], x: Any, axes: Any, keepdims: bool) -> Any:
    half = x.dtype in (tf.float16, tf.bfloat16)
    values = tf.cast(x, tf.float32) if half else x
    total = tf.reduce_sum(values, axes, keepdims=True)
    count = add(tf.cast(tf.size(values) // tf.size(total), values.dtype))
    mean = add(total) / count
    variance = add(tf.reduce_sum(tf.square(values - mean), axes, keepdims=True)) / count
    if not keepdims:
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    return (tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)) if half else (mean, variance)
