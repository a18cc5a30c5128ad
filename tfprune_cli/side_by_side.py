"""Train several models on the same batches in turns, an epoch each, with a progress bar for each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras
from rich.console import Console

from tfprune_cli.progress import Bar, is_line_due, make_bars
from tfprune_init.datasets import Dataset


def train_side_by_side(
    models: Mapping[str, keras.Model], data: Dataset, epochs: int, *, batch_size: int, console: Console
) -> None:
    """Train all models for the same number of epochs, in turns.

    Bars appear on the standard error if that is a terminal; otherwise `console` gets up to ten lines.

    Args:
        models: Compiled models by the name to show.
        data: What to train on; all models get the same batches in the same order.
        epochs: Number of epochs.
        batch_size: The size of the batches in `data`.
        console: Where the lines go that stand in for the bars.
    """
    bars = make_bars(epochs)
    if not bars.console.is_interactive:
        for epoch in range(epochs):
            losses = {name: _train(model, data, epoch, []) for name, model in models.items()}
            if is_line_due(epoch + 1, 0, epochs):
                shown = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
                console.print(f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}   loss: {shown}", highlight=False)
        return
    steps = math.ceil(data.train_size / batch_size)
    with bars as progress:
        callbacks = {
            name: Bar(progress, progress.add_task(name, total=epochs * steps, epoch=0, measured="")) for name in models
        }
        for epoch in range(epochs):
            for name, model in models.items():
                _train(model, data, epoch, [callbacks[name]])


def _train(model: keras.Model, data: Dataset, epoch: int, callbacks: list[keras.callbacks.Callback]) -> float:
    history = model.fit(
        data.train, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0, callbacks=callbacks
    )
    return float(history.history["loss"][-1])
