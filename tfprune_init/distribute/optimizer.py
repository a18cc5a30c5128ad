"""A Keras 3 optimizer that is given the gradient of the whole batch, on every replica."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import keras
import tensorflow as tf

from tfprune_init.keras_fit import optimizers_in


@contextmanager
def undistributed() -> Iterator[None]:
    """Let Keras's optimizers work as on one device while their step is traced.

    On its own an optimizer clips and accumulates each replica's gradient before it adds them up, and asks for
    other replicas inside conditions, where that is impossible: gradient accumulation and averaged weights written
    back every few steps fail. Given gradients that are added up already, and its own copy of each variable, a
    replica needs none of that: what Keras does on backends without replicas is right.
    """
    bases = {base.__name__: base for base in keras.optimizers.Optimizer.__mro__}
    alone, aware = bases["BaseOptimizer"], bases["TFOptimizer"]
    scaled: Any = keras.optimizers.LossScaleOptimizer
    names = (
        "_apply_weight_decay",
        "_backend_update_step",
        "_overwrite_model_variables_with_average_value",
        "_backend_increment_gradient_accumulators",
    )
    with ExitStack() as undo:
        for name in names:
            undo.enter_context(patch.object(aware, name, getattr(alone, name)))
        undo.enter_context(patch.object(scaled, "_tf_apply", scaled._common_apply))
        yield


def on_each_copy(anchor: tf.Variable, change: Callable[..., None], *arguments: Any) -> None:
    """From a replica: change variables, each replica its own copies and only those.

    Args:
        anchor: Any variable of the strategy, which says where copies are.
        change: What assigns; called once for each replica of this worker.
        *arguments: Nested tensors for it, the same values on all replicas.
    """
    if tf.__internal__.distribute.strategy_supports_no_merge_call():
        change(*arguments)
        return

    def merged(strategy: tf.distribute.Strategy, *values: Any) -> None:
        strategy.extended.update(anchor, lambda _, *own: change(*own), args=values, group=False)

    tf.distribute.get_replica_context().merge_call(merged, args=arguments)


def variables_of(optimizer: Any) -> list[Any]:
    """Every variable that an optimizer's next step depends on, also those it does not list."""
    found = []
    for one in optimizers_in(optimizer):
        # Nadam's running product is in no list.
        found += [*one.variables, *(value for value in vars(one).values() if isinstance(value, keras.Variable))]
    return list({id(variable): variable for variable in found}.values())
