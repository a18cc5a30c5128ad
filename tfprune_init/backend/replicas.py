"""The replicas that a model lives on under tf.distribute: who takes which examples, and how results are added up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.thread_overrides import carry_overrides
from tfprune_init.errors import DataError, ModelError, ReplicaError


@dataclass(frozen=True)
class Replicas:
    """The replicas of a model, on all workers together.

    Attributes:
        strategy: The strategy that the model's variables belong to; None for a model that belongs to none.
        count: How many replicas hold the model.
        workers: How many processes they are in.
    """

    strategy: tf.distribute.Strategy | None
    count: int = 1
    workers: int = 1

    @property
    def are_several(self) -> bool:
        """Whether there is more than one."""
        return self.count > 1

    def split_examples(self, examples: int) -> list[slice]:
        """Which of a number of examples each replica takes: as equal as can be.

        Raises:
            DataError: If there are fewer examples than replicas.
        """
        if examples < self.count:
            raise DataError(
                f"A batch must have an example for each replica. Received: {examples} example(s) for {self.count} "
                "replicas; use larger batches, or drop_remainder=True."
            )
        ends = [examples * (i + 1) // self.count for i in range(self.count)]
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def share_batch(self, batch: Any, examples: int) -> Any:
        """Return a nested batch with its examples divided among the replicas, and what has no examples as it is.

        Raises:
            DataError: If there are fewer examples than replicas, or a tensor is ragged or sparse.
        """
        parts = self.split_examples(examples)

        def divide(leaf: Any) -> Any:
            if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
                raise DataError(
                    "Replicas share a batch by its rows, which takes dense tensors. "
                    f"Received: a {type(leaf).__name__}; make it dense, with x.to_tensor() or tf.sparse.to_dense(x)."
                )
            return leaf if leaf is None else self.make_values(lambda i: leaf[parts[i]])

        return tf.nest.map_structure(divide, batch)

    def make_values(self, value_of: Callable[[int], Any]) -> Any:
        """Return a value for each replica, by its number."""
        assert self.strategy is not None
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(value_of(context.replica_id_in_sync_group))
        )

    def sum_results(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Return what a function gives, run on each replica and added up over all of them; None stays None."""
        if self.strategy is None:
            return function(*arguments)
        strategy = self.strategy
        results = strategy.run(carry_overrides(function), arguments)

        def add_up(result: Any) -> Any:
            return None if result is None else strategy.reduce(tf.distribute.ReduceOp.SUM, result, axis=None)

        return tf.nest.map_structure(add_up, results)

    def gather_batch(self, element: Any) -> Any:
        """Return a nested element of a distributed dataset as one global batch, the same on every worker."""
        if self.strategy is None:
            return element
        strategy = self.strategy
        return tf.nest.map_structure(lambda leaf: strategy.gather(leaf, axis=0), element)

    def check_identical(self, arrays: Iterable[Any], what: str, advice: str) -> None:
        """Refuse to go on where workers hold different arrays.

        Args:
            arrays: The arrays of this worker, in an order that is the same everywhere.
            what: What they are, for the message.
            advice: What to do about it.

        Raises:
            ReplicaError: If the arrays of two workers differ in a bit.
        """
        if self.workers == 1:
            return
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        own = np.frombuffer(digest.digest(), np.int32)
        assert self.strategy is not None
        # Where all are alike, the sum is a multiple of each. TensorFlow would trace a new function to gather them.
        added_up = self.strategy.reduce("SUM", self.make_values(lambda i: own), axis=None).numpy()
        if (added_up != own * np.int32(self.count)).any():
            raise ReplicaError(f"The {self.workers} workers hold different {what}. {advice}")


SINGLE_DEVICE = Replicas(None)
"""One device and no strategy."""


def find_replicas(model: Any) -> Replicas:
    """Return the replicas that hold a model's variables.

    Raises:
        ModelError: If the model lives on parameter servers, or was built outside of the scope of the strategy that
            is active now.
        ReplicaError: If this is called from within `strategy.run`.
    """
    if not tf.distribute.in_cross_replica_context() and tf.distribute.has_strategy():
        raise ReplicaError(
            "Connections are scored by all replicas together. Received: a call from within strategy.run; call it "
            "outside, where it uses the strategy of the model by itself."
        )
    holders = [compat.get_tf_variable(variable) for variable in compat.get_variables(model)]
    active = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    own = next((s for s in (getattr(h, "distribute_strategy", None) for h in holders) if s is not None), None)
    _refuse_parameter_servers(own or active, holders)
    if own is None and active is not None and active.num_replicas_in_sync > 1:
        raise ModelError(
            f"Model {model.name!r} was built outside of the scope of the {type(active).__name__} that is active now, "
            "so it lives on one device. Build it within `with strategy.scope():`."
        )
    if own is None or own.num_replicas_in_sync == 1:
        return SINGLE_DEVICE
    here = len(own.experimental_local_results(own.experimental_distribute_values_from_function(lambda context: 0)))
    return Replicas(own, own.num_replicas_in_sync, own.num_replicas_in_sync // here)


def _refuse_parameter_servers(strategy: Any, holders: list[Any]) -> None:
    remote = any("/job:ps" in holder.device for holder in holders)
    if remote or isinstance(strategy, tf.distribute.experimental.ParameterServerStrategy):
        raise ModelError(
            "Masks are chosen from the gradient of the whole batch at one state of the weights, and parameter servers "
            "have workers that do not wait for each other. Received: a model under ParameterServerStrategy; find the "
            "masks with tpi.find_masks on a copy of the model outside of the strategy, and tpi.attach them here."
        )
