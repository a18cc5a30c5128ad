"""Training, and what is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfprune_init.backend.learning_rates import scale_learning_rate
from tfprune_init.checks import check_integer, check_number
from tfprune_init.errors import OptionError
from tfprune_init.training.events.event import Event, RunOutline

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


@dataclass(frozen=True)
class Train(Event):
    """Train with a fresh optimizer whose step counter is that of the run.

    Args:
        until: Train until this step of the run; it must not be behind.
        steps: Train for so many steps instead, past the end of a schedule too, where it keeps to its last value.
        watch: Evaluate on the test data after every so many steps; what it gives is in the history.
        learning_rate_scale: What the optimizer's learning rate is multiplied with during this training, whether it is
            constant or a schedule of the step of the run.

    Raises:
        OptionError: If not exactly one of `until` and `steps` is given, or a value is out of range.
    """

    until: int | None = None
    steps: int | None = None
    watch: int | None = None
    learning_rate_scale: float = 1

    def __post_init__(self) -> None:
        if (self.until is None) == (self.steps is None):
            raise OptionError(f"Train takes until= or steps=. Received: until={self.until!r}, steps={self.steps!r}.")
        for name in ("until", "steps", "watch"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        check_number("learning_rate_scale", self.learning_rate_scale, "a number above 0", lambda scale: scale > 0)

    def outline(self, outline: RunOutline) -> None:
        """Count the steps, and refuse to train backwards."""
        stop = self._find_end(outline.step)
        outline.training_steps += stop - outline.step
        outline.step = stop

    def apply(self, run: ProcedureRun) -> None:
        """Train."""
        run.renew_optimizer()
        with scale_learning_rate(run.model, self.learning_rate_scale):
            run.train(self._find_end(run.state.step), self.watch)

    def _find_end(self, step: int) -> int:
        stop = step + self.steps if self.steps is not None else self.until
        assert stop is not None
        if stop < step:
            raise OptionError(f"The run is at step {step} already. Received: {self!r}.")
        return stop


@dataclass(frozen=True)
class Evaluate(Event):
    """Evaluate on the test data; what it gives is in the history, under a name."""

    name: str = "evaluation"

    def apply(self, run: ProcedureRun) -> None:
        """Evaluate."""
        run.evaluate(self.name)
