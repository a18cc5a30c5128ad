"""Checks of the models that `fit` can train, and their preparation."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.fit_support import is_in_cluster
from tfprune_init.backend.optimizers import get_optimizer_variables
from tfprune_init.backend.trainer import build_symbolically
from tfprune_init.errors import ModelError, OptionError, ReplicaError

_STRATEGIES = ("OneDeviceStrategy", "MirroredStrategy", "MultiWorkerMirroredStrategy", "TPUStrategy")
_REPLACED = ("train_step", "test_step", "compute_loss", "compute_metrics", "get_metrics_result")


def check_trainable(model: Any) -> None:
    """Refuse models that `fit` would train wrongly or not at all.

    Raises:
        ModelError: If the model is unbuilt, not compiled, of tf_keras, has a training step of its own, or lives under a
            strategy whose replicas do not take steps together.
        OptionError: If it was compiled with an option that `fit` does not serve.
        ReplicaError: If this is called in the scope of a strategy with several workers.
    """
    compat.check_model(model)
    if not compat.is_keras3(model):
        raise ModelError(
            f"tpi.distribute.fit trains Keras 3 models. Received: tf_keras model {model.name!r}; its model.fit works "
            "under MirroredStrategy and MultiWorkerMirroredStrategy."
        )
    if not model.trainable_variables:
        raise ModelError(f"Model {model.name!r} has no trainable variables, so there is nothing to train.")
    if not model.compiled or model.optimizer is None:
        raise ModelError(f"Model {model.name!r} has no optimizer: call model.compile(optimizer, loss) first.")
    replaced = [name for name in _REPLACED if getattr(type(model), name).__module__.split(".")[0] != "keras"]
    if replaced:
        raise ModelError(
            "tpi.distribute.fit takes its own steps, by the compiled loss and metrics. Received: model "
            f"{model.name!r}, whose class {type(model).__name__} replaces {', '.join(replaced)}."
        )
    strategy = model.distribute_strategy
    known = tuple(getattr(tf.distribute, name) for name in _STRATEGIES)
    alone = not tf.distribute.has_strategy() and strategy is tf.distribute.get_strategy()
    if not alone and not isinstance(strategy, known):
        raise ModelError(
            f"tpi.distribute.fit works under {', '.join(_STRATEGIES)}, whose replicas take every step together. "
            f"Received: a model under {type(strategy).__name__}."
        )
    if tf.distribute.has_strategy() and is_in_cluster(strategy):
        raise ReplicaError(
            "With several workers, tpi.distribute.fit is called after the block of `with strategy.scope():`: one of "
            "them writes files, and what it creates in the scope would wait for the others. "
            "Received: a call from within the scope."
        )
    if model.run_eagerly:
        raise OptionError("Steps on replicas are compiled. Received: run_eagerly=True in model.compile; leave it out.")
    if model.jit_compile and not alone and not isinstance(strategy, tf.distribute.OneDeviceStrategy):
        raise OptionError(
            "XLA compiles no step in which replicas exchange gradients, except on TPUs, where it always does. "
            "Received: jit_compile=True in model.compile; leave it out."
        )


def build(model: Any, spec: Any) -> None:
    """Build optimizer, loss and metrics, on the replicas that hold the model.

    Args:
        model: A model that passed `check_trainable`.
        spec: Shapes and dtypes of (x, y) or (x, y, sample_weight).

    Raises:
        ModelError: If the model or what it was compiled with was created outside of the strategy's scope.
    """
    _check_in_scope(model)
    with model.distribute_strategy.scope():
        build_symbolically(model, spec)
    _check_in_scope(model)  # metrics show their variables only now


def _check_in_scope(model: Any) -> None:
    strategy = model.distribute_strategy
    for what, variables in (
        ("weights", model.variables),
        ("optimizer", get_optimizer_variables(model.optimizer)),
        ("metrics", model.metrics_variables),
    ):
        outside = [
            v.path for v in variables if not strategy.extended.variable_created_in_scope(compat.get_tf_variable(v))
        ]
        if outside:
            raise ModelError(
                f"What {type(strategy).__name__} trains must be created in its scope: build and compile the model, "
                f"optimizer included, within `with strategy.scope():`. Received: {what} of model {model.name!r} "
                f"created outside of it, {outside[0]} and {len(outside) - 1} more."
            )


def is_chief(strategy: Any) -> bool:
    """Return whether this process is the worker that writes files."""
    resolver: Any = getattr(strategy, "cluster_resolver", None)
    jobs = {} if resolver is None else resolver.cluster_spec().as_dict()
    if len(jobs.get("worker", [])) + len(jobs.get("chief", [])) <= 1:
        return True
    return resolver.task_type == "chief" or ("chief" not in jobs and resolver.task_id == 0)
