"""Keras callbacks in a training loop without Keras's trainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfprune_init.backend.callbacks import get_history, list_remembered, set_history
from tfprune_init.errors import CheckpointError, OptionError
from tfprune_init.masking.callbacks import PruneDuringTraining
from tfprune_init.masking.dynamic_pruning import DynamicPruning

_INSTEAD = {
    "BackupAndRestore": "checkpoint=",
    "OrbaxCheckpoint": "checkpoint=",
    "ProgbarLogger": "verbose=",
    "TensorBoard": "CSVLogger, or tf.summary in a callback of your own",
}
# All workers have the same data to write, so one worker is enough.
_WRITERS = ("CSVLogger", "ModelCheckpoint", "RemoteMonitor")
_CLASS = "class"


class Callbacks:
    """The callbacks of one training.

    Args:
        callbacks: Keras 3 callbacks, one's own among them.
        model: The model they look at.
        chief: Whether this process writes files.
        resumable: Whether the training may have to go on in another process.
        **params: What they find in their `params`.

    Raises:
        OptionError: If a callback needs Keras's trainer, or could not go on in another process.
    """

    def __init__(self, callbacks: Iterable[Any], model: Any, *, chief: bool, resumable: bool, **params: Any):
        self._all = list(callbacks)
        for callback in self._all:
            _check(callback, resumable)
        served = [one for one in self._all if chief or not isinstance(one, _of(_WRITERS))]
        self._served = keras.callbacks.CallbackList(served, add_history=True, model=model, **params)
        # Not those served here: reading metrics takes all workers.
        self.follow_batches = any(_follows_batches(callback) for callback in self._all)

    def __getattr__(self, hook: str) -> Any:
        """Return a hook of all callbacks, such as `on_epoch_end`."""
        return getattr(self._served, hook)

    @property
    def history(self) -> dict[str, list[Any]]:
        """What was logged at the end of each epoch."""
        return get_history(self._served)

    def memory(self) -> list[dict[str, Any]]:
        """Collect the state that callbacks keep from epoch to epoch, for `remember`."""
        return [
            {_CLASS: type(one).__name__, **{name: _plain(getattr(one, name, None)) for name in list_remembered(one)}}
            for one in self._all
            if list_remembered(one)
        ]

    def remember(self, memory: list[dict[str, Any]], history: dict[str, list[Any]]) -> None:
        """Restore the state of the callbacks, and the history.

        Raises:
            OptionError: If they are not the callbacks that remembered it.
            CheckpointError: If something is missing in what they remembered.
        """
        set_history(self._served, history)
        remembering = [one for one in self._all if list_remembered(one)]
        saved, own = [state.get(_CLASS) for state in memory], [type(one).__name__ for one in remembering]
        if saved != own:
            raise OptionError(
                "A training goes on with the callbacks it began with, in their order. Received, of those that remember "
                f"something: {own}; the checkpoint was written with {saved}."
            )
        for callback, state in zip(remembering, memory, strict=True):
            missing = [name for name in list_remembered(callback) if name not in state]
            if missing:
                raise CheckpointError(
                    f"The checkpoint is damaged: it has no {', '.join(missing)} of {type(callback).__name__}. "
                    "Remove it to start anew, or give another folder."
                )
            for name in list_remembered(callback):
                setattr(callback, name, state[name])

    def continue_files(self) -> None:
        """Let callbacks append to the files they wrote before; call it before `on_train_begin`."""
        for callback in self._all:
            if isinstance(callback, keras.callbacks.CSVLogger):
                callback.append = True


def _of(names: Iterable[str]) -> tuple[type, ...]:
    return tuple(getattr(keras.callbacks, name) for name in names)


def _check(callback: Any, resumable: bool) -> None:
    kind = f"{type(callback).__module__}.{type(callback).__qualname__}"
    if not isinstance(callback, keras.callbacks.Callback) or isinstance(callback, keras.callbacks.CallbackList):
        raise OptionError(f"callbacks must be a list of keras.callbacks.Callback (Keras 3). Received: {kind}.")
    for name, instead in _INSTEAD.items():
        if isinstance(callback, getattr(keras.callbacks, name)):
            raise OptionError(f"{name} needs the trainer of Keras, which is not used here. Use {instead} instead.")
    if isinstance(callback, DynamicPruning):
        raise OptionError(
            "DynamicPruning changes how layers read their weights, which the steps taken here do not follow. "
            "Train with model.fit, which can under MirroredStrategy, or use PruneDuringTraining."
        )
    if resumable and isinstance(callback, PruneDuringTraining):
        raise OptionError(
            "A checkpoint does not hold where PruneDuringTraining is in its data and its events. "
            "Train without checkpoint=, or with masks found before."
        )


def _follows_batches(callback: Any) -> bool:
    if isinstance(callback, keras.callbacks.ModelCheckpoint) and callback.save_freq == "epoch":
        return False
    usual = keras.callbacks.Callback
    hooks = ("on_train_batch_end", "on_batch_end")
    return any(getattr(getattr(callback, name), "__func__", None) is not getattr(usual, name) for name in hooks)


def _plain(value: Any) -> Any:
    """Convert numbers to types that JSON knows; keep arrays."""
    if isinstance(value, list):
        return [np.asarray(one) for one in value]
    if isinstance(value, (bool, int, type(None))):
        return value
    return float(value)
