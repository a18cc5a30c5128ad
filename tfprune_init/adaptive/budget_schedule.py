"""The budget of decisions falls while a model trains."""

from __future__ import annotations

from typing import Any

from tfprune_init.backend import compat
from tfprune_init.backend.callbacks import BackendCallback
from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.layers import DecisionCost
from tfprune_init.layers.decision_cost import check_budget


class BudgetSchedule(BackendCallback):
    """Let the budget of a model with decisions change linearly, step by step, and then stay.

    Steps are counted on over several calls of `fit` with the same callback. The first step has the budget `start`, the
    one after `steps` steps, and all later ones, `end`.

    Args:
        end: Mean share of the multiply-adds that an example may cost in the end, in (0, 1].
        steps: Number of steps until then.
        start: The same at the start.

    Raises:
        OptionError: If a value is out of range, or, when training starts, the model has no decisions.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> L = keras.layers
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), L.Conv2D(4, 3), L.Flatten(), L.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> adaptive = tpi.insert_saliency(model)
        >>> data = np.ones((4, 4, 4, 1)), np.ones((4, 1))
        >>> fall = tpi.BudgetSchedule(0.5, steps=4)
        >>> history = adaptive.fit(*data, batch_size=1, epochs=1, verbose=0, callbacks=[fall])
        >>> float(adaptive.get_layer("decision_cost").budget.numpy())
        0.625

    Reference:
        Chen et al., "Self-Adaptive Network Pruning", 2019, trains to a budget. That it falls linearly from 1 is this
        package's choice.
    """

    def __init__(self, end: float, steps: int, start: float = 1.0):
        super().__init__()
        self.end, self.start = check_budget(end), check_budget(start)
        self.steps = check_integer("steps", steps, 1)
        self._done = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the layer, and refuse a model on which this has no effect."""
        self._cost = find_decision_cost(self.model)
        if self._cost is None:
            raise OptionError(
                f"BudgetSchedule has no effect: model {self.model.name!r} has no decisions. Train "
                "tpi.insert_saliency(model)."
            )

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the budget of the step."""
        assert self._cost is not None  # as training began
        share = min(1.0, self._done / self.steps)
        compat.get_tf_variable(self._cost.budget).assign(self.start + (self.end - self.start) * share)
        self._done += 1


def find_decision_cost(model: Any) -> DecisionCost | None:
    """Return the layer of a model that counts what its decisions cost; None if it has none."""
    return next((layer for layer in compat.get_sublayers(model) if isinstance(layer, DecisionCost)), None)
