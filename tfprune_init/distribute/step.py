"""Steps of training and validation on all replicas: the gradient of the whole batch, the same on every replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.distribute.forward import Forward
from tfprune_init.distribute.loss import SharedLoss
from tfprune_init.distribute.optimizer import on_each_copy, undistributed
from tfprune_init.distribute.shares import Share
from tfprune_init.errors import ModelError
from tfprune_init.summation import in_order


class Steps:
    """Runs batches that are divided among replicas.

    Each replica computes its part of the loss and of the gradient. Parts are added up over all replicas, and each
    replica changes its own copies of the variables in the same way, so that copies stay equal. What layers would
    assign (moving statistics) is averaged over replicas, weighted by examples.

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
        """Train on at most `limit` batches; how many there were, and a number that tells them from others."""
        # Whoever attaches masks makes the model forget its training function: the next one knows them.
        if self._train is None or self._model.train_function is not self._train:
            self._train = self._model.train_function = self._several(self._train_on)
        done, mark = self._train(iterator, tf.constant(limit))
        return int(done), int(mark)

    def test(self, iterator: Any, limit: int) -> int:
        """Validate on at most `limit` batches; how many there were."""
        return int(self._test(iterator, tf.constant(limit))[0])

    def results(self) -> dict[str, Any]:
        """The metrics as they stand, over all replicas: floats, or arrays. All workers read them together."""
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
                    marks = strategy.run(run_on, (element.get_value(),))
                    return done + 1, mark + strategy.experimental_local_results(marks)[0], True

                return tf.cond(element.has_value(), one, lambda: (done, mark, False))

            start = (tf.constant(0), tf.constant(0, tf.int64), tf.constant(True))
            with undistributed():
                return tf.while_loop(lambda done, mark, more: more & (done < limit), step, start)[:2]

        # What goes on after an interruption ends with the same bits.
        return in_order()(tf.function(run, reduce_retracing=True, autograph=False))

    def _train_on(self, element: Any) -> tf.Tensor:
        """One step, as one replica takes it."""
        model, share = self._model, _as_share(element)
        variables = model.trainable_variables
        with tf.GradientTape() as tape:
            forward = Forward(model, share.x, training=True)
            parts, weight = self._parts(forward, share)
            scaled = model.optimizer.scale_loss(parts[0])
        gradients = tape.gradient(scaled, variables)
        states, seeds = forward.states(), forward.seeds()
        averages = [_share_of(value, weight) for _, value in states]
        gradients, averages, losses = _added_up((gradients, averages, parts))
        self._follow(forward, share, losses)

        def change(gradients: Any, values: Any) -> None:
            for (variable, _), value in zip([*states, *seeds], values, strict=True):
                variable.assign(tf.cast(value, variable.dtype))
            model.optimizer.apply(gradients, variables)

        on_each_copy(kerases.tensor_of(variables[0]), change, gradients, [*averages, *(value for _, value in seeds)])
        return share.mark

    def _test_on(self, element: Any) -> tf.Tensor:
        """One batch of validation, as one replica sees it."""
        share = _as_share(element)
        forward = Forward(self._model, share.x, training=False)
        parts, _ = self._parts(forward, share)
        self._follow(forward, share, _added_up(parts))
        return share.mark

    def _parts(self, forward: Forward, share: Share) -> tuple[list[tf.Tensor], tf.Tensor]:
        """This replica's part of the total loss and of each compiled one, and the weight of its examples."""
        totals, counts = self._loss.parts(*_counting((share.y, forward.outputs, share.sample_weight), share))
        examples = tf.cast(share.examples, keras.config.floatx())
        *counts, whole = _added_up([*map(tf.stop_gradient, counts), examples])
        weight = examples / whole
        losses = self._loss.divided(totals, counts)
        # What layers add is taken as a mean over examples; so weights are regularized once.
        everything = [*self._loss.weighted(losses), *(_share_of(value, weight) for value in forward.losses)]
        if not everything:
            raise ModelError(f"Model {self._model.name!r} has no loss: give one to model.compile(loss=...).")
        return [tf.add_n([tf.cast(value, weight.dtype) for value in everything]), *losses], weight

    def _follow(self, forward: Forward, share: Share, losses: list[tf.Tensor]) -> None:
        """Update metrics; each replica counts its own examples, and reading them adds up."""
        model = self._model
        total, *compiled = losses
        model._loss_tracker.update_state(total, sample_weight=share.examples)
        for tracker, loss in zip(self._loss.trackers, compiled, strict=False):
            tracker.update_state(loss)  # Keras gives every batch the same weight here
        if model._compile_metrics is not None:
            model._compile_metrics.update_state(*_counting((share.y, forward.outputs, share.sample_weight), share))
        for variable, value in forward.counts():
            variable.assign(tf.where(share.examples > 0, value, variable))


def _as_share(element: Any) -> Share:
    if not isinstance(element, Share):  # of a dataset that the strategy distributed
        examples = tf.shape(tf.nest.flatten(element)[0], out_type=tf.int64)[0]
        x, y, *weight = tf.nest.map_structure(_never_empty, element)
        element = Share(x, y, weight[0] if weight else (), examples, tf.constant(0, tf.int64))
    weighted = tf.nest.flatten(element.sample_weight)
    return element if weighted else element._replace(sample_weight=None)


def _never_empty(leaf: tf.Tensor) -> tf.Tensor:
    """The tensor, or a row of zeros if it has no rows."""
    if leaf.shape[0]:
        return leaf
    return tf.cond(tf.shape(leaf)[0] > 0, lambda: leaf, lambda: tf.zeros([1, *leaf.shape[1:]], leaf.dtype))


def _counting(nested: Any, share: Share) -> Any:
    """Nested tensors with a row for each example of a share, without the rows that do not count."""

    def rows(leaf: tf.Tensor) -> tf.Tensor:
        if leaf is None or leaf.shape[0]:  # a known number of rows, which all count
            return leaf
        counting, mask = leaf[: share.examples], getattr(leaf, "_keras_mask", None)
        if mask is not None:
            counting._keras_mask = mask[: share.examples]
        return counting

    return tf.nest.map_structure(rows, nested)


def _added_up(values: Any) -> Any:
    """Nested tensors, summed over all replicas; None stays None."""
    replica = tf.distribute.get_replica_context()
    flat = tf.nest.flatten(values)
    # Workers exchange what has one dtype together.
    for dtype in {leaf.dtype: None for leaf in flat if leaf is not None}:
        places = [i for i, leaf in enumerate(flat) if leaf is not None and leaf.dtype == dtype]
        sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, [flat[i] for i in places])
        for i, total in zip(places, sums, strict=True):
            flat[i] = total
    return tf.nest.pack_sequence_as(values, flat)


def _share_of(value: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """What a replica gives to a mean over examples; of what is counted, all from the first replica."""
    if not value.dtype.is_floating:
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        return tf.where(first, tf.cast(value, tf.int64), 0)
    return value * tf.cast(weight, value.dtype)
