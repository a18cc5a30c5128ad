"""Two splits of one kind of images in batches, and how they are made."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from tfprune_init.backend.batches import disable_autotuning
from tfprune_init.errors import DataError

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
        train: Batches of (images as float32 in 0..1, or standardized, with a channel axis, integer labels), shuffled
            once.
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


def standardize(dataset: Dataset) -> Dataset:
    """Subtract the mean of each channel's training pixels from all images, and divide by their standard deviation.

    Args:
        dataset: The images; both splits are changed by the training split's numbers.

    Raises:
        DataError: If all training pixels of a channel are equal.
    """
    count, total, squares = 0, np.zeros(dataset.input_shape[-1]), np.zeros(dataset.input_shape[-1])
    for images, _ in dataset.train.as_numpy_iterator():
        pixels = images.reshape(-1, images.shape[-1]).astype(np.float64)
        count, total, squares = count + len(pixels), total + pixels.sum(0), squares + np.square(pixels).sum(0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    if (deviation < 1e-6).any():
        raise DataError(
            f"Images of {dataset.name!r} cannot be standardized: all pixels of a channel are equal. Received: standard "
            f"deviations {deviation.tolist()}. Load them with standardize=False."
        )

    def shift(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (images - mean.astype(np.float32)) / deviation.astype(np.float32), labels

    train, test = (disable_autotuning(split.map(shift)) for split in (dataset.train, dataset.test))
    return replace(dataset, train=train, test=test, description=f"{dataset.description}, standardized")


def _describe(name: str, sizes: tuple[int, int], classes: int, input_shape: tuple[int, int, int], held_out: str) -> str:
    title, *published = _PUBLISHED.get(name, (name, *sizes))
    counts = [f"{size:,}" for size in sizes]
    if list(sizes) != published:
        title = f"{title} subset"
        counts = [f"{size} of {full:,}" for size, full in zip(counts, published, strict=True)]
    shape = "x".join(map(str, input_shape))
    return f"{title}: {counts[0]} training and {counts[1]} {held_out} images of {shape}, {classes} classes"
