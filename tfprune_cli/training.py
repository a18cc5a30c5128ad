"""The epochs of `tfprune train`: seeded one by one, with a bar or a few lines."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console

from tfprune_cli.data import CommandData
from tfprune_cli.progress import describe_measured, is_line_due, show_one_bar
from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model
from tfprune_init.checks import suggest
from tfprune_init.errors import DataError, OptionError, PruningError


def set_optimizer(model: Model, name: str | None, learning_rate: float | None) -> None:
    """Change the optimizer of a compiled model.

    Args:
        model: The model.
        name: Keras's name of the optimizer; None for the model's own.
        learning_rate: None for the optimizer's own.

    Raises:
        OptionError: If Keras has no optimizer of that name, or its learning rate follows a schedule.
    """
    if name is not None:
        package = compat.get_keras(model)
        try:
            package.optimizers.get(name)
        except ValueError as error:
            known = [key.lower() for key in dir(package.optimizers) if key[0].isupper()]
            raise OptionError(f"Keras has no optimizer {name!r}. {suggest(name.lower(), known)}") from error
        model.compile_from_config({**model.get_compile_config(), "optimizer": name})
    if learning_rate is not None:
        try:
            model.optimizer.learning_rate = learning_rate
        except TypeError as error:
            raise OptionError(
                "--learning-rate has no effect on the model's own optimizer, whose learning rate follows a schedule: "
                "give --optimizer too."
            ) from error


def train_epochs(
    model: Model, data: CommandData, *, before: int, epochs: int, seed: int, console: Console | None
) -> list[dict[str, Any]]:
    """Train, and return what each epoch measured.

    An epoch depends on its number, so two trainings are as good as one.

    Args:
        model: A compiled model.
        data: What to train and validate on.
        before: Number of epochs that it was trained before.
        epochs: Number of epochs to train.
        seed: Seed of the order of the examples and of dropout.
        console: Where up to ten lines go where there is no bar; None for no lines.

    Raises:
        DataError: If the model does not take the data.
        PruningError: If loss or metrics are no longer finite.
    """
    last = before + epochs
    records = []
    steps = int(data.train.cardinality())
    with show_one_bar(model.name, before, last, steps if steps >= 0 else None) as callbacks:
        for epoch in range(before, last):
            began = time.perf_counter()
            values = _fit(model, data, epoch, data.epoch(_set_seeds(model, seed, epoch)), callbacks)
            records.append({"epoch": epoch + 1, **values, "seconds": round(time.perf_counter() - began, 3)})
            if console is not None and not callbacks and is_line_due(epoch + 1, before, last):
                number = f"epoch {epoch + 1:>{len(str(last))}}/{last}"
                console.print(f"{number}   {describe_measured(values)}", highlight=False, soft_wrap=True)
    return records


def _set_seeds(model: Model, seed: int, epoch: int) -> int:
    """Seed everything random for one epoch: Keras, and the states of dropout layers, which files do not keep."""
    states = compat.find_seed_states(model)
    first, *others = np.random.SeedSequence([seed, epoch]).generate_state(1 + len(states)).tolist()
    compat.get_keras(model).utils.set_random_seed(first)
    for state, number in zip(states, others, strict=True):
        state.assign([number, 0])
    return int(first)


def _fit(
    model: Model, data: CommandData, epoch: int, batches: tf.data.Dataset, callbacks: list[Any]
) -> dict[str, float]:
    try:
        with warnings.catch_warnings():
            # Keras 3 says so of all data whose number of batches tf.data can't tell.
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            history = model.fit(
                batches,
                validation_data=data.test,
                initial_epoch=epoch,
                epochs=epoch + 1,
                shuffle=False,
                verbose=0,
                callbacks=callbacks,
            ).history
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise DataError(f"Training on {data.description} failed: {error}") from error
    values = {name: float(history[name][-1]) for name in sorted(history, key=_loss_first)}
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise PruningError(
            f"{wrong[0]} is {values[wrong[0]]} after epoch {epoch + 1}: try a lower --learning-rate. The run is as it "
            "was."
        )
    return values


def _loss_first(name: str) -> tuple[bool, bool, str]:
    return name.startswith("val_"), not name.endswith("loss"), name
