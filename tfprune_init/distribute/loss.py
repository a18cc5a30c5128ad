"""The compiled loss of a whole batch whose examples are divided among replicas."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfprune_init.backend.losses import get_compile_loss, list_loss_entries, override_losses, override_values
from tfprune_init.errors import ModelError


class SharedLoss:
    """The contribution of each replica to the compiled loss.

    A loss that averages is a sum over the whole batch divided by a count over the whole batch. Each replica knows its
    part of both. Added up over replicas, the parts give exactly the loss of the whole batch, also where replicas hold
    unequal numbers of examples, or none, and with masks and sample weights. The mean of the replicas' means does not.

    Args:
        model: A compiled Keras 3 model whose compiled loss is built; it may have none.

    Attributes:
        trackers: The metric that follows each loss, where Keras keeps one: in models with several losses.

    Raises:
        ModelError: If a loss is not reduced, or reduced by a `__call__` of its own.
    """

    def __init__(self, model: Any):
        self._compiled = get_compile_loss(model)
        self._entries = [] if self._compiled is None else list_loss_entries(self._compiled)
        self.trackers = [] if self._compiled is None else list(self._compiled.metrics)
        for entry in self._entries:
            _check(entry.loss)

    def parts(self, y: Any, y_pred: Any, sample_weight: Any) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Compute this replica's part of each loss.

        Args:
            y: Labels of the replica's examples.
            y_pred: The model's outputs for them.
            sample_weight: Their weights, or None.

        Returns:
            For each loss its sum over these examples, and a count that the sum over all is to be divided by.
        """
        if not self._entries:
            return [], []
        parts = [_Part(entry.loss) for entry in self._entries]
        # Keras knows which label and weight belong to which loss; its own trackers would follow shares of them.
        with override_losses(self._compiled, parts):
            self._compiled(y, y_pred, sample_weight)
        return [part.total for part in parts], [part.count for part in parts]

    def divide(self, totals: list[tf.Tensor], counts: list[tf.Tensor]) -> list[tf.Tensor]:
        """Divide this replica's sums by the counts of the whole batch."""
        adds = [entry.loss.reduction == "sum" for entry in self._entries]
        return [t if a else tf.math.divide_no_nan(t, c) for t, c, a in zip(totals, counts, adds, strict=True)]

    def weigh(self, losses: list[tf.Tensor]) -> list[tf.Tensor]:
        """Multiply each loss by its loss weight."""
        weights = [entry.loss_weights for entry in self._entries]
        return [loss if weight is None else loss * weight for loss, weight in zip(losses, weights, strict=True)]


class _Part:
    """Replacement for a Keras loss that keeps its sum and its count apart."""

    def __init__(self, loss: keras.losses.Loss):
        self._loss = loss

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        loss = self._loss
        call, reduction = loss.call, loss.reduction
        values: list[tf.Tensor] = []

        def seen(*arguments: Any) -> Any:
            values.append(call(*arguments))
            return values[0]

        def ones(*arguments: Any) -> Any:
            return tf.ones_like(values[0])

        with override_values(loss, seen):
            self.total = loss(y_true, y_pred, sample_weight)
        if values[0].shape.rank == 0:
            raise ModelError(
                f"Loss {loss.name!r} returns one number for all examples of a replica, from which the loss of the "
                "whole batch cannot be told. Return one value an example; Keras averages them."
            )
        with override_values(loss, ones):
            self.count = loss(y_true, y_pred, sample_weight if reduction == "mean_with_sample_weight" else None)
        return self.total


def _check(loss: Any) -> None:
    if loss.reduction in (None, "none"):
        raise ModelError(
            f"Loss {loss.name!r} has no reduction, so it gives no single number to minimize. Received: reduction="
            f'{loss.reduction!r}; use "sum_over_batch_size", "sum" or "mean_with_sample_weight".'
        )
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        raise ModelError(
            f"Loss {loss.name!r} reduces its values in a __call__ of its own ({type(loss).__name__}). Override "
            "call(y_true, y_pred), which returns one value an example, and leave the reduction to Keras."
        )
