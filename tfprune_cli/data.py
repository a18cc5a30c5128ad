"""The data that `--data` names: digits, a data set of TFDS, or what a function of the user's own returns."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.batches import ARRAY_BATCH, disable_autotuning, to_dataset
from tfprune_init.backend.protocols import Model
from tfprune_init.checks import suggest
from tfprune_init.datasets import DATASETS, Dataset, load
from tfprune_init.errors import DataError, OptionError

_TFDS = "tfds:"
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_SHUFFLED = 10_000


@dataclass(frozen=True)
class CommandData:
    """Named data, split in two.

    Attributes:
        train: Batches of (x, y) or (x, y, sample_weight), the same in every walk through them.
        test: The same, held out.
        description: What it is, to print beside every number measured on it.
        batch_size: Examples a batch; None where the batches are those of a function of the user's own.
    """

    train: tf.data.Dataset
    test: tf.data.Dataset
    description: str
    batch_size: int | None

    def epoch(self, seed: int) -> tf.data.Dataset:
        """Return the training data in another order for each seed; batches of the user's own are left as they are."""
        if self.batch_size is None:
            return self.train
        shuffled = self.train.unbatch().shuffle(_SHUFFLED, seed=seed, reshuffle_each_iteration=False)
        return disable_autotuning(shuffled.batch(self.batch_size).prefetch(2))


def check_data_options(name: str | None, data_dir: str | None) -> None:
    """Refuse what can't be data, before anything is loaded.

    Args:
        name: What `--data` says.
        data_dir: What `--data-dir` says.

    Raises:
        OptionError: If `name` has none of the three forms, or `data_dir` no effect.
    """
    if name is not None and not (name in DATASETS or name.startswith(_TFDS) or names_function(name)):
        raise OptionError(
            f"--data takes {', '.join(DATASETS)}, tfds:NAME, such as tfds:mnist, or package.module:function. "
            f"Received: {name!r}"
        )
    if data_dir is not None and not (name or "").startswith(_TFDS):
        raise OptionError("--data-dir is for data sets of TFDS: it needs --data tfds:NAME.")


def names_function(name: str) -> bool:
    """Return whether a name is of the form "package.module:function"; "tfds:NAME" is not."""
    return not name.startswith(_TFDS) and _FUNCTION.fullmatch(name) is not None


def load_data(name: str, data_dir: str | None = None, *, batch_size: int | None = None, seed: int = 0) -> CommandData:
    """Load the data of that name.

    Args:
        name: "digits", "tfds:" and the name of a data set of TFDS, or "package.module:function". Modules are also
            looked for in the current folder; the function takes nothing and returns a `Dataset` or (train, test),
            each a batched tf.data.Dataset or a tuple of arrays.
        data_dir: Folder of prepared TFDS data.
        batch_size: Examples a batch; 128 by default.
        seed: Decides the order of the training examples of digits and TFDS.

    Raises:
        OptionError: If there is no such data, or an option has no effect on it.
        DataError: If the function fails or returns something else.
        DatasetUnavailableError: If a data set of TFDS isn't prepared and can't be downloaded.
    """
    check_data_options(name, data_dir)
    if names_function(name):
        return _from_function(name, batch_size)
    size = batch_size or ARRAY_BATCH
    dataset = load(name.removeprefix(_TFDS), data_dir, batch_size=size, seed=seed)
    return CommandData(dataset.train, dataset.test, dataset.description, size)


def first_outputs(model: Model, data: CommandData) -> Any:
    """Return what a model gives for the first batch: the least that shows whether the data suits it.

    Raises:
        DataError: If the model does not take the data, or there is none.
    """
    for batch in data.train.take(1):
        try:
            return compat.call_model(model, batch[0], training=False)
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise DataError(f"Model {model.name!r} does not take {data.description}. {error}") from error
    raise DataError(f"There is no batch to train on. Received: {data.description}.")


def _from_function(name: str, batch_size: int | None) -> CommandData:
    returned = call_function(name)
    if isinstance(returned, Dataset):
        _refuse_batch_size(name, batch_size)
        return CommandData(returned.train, returned.test, returned.description, None)
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        kind = f"{len(returned)} parts" if isinstance(returned, (tuple, list)) else type(returned).__name__
        raise DataError(
            f"{name} must return (train, test), each batches or a tuple of arrays, or a "
            f"tfprune_init.datasets.Dataset. Received: {kind}."
        )
    in_arrays = not any(isinstance(part, tf.data.Dataset) for part in returned)
    if not in_arrays:
        _refuse_batch_size(name, batch_size)
    size = batch_size or ARRAY_BATCH
    train, test = (_batches(name, part, split, size) for part, split in zip(returned, ("train", "test"), strict=True))
    counts = [_examples(part) if in_arrays else _batch_count(part) for part in (train, test)]
    kind = "examples" if in_arrays else "batches"
    described = f"{name}: {counts[0]} training and {counts[1]} test {kind}"
    return CommandData(train, test, described, size if in_arrays else None)


def _batches(name: str, part: Any, split: str, size: int) -> tf.data.Dataset:
    try:
        batches = to_dataset(part)
    except DataError as error:
        raise DataError(f"{name} must return (train, test); its {split} part can't be used. {error}") from error
    if isinstance(part, tf.data.Dataset):
        if part.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise DataError(f"The {split} part of {name} never ends. Cut it with .take(number of batches).")
        return batches
    return disable_autotuning(batches.unbatch().batch(size))


def _examples(batches: tf.data.Dataset) -> str:
    return f"{sum(len(tf.nest.flatten(batch)[0]) for batch in batches):,}"


def _batch_count(batches: tf.data.Dataset) -> str:
    count = int(batches.cardinality())
    return "an unknown number of" if count < 0 else f"{count:,}"


def _refuse_batch_size(name: str, batch_size: int | None) -> None:
    if batch_size is not None:
        raise OptionError(
            f"--batch-size has no effect on {name}, which returns batches: change them there, or return arrays."
        )


def import_module(name: str) -> Any:
    """Import a module that is installed, or in the current folder, which stays on the path, as with `python -m`.

    Functions of a tf.data pipeline may import when they run.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def call_function(name: str) -> Any:
    """Call the function "package.module:function"; modules are also looked for in the current folder.

    Raises:
        OptionError: If there is no such function.
        DataError: If it fails.
    """
    module_name, function_name = name.split(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise OptionError(
                f"--data {name}: there is no module {error.name!r}, neither in {os.getcwd()} nor installed."
            ) from error
        raise _failure(name, error) from error
    except Exception as error:
        raise _failure(name, error) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = suggest(function_name, own)
        raise OptionError(f"--data {name}: module {module_name!r} has no function {function_name!r}. {hint}")
    try:
        return function()
    except Exception as error:
        raise _failure(name, error) from error


def _failure(name: str, error: Exception) -> DataError:
    """Say what went wrong in the user's own code, and where."""
    last: Any = error if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)[-1]
    return DataError(f"--data {name} failed in {last.filename}, line {last.lineno}: {type(error).__name__}: {error}")
