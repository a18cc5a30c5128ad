"""The loss that connections are judged by: the model's own, or one given in its place, under both Keras versions."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import keras
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.contracts import require
from tfprune_init.backend.overrides import override_attributes
from tfprune_init.errors import DataError, LossWarning, ModelError, OptionError


class DataLoss:
    """The loss of a model's outputs plus the losses that its layers add; weight regularizers are no part of it.

    Args:
        model: A built model. Its own compiled loss and metrics objects are not touched.
        loss: Anything `compile(loss=...)` takes, or None for what the model trains with: what an overridden
            `compute_loss` returns; else the compiled loss; without one, the losses that layers add.

    Attributes:
        sums_examples: Whether it adds examples up (reduction "sum") instead of averaging them.
        takes_logits: Whether every part of it is told `from_logits=True`, so that outputs are logits.
        description: What it is, for reports.
        advice: What else may be wrong with it, for errors; begins with a space, or is empty.
    """

    def __init__(self, model: Any, loss: Any):
        self._model = model
        own_function = inspect.isfunction(loss) and loss.__module__.split(".")[0] != compat.get_package_name(model)
        self.advice = (
            " Or is loss= a function of model and batch? Call its parameters model and batch then."
            if own_function
            else ""
        )
        own, weights = _compiled_loss(model)
        chosen = own if loss is None else loss
        self._parts = tf.nest.flatten(chosen)
        self.sums_examples = bool(self._parts) and all(getattr(p, "reduction", None) == "sum" for p in self._parts)
        self.takes_logits = bool(self._parts) and all(_from_logits(part) for part in self._parts)
        self._host: Any = None
        self._overridden = loss is None and _overrides_compute_loss(model)
        if self._overridden:
            self.description = f"compute_loss of {type(model).__name__}"
            return
        if loss is None and "train_step" in compat.find_overridden_methods(model):
            _warn_of_train_step(model, own)
        if chosen is None:
            self.description = "the losses that layers add"
            return
        self.description = f"the compiled loss {_name(own)}" if loss is None else f"loss={_name(loss)}"
        self._host = compat.get_keras(model).Model()
        self._host.output_names = getattr(model, "output_names", None)
        self._host.compile(loss=chosen, loss_weights=weights if loss is None else None)

    def judge(self, x: Any, y: Any, sample_weight: Any, training: bool, temperature: float = 1.0) -> tf.Tensor:
        """Compute the loss of one batch.

        Args:
            x: Inputs.
            y: Labels, or None.
            sample_weight: Weights of the examples, or None.
            training: Whether the model computes as in training.
            temperature: Divisor of the outputs; they must be logits.

        Raises:
            ModelError: If the model has no loss at all.
            DataError: If the loss needs labels and there are none.
        """
        outputs = compat.call_model(self._model, x, training)
        if temperature != 1.0:
            outputs = tf.nest.map_structure(lambda logits: logits / temperature, outputs)
        if self._overridden:
            return self._model.compute_loss(x, y, outputs, sample_weight)
        total = [] if self._host is None else [self._compare(x, y, outputs, sample_weight)]
        extras = _added_losses(self._model)
        if not total and not extras:
            raise ModelError(
                f"Model {self._model.name!r} has no loss to judge connections by: call model.compile(loss=...) first, "
                "or pass loss=... here. Received: loss=None, a model compiled without one, and no layer that adds one."
            )
        dtype = (total or extras)[0].dtype
        return tf.add_n([*total, *(tf.cast(tf.reduce_sum(extra), dtype) for extra in extras)])

    def _compare(self, x: Any, y: Any, outputs: Any, sample_weight: Any) -> tf.Tensor:
        if y is None:
            raise DataError(
                f"{self.description} compares outputs with labels, so the data must give (x, y) or "
                "(x, y, sample_weight). Received: x alone. A loss that needs no labels is a function: "
                "loss=lambda model, batch: ..."
            )
        if compat.is_keras3(self._model):
            return self._host.compute_loss(x, y, outputs, sample_weight)
        return self._host.compiled_loss(y, outputs, sample_weight)

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


class BatchLoss:
    """A loss that is a function of model and batch, which calls the model itself.

    Args:
        model: A built model.
        function: Function of (model, batch), or (model, batch, training), that returns a scalar. The batch is what the
            data gives: (x, y), (x, y, sample_weight), or x where there is nothing else.

    Attributes:
        sums_examples: False: it averages over examples.
        takes_logits: False: what it does with outputs is not known.
        description: What it is, for reports.
        advice: Nothing.
    """

    sums_examples = False
    takes_logits = False
    advice = ""

    def __init__(self, model: Any, function: Callable[..., Any]):
        self._model = model
        self._function = function
        self._names = _get_parameters(function)
        self.description = f"loss={_name(function)}({', '.join(self._names)})"

    def judge(self, x: Any, y: Any, sample_weight: Any, training: bool, temperature: float = 1.0) -> tf.Tensor:
        """Compute the loss of one batch, as `DataLoss.judge` does.

        Raises:
            OptionError: If the function returns no scalar.
        """
        parts = (x, y) if sample_weight is None else (x, y, sample_weight)
        flag = {"training": training} if "training" in self._names else {}
        loss = self._function(self._model, x if y is None else parts, **flag)
        if loss is None or tf.convert_to_tensor(loss).shape.rank != 0:
            received = "None" if loss is None else f"shape {tuple(loss.shape)}"
            raise OptionError(
                f"{self.description} must return a scalar, the mean over the examples: end it with tf.reduce_mean. "
                f"Received: {received}."
            )
        return tf.convert_to_tensor(loss)

    def in_float64(self) -> AbstractContextManager[None]:
        """Change nothing: the model gives float64, and the function computes with it."""
        return nullcontext()


def make_loss(model: Any, loss: Any) -> DataLoss | BatchLoss:
    """Make the loss that connections are judged by.

    Args:
        model: A built model.
        loss: What `compile(loss=...)` takes, a function of (model, batch), or None for what the model trains with.
    """
    return BatchLoss(model, loss) if calls_model(loss) else DataLoss(model, loss)


def calls_model(loss: Any) -> bool:
    """Return whether a loss is a function (model, batch) or (model, batch, training), told by these names.

    Parameters with defaults may follow.

    Example:
        >>> calls_model(lambda model, batch: 0.0), calls_model(lambda y_true, y_pred: 0.0)
        (True, False)
    """
    names = _get_parameters(loss)
    return names[:1] == ["model"] and len([name for name in names if name != "training"]) == 2


def takes_training(loss: Any) -> bool:
    """Return whether a loss is judged in training or in prediction mode as asked, and does not decide by itself."""
    return not calls_model(loss) or "training" in _get_parameters(loss)


def _get_parameters(function: Any) -> list[str]:
    """List the parameters that a function needs, and `training` also where it has a default."""
    if not callable(function):
        return []
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # what is written in C may tell no signature
        return []
    return [one.name for one in parameters if one.default is one.empty or one.name == "training"]


def _name(loss: Any) -> str:
    """Name a loss, or all losses of a model with several outputs, for reports."""

    def one(part: Any) -> str:
        return part if isinstance(part, str) else getattr(part, "name", getattr(part, "__name__", type(part).__name__))

    return " + ".join(one(part) for part in tf.nest.flatten(loss) if part is not None)


def _warn_of_train_step(model: Any, own: Any) -> None:
    """Warn that a train_step may minimize something else than the compiled loss.

    Raises:
        ModelError: If there is no compiled loss: what is minimized then is not known at all.
    """
    step = f"the train_step of {type(model).__name__}"
    if own is None:
        raise ModelError(
            f"Model {model.name!r} has no loss to judge connections by: it trains by {step}, and was compiled without "
            "a loss. Pass what that minimizes as loss=, a function (model, batch) that returns a scalar. "
            "Received: loss=None."
        )
    warnings.warn(
        f"Model {model.name!r} trains by {step}, which may minimize another loss than the compiled one, "
        f"{_name(own)}, by which connections are judged now. Pass what it minimizes as loss=, a function "
        "(model, batch) that returns a scalar; if that is the compiled loss, pass loss=model.loss.",
        LossWarning,
        stacklevel=2,
    )


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
