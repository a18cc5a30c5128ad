"""A measurement of the network, averaged over batches that replicas share, and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend.batches import Batch
from tfprune_init.backend.moments import sync_batch_statistics
from tfprune_init.errors import DataError, ScoreError
from tfprune_init.scoring.masked_model import Arrays, MaskedModel, label_errors

# A measurement of one batch: (network, x, y, sample_weight, scale of the loss, *arguments) -> loss, derivatives.
Measurement = Callable[..., tuple[tf.Tensor, Sequence[tf.Tensor | None]]]


def average_over_batches(
    network: MaskedModel,
    measurement: Measurement,
    paths: Sequence[str],
    *,
    fresh: bool,
    arguments: Sequence[Any] = (),
    temperature: float = 1.0,
    within: Callable[[MaskedModel], AbstractContextManager[Any]] = nullcontext,
) -> Arrays:
    """Average derivatives over the batches, weighted by examples.

    Replicas share each batch. Their contributions are added up, each weighted by its number of examples, so the result
    is the derivative for the whole batch. Batch statistics are those of the whole batch too.

    Args:
        network: An entered network.
        measurement: Function of one batch, linear in the loss.
        paths: Names of the derivatives.
        fresh: Whether to take the next batches of the data, or those of the last call again.
        arguments: Tensors that the measurement takes beside the batch.
        temperature: Divisor of the outputs before the loss; they must be logits.
        within: Context manager that changes the network while the measurement is traced.

    Raises:
        DataError: If the loss is NaN or Inf, or the labels do not suit the loss.
        ScoreError: If a derivative is NaN or Inf, or the loss does not depend on a path at all.
    """
    network.write_masked_weights()
    run = network.trace(_sum_over_replicas, measurement, within, temperature)
    batches = network.take(fresh)
    by_examples = not network.loss.sums_examples
    total: Arrays = {}
    for batch in batches:
        values = _finite(network, run, batch, paths, arguments)
        weight = batch.examples if by_examples else 1
        for path, value in zip(paths, values, strict=True):
            if len(batches) == 1 and by_examples:
                total[path] = value
            elif path in total:
                total[path] += value * weight
            else:
                total[path] = value * weight
    if len(batches) > 1 or not by_examples:
        for value in total.values():
            value /= sum(batch.examples for batch in batches)
    return total


def _finite(
    network: MaskedModel, run: Callable[..., Any], batch: Batch, paths: Sequence[str], arguments: Sequence[Any]
) -> list[np.ndarray]:
    loss, values = _run(network, run, batch, paths, arguments)
    # float16 gradients overflow under the scale that saves them from underflow: lower it and try again.
    while network.scale > 1.0 and not all(map(is_all_finite, values)):
        network.scale /= 16.0
        loss, values = _run(network, run, batch, paths, arguments)
    if not np.isfinite(loss):
        raise DataError(
            f"The loss of batch {batch.number} is {loss}. Check that the labels suit the loss (range, "
            "shape, from_logits) and that the inputs are scaled."
        )
    for path, value in zip(paths, values, strict=True):
        if not is_all_finite(value):
            raise ScoreError(
                f"The gradient of {path} on batch {batch.number} holds NaN or Inf. Try smaller "
                "inputs, a smaller initialization, or float32 instead of float16."
            )
    return values


def _run(
    network: MaskedModel, run: Callable[..., Any], batch: Batch, paths: Sequence[str], arguments: Sequence[Any]
) -> tuple[float, list[np.ndarray]]:
    scale, examples = network.scale, (batch.x, batch.y, batch.sample_weight)
    shares: Any = tf.constant(scale)
    if network.replicas.are_several:
        dtype = np.result_type(*network.weights.values())
        sizes = [part.stop - part.start for part in network.replicas.split_examples(batch.examples)]
        parts = [1.0 if network.loss.sums_examples else size / batch.examples for size in sizes]
        shares = network.replicas.make_values(lambda i: tf.constant(scale * parts[i], dtype))
        examples = network.replicas.share_batch(examples, batch.examples)
    with label_errors(batch, network.loss.advice):
        loss, values = run(*examples, shares, *arguments)
    lost = [path for path, value in zip(paths, values, strict=True) if value is None]
    if lost:
        raise ScoreError(
            f"The loss gives no gradient to {', '.join(lost[:8])}: it does not depend on them, or the path "
            "is not differentiable. Use another loss, or leave these alone with exclude=[...]."
        )
    arrays = [np.asarray(value) for value in values]
    return float(loss), arrays if network.scale == 1.0 else [array / network.scale for array in arrays]


def _sum_over_replicas(network: MaskedModel, *arguments: Any) -> Any:
    """Add up a measurement over the replicas' parts of the batch, while it is traced."""
    *given, measurement, within, temperature = arguments
    # Around all replicas, not within one: they are traced in turns.
    together = sync_batch_statistics(network.model) if network.replicas.are_several else nullcontext()
    with within(network), together:
        return network.replicas.sum_results(partial(measurement, network), [*given, temperature])


def is_all_finite(value: np.ndarray) -> bool:
    """Return whether all numbers of a non-empty array are finite, without allocating another array as large."""
    return bool(np.isfinite(value.min()) and np.isfinite(value.max()))
