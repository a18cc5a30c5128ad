"""What Keras keeps of a compiled model, for a training loop that is not Keras's own."""

from __future__ import annotations

import warnings
from typing import Any

from tfprune_init.backend import compat
from tfprune_init.backend.contracts import get_private, require


def has_compile_settings(model: Any) -> bool:
    """Return whether `compile` was called on a model of either Keras."""
    if compat.is_keras3(model):
        return bool(model.compiled)
    require("tf_keras Model._is_compiled")
    return bool(model._is_compiled)


def compile_like(copy: Any, model: Any) -> bool:
    """Compile a model as another one is, with an optimizer of its own; return whether that could be done.

    It cannot where the other is not compiled, or has a loss, metric or optimizer that is not registered with Keras.
    """
    if not has_compile_settings(model):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a lambda is not safe to write into a file
            config = model.get_compile_config()
        copy.compile_from_config(config)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return False
    return True


def get_compile_arguments(model: Any) -> dict[str, Any] | None:
    """Return the arguments that a tf_keras model was compiled with; None if it was not."""
    require("tf_keras Model._compile_config")
    config = getattr(model, "_compile_config", None)
    return None if config is None else dict(config.config)


def build_symbolically(model: Any, spec: Any) -> None:
    """Build optimizer, loss and metrics of a compiled Keras 3 model.

    Args:
        model: The model.
        spec: Shapes and dtypes of a batch, (x, y) or (x, y, sample_weight).
    """
    require("keras Trainer._symbolic_build")
    model._symbolic_build(data_batch=spec)


def get_loss_tracker(model: Any) -> Any:
    """Return the metric in which a compiled Keras 3 model follows its total loss."""
    require("keras Trainer._loss_tracker")
    return model._loss_tracker


def get_compiled_metrics(model: Any) -> Any:
    """Return the metrics that a Keras 3 model was compiled with, as one metric; None without."""
    require("keras Trainer._compile_metrics")
    return model._compile_metrics


def get_keras_mask(tensor: Any) -> Any:
    """Return the mask of time steps that Keras 3 attached to a tensor, or None."""
    return get_private("keras masking.get_keras_mask")(tensor)


def set_keras_mask(tensor: Any, mask: Any) -> None:
    """Attach a mask of time steps to a tensor, where losses and metrics of Keras 3 find it."""
    get_private("keras masking.set_keras_mask")(tensor, mask)


def get_replica_spec(spec: Any) -> Any:
    """Return the spec of one replica's part of a distributed element; any other spec as it is."""
    require("tensorflow PerReplicaSpec._value_specs")
    return spec._value_specs[0] if type(spec).__name__ == "PerReplicaSpec" else spec


def can_update_in_replica() -> bool:
    """Return whether the current strategy lets a replica assign to its own copies without leaving its context."""
    return bool(get_private("tensorflow merge_call_interim.strategy_supports_no_merge_call")())
