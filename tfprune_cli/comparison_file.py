"""The TOML file of `tfprune compare`: read, checked, and turned into what `tpi.compare` takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import keras

from tfprune_cli.data import call_function, import_module, load_data, names_function
from tfprune_cli.losses import check_loss_options, find_loss
from tfprune_init import models
from tfprune_init.checks import suggest
from tfprune_init.errors import OptionError
from tfprune_init.records import check_record
from tfprune_init.training.inputs import prepare_data

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PASSED_ON = ("methods", "sparsities", "seeds", "epochs", "out", "dense", "on_collapse", "processes")
"""Keys that `tpi.compare` takes as they are."""

_REQUIRED = ("model", "data", "methods", "sparsities", "out")


class _Settings(TypedDict, total=False):
    """The keys that mean something, with what each may be."""

    model: str
    data: str
    data_dir: str
    methods: list[str | dict[str, Any]]
    sparsities: list[float]
    seeds: int | list[int]
    epochs: int
    out: str
    dense: bool
    on_collapse: str
    processes: int
    optimizer: Any  # checked where it is made
    loss: str
    from_logits: bool


def read_config(path: str) -> dict[str, Any]:
    """Read what a file asks for.

    Raises:
        OptionError: If it is not TOML, misses a key, has one that means nothing, or a value of another type.
    """
    try:
        settings = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is not TOML: {error}.") from error
    except IsADirectoryError as error:
        raise OptionError(f"A TOML file is needed, and this is a folder. Received: {path!r}") from error
    for key in settings:
        if key not in _Settings.__annotations__:
            known = sorted(_Settings.__annotations__)
            raise OptionError(f"{path} has a key that means nothing: {key!r}. {suggest(key, known, list_all=True)}")
    missing = [key for key in _REQUIRED if key not in settings]
    if missing:
        raise OptionError(f"{path} does not say {', '.join(missing)}. See `tfprune compare -h`.")
    check_record(settings, _Settings, path)
    return settings


@dataclass(frozen=True)
class NamedData:
    """A function that loads data of a name; other processes can be given it."""

    name: str
    data_dir: str | None

    def __call__(self) -> Any:
        """Load the data."""
        if names_function(self.name):
            return call_function(self.name)
        return load_data(self.name, self.data_dir)


@dataclass(frozen=True)
class _LibraryModel:
    """A function that builds a model of tfprune_init.models for the shape of the data."""

    name: str
    input_shape: tuple[int, ...]
    classes: int

    def __call__(self, seed: int) -> Any:
        return getattr(models, self.name)(self.input_shape, self.classes, seed=seed)


@dataclass(frozen=True)
class _NamedOptimizer:
    """A function that makes an optimizer of a configuration."""

    name: str
    settings: tuple[tuple[str, Any], ...]

    def __call__(self) -> Any:
        return keras.optimizers.get({"class_name": self.name, "config": dict(self.settings)})


def find_model(name: Any, data: Callable[[], Any]) -> Any:
    """Return the function that builds the model of that name.

    Args:
        name: A model of `tfprune_init.models`, or "package.module:function".
        data: Returns the data, whose shape a model of the library is built for.

    Raises:
        OptionError: If there is none.
    """
    if isinstance(name, str) and names_function(name):
        module, function = name.split(":")
        try:
            return getattr(import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise OptionError(f"model = {name!r} can't be found: {error}.") from error
    if name not in models.__all__:
        raise OptionError(
            f"model is one of {', '.join(models.__all__)}, or package.module:function. Received: {name!r}"
        )
    loaded = prepare_data(data)
    images = next(iter(loaded.testing()))[0]
    shape = tuple(int(size) for size in images.shape[1:])
    classes = 1 + int(loaded.labels().max())
    return _LibraryModel(str(name), shape, classes)


def make_optimizer(given: Any) -> Any:
    """Return a function that makes an optimizer of a name or a table; None for None.

    Raises:
        OptionError: If Keras cannot make it.
    """
    if given is None:
        return None
    settings = {"name": given} if isinstance(given, str) else given
    if not isinstance(settings, Mapping) or not isinstance(settings.get("name"), str):
        raise OptionError(
            f'optimizer is a name, or a table such as {{ name = "Adam", learning_rate = 0.002 }}. Received: {given!r}'
        )
    made = _NamedOptimizer(settings["name"], tuple((k, v) for k, v in settings.items() if k != "name"))
    try:
        made()
    except (ValueError, TypeError) as error:
        raise OptionError(f"optimizer = {dict(settings)!r} can't be made: {str(error).splitlines()[0]}") from error
    return made


def find_loss_named(name: Any, from_logits: Any) -> Any:
    """Return Keras's loss of that name; None for None.

    Raises:
        OptionError: If there is none, or `from_logits` has no effect.
    """
    if name is None:
        if from_logits is not None:
            raise OptionError("from_logits is of a loss: give loss too.")
        return None
    check_loss_options(str(name), bool(from_logits))
    return find_loss(keras, str(name), bool(from_logits))
