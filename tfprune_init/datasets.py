"""Image classification data for examples, tests and experiments; the default needs no network."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend.batches import disable_autotuning
from tfprune_init.checks import check_integer, suggest
from tfprune_init.errors import DataError, DatasetUnavailableError, MissingDependencyError, OptionError

# The host TFDS tries first for every dataset; if it cannot be reached, neither can a download succeed.
_PROBE_ADDRESS = ("storage.googleapis.com", 443)
_PROBE_SECONDS = 3.0

# Datasets up to this size are decoded once and kept; larger ones are streamed from disk in every epoch.
_IN_MEMORY_BYTES = 1 << 30

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
    if name == "digits":
        return _load_digits(batch_size, seed)
    return _load_tfds(name, data_dir, batch_size, seed)


def _load_digits(batch_size: int, seed: int) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("The dataset 'digits'", "scikit-learn", "data", str(error)) from error
    digits = load_digits()
    images = digits.images[..., np.newaxis].astype(np.uint8)
    labels = digits.target.astype(np.int64)
    # Every fifth image of the list sorted by class: 20% of each class, whatever the scikit-learn version.
    by_class = np.argsort(labels, kind="stable")
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[by_class[::5]] = True
    return _make_dataset(
        "digits",
        _make_split(images[~held_out], labels[~held_out], seed),
        _make_split(images[held_out], labels[held_out]),
        sizes=(int(np.sum(~held_out)), int(np.sum(held_out))),
        classes=10,
        input_shape=(8, 8, 1),
        batch_size=batch_size,
        white=16,
    )


def _load_tfds(name: str, data_dir: str | os.PathLike[str] | None, batch_size: int, seed: int) -> Dataset:
    # TFDS reads TFDS_DATA_DIR only once, when it is imported; looking here makes a later change count.
    folder = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    builder = _find_builder(name, folder)
    image, label = _find_image_and_label(name, builder.info.features)
    # TFDS warns of a folder that holds no data, which `_download` reports or mends.
    with _hide_absl_warnings():
        prepared = builder.is_prepared()
    if not prepared:
        _download(name, builder, data_dir)
    splits = builder.info.splits
    test_split = next((split for split in ("test", "validation") if split in splits), None)
    if test_split is None or "train" not in splits:
        raise DataError(
            f"{name!r} needs a 'train' split and a 'test' or 'validation' split. Received: the splits "
            f"{sorted(splits)} in {builder.data_path}. Cut one of them in two and build the batches yourself."
        )
    sizes = (splits["train"].num_examples, splits[test_split].num_examples)
    pixel = np.dtype(image.np_dtype)
    example_bytes = math.prod(image.shape) * pixel.itemsize
    if sum(sizes) * example_bytes <= _IN_MEMORY_BYTES:
        train, test = builder.as_dataset(split=["train", test_split], batch_size=-1)
        train = _make_split(train["image"].numpy(), train["label"].numpy(), seed)
        test = _make_split(test["image"].numpy(), test["label"].numpy())
    else:
        train, test = (
            split.map(lambda example: (example["image"], example["label"]), tf.data.AUTOTUNE)
            for split in builder.as_dataset(split=["train", test_split], shuffle_files=False)
        )
        buffer = max(1, _IN_MEMORY_BYTES // example_bytes)
        train = train.shuffle(buffer, seed=seed, reshuffle_each_iteration=False)
    # The canonical name, so that "Cifar10" and "cifar10:3.0.2" are recognized as well.
    config = builder.builder_config
    return _make_dataset(
        f"{builder.name}/{config.name}" if config else builder.name,
        train,
        test,
        sizes=sizes,
        classes=label.num_classes,
        input_shape=tuple(image.shape),
        batch_size=batch_size,
        white=np.iinfo(pixel).max,
        held_out=test_split,
    )


def _find_builder(name: str, folder: str | os.PathLike[str]) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise MissingDependencyError(f"The dataset {name!r}", "tensorflow-datasets", "data", str(error)) from error
    try:
        return tfds.builder(name, data_dir=folder)
    except tfds.core.registered.DatasetNotFoundError as error:
        hint = f"{suggest(name.lower(), ['digits', *tfds.list_builders()])} See tfds.list_builders()."
        raise OptionError(f"There is no dataset of this name. Received: name={name!r}. {hint}") from error
    except (ValueError, AssertionError) as error:
        raise OptionError(
            "The name of a dataset is 'name', 'name/config' or 'name:version'. "
            f"Received: name={name!r}. TFDS says: {str(error).splitlines()[0]}"
        ) from error
    except ImportError as error:
        raise DatasetUnavailableError(
            f'{name!r} needs a package that is not installed. Received: {error}. Install it, or load "digits" instead.'
        ) from error


def _find_image_and_label(name: str, features: Any) -> tuple[Any, Any]:
    import tensorflow_datasets as tfds

    features = dict(features.items())
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise DataError(
            f"{name!r} is not an image classification dataset: that takes the features 'image' and 'label'. "
            f"Received: the features {sorted(features)}. "
            'Try "digits", "mnist" or "cifar10", or pass your own batches.'
        )
    pixel = np.dtype(image.np_dtype)
    if None in image.shape or not np.issubdtype(pixel, np.integer):
        raise DataError(
            f"{name!r} must hold integer pixels in images of one size, to be batched. Received: images "
            f"of shape {image.shape} and type {pixel}. Resize and scale them, and pass your own batches."
        )
    return image, label


def _download(name: str, builder: Any, data_dir: str | os.PathLike[str] | None) -> None:
    advice = (
        f'Received: name={name!r}, data_dir={data_dir!r}. Try load("digits"), which needs no network; point '
        "data_dir (or TFDS_DATA_DIR) at a folder where it is prepared; or prepare it on a machine with a "
        f"network, `tfds build {name}`, and copy the folder."
    )
    # Without a network TFDS retries for minutes before it gives up.
    if not _is_network_reachable():
        raise DatasetUnavailableError(
            f"{name!r} is not prepared in {builder.data_path}, and there is no network to download it "
            f"({_PROBE_ADDRESS[0]} does not answer). {advice}"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise DatasetUnavailableError(
            f"{name!r} is not prepared in {builder.data_path}, and its download failed: {error}. {advice}"
        ) from error


def _is_network_reachable() -> bool:
    host, port = _PROBE_ADDRESS
    proxy = urllib.request.getproxies().get("https")
    if proxy:
        url = urllib.parse.urlsplit(proxy if "://" in proxy else f"//{proxy}")
        host, port = url.hostname or host, url.port or 80
    reached = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_PROBE_SECONDS):
            reached.set()

    # In a thread of its own, because the timeout of a socket does not bound the look-up of the host name.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return reached.is_set()


def _make_split(images: np.ndarray, labels: np.ndarray, seed: int | None = None) -> tf.data.Dataset:
    # A permutation by NumPy rather than a shuffle buffer, whose order also hangs on the global seed.
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(labels))
        images, labels = images[order], labels[order]
    return tf.data.Dataset.from_tensor_slices((images, labels))


def _make_dataset(
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


@contextlib.contextmanager
def _hide_absl_warnings() -> Iterator[None]:
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
