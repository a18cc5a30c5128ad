"""The noise test of "How can we be so dense?": accuracy on images of which more and more pixels are overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.batches import to_dataset
from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.protocols import Model
from tfprune_init.checks import check_integer, check_number
from tfprune_init.errors import DataError, ModelError, OptionError
from tfprune_init.selection import count_kept

NOISE_LEVELS = tuple(step / 20 for step in range(11))
"""Shares of the pixels that the paper overwrites: 0, 0.05, ..., 0.5."""


@dataclass(frozen=True)
class NoiseTest:
    """What a network makes of noisy images.

    Attributes:
        levels: Shares of the pixels that were overwritten.
        pixels: Number of pixels overwritten in each image, by level.
        right: Number of images put into the right class, by level.
        examples: Number of images.
    """

    levels: tuple[float, ...]
    pixels: tuple[int, ...]
    right: tuple[int, ...]
    examples: int

    @property
    def score(self) -> int:
        """Images put into the right class, over all levels: the paper's noise score, of 110,000 for MNIST."""
        return sum(self.right)

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Share of images put into the right class, by level."""
        return tuple(right / self.examples for right in self.right)


def run_noise_test(
    model: Model, data: Any, *, levels: Sequence[float] = NOISE_LEVELS, value: float = 2.0, seed: int = 0
) -> NoiseTest:
    """Count the images put into the right class while a growing share of their pixels is overwritten.

    At each level floor(pixels * level) pixels of every image, drawn at random, become one value. The paper sets them to
    mean + 2 standard deviations before it standardizes, which is 2 in the images of
    `tpi.datasets.load(..., standardize=True)`. For images in 0..1 give that value of theirs, 0.7469 for MNIST. The
    model computes as in inference, and stays as it is.

    Args:
        model: A built model from images, (batch, height, width, channels), to a score for each class.
        data: Arrays of images and integer labels, or a batched dataset of both.
        levels: Shares of the pixels to overwrite, each in [0, 1].
        value: What they become, in all channels.
        seed: Seed of the draw; the same pixels are drawn however the images are batched.

    Returns:
        A NoiseTest.

    Raises:
        OptionError: If a level, the value or the seed is out of range.
        ModelError: If the model is unbuilt, or does not give a finite score for each class.
        DataError: If the data is empty or does not give images and integer labels.

    Example:
        >>> import tfprune_init as tpi
        >>> data = tpi.datasets.load("digits", standardize=True)
        >>> model = tpi.models.sparse_cnn_1(data.input_shape, data.classes, seed=0)
        >>> result = tpi.run_noise_test(model, data.test)
        >>> result.pixels
        (0, 3, 6, 9, 12, 16, 19, 22, 25, 28, 32)

    Reference:
        Ahmad & Scheinkman, "How can we be so dense? The benefits of using highly sparse representations", 2019,
        https://arxiv.org/abs/1903.11257
    """
    compat.check_model(model)
    check_integer("seed", seed, 0)
    check_number("value", value, "a finite number", lambda given: True)
    for level in levels:
        check_number("levels", level, "shares of the pixels, numbers in [0, 1]", lambda given: 0 <= given <= 1)
    if len(levels) == 0:
        raise OptionError(f"levels must be shares of the pixels, at least one. Received: levels={levels!r}.")
    classify = tf.function(lambda images: compat.call_model(model, images, False), reduce_retracing=True)
    draws = [np.random.default_rng([seed, place]) for place in range(len(levels))]
    right, counts, examples = np.zeros(len(levels), int), (0,) * len(levels), 0
    with restore_state(model):
        for number, batch in enumerate(to_dataset(data), start=1):
            images, labels = _read(batch[0], batch[1], number)
            size = images.shape[1] * images.shape[2]
            counts = tuple(count_kept(size, level) for level in levels)
            examples += len(images)
            for place, count in enumerate(counts):
                noisy = _overwrite(images, count, value, draws[place])
                right[place] += _count_right(classify(noisy), labels, number)
    return NoiseTest(tuple(levels), counts, tuple(right.tolist()), examples)


def _read(x: Any, y: Any, number: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = np.asarray(x), np.asarray(y)
    fits = images.ndim == 4 and labels.shape in ((len(images),), (len(images), 1))
    if not fits or not np.issubdtype(images.dtype, np.floating) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            "The noise test takes images of floats, (batch, height, width, channels), and an integer label for each. "
            f"Received in batch {number}: x of shape {images.shape} and {images.dtype}, y of shape {labels.shape} and "
            f"{labels.dtype}."
        )
    return images, labels.reshape(-1)


def _overwrite(images: np.ndarray, count: int, value: float, draw: np.random.Generator) -> np.ndarray:
    """Return images of which `count` pixels each, drawn at random, are a value."""
    noisy = images.reshape(len(images), -1, images.shape[-1]).copy()
    order = draw.random(noisy.shape[:2])
    if count:
        chosen = np.argpartition(order, count - 1, axis=1)[:, :count]
        noisy[np.arange(len(noisy))[:, None], chosen] = value
    return noisy.reshape(images.shape)


def _count_right(scores: Any, labels: np.ndarray, number: int) -> int:
    found = np.asarray(scores)
    if found.shape[:-1] != labels.shape or found.shape[-1] < 2 or not np.isfinite(found).all():
        raise ModelError(
            f"The noise test takes models that give a finite score for each of several classes. Received for batch "
            f"{number} of {len(labels)} images: outputs of shape {found.shape}, "
            f"{np.count_nonzero(~np.isfinite(found)):,} of them not finite."
        )
    return int(np.count_nonzero(found.argmax(axis=-1) == labels))
