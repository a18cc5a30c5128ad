"""Image classification data of TensorFlow Datasets (TFDS)."""

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
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.checks import suggest
from tfprune_init.datasets.dataset import Dataset, make_dataset, make_split
from tfprune_init.errors import DataError, DatasetUnavailableError, MissingDependencyError, OptionError

# The host TFDS tries first for every dataset; if it cannot be reached, neither can a download succeed.
_PROBE_ADDRESS = ("storage.googleapis.com", 443)
_PROBE_SECONDS = 3.0

# Datasets up to this size are decoded once and kept; larger ones are streamed from disk in every epoch.
_IN_MEMORY_BYTES = 1 << 30


def load_from_tfds(name: str, data_dir: str | os.PathLike[str] | None, batch_size: int, seed: int) -> Dataset:
    """Load a dataset that TFDS knows, preparing it if it is not prepared yet; see `tfprune_init.datasets.load`."""
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
        train = make_split(train["image"].numpy(), train["label"].numpy(), seed)
        test = make_split(test["image"].numpy(), test["label"].numpy())
    else:
        train, test = (
            split.map(lambda example: (example["image"], example["label"]), tf.data.AUTOTUNE)
            for split in builder.as_dataset(split=["train", test_split], shuffle_files=False)
        )
        buffer = max(1, _IN_MEMORY_BYTES // example_bytes)
        train = train.shuffle(buffer, seed=seed, reshuffle_each_iteration=False)
    # The canonical name, so that "Cifar10" and "cifar10:3.0.2" are recognized as well.
    config = builder.builder_config
    return make_dataset(
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


@contextlib.contextmanager
def _hide_absl_warnings() -> Iterator[None]:
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
