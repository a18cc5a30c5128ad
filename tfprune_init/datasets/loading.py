"""Datasets by name: those registered here, and all others that TFDS knows."""

from __future__ import annotations

import os
from collections.abc import Callable

from tfprune_init.checks import check_integer
from tfprune_init.datasets.dataset import Dataset
from tfprune_init.datasets.digits import load_digits
from tfprune_init.datasets.tfds import load_from_tfds
from tfprune_init.registry import Registry

DATASETS: Registry[Callable[[int, int], Dataset]] = Registry("dataset")
"""Functions of batch size and seed, for datasets that do not come from TFDS."""

DATASETS.register("digits", load_digits)


def load(
    name: str = "digits",
    data_dir: str | os.PathLike[str] | None = None,
    *,
    batch_size: int = 128,
    seed: int = 0,
) -> Dataset:
    """Load an image classification dataset, ready to prune and train on.

    The training images are shuffled once, by `seed` alone, and come in that order in every epoch (as with
    `reshuffle_each_iteration=False`). Scores are computed on the first batches, and the same model, data and seed must
    give the same masks. To train on a new order in every epoch, shuffle again:
    `ds.train.unbatch().shuffle(10_000).batch(128)`.

    Args:
        name: "digits" (scikit-learn's 8x8 digits, needs no download) or any image classification dataset
            of TensorFlow Datasets whose images share one size, such as "mnist" or "cifar10".
        data_dir: Folder of prepared TFDS data. Default: the environment variable TFDS_DATA_DIR, else
            ~/tensorflow_datasets. "digits" needs none.
        batch_size: Examples a batch; the last batch may be shorter.
        seed: Decides the order of the training images. For datasets too large for memory the order also
            depends on `tf.random.set_seed`, as for every shuffle buffer. The split never depends on it.

    Returns:
        A `Dataset`.

    Raises:
        DatasetUnavailableError: If it is not prepared and cannot be downloaded, or a package it needs is missing.
        MissingDependencyError: If scikit-learn or TensorFlow Datasets is missing.
        DataError: If it is not an image classification dataset with images of one size and a held-out split.
        OptionError: If no dataset has this name, or `batch_size` or `seed` is out of range.

    Example:
        >>> ds = load("digits", batch_size=64)
        >>> ds.description
        'digits: 1,437 training and 360 test images of 8x8x1, 10 classes'
        >>> images, labels = next(iter(ds.train))
        >>> images.shape.as_list(), labels.shape.as_list()
        ([64, 8, 8, 1], [64])
    """
    batch_size, seed = check_integer("batch_size", batch_size, 1), check_integer("seed", seed, 0)
    if name in DATASETS:
        return DATASETS[name](batch_size, seed)
    return load_from_tfds(name, data_dir, batch_size, seed)
