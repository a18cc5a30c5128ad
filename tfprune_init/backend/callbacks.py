"""Callbacks that `fit` of both Keras versions takes, and what Keras's own ones remember."""

from __future__ import annotations

from typing import Any

import keras

from tfprune_init.backend.contracts import require

# What a callback remembers from one epoch to the next.
_REMEMBERED = {
    "EarlyStopping": ("wait", "best", "best_epoch", "best_weights", "stopped_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "ModelCheckpoint": ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    "SwapEMAWeights": ("_ema_weights_in_model",),
}


class BackendCallback(keras.callbacks.Callback):
    """A callback of Keras 3 that answers what tf_keras asks its callbacks beyond it: which batch hooks they have."""

    def _implements_train_batch_hooks(self) -> bool:
        return self._overrides("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")

    def _implements_test_batch_hooks(self) -> bool:
        return self._overrides("on_test_batch_begin", "on_test_batch_end")

    def _implements_predict_batch_hooks(self) -> bool:
        return self._overrides("on_predict_batch_begin", "on_predict_batch_end")

    def _overrides(self, *hooks: str) -> bool:
        return any(getattr(type(self), hook) is not getattr(keras.callbacks.Callback, hook) for hook in hooks)


def list_remembered(callback: Any) -> tuple[str, ...]:
    """Return names of the attributes in which a Keras 3 callback keeps its state from epoch to epoch."""
    for kind, names in _REMEMBERED.items():
        if isinstance(callback, getattr(keras.callbacks, kind)):
            require(*(f"keras {kind}.{name}" for name in names if name.startswith("_")))
            return names
    return ()


def get_history(callbacks: Any) -> dict[str, list[Any]]:
    """Return what a `keras.callbacks.CallbackList` with a History logged at the end of each epoch."""
    require("keras CallbackList._history")
    history: dict[str, list[Any]] = callbacks._history.history
    return history


def set_history(callbacks: Any, history: dict[str, list[Any]]) -> None:
    """Let a `keras.callbacks.CallbackList` go on from what was logged before."""
    require("keras CallbackList._history")
    callbacks._history.history = history
