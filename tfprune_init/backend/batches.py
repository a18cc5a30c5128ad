"""The data a network is judged by: checked batches, taken in order, over and over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from tfprune_init.backend.batch_sources import DATASETS, find_walk, get_numbers, is_array, is_spent, to_arrays, to_batch
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
        data: A batched tf.data.Dataset of (x, y), (x, y, sample_weight) or x alone, or a dataset that a strategy
            distributed. Or such arrays (x and y may be nested in tuples or dicts), batched by 128 in their order. Or
            what gives batches in Python: a list of tuples, a PyDataset, a generator, or a function that makes one.
            Where workers each read data, it is the same for all, or a distributed dataset.
        replicas: The replicas that share each batch.

    Raises:
        DataError: If `data` is none of these, is not batched, is empty, a batch holds NaN or Inf, or a generator ends
            before the last batch that is needed.
        ReplicaError: If workers read different batches.
    """

    def __init__(self, data: Any, replicas: Replicas = SINGLE_DEVICE):
        walk = find_walk(data)
        self._walk_once: Callable[[], Iterator[tuple[Any, ...]]] = (
            partial(self._read_dataset, to_dataset(data, labels=False)) if walk is None else partial(_read_python, walk)
        )
        self._gives_once = is_spent(data)
        self._ahead: list[Batch] = []
        self._replicas = replicas
        self._iterator = self._walk()

    @classmethod
    def of(cls, data: Any, replicas: Replicas = SINGLE_DEVICE) -> Batches:
        """Return the walk itself if `data` is one, which goes on where it stands; otherwise a walk through it."""
        if not isinstance(data, Batches):
            return cls(data, replicas)
        data._replicas = replicas
        return data

    def take(self, count: int) -> list[Batch]:
        """Return the next `count` batches; after the last one the first follows."""
        return [self._ahead.pop() if self._ahead else next(self._iterator) for _ in range(count)]

    def peek(self) -> Batch:
        """Return the next batch, which is the next one still."""
        if not self._ahead:
            self._ahead.append(next(self._iterator))
        return self._ahead[0]

    def _read_dataset(self, dataset: Any) -> Iterator[tuple[Any, ...]]:
        divided = isinstance(dataset, tf.distribute.DistributedDataset)
        for element in dataset:
            whole = self._replicas.gather_batch(element) if divided else element
            yield whole if isinstance(whole, tuple) else (whole,)

    def _walk(self) -> Iterator[Batch]:
        while True:
            number = 0
            for number, element in enumerate(self._walk_once(), start=1):
                batch = _checked(element, number)
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
            if self._gives_once:
                raise DataError(
                    f"The generator ended after {number} batches, and gives them only once; more are needed. Pass the "
                    "function that makes it, data=make_batches, or hold its batches: data=list(batches)."
                )


def _read_python(walk: Callable[[], Iterator[Any]]) -> Iterator[tuple[Any, ...]]:
    for number, element in enumerate(walk(), start=1):
        yield to_batch(element, number)


def disable_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset with tf.data's tuner off.

    An iterator that goes away while the tuner sleeps waits for it, up to half a minute: after a handful of
    batches, and at the end of every epoch of model.fit on little data, where nothing needs tuning anyway.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def to_dataset(data: Any, *, labels: bool = True) -> Any:
    """Return what `Batches` takes as a dataset of batches, in its order.

    Args:
        data: A dataset, or arrays.
        labels: Whether there must be labels; if not, x alone is fine.

    Raises:
        DataError: If it is none, is not batched, is empty, or lacks labels.
    """
    if isinstance(data, DATASETS):
        spec = data.element_spec
        count = len(spec) if isinstance(spec, tuple) else 1
        if count not in (2, 3) and (labels or count != 1):
            raise DataError(f"The dataset must give (x, y) or (x, y, sample_weight). Received elements: {spec}.")
        unbatched = [leaf for leaf in tf.nest.flatten(spec) if getattr(leaf, "shape", None) == ()]
        if unbatched:
            raise DataError(
                "The dataset is not batched: some of its tensors are scalars. Call dataset.batch(128) first. "
                f"Received elements: {spec}."
            )
        return disable_autotuning(data) if isinstance(data, tf.data.Dataset) else data
    if not labels and (is_array(data) or isinstance(data, dict)):
        data = (data,)
    if isinstance(data, (tuple, list)) and find_walk(data) is None and len(data) in ((2, 3) if labels else (1, 2, 3)):
        return _batch_arrays(data)
    raise DataError(
        "data must be a batched tf.data.Dataset of (x, y) or (x, y, sample_weight), or a tuple of arrays. "
        f"Received: {type(data).__module__}.{type(data).__qualname__}. {_suggest_conversion(data)}".strip()
    )


def _batch_arrays(data: Any) -> tf.data.Dataset:
    arrays = to_arrays(tuple(data))
    while arrays and arrays[-1] is None:
        arrays = arrays[:-1]
    lengths = {leaf.shape[0] if len(leaf.shape) else None for leaf in tf.nest.flatten(arrays)}
    if len(lengths) != 1 or None in lengths:
        raise DataError(f"All arrays must have the same number of examples. Received lengths: {lengths}.")
    if lengths == {0}:
        raise DataError("The arrays are empty. Received: 0 examples.")
    return disable_autotuning(tf.data.Dataset.from_tensor_slices(arrays).batch(ARRAY_BATCH))


def _suggest_conversion(data: Any) -> str:
    """Return the line that converts what gives batches in Python to a dataset, where one is needed."""
    if find_walk(data) is not None:
        return (
            "Here a dataset is needed, as it has epochs: tf.data.Dataset.from_generator(make_batches, "
            "output_signature=(tf.TensorSpec(...), tf.TensorSpec(...)))."
        )
    if isinstance(data, list):
        return "A list of batches has a tuple for each: [(x1, y1), (x2, y2)], and [(x1,), (x2,)] for x alone."
    return ""


def _checked(element: tuple[Any, ...], number: int) -> Batch:
    x, y, sample_weight = (*element, None, None)[:3]
    for part, tensors in (("x", x), ("y", y), ("sample_weight", sample_weight)):
        for leaf in tf.nest.flatten(tensors):
            values = get_numbers(leaf)
            if leaf is not None and leaf.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(values))):
                raise DataError(f"{part} of batch {number} holds NaN or Inf. Clean the data before scoring.")
    examples = int(tf.nest.flatten(x)[0].shape[0])
    if examples == 0:
        raise DataError(f"Batch {number} holds no examples.")
    return Batch(x, y, sample_weight, number, examples)
