"""The batches of each epoch, divided among the replicas of a strategy."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfprune_init.backend.batches import ARRAY_BATCH, disable_autotuning, to_dataset
from tfprune_init.backend.trainer import get_replica_spec
from tfprune_init.errors import DataError, OptionError


class Shard(NamedTuple):
    """The part of a batch that one replica gets.

    A batch may have fewer examples than there are replicas. Not all layers can compute on an empty batch, so a replica
    without examples gets a copy of another's example, which does not count.

    Attributes:
        x: Its inputs.
        y: Their labels.
        sample_weight: Their weights, or ().
        examples: Number of examples that count, int64: all or none.
        mark: A number that tells the whole batch from others, int64.
    """

    x: Any
    y: Any
    sample_weight: Any
    examples: Any
    mark: Any


class ShardedEpochs:
    """The batches of one epoch after another.

    A dataset is divided by rows, as equally as possible and in order. Whatever the number of replicas and workers, a
    step sees one batch of the dataset: the one that a single device would see. Every worker reads all of the data and
    keeps its own rows. Where reading is slow, pass a dataset that the strategy has already distributed.

    Args:
        data: A batched tf.data.Dataset of (x, y) or (x, y, sample_weight), one that the strategy distributed, a tuple
            of such arrays, or a function that returns one of these for the number of an epoch.
        strategy: The strategy of the model.
        shuffle: Whether arrays are taken in another order each epoch.
        seed: Seed of that order; None for 0.

    Raises:
        DataError: If the data is none of these, is unbatched, sparse or ragged, or never ends.
        OptionError: If a seed is given that orders nothing.
    """

    def __init__(self, data: Any, strategy: tf.distribute.Strategy, *, shuffle: bool = False, seed: int | None = None):
        self._strategy = strategy
        shuffled = shuffle and isinstance(data, (tuple, list))
        if seed is not None and not shuffled:
            raise OptionError(
                "seed orders arrays; datasets have an order of their own, from dataset.shuffle(..., seed=...). "
                f"Received: seed={seed!r} and data of type {type(data).__name__}."
            )
        self._dataset_of = lru_cache(maxsize=1)(_by_epoch(data, (seed or 0) if shuffled else None))
        self._varies = shuffled or _is_function(data)
        self._divided: Any = None if self._varies else self._divide(self._dataset_of(0))

    def of(self, epoch: int) -> Any:
        """Get the elements of an epoch, counted from 0; each holds one share per replica."""
        return self._divide(self._dataset_of(epoch)) if self._varies else self._divided

    def spec(self) -> Any:
        """Describe shapes and dtypes of x, y and sample_weight, for any number of examples."""

        def one(leaf: Any) -> tf.TensorSpec:
            leaf = get_replica_spec(leaf)  # a distributed dataset has one for each replica
            return tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype)

        return tf.nest.map_structure(one, self._dataset_of(0).element_spec)

    def steps(self, epoch: int) -> int | None:
        """Count the batches of an epoch; None if the number is unknown."""
        dataset = self._dataset_of(epoch)
        count = int(dataset.cardinality()) if isinstance(dataset, tf.data.Dataset) else -1
        return count if count >= 0 else None

    def pass_over(self, epochs: int) -> None:
        """Read the earlier epochs, so that a dataset that shuffles anew continues where it stopped."""
        if not self._varies:
            for _ in range(epochs):
                for _ in self._divided:
                    pass

    def _divide(self, dataset: Any) -> Any:
        if not isinstance(dataset, tf.data.Dataset):
            return dataset
        return self._strategy.distribute_datasets_from_function(lambda context: _rows(dataset, context))


def _is_function(data: Any) -> bool:
    return callable(data) and not isinstance(data, (tf.data.Dataset, tf.distribute.DistributedDataset))


def _by_epoch(data: Any, seed: int | None) -> Callable[[int], Any]:
    """Make the dataset of each epoch; arrays come in an order drawn from the seed, if there is one."""
    if _is_function(data):
        return lambda epoch: _checked(to_dataset(data(epoch)))
    dataset = _checked(to_dataset(data))
    if seed is None:
        return lambda epoch: dataset
    (whole,) = dataset.rebatch(np.iinfo(np.int64).max)
    examples = len(tf.nest.flatten(whole)[0])

    def ordered(epoch: int) -> tf.data.Dataset:
        order = np.random.default_rng([seed, epoch]).permutation(examples)
        batches = tf.data.Dataset.from_tensor_slices(order).batch(ARRAY_BATCH)
        return disable_autotuning(
            batches.map(lambda rows: tf.nest.map_structure(lambda leaf: tf.gather(leaf, rows), whole))
        )

    return ordered


def _checked(dataset: Any) -> Any:
    if not isinstance(dataset, tf.data.Dataset):
        return dataset
    odd = [spec for spec in tf.nest.flatten(dataset.element_spec) if not isinstance(spec, tf.TensorSpec)]
    if odd:
        raise DataError(
            "Batches are divided among replicas by rows, which takes dense tensors. "
            f"Received: {odd[0]}; make it dense, or give a dataset that the strategy distributed."
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise DataError(
            "The dataset never ends, so it has no epochs. Leave out repeat(), call take(steps), or give a function of "
            "the epoch's number: lambda epoch: dataset.skip(epoch * steps).take(steps)."
        )
    return dataset


def _rows(dataset: tf.data.Dataset, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """Yield the shares of the replicas on one worker, one after another."""
    replicas = context.num_replicas_in_sync
    here = replicas // context.num_input_pipelines
    first = context.input_pipeline_id * here

    def shares(x: Any, y: Any, sample_weight: Any = ()) -> tf.data.Dataset:
        mark = _mark((x, y, sample_weight)) if context.num_input_pipelines > 1 else tf.constant(0, tf.int64)
        examples = tf.shape(tf.nest.flatten(x)[0], out_type=tf.int64)[0]

        def of(replica: tf.Tensor) -> Shard:
            start, end = examples * replica // replicas, examples * (replica + 1) // replicas

            def own(leaf: tf.Tensor) -> tf.Tensor:
                size = leaf.shape[0]
                known = None if size is None or size % replicas else size // replicas
                return tf.ensure_shape(leaf[start : tf.maximum(end, start + 1)], [known, *leaf.shape[1:]])

            own_x, own_y, own_weight = tf.nest.map_structure(own, (x, y, sample_weight))
            return Shard(own_x, own_y, own_weight, end - start, mark)

        return tf.data.Dataset.range(first, first + here).map(of)

    options = tf.data.Options()
    options.deterministic = True
    return dataset.flat_map(shares).with_options(options)


def _mark(batch: Any) -> tf.Tensor:
    """Sum over the bits of the numbers in a batch; depends on their order, equal on every machine."""
    total = tf.constant(0, tf.int64)
    for leaf in tf.nest.flatten(batch):
        if leaf.dtype.is_floating:
            leaf = tf.bitcast(tf.cast(leaf, tf.float32), tf.int32)
        if leaf.dtype.is_integer or leaf.dtype.is_bool:
            values = tf.reshape(tf.cast(leaf, tf.int64), [-1])
            total += tf.reduce_sum(values * (1 + tf.range(tf.size(values, tf.int64))))
    return total
