"""The loss that connections are judged by: the model's own, or one given in its place, under both Keras versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.contracts import require
from tfprune_init.backend.overrides import override_attributes
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
        self._host = compat.get_keras(model).Model()
        self._host.output_names = getattr(model, "output_names", None)
        self._host.compile(loss=own if loss is None else loss, loss_weights=weights if loss is None else None)

    def __call__(self, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
        """The loss of one batch, right after the model was called on it."""
        if self._host is None:
            return self._model.compute_loss(x, y, y_pred, sample_weight)
        if compat.is_keras3(self._model):
            total = self._host.compute_loss(x, y, y_pred, sample_weight)
        else:
            total = self._host.compiled_loss(y, y_pred, sample_weight)
        extras = [tf.cast(tf.reduce_sum(extra), total.dtype) for extra in _added_losses(self._model)]
        return tf.add_n([total, *extras])

    @contextmanager
    def in_float64(self) -> Iterator[None]:
        """Compute in float64, where Keras 3 would cast the outputs to the dtype the loss was made in."""
        held = [*self._parts, None if self._host is None else get_compile_loss(self._host)]
        with ExitStack() as undo:
            for part in held:
                if isinstance(part, keras.losses.Loss):
                    require("keras Loss._dtype")
                    undo.enter_context(override_attributes(part, _dtype="float64"))
            yield


def _added_losses(model: Any) -> list[tf.Tensor]:
    """Losses that layers added in the last call; weight regularizers are left out."""
    if compat.is_keras3(model):
        regularized = sum(v.regularizer is not None for v in model.trainable_weights)
        losses = model.losses
        return losses[: len(losses) - regularized]
    require("tf_keras Layer._eager_losses", "tf_keras Layer._losses")
    holders = [model, *compat.walk_layers(model)]
    return [loss for layer in holders for loss in (layer._eager_losses or layer._losses)]


def _from_logits(part: Any) -> bool:
    settings = part._fn_kwargs if compat.is_function_loss(part) else {}
    return bool(getattr(part, "from_logits", settings.get("from_logits", False)))


def _overrides_compute_loss(model: Any) -> bool:
    return type(model).compute_loss is not compat.get_keras(model).Model.compute_loss


def _compiled_loss(model: Any) -> tuple[Any, Any]:
    if compat.is_keras3(model):
        compiled = get_compile_loss(model)
        require("keras CompileLoss._user_loss", "keras CompileLoss._user_loss_weights")
        return (None, None) if compiled is None else (compiled._user_loss, compiled._user_loss_weights)
    container = getattr(model, "compiled_loss", None)
    require("tf_keras LossesContainer._user_losses", "tf_keras LossesContainer._user_loss_weights")
    return (None, None) if container is None else (container._user_losses, container._user_loss_weights)


def get_compile_loss(model: Any) -> Any:
    """Return the object with the losses that a Keras 3 model was compiled with; None without, and in tf_keras."""
    if not compat.is_keras3(model):
        return None
    require("keras Trainer._compile_loss")
    return model._compile_loss


def list_loss_entries(compiled: Any) -> list[Any]:
    """List what a built compiled loss of Keras 3 adds up: tuples with the fields `loss` and `loss_weights`."""
    require("keras CompileLoss._flat_losses")
    return list(compiled._flat_losses)


def override_losses(compiled: Any, losses: Sequence[Callable[..., Any]]) -> Any:
    """Let a built compiled loss of Keras 3 call other functions in place of its losses, and update no metrics."""
    require("keras CompileLoss._metrics")
    entries = [entry._replace(loss=loss) for entry, loss in zip(list_loss_entries(compiled), losses, strict=True)]
    return override_attributes(compiled, _flat_losses=entries, _metrics=[None] * len(entries))


def override_values(loss: Any, call: Callable[..., Any]) -> Any:
    """Let a loss of Keras 3 add up what a function returns in place of its `call`."""
    require("keras Loss.call", "keras Loss.reduction")
    return override_attributes(loss, call=call, reduction="sum")
