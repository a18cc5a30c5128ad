"""A Keras 3 optimizer that receives the gradient of the whole batch on every replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfprune_init.backend.fit_support import find_optimizers
from tfprune_init.backend.trainer import can_update_in_replica


def update_local_copies(anchor: tf.Variable, change: Callable[..., None], *arguments: Any) -> None:
    """Change variables from within a replica: each replica changes only its own copies.

    Args:
        anchor: Any variable of the strategy, which says where copies are.
        change: Function that assigns; called once for each replica of this worker.
        *arguments: Nested tensors for it, the same values on all replicas.
    """
    if can_update_in_replica():
        change(*arguments)
        return

    def merged(strategy: tf.distribute.Strategy, *values: Any) -> None:
        strategy.extended.update(anchor, lambda _, *own: change(*own), args=values, group=False)

    tf.distribute.get_replica_context().merge_call(merged, args=arguments)


def get_optimizer_variables(optimizer: Any) -> list[Any]:
    """List every variable on which an optimizer's next step depends, also those it does not list."""
    found = []
    for one in find_optimizers(optimizer):
        # Nadam's running product is in no list.
        found += [*one.variables, *(value for value in vars(one).values() if isinstance(value, keras.Variable))]
    return list({id(variable): variable for variable in found}.values())
