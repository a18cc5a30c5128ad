"""The data and the models of an experiment: however they are given, the same at every run."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.batches import ARRAY_BATCH, as_dataset, untuned
from tfprune_init.errors import DataError, ModelError, OptionError


@dataclass(frozen=True)
class Data:
    """Training and test data as `compare` takes them.

    Attributes:
        train: What connections are judged by, and what is trained on: a batched dataset, or arrays.
        test: What is evaluated: the same kinds.
    """

    train: Any
    test: Any

    def training(self, seed: int) -> tf.data.Dataset:
        """Batches to train on: a dataset as it is; arrays in a new order every epoch, drawn from `seed`."""
        if isinstance(self.train, tf.data.Dataset):
            return untuned(self.train)
        examples = tf.data.Dataset.from_tensor_slices(tuple(self.train))
        size = int(examples.cardinality())
        return untuned(examples.shuffle(size, seed=seed, reshuffle_each_iteration=True).batch(ARRAY_BATCH).prefetch(2))

    def testing(self) -> tf.data.Dataset:
        """Batches to evaluate on."""
        return as_dataset(self.test)

    def fingerprint(self) -> str:
        """A hash of every training and test example, in their order."""
        digest = hashlib.sha256()
        for name, part in (("train", self.train), ("test", self.test)):
            digest.update(name.encode())
            for element in as_dataset(part):
                for leaf in tf.nest.flatten(element):
                    array = np.ascontiguousarray(leaf.numpy())
                    digest.update(f"{array.shape}{array.dtype}".encode())
                    digest.update(array.tobytes())
        return digest.hexdigest()

    def labels(self) -> np.ndarray:
        """Class of each test example, shape (examples,).

        Raises:
            DataError: If the labels are neither integers nor one-hot rows.
        """
        return np.concatenate([_classes(element[1]) for element in self.testing()])


def _classes(given: Any) -> np.ndarray:
    labels: Any = np.asarray(given) if isinstance(given, tf.Tensor) else np.zeros(())
    if labels.ndim == 2 and labels.shape[1] > 1 and (labels >= 0).all() and np.allclose(labels.sum(-1), 1):
        return labels.argmax(-1)
    if labels.ndim == 0 or labels.size != len(labels) or (labels != np.round(labels)).any():
        raise DataError(
            "compare counts right classes, so labels are integers of shape (examples,) or (examples, 1), or one-hot "
            f"rows. Received: {given!r:.200}"
        )
    return labels.reshape(-1).astype(np.int64)


def data_of(given: Any) -> Data:
    """The data of a comparison: a pair (train, test), what has these as attributes, or a function that returns either.

    Raises:
        DataError: If it is none of these.
    """
    if callable(given) and not hasattr(given, "train"):
        given = given()
    if hasattr(given, "train") and hasattr(given, "test"):
        given = given.train, given.test
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise DataError(
            "The data of a comparison is a pair (train, test), a data set of tpi.datasets.load, or a function that "
            f"returns one. Received: {type(given).__qualname__}."
        )
    data = Data(*given)
    for part in (data.train, data.test):
        as_dataset(part)
    return data


def model_at(build_model: Callable[..., Any], seed: int) -> Any:
    """The untrained model at one seed.

    Keras's global seed is set first, and handed over where `build_model` has an argument of that name.

    Raises:
        ModelError: If it returns no built Keras model.
    """
    kerases.set_random_seed(seed)
    model = build_model(seed=seed) if _takes_seed(build_model) else build_model()
    kerases.check_model(model)
    return model


def check_callable(build_model: Any) -> None:
    """Refuse what cannot be called to build models.

    Raises:
        OptionError: If it is no function, such as a model that is built already.
    """
    if kerases.is_model(build_model) or not callable(build_model):
        raise OptionError(
            "build_model is a function that returns a new untrained model at each call, as each run trains its own: "
            f"lambda: build(...), or def build(seed). Received: {type(build_model).__qualname__}."
        )


def _takes_seed(build_model: Callable[..., Any]) -> bool:
    try:
        return "seed" in inspect.signature(build_model).parameters
    except ValueError:
        return False


def model_fingerprint(model: Any) -> str:
    """A hash of a model's architecture, weights and compilation, whatever its layers are called."""
    digest = hashlib.sha256()
    names = {layer.name: f"layer {place}" for place, layer in enumerate([model, *kerases.layers_below(model)])}
    for part in _configurations(model):
        digest.update(repr(_plain(part, names)).encode())
    for variable in model.weights:
        array = np.ascontiguousarray(variable)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _configurations(model: Any) -> Iterator[Any]:
    yield type(model).__qualname__
    try:
        yield model.get_config()
    except NotImplementedError:  # a subclassed model without a configuration: its source stands for it
        yield _source(type(model))
    if kerases.is_compiled(model):
        try:
            yield model.get_compile_config()
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ModelError(
                f"The optimizer, loss or metrics of {model.name!r} cannot be put into a configuration, so runs could "
                f"not be told apart: {error}. Give them a get_config, or register them with Keras."
            ) from error


def _plain(value: Any, names: dict[str, str]) -> Any:
    """The same nest of plain values, keys in order, layers by number, and no names, which Keras counts up."""
    if isinstance(value, dict):
        return {str(key): _plain(value[key], names) for key in sorted(value, key=str) if key != "name"}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, names) for entry in value]
    if isinstance(value, str):
        return names.get(value, value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, np.ndarray):
        return value.tolist()
    return _source(value) if inspect.isfunction(value) else type(value).__qualname__


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return getattr(thing, "__qualname__", type(thing).__qualname__)
