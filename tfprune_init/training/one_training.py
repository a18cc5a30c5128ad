"""Callbacks that see the training of an event as one, whatever pieces it is trained in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tfprune_init.backend.callbacks import BackendCallback
from tfprune_init.backend.protocols import Model


class OneTraining(BackendCallback):
    """Shows callbacks one training of one epoch, whose steps have the numbers that they have in the run.

    A run trains epoch by epoch, and stops to evaluate. Each piece is a `fit` of its own, which begins to count at 0 and
    tells its callbacks that training begins and ends. Given to every piece, this callback counts on.

    Args:
        model: The model.
        callbacks: Callbacks of Keras 3, in the order in which they are called.
        start: Step that the run is at. Callbacks see it as the first step of a training that has `stop` steps.
        stop: Step at which training ends.

    Example:
        >>> import keras
        >>> from tfprune_init.training.one_training import OneTraining
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> seen = []
        >>> count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: seen.append(step))
        >>> training = OneTraining(model, [count], start=3, stop=6)
        >>> for steps in (1, 2):
        ...     training.on_train_begin()
        ...     for batch in range(steps):
        ...         training.on_train_batch_end(batch)
        >>> seen
        [3, 4, 5]
    """

    def __init__(self, model: Model, callbacks: Iterable[Any], start: int, stop: int):
        super().__init__()
        self._callbacks = list(callbacks)
        self._first = self._done = start
        for callback in self._callbacks:
            callback.set_params({"epochs": 1, "steps": stop, "verbose": 0})
            callback.set_model(model)

    def begin(self) -> None:
        """Tell the callbacks that training begins, before its first piece."""
        for callback in self._callbacks:
            callback.on_train_begin()
        for callback in self._callbacks:
            callback.on_epoch_begin(0)

    def end(self) -> None:
        """Tell them that it ends, after its last piece."""
        for callback in self._callbacks:
            callback.on_epoch_end(0)
        for callback in self._callbacks:
            callback.on_train_end()

    def on_train_begin(self, logs: Any = None) -> None:
        """Count on from where the piece before ended."""
        self._first = self._done

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tell the callbacks, by the number of the step in the run."""
        for callback in self._callbacks:
            callback.on_train_batch_begin(self._first + batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell the callbacks, by the number of the step in the run."""
        self._done = self._first + batch + 1
        for callback in self._callbacks:
            callback.on_train_batch_end(self._first + batch, logs)
