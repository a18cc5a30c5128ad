"""A Keras 3 optimizer that receives the gradient of the whole batch on every replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

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
