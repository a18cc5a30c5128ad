"""What Keras's own `fit` cannot train under a distribution strategy."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.contracts import require
from tfprune_init.backend.optimizers import find_optimizers

_MIRRORED = ("MirroredStrategy", "MultiWorkerMirroredStrategy")
_INSTEAD = "Train it with tfprune_init.distribute.fit(model, data), which can."


def unsupported_fit_reason(model: Any) -> str | None:
    """Why Keras's own `fit` cannot train a compiled model under its distribution strategy.

    Args:
        model: A model of either Keras, compiled in the scope of a strategy or of none.

    Returns:
        A sentence on what it is and what to do instead; None where `fit` works, and for models not compiled.

    Example:
        >>> import keras
        >>> from tfprune_init.backend.fit_support import unsupported_fit_reason
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> unsupported_fit_reason(model) is None
        True
    """
    strategy = model.distribute_strategy
    kind = next((name for name in _MIRRORED if isinstance(strategy, getattr(tf.distribute, name))), None)
    if getattr(model, "optimizer", None) is None or kind is None:
        return None
    several = strategy.num_replicas_in_sync > 1
    name = f"model {model.name!r} under {kind}"
    if not compat.is_keras3(model):
        require("tf_keras Model._jit_compile")
        if several and model._jit_compile:
            return f"tf_keras cannot train {name} with jit_compile=True. Compile it without."
        return None
    if is_in_cluster(strategy):
        return f"Keras 3 cannot train {name} on several workers. {_INSTEAD}"
    if several and model.steps_per_execution > 1:
        return f"Keras 3 cannot train {name} with steps_per_execution={model.steps_per_execution}. {_INSTEAD}"
    if several and model.jit_compile:
        return f"Keras 3 cannot train {name} with jit_compile=True. Compile it without."
    for optimizer in find_optimizers(model.optimizer):
        for option in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
            if getattr(optimizer, option, None):
                return f"Keras 3 cannot train {name} with {option}={getattr(optimizer, option)}. {_INSTEAD}"
    return None


def is_in_cluster(strategy: Any) -> bool:
    """Whether a strategy was told of a cluster of workers, this process among them."""
    resolver = getattr(strategy, "cluster_resolver", None)
    mirrored = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return mirrored and resolver is not None and bool(resolver.cluster_spec().as_dict())
