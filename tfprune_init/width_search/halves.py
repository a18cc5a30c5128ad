"""The data of a search: two halves of each class, in batches of one size."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend.batches import to_dataset
from tfprune_init.errors import DataError
from tfprune_init.width_search.networks import ResNetSpace


class DataHalves:
    """Two halves of labelled images, with as many of each class in both, or one more in the first.

    Args:
        space: The networks that they are for.
        data: Images and integer labels: a pair of arrays, or a batched tf.data.Dataset, which is read into memory.
        batch_size: Examples of a batch; all of a half if it has fewer.
        seed: Decides the halves, and the order of each in each epoch.

    Attributes:
        batch_size: Examples of a batch.
        steps_per_epoch: Batches of each half in an epoch; examples left over wait for the next, in another order.

    Raises:
        DataError: If images or labels do not fit the space, or there are fewer than two examples of a class.
    """

    def __init__(self, space: ResNetSpace, data: Any, batch_size: int, seed: int):
        self._images, self._labels = _read(space, data)
        self._seed = seed
        self.rows = _split(self._labels, seed)
        smallest = min(map(len, self.rows))
        self.batch_size = min(batch_size, smallest)
        self.steps_per_epoch = smallest // self.batch_size

    def take(self, half: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels of one half, 0 or 1, in a step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self._seed, half, epoch]).permutation(self.rows[half])
        chosen = order[within * self.batch_size : (within + 1) * self.batch_size]
        return self._images[chosen], self._labels[chosen]


def _read(space: ResNetSpace, data: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(data, tf.data.Dataset):
        batches = [tuple(map(np.asarray, element)) for element in to_dataset(data).as_numpy_iterator()]
        parts: Any = tuple(map(np.concatenate, zip(*batches, strict=True)))
    else:
        parts = data
    if not isinstance(parts, (tuple, list)) or len(parts) != 2:
        raise DataError(
            "The data of a search are images and labels: a pair of arrays, or a batched tf.data.Dataset of pairs. "
            f"Received: {data!r:.200}."
        )
    images, labels = np.asarray(parts[0]), np.asarray(parts[1])
    if images.shape[1:] != tuple(space.input_shape) or labels.shape != images.shape[:1]:
        raise DataError(
            f"The space has images of {space.input_shape} and a label each. Received: images of shape {images.shape}, "
            f"labels of shape {labels.shape}."
        )
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0 or labels.max(initial=0) >= space.classes:
        raise DataError(
            f"Labels must be integers from 0 to {space.classes - 1}. Received: {labels.dtype} from "
            f"{labels.min(initial=0)} to {labels.max(initial=0)}."
        )
    images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise DataError("The images hold NaN or Inf.")
    return images, labels.astype(np.int64)


def _split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of both halves."""
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number in np.unique(labels):
        rows = np.random.default_rng([seed, int(number)]).permutation(np.flatnonzero(labels == number))
        if len(rows) < 2:
            raise DataError(f"Both halves need an example of each class. Received: one example of class {number}.")
        middle = -(-len(rows) // 2)
        halves[0].append(rows[:middle])
        halves[1].append(rows[middle:])
    if not halves[0]:
        raise DataError("The data of the search are empty.")
    return np.concatenate(halves[0]), np.concatenate(halves[1])
