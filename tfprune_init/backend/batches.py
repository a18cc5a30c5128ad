"""The data a network is judged by: checked batches, taken in order, over and over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfprune_init.backend.replicas import SINGLE_DEVICE, Replicas
from tfprune_init.errors import DataError

ARRAY_BATCH = 128


class Batch(NamedTuple):
    """One batch, its place in the data (counted from 1) and its number of examples."""

    x: Any
    y: Any
    sample_weight: Any
    number: int
    examples: int


class Batches:
    """An endless, ordered walk through a dataset; each batch is checked as it comes.

    Args:
        data: A batched tf.data.Dataset of (x, y) or (x, y, sample_weight), a dataset that a strategy distributed,
            or a tuple of such arrays (x and y may be nested in tuples or dicts), which are batched by 128 in their
            order. Where workers each read data, it is the same for all, or a distributed dataset.
        replicas: The replicas that share each batch.

    Raises:
        DataError: If `data` is none of these, is not batched, is empty, or a batch holds NaN or Inf.
        ReplicaError: If workers read different batches.
    """

    def __init__(self, data: Any, replicas: Replicas = SINGLE_DEVICE):
        self._dataset = to_dataset(data)
        self._replicas = replicas
        self._iterator = self._walk()

    @classmethod
    def of(cls, data: Any, replicas: Replicas = SINGLE_DEVICE) -> Batches:
        """The walk itself if `data` is one, which goes on where it stands; otherwise a walk through it."""
        if not isinstance(data, Batches):
            return cls(data, replicas)
        data._replicas = replicas
        return data

    def take(self, count: int) -> list[Batch]:
        """The next `count` batches; after the last one the first follows."""
        return [next(self._iterator) for _ in range(count)]

    def _walk(self) -> Iterator[Batch]:
        while True:
            number = 0
            for number, element in enumerate(self._dataset, start=1):
                divided = isinstance(self._dataset, tf.distribute.DistributedDataset)
                batch = _checked(self._replicas.whole(element) if divided else element, number)
                self._replicas.check_identical(
                    [leaf for leaf in tf.nest.flatten((batch.x, batch.y, batch.sample_weight)) if leaf is not None],
                    f"examples in batch {number}",
                    "Give all of them the same data in the same order (shuffle with a seed), or a dataset that "
                    "strategy.experimental_distribute_dataset made.",
                )
                yield batch
            if number == 0:
                raise DataError(
                    "The dataset is empty: it gave no batch. Check its source and its filters, and whether "
                    "drop_remainder=True dropped everything."
                )


def disable_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset with tf.data's tuner off.

    An iterator that goes away while the tuner sleeps waits for it, up to half a minute: after a handful of
    batches, and at the end of every epoch of model.fit on little data, where nothing needs tuning anyway.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def to_dataset(data: Any) -> Any:
    """What `Batches` takes as a dataset of batches, in its order.

    Raises:
        DataError: If it is none, is not batched, or is empty.
    """
    if isinstance(data, (tf.data.Dataset, tf.distribute.DistributedDataset)):
        spec = data.element_spec
        if not isinstance(spec, tuple) or len(spec) not in (2, 3):
            raise DataError(f"The dataset must give (x, y) or (x, y, sample_weight). Received elements: {spec}.")
        unbatched = [leaf for leaf in tf.nest.flatten(spec) if getattr(leaf, "shape", None) == ()]
        if unbatched:
            raise DataError(
                "The dataset is not batched: some of its tensors are scalars. Call dataset.batch(128) first. "
                f"Received elements: {spec}."
            )
        return disable_autotuning(data) if isinstance(data, tf.data.Dataset) else data
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        arrays = tf.nest.map_structure(np.asarray, _tuples(tuple(data)))
        lengths = {len(leaf) if leaf.ndim else None for leaf in tf.nest.flatten(arrays)}
        if len(lengths) != 1 or None in lengths:
            raise DataError(f"All arrays must have the same number of examples. Received lengths: {lengths}.")
        if lengths == {0}:
            raise DataError("The arrays are empty. Received: 0 examples.")
        return disable_autotuning(tf.data.Dataset.from_tensor_slices(arrays).batch(ARRAY_BATCH))
    raise DataError(
        "data must be a batched tf.data.Dataset of (x, y) or (x, y, sample_weight), or a tuple of arrays. "
        f"Received: {type(data).__module__}.{type(data).__qualname__}."
    )


def _tuples(nested: Any) -> Any:
    """Lists of arrays as tuples, which tf.data reads as structure and not as one stacked array."""
    if isinstance(nested, dict):
        return {key: _tuples(value) for key, value in nested.items()}
    if isinstance(nested, tuple) or (isinstance(nested, list) and any(hasattr(v, "shape") for v in nested)):
        return tuple(_tuples(value) for value in nested)
    return nested


def _checked(element: tuple[Any, ...], number: int) -> Batch:
    x, y, sample_weight = element if len(element) == 3 else (*element, None)
    for part, tensors in (("x", x), ("y", y), ("sample_weight", sample_weight)):
        for leaf in tf.nest.flatten(tensors):
            if leaf is not None and leaf.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(leaf))):
                raise DataError(f"{part} of batch {number} holds NaN or Inf. Clean the data before scoring.")
    examples = int(tf.shape(tf.nest.flatten(x)[0])[0])
    if examples == 0:
        raise DataError(f"Batch {number} holds no examples.")
    return Batch(x, y, sample_weight, number, examples)
