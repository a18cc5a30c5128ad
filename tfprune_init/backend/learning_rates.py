"""Learning rates scaled for a while, constant ones and schedules, of both Keras versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tfprune_init.backend import compat
from tfprune_init.backend.contracts import require
from tfprune_init.backend.optimizers import find_optimizers
from tfprune_init.errors import OptionError


@contextmanager
def scale_learning_rate(model: Any, factor: float) -> Iterator[None]:
    """Multiply the learning rate of a compiled model by a factor, whatever the step; afterwards it is what it was.

    The user's schedule is not touched: another one, which calls it, takes its place.

    Args:
        model: The model, whose optimizer is built.
        factor: A positive number; 1 changes nothing.

    Raises:
        OptionError: If the learning rate is 0 at the step of the optimizer, so that nothing would be trained.
    """
    if factor == 1:
        yield
        return
    # An optimizer that leaves the work to others has no learning rate of its own that counts.
    rates = [_Rate(model, one) for one in find_optimizers(model.optimizer) if len(find_optimizers(one)) == 1]
    if not any(rate.value for rate in rates):
        raise OptionError(
            f"The learning rate is 0 at step {int(model.optimizer.iterations)}, so training would change nothing: its "
            "schedule has ended. Use one that does not end at 0, or go back in it before, with Rewind(name, "
            f"weights=False). Received: a learning rate scaled by {factor:g}."
        )
    try:
        for rate in rates:
            rate.scale(factor)
        compat.reset_train_function(model)  # a traced one holds the schedule
        yield
    finally:
        for rate in rates:
            rate.put_back()
        compat.reset_train_function(model)


class _Rate:
    """The learning rate of one optimizer: a variable, a schedule, or, in Keras 3, a function without arguments.

    Attributes:
        value: What it was at the step at which this was made.
    """

    def __init__(self, model: Any, optimizer: Any):
        package = compat.get_package_name(model)
        require(
            "keras BaseOptimizer._learning_rate" if package == "keras" else "tf_keras _BaseOptimizer._learning_rate"
        )
        self._schedules = compat.get_keras(model).optimizers.schedules
        self._optimizer = optimizer
        self._began = optimizer._learning_rate
        self._is_schedule = isinstance(self._began, self._schedules.LearningRateSchedule)
        self.value = self.compute()

    def compute(self) -> float:
        """Return the rate of the optimizer's step."""
        if self._is_schedule:
            return float(self._began(self._optimizer.iterations))
        return float(self._began() if callable(self._began) else self._began)

    def scale(self, factor: float) -> None:
        """Multiply it."""
        began = self._began
        if self._is_schedule:
            self._optimizer.learning_rate = _make_schedule(self._schedules, lambda step: factor * began(step))
        elif callable(began):
            self._optimizer.learning_rate = lambda: factor * began()
        else:
            began.assign(factor * self.value)

    def put_back(self) -> None:
        """Let it be what it was."""
        if not self._is_schedule and not callable(self._began):
            self._began.assign(self.value)
            return
        self._optimizer.learning_rate = self._began
        shown = self._optimizer.learning_rate
        if hasattr(shown, "assign"):  # tf_keras shows the rate of the last step in a variable
            shown.assign(self.compute())


def _make_schedule(schedules: Any, compute: Any) -> Any:
    class Computed(schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            return compute(step)

        def get_config(self) -> dict[str, Any]:
            raise NotImplementedError("It lasts for one training.")

    return Computed()
