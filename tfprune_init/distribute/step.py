"""Steps of training and validation on all replicas: the gradient of the whole batch, the same on every replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.backend.optimizers import run_undistributed
from tfprune_init.backend.thread_overrides import carry_overrides
from tfprune_init.backend.trainer import get_compiled_metrics, get_keras_mask, get_loss_tracker, set_keras_mask
from tfprune_init.distribute.loss import SharedLoss
from tfprune_init.distribute.optimizer import update_local_copies
from tfprune_init.distribute.sharding import Shard
from tfprune_init.distribute.stateless_call import StatelessCall
from tfprune_init.errors import ModelError


class Steps:
    """Runs batches that are divided among replicas.

    Each replica computes its part of the loss and of the gradient. The parts are added up over all replicas, and each
    replica changes its own copies of the variables in the same way, so that the copies stay equal. Values that layers
    would assign (moving statistics) are averaged over replicas, weighted by examples.

    Args:
        model: A Keras 3 model, compiled and built with its optimizer, loss and metrics.
    """

    def __init__(self, model: Any):
        self._model = model
        self._strategy = model.distribute_strategy
        self._loss = SharedLoss(model)
        self._train: Any = None
        self._test = self._several(self._test_on)
        self._read = tf.function(model.get_metrics_result, autograph=False).get_concrete_function()

    def train(self, iterator: Any, limit: int) -> tuple[int, int]:
        """Train on at most `limit` batches; return their number, and a number that identifies them."""
        # Whoever attaches masks makes the model forget its training function: the next one knows them.
        if self._train is None or self._model.train_function is not self._train:
            self._train = self._model.train_function = self._several(self._train_on)
        done, mark = self._train(iterator, tf.constant(limit))
        return int(done), int(mark)

    def test(self, iterator: Any, limit: int) -> int:
        """Validate on at most `limit` batches; return their number."""
        return int(self._test(iterator, tf.constant(limit))[0])

    def results(self) -> dict[str, Any]:
        """Read the current metrics over all replicas: floats or arrays. All workers must read them together."""
        values = {name: np.asarray(value) for name, value in self._read().items()}
        return {name: value if value.ndim else float(value) for name, value in values.items()}

    def _several(self, run_on: Callable[[Any], tf.Tensor]) -> Any:
        strategy = self._strategy
        if self._model.jit_compile:
            run_on = tf.function(run_on, jit_compile=True, autograph=False)

        def run(iterator: Any, limit: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            def step(done: tf.Tensor, mark: tf.Tensor, more: tf.Tensor) -> Any:
                element = iterator.get_next_as_optional()

                def one() -> Any:
                    marks = strategy.run(carry_overrides(run_on), (element.get_value(),))
                    return done + 1, mark + strategy.experimental_local_results(marks)[0], True

                return tf.cond(element.has_value(), one, lambda: (done, mark, False))

            start = (tf.constant(0), tf.constant(0, tf.int64), tf.constant(True))
            with run_undistributed():
                return tf.while_loop(lambda done, mark, more: more & (done < limit), step, start)[:2]

        # What goes on after an interruption ends with the same bits.
        return deterministic_reductions()(tf.function(run, reduce_retracing=True, autograph=False))

    def _train_on(self, element: Any) -> tf.Tensor:
        """Take one training step, as one replica."""
        model, share = self._model, _as_share(element)
        variables = model.trainable_variables
        with tf.GradientTape() as tape:
            forward = StatelessCall(model, share.x, training=True)
            parts, weight = self._parts(forward, share)
            scaled = model.optimizer.scale_loss(parts[0])
        gradients = tape.gradient(scaled, variables)
        states, seeds = forward.states(), forward.seeds()
        averages = [_compute_share(value, weight) for _, value in states]
        gradients, averages, losses = _sum_over_replicas((gradients, averages, parts))
        self._follow(forward, share, losses)

        def change(gradients: Any, values: Any) -> None:
            for (variable, _), value in zip([*states, *seeds], values, strict=True):
                variable.assign(tf.cast(value, variable.dtype))
            model.optimizer.apply(gradients, variables)

        update_local_copies(
            compat.get_tf_variable(variables[0]), change, gradients, [*averages, *(value for _, value in seeds)]
        )
        return share.mark

    def _test_on(self, element: Any) -> tf.Tensor:
        """Validate one batch, as one replica."""
        share = _as_share(element)
        forward = StatelessCall(self._model, share.x, training=False)
        parts, _ = self._parts(forward, share)
        self._follow(forward, share, _sum_over_replicas(parts))
        return share.mark

    def _parts(self, forward: StatelessCall, share: Shard) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Compute this replica's part of the total and of each compiled loss, and the weight of its examples."""
        totals, counts = self._loss.parts(*_drop_uncounted((share.y, forward.outputs, share.sample_weight), share))
        examples = tf.cast(share.examples, keras.config.floatx())
        *counts, whole = _sum_over_replicas([*map(tf.stop_gradient, counts), examples])
        weight = examples / whole
        losses = self._loss.divide(totals, counts)
        # What layers add is taken as a mean over examples; so weights are regularized once.
        everything = [*self._loss.weigh(losses), *(_compute_share(value, weight) for value in forward.losses)]
        if not everything:
            raise ModelError(f"Model {self._model.name!r} has no loss: give one to model.compile(loss=...).")
        return [tf.add_n([tf.cast(value, weight.dtype) for value in everything]), *losses], weight

    def _follow(self, forward: StatelessCall, share: Shard, losses: list[tf.Tensor]) -> None:
        """Update metrics; each replica counts its own examples, and reading the metrics adds them up."""
        model = self._model
        total, *compiled = losses
        get_loss_tracker(model).update_state(total, sample_weight=share.examples)
        for tracker, loss in zip(self._loss.trackers, compiled, strict=False):
            tracker.update_state(loss)  # Keras gives every batch the same weight here
        metrics = get_compiled_metrics(model)
        if metrics is not None:
            metrics.update_state(*_drop_uncounted((share.y, forward.outputs, share.sample_weight), share))
        for variable, value in forward.counts():
            variable.assign(tf.where(share.examples > 0, value, variable))


def _as_share(element: Any) -> Shard:
    if not isinstance(element, Shard):  # of a dataset that the strategy distributed
        examples = tf.shape(tf.nest.flatten(element)[0], out_type=tf.int64)[0]
        x, y, *weight = tf.nest.map_structure(_never_empty, element)
        element = Shard(x, y, weight[0] if weight else (), examples, tf.constant(0, tf.int64))
    weighted = tf.nest.flatten(element.sample_weight)
    return element if weighted else element._replace(sample_weight=None)


def _never_empty(leaf: tf.Tensor) -> tf.Tensor:
    """Return the tensor, or one row of zeros if it has no rows."""
    if leaf.shape[0]:
        return leaf
    return tf.cond(tf.shape(leaf)[0] > 0, lambda: leaf, lambda: tf.zeros([1, *leaf.shape[1:]], leaf.dtype))


def _drop_uncounted(nested: Any, share: Shard) -> Any:
    """Drop the rows of examples that do not count from nested tensors with one row per example."""

    def rows(leaf: tf.Tensor) -> tf.Tensor:
        if leaf is None or leaf.shape[0]:  # a known number of rows, which all count
            return leaf
        counting, mask = leaf[: share.examples], get_keras_mask(leaf)
        if mask is not None:
            set_keras_mask(counting, mask[: share.examples])
        return counting

    return tf.nest.map_structure(rows, nested)


def _sum_over_replicas(values: Any) -> Any:
    """Sum nested tensors over all replicas; None stays None."""
    replica = tf.distribute.get_replica_context()
    flat = tf.nest.flatten(values)
    # Workers exchange all tensors of one dtype together.
    for dtype in {leaf.dtype: None for leaf in flat if leaf is not None}:
        places = [i for i, leaf in enumerate(flat) if leaf is not None and leaf.dtype == dtype]
        sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, [flat[i] for i in places])
        for i, total in zip(places, sums, strict=True):
            flat[i] = total
    return tf.nest.pack_sequence_as(values, flat)


def _compute_share(value: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Compute this replica's contribution to an example-weighted mean; integer states come from replica 0."""
    if not value.dtype.is_floating:
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        return tf.where(first, tf.cast(value, tf.int64), 0)
    return value * tf.cast(weight, value.dtype)
