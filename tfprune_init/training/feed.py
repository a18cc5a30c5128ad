"""The batches of a run, by the number of the step: the same at every visit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend.batches import ARRAY_BATCH, disable_autotuning
from tfprune_init.errors import DataError
from tfprune_init.training.inputs import ExperimentData


class Feed:
    """Training batches by step, so that a run that goes back to a step sees the same examples again.

    Args:
        data: Training and test data. The order of arrays is drawn anew for every epoch from the seed; a tf.data.Dataset
            is used in its own order, which should be the same at every walk.
        seed: Decides the order of arrays.

    Attributes:
        steps_per_epoch: Number of batches in one walk through the training data.
    """

    def __init__(self, data: ExperimentData, seed: int):
        self._data = data
        self._seed = seed
        if isinstance(data.train, tf.data.Dataset):
            self.steps_per_epoch = _count_batches(data.train)
        else:
            self._arrays = tf.nest.map_structure(np.asarray, tuple(data.train))
            self._size = len(tf.nest.flatten(self._arrays)[0])
            self.steps_per_epoch = -(-self._size // ARRAY_BATCH)
            self._permute = lru_cache(maxsize=1)(self._draw_order)

    def batches(self, start: int, stop: int) -> tf.data.Dataset:
        """Return the batches of the steps from `start` to before `stop`."""
        if isinstance(self._data.train, tf.data.Dataset):
            data = self._data.train
            return disable_autotuning(
                data.skip(start % self.steps_per_epoch).concatenate(data.repeat()).take(stop - start)
            )
        signature = tf.nest.map_structure(
            lambda part: tf.TensorSpec((None, *part.shape[1:]), tf.as_dtype(part.dtype)), self._arrays
        )
        made = tf.data.Dataset.from_generator(lambda: self._take(start, stop), output_signature=signature)
        return disable_autotuning(made.apply(tf.data.experimental.assert_cardinality(stop - start)).prefetch(2))

    def count_examples(self, start: int, stop: int) -> int:
        """Return the number of examples in the batches of these steps."""
        return sum(self._sizes[step % self.steps_per_epoch] for step in range(start, stop))

    @cached_property
    def _sizes(self) -> list[int]:
        """Number of examples of each batch of an epoch; a dataset is walked through for it, so only once."""
        if isinstance(self._data.train, tf.data.Dataset):
            return _list_batch_sizes(self._data.train)
        return [min(ARRAY_BATCH, self._size - first) for first in range(0, self._size, ARRAY_BATCH)]

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self._size)

    def _take(self, start: int, stop: int) -> Iterator[Any]:
        for step in range(start, stop):
            epoch, within = divmod(step, self.steps_per_epoch)
            rows = self._permute(epoch)[within * ARRAY_BATCH : (within + 1) * ARRAY_BATCH]
            yield tf.nest.map_structure(lambda part, rows=rows: part[rows], self._arrays)


def _count_batches(data: tf.data.Dataset) -> int:
    count = int(data.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise DataError("The training data never ends. Cut it with .take(number of batches).")
    return count if count >= 0 else len(_list_batch_sizes(data))


def _list_batch_sizes(data: tf.data.Dataset) -> list[int]:
    def count(element: Any) -> int:
        return int(tf.shape(tf.nest.flatten(element)[0])[0])

    return [count(element) for element in data]
