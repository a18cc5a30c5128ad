"""What training shows while it runs: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from tfprune_init.backend.callbacks import BackendCallback
from tfprune_init.progress import make_progress

LINES = 10
"""How many lines at most stand in for the bars, so that a log stays short."""


class Bar(BackendCallback):
    """Moves one bar as its model trains, in `fit` of Keras 3 and of tf_keras."""

    def __init__(self, progress: Progress, task: TaskID, shown: tuple[str, ...] = ("loss",)):
        super().__init__()
        self._progress = progress
        self._task = task
        self._shown = shown

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Advance by a batch."""
        self._progress.advance(self._task)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Say what the epoch measured."""
        known = {name: value for name, value in (logs or {}).items() if name in self._shown}
        self._progress.update(self._task, epoch=epoch + 1, measured=describe_measured(known))


def make_bars(epochs: int) -> Progress:
    """Make bars whose tasks have the fields `epoch` and `measured`.

    Args:
        epochs: Number of the last epoch.
    """
    return make_progress(
        (
            "{task.description}",
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TextColumn(f"epoch {{task.fields[epoch]:>{len(str(epochs))}}}/{epochs}"),
            "{task.fields[measured]}",
        ),
        stays=True,
    )


@contextmanager
def show_one_bar(name: str, first: int, epochs: int, steps: int | None) -> Iterator[list[keras.callbacks.Callback]]:
    """Yield the callback that moves a bar on the standard error; none where that is no terminal.

    Args:
        name: What is trained.
        first: Epochs done before.
        epochs: Number of the last epoch.
        steps: Batches an epoch; None if unknown.
    """
    bars = make_bars(epochs)
    if not bars.console.is_interactive:
        yield []
        return
    total = None if steps is None else (epochs - first) * steps
    with bars as progress:
        task = progress.add_task(name, total=total, epoch=first, measured="")
        yield [Bar(progress, task, ("val_loss", "val_accuracy"))]


def is_line_due(epoch: int, first: int, epochs: int) -> bool:
    """Return whether this epoch, counted from 1, is one of the few that get a line where there are no bars."""
    return (epoch - first) % math.ceil((epochs - first) / LINES) == 0 or epoch == epochs


def describe_measured(values: Mapping[str, float]) -> str:
    """Return loss and metrics in a line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
