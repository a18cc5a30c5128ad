"""A callback that logs for TensorBoard what is zero in the weights, and how the kept ones are spread."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend.callbacks import BackendCallback
from tfprune_init.checks import check_integer
from tfprune_init.errors import EnforcementError, OptionError
from tfprune_init.graph.variables import list_variables
from tfprune_init.masking.attachment import get_attached_masks
from tfprune_init.masks import Masks

BUCKETS = 30
"""Of each histogram."""


class TensorBoardSparsity(BackendCallback):
    """Log the sparsity of a model with masks, and histograms of its kept weights, as it trains.

    Sparsity is counted in the weights, as zeros over all weights of a variable, and not read from the masks. For each
    masked variable there is a scalar `sparsity/<path>` and a histogram `kept_weights/<path>`; the scalar `sparsity/all`
    is over all masked variables. Steps are epochs counted from 0, as those of Keras's own callback, so that the curves
    lie side by side. Works in `fit` of Keras 3 and of tf_keras. TensorBoard is needed only to look at them.

    Args:
        log_dir: Folder of the event files; made if it isn't there.
        every: Epochs between logs, which are at the ends of epochs every, 2 * every, ..., counted from 1.
        histograms: Whether to log histograms. NaN and Inf among the weights have no place in them.

    Raises:
        OptionError: If `every` is no integer of at least 1, or `histograms` no boolean.
        EnforcementError: When training begins, if the model carries no masks.

    Example:
        >>> import keras, numpy as np, os, tempfile, tfprune_init as tpi
        >>> from tfprune_init.masking.tensorboard import TensorBoardSparsity
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> report = tpi.prune_at_init(model, None, sparsity=0.75, method="magnitude")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     watch = TensorBoardSparsity(folder)
        ...     history = model.fit(np.ones((8, 8)), np.ones((8, 4)), epochs=2, verbose=0, callbacks=[watch])
        ...     len(os.listdir(folder))
        1
    """

    def __init__(self, log_dir: str | os.PathLike[str], *, every: int = 1, histograms: bool = True):
        super().__init__()
        if not isinstance(histograms, bool):
            raise OptionError(f"histograms must be True or False. Received: histograms={histograms!r}.")
        self._log_dir = os.fspath(log_dir)
        self._every = check_integer("every", every, 1)
        self._histograms = histograms
        self._writer: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the event file, unless there is nothing to log."""
        self._masks()
        self._writer = tf.summary.create_file_writer(self._log_dir)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log, if this epoch is one of those."""
        if (epoch + 1) % self._every:
            return
        masks = self._masks()
        weights = {t.path: np.asarray(t.effective) for t in list_variables(self.model) if t.path in masks}
        with self._writer.as_default(step=epoch):
            for path, share in _sparsities(weights).items():
                _write_scalar(f"sparsity/{path}", share)
            if self._histograms:
                for path, values in weights.items():
                    _write_histogram(f"kept_weights/{path}", values[masks[path]])
        self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        """Close the event file."""
        self._writer.close()

    def _masks(self) -> Masks:
        masks = get_attached_masks(self.model)
        if masks is None:
            raise EnforcementError(
                f"Model {self.model.name!r} carries no masks whose sparsity could be logged: call tpi.prune_at_init or "
                "tpi.attach before fit."
            )
        return masks


def _sparsities(weights: Mapping[str, np.ndarray]) -> dict[str, float]:
    zeros = {path: values.size - np.count_nonzero(values) for path, values in weights.items()}
    overall = sum(zeros.values()) / sum(values.size for values in weights.values())
    return {**{path: count / weights[path].size for path, count in zeros.items()}, "all": overall}


def _write_scalar(tag: str, value: float) -> None:
    _write(tag, tf.constant(value, tf.float32), "scalars", "DATA_CLASS_SCALAR")


def _write_histogram(tag: str, values: np.ndarray) -> None:
    """Rows of (left edge, right edge, count)."""
    values = values.astype(np.float64)
    counts, edges = np.histogram(values[np.isfinite(values)], BUCKETS)
    rows = np.stack([edges[:-1], edges[1:], counts], axis=1)
    _write(tag, tf.constant(rows, tf.float64), "histograms", "DATA_CLASS_TENSOR")


def _write(tag: str, tensor: tf.Tensor, plugin: str, data_class: str) -> None:
    # tf.summary.scalar and histogram are the same with TensorBoard imported, which TensorFlow does not bring along.
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin), data_class=data_class
    )
    tf.summary.write(tag, tensor, metadata=metadata)
