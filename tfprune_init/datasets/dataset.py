"""Two splits of one kind of images in batches, and how they are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfprune_init.backend.batches import disable_autotuning

# Published names and sizes, so that a prepared copy that holds less is never reported as the real thing.
_PUBLISHED = {
    "mnist": ("MNIST", 60_000, 10_000),
    "fashion_mnist": ("Fashion-MNIST", 60_000, 10_000),
    "kmnist": ("KMNIST", 60_000, 10_000),
    "cifar10": ("CIFAR-10", 50_000, 10_000),
    "cifar100": ("CIFAR-100", 50_000, 10_000),
}


@dataclass(frozen=True)
class Dataset:
    """A training and a test set of the same kind of images.

    Attributes:
        name: "digits", or what TFDS calls it, with its configuration if it has several: "emnist/letters".
        train: Batches of (images as float32 in 0..1 with a channel axis, integer labels), shuffled once.
        test: The same for the held-out images (the validation split where there is no other), not shuffled.
        classes: Number of classes.
        input_shape: Shape of one image, (height, width, channels).
        train_size: Number of training images.
        test_size: Number of test images.
        description: One line that says what this is, to print beside every number measured on it.
    """

    name: str
    train: tf.data.Dataset
    test: tf.data.Dataset
    classes: int
    input_shape: tuple[int, int, int]
    train_size: int
    test_size: int
    description: str


def make_split(images: np.ndarray, labels: np.ndarray, seed: int | None = None) -> tf.data.Dataset:
    """Pair images with labels, in the order that a seed decides; in their own without one.

    Args:
        images: Array of shape (examples, height, width, channels), of any dtype.
        labels: Integers of shape (examples,).
        seed: A whole number of 0 or more, or None.
    """
    # A permutation by NumPy rather than a shuffle buffer, whose order also hangs on the global seed.
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(labels))
        images, labels = images[order], labels[order]
    return tf.data.Dataset.from_tensor_slices((images, labels))


def make_dataset(
    name: str,
    train: tf.data.Dataset,
    test: tf.data.Dataset,
    *,
    sizes: tuple[int, int],
    classes: int,
    input_shape: tuple[int, int, int],
    batch_size: int,
    white: int,
    held_out: str = "test",
) -> Dataset:
    """Make batches of both splits, with images as float32 in 0..1.

    Args:
        name: As in `Dataset.name`.
        train: Pairs of an image and a label, already shuffled.
        test: The same for the held-out examples.
        sizes: Number of examples in each.
        classes: Number of classes.
        input_shape: Shape of one image, (height, width, channels).
        batch_size: Examples a batch.
        white: The largest value that a pixel can have; images are divided by it.
        held_out: What the second split is called, for the description.
    """

    def to_unit(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(images, tf.float32) / white, labels

    train, test = (disable_autotuning(split.batch(batch_size).map(to_unit).prefetch(2)) for split in (train, test))
    description = _describe(name, sizes, classes, input_shape, held_out)
    return Dataset(name, train, test, classes, input_shape, *sizes, description)


def _describe(name: str, sizes: tuple[int, int], classes: int, input_shape: tuple[int, int, int], held_out: str) -> str:
    title, *published = _PUBLISHED.get(name, (name, *sizes))
    counts = [f"{size:,}" for size in sizes]
    if list(sizes) != published:
        title = f"{title} subset"
        counts = [f"{size} of {full:,}" for size, full in zip(counts, published, strict=True)]
    shape = "x".join(map(str, input_shape))
    return f"{title}: {counts[0]} training and {counts[1]} {held_out} images of {shape}, {classes} classes"
