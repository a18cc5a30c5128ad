"""The command `tfprune compare`: a comparison that a TOML file describes."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from tfprune_cli.data import call_function, check_data_options, import_module, load_data, names_function
from tfprune_cli.loss import check_loss_options, loss_named
from tfprune_init import models
from tfprune_init.errors import OptionError
from tfprune_init.experiments import compare
from tfprune_init.experiments.sources import data_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_REQUIRED = ("model", "data", "methods", "sparsities", "out")
_PASSED_ON = ("methods", "sparsities", "seeds", "epochs", "out", "dense", "processes")
_KEYS = (*_PASSED_ON, "model", "data", "data_dir", "optimizer", "loss", "from_logits")


def run(config: str, given: Mapping[str, Any], as_json: bool, console: Console) -> None:
    """Compare, and print the summary.

    Args:
        config: The TOML file.
        given: What the command line says instead of the file.
        as_json: Whether to print the summary as JSON instead of a table.
        console: Where to print.

    Raises:
        PruningError: If the file or what it asks for is wrong.
    """
    settings = {**read_config(config), **given}
    data = _NamedData(settings["data"], settings.get("data_dir"))
    check_data_options(data.name, data.data_dir)
    results = compare(
        _model_named(settings["model"], data),
        data,
        optimizer=_optimizer(settings.get("optimizer")),
        loss=_loss(settings.get("loss"), settings.get("from_logits")),
        verbose=0 if as_json else 1,
        **{key: settings[key] for key in _PASSED_ON if key in settings},
    )
    if as_json:
        shown = {"out": str(results.out), "summary": [asdict(row) for row in results.summary()]}
        console.file.write(json.dumps(shown, indent=2) + "\n")
        return
    results.print(console.file)
    console.print(f"Runs, results.csv and results.jsonl are in {results.out}", highlight=False, soft_wrap=True)


def read_config(path: str) -> dict[str, Any]:
    """What a file asks for.

    Raises:
        OptionError: If it is not TOML, misses a key, or has one that means nothing.
    """
    try:
        settings = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not TOML: {error}.") from error
    except IsADirectoryError as error:
        raise OptionError(f"A TOML file is needed, and this is a folder. Received: {path!r}") from error
    for key in settings:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=2) or sorted(_KEYS)
            raise OptionError(f"{path} has a key that means nothing: {key!r}. Nearest: {', '.join(near)}.")
    missing = [key for key in _REQUIRED if key not in settings]
    if missing:
        raise OptionError(f"{path} does not say {', '.join(missing)}. See `tfprune compare -h`.")
    return settings


@dataclass(frozen=True)
class _NamedData:
    """A function that loads data of a name; other processes can be given it."""

    name: str
    data_dir: str | None

    def __call__(self) -> Any:
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


def _model_named(name: Any, data: _NamedData) -> Any:
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
    loaded = data_of(data)
    images = next(iter(loaded.testing()))[0]
    shape = tuple(int(size) for size in images.shape[1:])
    classes = 1 + int(loaded.labels().max())
    return _LibraryModel(str(name), shape, classes)


def _optimizer(given: Any) -> Any:
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


def _loss(name: Any, from_logits: Any) -> Any:
    if name is None:
        if from_logits is not None:
            raise OptionError("from_logits is of a loss: give loss too.")
        return None
    check_loss_options(str(name), bool(from_logits))
    return loss_named(keras, str(name), bool(from_logits))
