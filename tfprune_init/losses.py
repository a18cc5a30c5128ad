"""The loss that connections are judged by: the model's own, or one given in its place, under both Kerases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import keras
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.errors import ModelError


class DataLoss:
    """The loss of a model's outputs plus the losses that its layers add; weight regularizers are no part of it.

    Args:
        model: A built model. Its own compiled loss and metrics objects are not touched.
        loss: Anything `compile(loss=...)` takes, or None for the compiled loss. A model that overrides
            `compute_loss` is then judged by exactly what that returns.

    Attributes:
        sums_examples: Whether it adds examples up (reduction "sum") instead of averaging them.
        takes_logits: Whether every part of it is told `from_logits=True`, so that outputs are logits.

    Raises:
        ModelError: If there is neither a `loss` nor a compiled one nor an overridden `compute_loss`.
    """

    def __init__(self, model: Any, loss: Any):
        self._model = model
        own, weights = _compiled_loss(model)
        self._parts = tf.nest.flatten(own if loss is None else loss)
        self.sums_examples = bool(self._parts) and all(getattr(p, "reduction", None) == "sum" for p in self._parts)
        self.takes_logits = bool(self._parts) and all(_from_logits(part) for part in self._parts)
        self._host: Any = None
        if loss is None and _overrides_compute_loss(model):
            return
        if loss is None and own is None:
            raise ModelError(
                f"Model {model.name!r} has no loss to judge connections by: call model.compile(loss=...) first, "
                "or pass loss=... here. Received: loss=None and a model compiled without one."
            )
        self._host = kerases.keras_of(model).Model()
        self._host.output_names = getattr(model, "output_names", None)
        self._host.compile(loss=own if loss is None else loss, loss_weights=weights if loss is None else None)

    def __call__(self, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
        """The loss of one batch, right after the model was called on it."""
        if self._host is None:
            return self._model.compute_loss(x, y, y_pred, sample_weight)
        if kerases.is_keras3(self._model):
            total = self._host.compute_loss(x, y, y_pred, sample_weight)
        else:
            total = self._host.compiled_loss(y, y_pred, sample_weight)
        extras = [tf.cast(tf.reduce_sum(extra), total.dtype) for extra in _added_losses(self._model)]
        return tf.add_n([total, *extras])

    @contextmanager
    def in_float64(self) -> Iterator[None]:
        """Compute in float64, where Keras 3 would cast the outputs to the dtype the loss was made in."""
        held = [*self._parts, getattr(self._host, "_compile_loss", None)]
        with ExitStack() as undo:
            for part in held:
                if isinstance(part, keras.losses.Loss):
                    undo.enter_context(patch.object(part, "_dtype", "float64"))
            yield


def _added_losses(model: Any) -> list[tf.Tensor]:
    """Losses that layers added in the last call; weight regularizers are left out."""
    if kerases.is_keras3(model):
        regularized = sum(v.regularizer is not None for v in model.trainable_weights)
        losses = model.losses
        return losses[: len(losses) - regularized]
    holders = [model, *kerases.layers_below(model)]
    return [loss for layer in holders for loss in (layer._eager_losses or layer._losses)]


def _from_logits(part: Any) -> bool:
    return bool(getattr(part, "from_logits", getattr(part, "_fn_kwargs", {}).get("from_logits", False)))


def _overrides_compute_loss(model: Any) -> bool:
    return type(model).compute_loss is not kerases.keras_of(model).Model.compute_loss


def _compiled_loss(model: Any) -> tuple[Any, Any]:
    if kerases.is_keras3(model):
        compiled = getattr(model, "_compile_loss", None)
        return (None, None) if compiled is None else (compiled._user_loss, compiled._user_loss_weights)
    container = getattr(model, "compiled_loss", None)
    return (None, None) if container is None else (container._user_losses, container._user_loss_weights)
