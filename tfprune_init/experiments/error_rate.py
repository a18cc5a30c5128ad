"""The share of wrong answers of a classifier some of whose weights are replaced for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.batches import to_dataset
from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import DataError, ModelError
from tfprune_init.experiments.layer_groups import LayerVariable


class ErrorRate:
    """Measures how many examples a model puts into a wrong class, in inference mode.

    Args:
        model: The model.
        data: What it is judged by: arrays of examples and labels, or a batched dataset of both.

    Attributes:
        examples: Number of examples; None before the first measurement.
    """

    def __init__(self, model: Model, data: Any):
        self._model = model
        self._dataset = to_dataset(data)
        self._classify = tf.function(lambda x: compat.call_model(model, x, False), reduce_retracing=True)
        self.examples: int | None = None

    def measure(self, values: Mapping[LayerVariable, np.ndarray]) -> float:
        """Return the share of wrong answers while some variables have other values; they have theirs again afterwards.

        Raises:
            ModelError: If the outputs are no classes, or the model as it is gives some that are not finite.
            DataError: If the data is none that can be judged by, or gives other numbers of examples than before.
        """
        wrong = examples = 0
        with restore_state(self._model):
            for variable, value in values.items():
                variable.write(value)
            for number, batch in enumerate(self._dataset, start=1):
                if len(batch) > 2:
                    raise DataError("Layers are judged by examples that count alike. Received: sample weights.")
                outputs = tf.nest.flatten(self._classify(batch[0]))
                if len(outputs) != 1:
                    raise ModelError(f"Layers are judged in models with one output. Received: {len(outputs)} outputs.")
                scores = np.asarray(outputs[0])
                classes = _read_classes(np.asarray(batch[1]), scores, number)
                finite = np.isfinite(scores).all(axis=-1)
                if not values and not finite.all():
                    raise ModelError(
                        f"Model {self._model.name!r} gives outputs that are not finite, for "
                        f"{np.count_nonzero(~finite):,} of the {len(finite):,} examples of batch {number}."
                    )
                wrong += int(np.count_nonzero(~finite | (scores.argmax(axis=-1) != classes)))
                examples += len(classes)
        if self.examples not in (None, examples) or examples == 0:
            raise DataError(
                "The data must give the same examples at every walk, at least one. "
                f"Received: {examples:,} examples, {self.examples or 0:,} before."
            )
        self.examples = examples
        return wrong / examples


def _read_classes(labels: np.ndarray, scores: np.ndarray, number: int) -> np.ndarray:
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ModelError(
            "Layers are judged in classifiers that give a score for each of several classes, (batch, classes). "
            f"Received for batch {number}: outputs of shape {scores.shape}."
        )
    if labels.shape == scores.shape and (labels.sum(axis=1) == 1).all() and np.isin(labels, (0, 1)).all():
        return np.asarray(labels.argmax(axis=1))
    if labels.shape not in ((len(scores),), (len(scores), 1)) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            "Labels must be an integer for each example, or one-hot rows. "
            f"Received in batch {number}: shape {labels.shape}, {labels.dtype}, for outputs of shape {scores.shape}."
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise DataError(
            f"Labels must be in 0..{scores.shape[1] - 1}, as the model tells {scores.shape[1]} classes apart. "
            f"Received in batch {number}: {labels.min()} to {labels.max()}."
        )
    return labels.reshape(-1)
