"""Weights kept on the way through a training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.graph.weight_copies import copy_variables
from tfprune_init.masking.attachment import get_attached_masks
from tfprune_init.masking.events import EventCallback, make_plan


class KeepCheckpoints(EventCallback):
    """Keep all variables of a model at some epochs or steps of `fit`, in memory. Works in Keras 3 and in tf_keras.

    Steps are counted from the beginning of epoch 0, so a training that goes on with `initial_epoch` goes on with them.

    Args:
        epochs: After how many epochs to keep them; 0 is before training.
        steps: After how many steps, in place of `epochs`.

    Attributes:
        checkpoints: Mapping from "epoch 1" or "step 100" to the variables by path, as `tpi.copy_variables` gives them.
        history: For each checkpoint, the number of epochs or steps and the share of weights that masks keep.

    Raises:
        OptionError: If not exactly one of `epochs` and `steps` is given, a number is negative or given twice, or the
            training is known to end before the last one, or begins after the first.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
        >>> model.compile("sgd", "mse")
        >>> keep = tpi.KeepCheckpoints(steps=[0, 2])
        >>> history = model.fit(np.eye(2), np.ones(2), batch_size=1, epochs=2, verbose=0, callbacks=[keep])
        >>> list(keep.checkpoints), list(keep.checkpoints["step 2"])
        (['step 0', 'step 2'], ['head/kernel', 'head/bias'])
    """

    def __init__(self, *, epochs: Iterable[int] | None = None, steps: Iterable[int] | None = None) -> None:
        super().__init__()
        if (epochs is None) == (steps is None):
            raise OptionError(f"Give epochs= or steps=. Received: {epochs=}, {steps=}.")
        self._unit = "epochs" if steps is None else "steps"
        given = [check_integer(self._unit, one, 0) for one in (epochs if steps is None else steps) or ()]
        if not given or len(set(given)) < len(given):
            raise OptionError(f"{self._unit} must be different numbers, at least one. Received: {self._unit}={given}.")
        self._places = sorted(given)
        self.checkpoints: dict[str, dict[str, np.ndarray]] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Plan; or go on, in another `fit`."""
        length = self.find_length(self._unit)
        if length is not None and length < self._places[-1] and self._find_missing():
            self._refuse_end(length)
        if self._plan is None and self._places[-1] > 0:
            self.follow(make_plan(self._unit, 1, 0, events=self._places[-1]))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Keep what there is before training, and refuse to have begun too late."""
        super().on_epoch_begin(epoch, logs)
        start = epoch if self._unit == "epochs" else self._before or 0
        if any(place < start for place in self._find_missing()):
            raise OptionError(
                f"The training begins after {start} {self._unit}, so what came before cannot be kept. "
                f"Received: {self._unit}={self._places}."
            )
        if start == 0 and self._places[0] == 0:
            self._keep(0)

    def on_train_end(self, logs: Any = None) -> None:
        """Refuse to end in silence before the last checkpoint, where nobody could know beforehand."""
        if self._find_missing() and self.find_length(self._unit) is None and not self.model.stop_training:
            self._refuse_end(self.passed)

    def prune_at(self, number: int, place: int) -> None:
        """Keep the variables, if they are asked for here; nothing is pruned."""
        if place in self._places:
            self._keep(place)

    def _keep(self, place: int) -> None:
        masks = get_attached_masks(self.model)
        self.history.append((place, 1.0 if masks is None else masks.density))
        self.checkpoints[self._name(place)] = copy_variables(self.model)

    def _find_missing(self) -> list[int]:
        return [place for place in self._places if self._name(place) not in self.checkpoints]

    def _refuse_end(self, length: int) -> NoReturn:
        raise OptionError(
            f"The training ends before {self._name(self._places[-1])}, whose weights are to be kept. Train longer, or "
            f"leave it out. Received: {self._unit}={self._places}, and a training of {length} {self._unit}."
        )

    def _name(self, place: int) -> str:
        return f"{self._unit[:-1]} {place}"
