"""Boosting of k-winners layers grows weaker from epoch to epoch."""

from __future__ import annotations

from typing import Any

from tfprune_init.backend import compat
from tfprune_init.backend.callbacks import BackendCallback
from tfprune_init.checks import check_number
from tfprune_init.errors import OptionError
from tfprune_init.layers.winners import WinnersLayer


class BoostDecay(BackendCallback):
    """Multiply the boost of every k-winners layer by a factor after each epoch of training.

    Works in `fit` of Keras 3 and of tf_keras. The boost is a variable of the layer, so a model that is saved and loaded
    goes on with the boost that it had.

    Args:
        factor: What the boost is multiplied by, in [0, 1).

    Raises:
        OptionError: If the factor is out of range, or, when training starts, no layer of the model is boosted.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> winners = tpi.layers.KWinners(4, boost=1.5)
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), winners, keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> decay = tpi.layers.BoostDecay(0.5)
        >>> history = model.fit(np.ones((8, 8)), np.ones((8, 1)), epochs=2, verbose=0, callbacks=[decay])
        >>> float(winners.boost.numpy())
        0.375
    """

    def __init__(self, factor: float = 0.85):
        super().__init__()
        self.factor = check_number("factor", factor, "a number in [0, 1)", lambda given: 0 <= given < 1)

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the layers, and refuse a model on which this has no effect."""
        found = [layer for layer in compat.walk_layers(self.model) if isinstance(layer, WinnersLayer)]
        self._layers = [layer for layer in found if layer.initial_boost > 0]
        if not self._layers:
            raise OptionError(
                f"BoostDecay has no effect: model {self.model.name!r} has no boosted k-winners layer. Received: "
                f"{len(found)} k-winners layers, with boost 0; leave the callback out."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Lower the boost."""
        for layer in self._layers:
            boost = compat.get_tf_variable(layer.boost)
            boost.assign(boost * self.factor)
