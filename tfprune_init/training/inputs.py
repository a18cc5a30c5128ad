"""The data and the models of an experiment: the same at every run, in whatever form they are given."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.batches import to_dataset
from tfprune_init.backend.layer_copy import read_saved
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import DataError, ModelError, OptionError


@dataclass(frozen=True)
class ExperimentData:
    """Training and test data as `compare` takes them.

    Attributes:
        train: Examples to score connections and to train on: a batched dataset, or arrays.
        test: Examples to evaluate on, in the same forms.
    """

    train: Any
    test: Any

    def testing(self) -> tf.data.Dataset:
        """Make the batches to evaluate on."""
        return to_dataset(self.test)

    def fingerprint(self) -> str:
        """Hash every training and test example, in their order."""
        digest = hashlib.sha256()
        for name, part in (("train", self.train), ("test", self.test)):
            digest.update(name.encode())
            for element in to_dataset(part):
                for leaf in tf.nest.flatten(element):
                    array = np.ascontiguousarray(leaf.numpy())
                    digest.update(f"{array.shape}{array.dtype}".encode())
                    digest.update(array.tobytes())
        return digest.hexdigest()

    def labels(self) -> np.ndarray:
        """List the class of each test example, int64, shape (examples,).

        Raises:
            DataError: If the labels are neither integers nor one-hot rows.
        """
        return np.concatenate([_to_classes(element[1]) for element in self.testing()])


def _to_classes(given: Any) -> np.ndarray:
    labels: Any = np.asarray(given) if isinstance(given, tf.Tensor) else np.zeros(())
    if labels.ndim == 2 and labels.shape[1] > 1 and (labels >= 0).all() and np.allclose(labels.sum(-1), 1):
        return np.asarray(labels.argmax(-1))
    if labels.ndim == 0 or labels.size != len(labels) or (labels != np.round(labels)).any():
        raise DataError(
            "compare counts correct classes, so labels must be integers of shape (examples,) or (examples, 1), "
            f"or one-hot rows. Received: {given!r:.200}"
        )
    return np.asarray(labels.reshape(-1), np.int64)


def prepare_data(given: Any) -> ExperimentData:
    """Read the data of a comparison: a pair (train, test), an object that has both, or a function.

    Raises:
        DataError: If it is none of these.
    """
    if callable(given) and not hasattr(given, "train"):
        given = given()
    if hasattr(given, "train") and hasattr(given, "test"):
        given = given.train, given.test
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise DataError(
            "The data of a comparison is a pair (train, test), a dataset of tpi.datasets.load, or a function that "
            f"returns one. Received: {type(given).__qualname__}."
        )
    data = ExperimentData(*given)
    for part in (data.train, data.test):
        to_dataset(part)
    return data


def make_model(build_model: Callable[..., Any], seed: int) -> Any:
    """Build the untrained model at one seed.

    Keras's global seed is set first, and handed over where `build_model` has an argument of that name.

    Raises:
        ModelError: If it returns no built Keras model.
    """
    compat.set_random_seed(seed)
    model = build_model(seed=seed) if _takes_seed(build_model) else build_model()
    compat.check_model(model)
    return model


def compile_model(model: Model, optimizer: Any = None, loss: Any = None) -> None:
    """Compile a model that comes uncompiled, with accuracy.

    Args:
        model: The model.
        optimizer: A name, or a function that returns one; "adam" for None.
        loss: Sparse categorical cross-entropy of logits for None.

    Raises:
        OptionError: If it is compiled, and there is an optimizer or a loss to compile it with.
    """
    if compat.is_compiled(model):
        if optimizer is not None or loss is not None:
            raise OptionError("build_model returns a compiled model, so optimizer= and loss= have no effect.")
        return
    losses = compat.get_keras(model).losses
    made = optimizer() if callable(optimizer) else optimizer or "adam"
    model.compile(made, loss or losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])


def check_callable(build_model: Any) -> None:
    """Refuse what cannot be called to build models.

    Raises:
        OptionError: If it is no function, such as a model that is built already.
    """
    if compat.is_model(build_model) or not callable(build_model):
        raise OptionError(
            "build_model must be a function that returns a new untrained model at each call: "
            f"lambda: build(...), or def build(seed). Received: {type(build_model).__qualname__}."
        )


def _takes_seed(build_model: Callable[..., Any]) -> bool:
    try:
        return "seed" in inspect.signature(build_model).parameters
    except ValueError:
        return False


def model_fingerprint(model: Model) -> str:
    """Hash a model's architecture, weights, what else layers save, and compilation, but not the names of its layers."""
    digest = hashlib.sha256()
    names = {layer.name: f"layer {place}" for place, layer in enumerate([model, *compat.walk_layers(model)])}
    for part in _get_configs(model):
        digest.update(repr(_to_plain(part, names)).encode())
    counted = {id(variable) for variable in compat.get_variables(model)}
    for variable in model.weights:
        if id(variable) not in counted:
            continue  # a vocabulary of tf_keras, which is among what is saved
        array = np.ascontiguousarray(variable)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    for name, content in read_saved(model):
        digest.update(name.encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()


def _get_configs(model: Model) -> Iterator[Any]:
    yield type(model).__qualname__
    try:
        yield model.get_config()
    except NotImplementedError:  # a subclassed model without a configuration: its source stands for it
        yield _get_source(type(model))
    if compat.is_compiled(model):
        try:
            yield model.get_compile_config()
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ModelError(
                f"The optimizer, loss or metrics of {model.name!r} cannot be converted to a configuration, so runs "
                f"could not be distinguished: {error}. Give them a get_config, or register them with Keras."
            ) from error


def _to_plain(value: Any, names: dict[str, str]) -> Any:
    """Copy nested plain values with sorted keys, layers by number, and no names, since Keras numbers those."""
    if isinstance(value, dict):
        return {str(key): _to_plain(value[key], names) for key in sorted(value, key=str) if key != "name"}
    if isinstance(value, (list, tuple)):
        return [_to_plain(entry, names) for entry in value]
    if isinstance(value, str):
        return names.get(value, value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, np.ndarray):
        return value.tolist()
    return _get_source(value) if inspect.isfunction(value) else type(value).__qualname__


def _get_source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return getattr(thing, "__qualname__", type(thing).__qualname__)
