"""The command `tfprune train`: the model of a run, trained with its pruned weights at zero."""

from __future__ import annotations

import difflib
import json
import math
import os
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console

from tfprune_cli.data import Data, check_data_options, first_outputs, load_data
from tfprune_cli.loss import check_loss_options, compile_for
from tfprune_cli.progress import line_is_due, measured, one_bar
from tfprune_cli.runs import Run, open_run
from tfprune_cli.saved import load_model
from tfprune_cli.zeros import check_zeros
from tfprune_init import kerases
from tfprune_init.enforce import attach
from tfprune_init.errors import DataError, OptionError, PruningError
from tfprune_init.layers import strip


@dataclass(frozen=True)
class Training:
    """What to train, and how.

    Attributes:
        source: The folder of the run.
        data: What `load_data` takes; None for the data of the run.
        data_dir: Folder of prepared TFDS data.
        epochs: Passes over the data.
        batch_size: Examples a batch; None for 128.
        optimizer: Keras's name of the optimizer; None for the model's own.
        learning_rate: None for the optimizer's own.
        loss: Keras's name of the loss; None for the model's own.
        from_logits: Whether the outputs are logits, for that loss.
        seed: Seed of the order of the examples and of dropout.
        as_json: Whether to print the history as JSON instead of lines.
        command_line: The whole command.
    """

    source: str
    data: str | None
    data_dir: str | None
    epochs: int
    batch_size: int | None
    optimizer: str | None
    learning_rate: float | None
    loss: str | None
    from_logits: bool
    seed: int
    as_json: bool
    command_line: str


def run(training: Training, console: Console) -> None:
    """Train, write the model and the history, and print what was measured.

    Args:
        training: What to train, and how.
        console: Where to print.

    Raises:
        PruningError: If an option, the run or the data is wrong, the loss is no longer finite, or a pruned weight is
            not zero after training; the run is as it was then.
    """
    check_loss_options(training.loss, training.from_logits)
    run = open_run(training.source)
    name, data_dir = _data_of(run, training)
    check_data_options(name, data_dir)
    masks, history = run.masks, run.history
    model = load_model(run.folder, purpose="train", compiled=training.loss is None)
    data = load_data(name, data_dir, batch_size=training.batch_size)
    compile_for(model, first_outputs(model, data), training.loss, training.from_logits)
    _set_optimizer(model, training.optimizer, training.learning_rate)
    attach(model, masks)
    settings = {
        "command": training.command_line,
        "data": {"name": name, "data_dir": data_dir, "description": data.description},
        "epochs": training.epochs,
        "batch_size": data.batch_size,
        "optimizer": type(model.optimizer).__name__,
        "learning_rate": float(model.optimizer.learning_rate),
        "seed": training.seed,
    }
    if not training.as_json:
        console.print(f"{model.name} on {data.description}", highlight=False, markup=False, soft_wrap=True)
    epochs = _train(model, data, training, len(history["epochs"]), None if training.as_json else console)
    trained = strip(model)
    check_zeros(trained, masks)
    run.save_trained(trained, {"trainings": [*history["trainings"], settings], "epochs": [*history["epochs"], *epochs]})
    if training.as_json:
        sys.stdout.write(json.dumps({"run": training.source, "training": settings, "epochs": epochs}, indent=2) + "\n")
        return
    gone = masks.size - masks.kept
    console.print(f"All {gone:,} pruned weights are exactly 0.0 after training.", highlight=False)
    console.print(f"The trained model is in {run.folder}", highlight=False, markup=False, soft_wrap=True)


def _data_of(run: Run, training: Training) -> tuple[str, str | None]:
    known = run.about["data"] or {}
    if training.data is None and not known:
        raise OptionError("The run was pruned without data: say what to train on with --data, such as --data digits.")
    own_folder = known.get("data_dir") if training.data is None else None
    folder = own_folder if training.data_dir is None else os.path.abspath(os.path.expanduser(training.data_dir))
    return training.data or known["name"], folder


def _set_optimizer(model: Any, name: str | None, learning_rate: float | None) -> None:
    if name is not None:
        package = kerases.keras_of(model)
        try:
            package.optimizers.get(name)
        except ValueError as error:
            known = [key.lower() for key in dir(package.optimizers) if key[0].isupper()]
            near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
            hint = f" Nearest names: {', '.join(near)}." if near else ""
            raise OptionError(f"Keras has no optimizer {name!r}.{hint}") from error
        model.compile_from_config({**model.get_compile_config(), "optimizer": name})
    if learning_rate is not None:
        try:
            model.optimizer.learning_rate = learning_rate
        except TypeError as error:
            raise OptionError(
                "--learning-rate has no effect on the model's own optimizer, whose learning rate follows a schedule: "
                "give --optimizer too."
            ) from error


def _train(model: Any, data: Data, training: Training, before: int, console: Console | None) -> list[dict[str, Any]]:
    """What each epoch measured. An epoch depends on its number, so two trainings are as good as one."""
    last = before + training.epochs
    records = []
    steps = int(data.train.cardinality())
    with one_bar(model.name, before, last, steps if steps >= 0 else None) as callbacks:
        for epoch in range(before, last):
            began = time.perf_counter()
            values = _fit(model, data, epoch, data.epoch(_seed(model, training.seed, epoch)), callbacks)
            records.append({"epoch": epoch + 1, **values, "seconds": round(time.perf_counter() - began, 3)})
            if console is not None and not callbacks and line_is_due(epoch + 1, before, last):
                number = f"epoch {epoch + 1:>{len(str(last))}}/{last}"
                console.print(f"{number}   {measured(values)}", highlight=False, soft_wrap=True)
    return records


def _seed(model: Any, seed: int, epoch: int) -> int:
    """Seed everything random for one epoch: Keras, and the states of dropout layers, which files do not keep."""
    states = kerases.seed_states(model)
    first, *others = np.random.SeedSequence([seed, epoch]).generate_state(1 + len(states)).tolist()
    kerases.keras_of(model).utils.set_random_seed(first)
    for state, number in zip(states, others, strict=True):
        state.assign([number, 0])
    return first


def _fit(model: Any, data: Data, epoch: int, batches: tf.data.Dataset, callbacks: list[Any]) -> dict[str, float]:
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
