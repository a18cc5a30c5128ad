"""The events that procedures are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.masking.attachment import attach
from tfprune_init.masking.reinitialization import reinitialize
from tfprune_init.training.pruning import prune

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


class Event:
    """One event of a procedure. Its `repr` names all that decides what it does."""

    def apply(self, run: ProcedureRun) -> None:
        """Do it.

        Args:
            run: The run, whose state it changes.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Train(Event):
    """Train with a fresh optimizer whose step counter is that of the run.

    Args:
        until: Train until this step of the run; it must not be behind.
        steps: Train for so many steps instead, past the end of a schedule too, where it keeps to its last value.
        watch: Evaluate on the test data after every so many steps; what it gives is in the history.

    Raises:
        OptionError: If not exactly one of `until` and `steps` is given.
    """

    until: int | None = None
    steps: int | None = None
    watch: int | None = None

    def __post_init__(self) -> None:
        if (self.until is None) == (self.steps is None):
            raise OptionError(f"Train takes until= or steps=. Received: until={self.until!r}, steps={self.steps!r}.")
        for name in ("until", "steps", "watch"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)

    def apply(self, run: ProcedureRun) -> None:
        """Train."""
        stop = run.state.step + self.steps if self.steps is not None else self.until
        assert stop is not None
        if stop < run.state.step:
            raise OptionError(f"The run is at step {run.state.step} already. Received: {self!r}.")
        run.renew_optimizer()
        run.train(stop, self.watch)


@dataclass(frozen=True)
class Prune(Event):
    """Find masks among what is left, and attach them.

    Args:
        method: A method of `tpi.list_methods()`.
        density: Share of the prunable weights that stays, in (0, 1]; that of the run by default.
        options: Options of the method, as `tpi.find_masks` takes them.
    """

    method: str
    density: Fraction | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, run: ProcedureRun) -> None:
        """Find the masks, and attach them."""
        prune(run, self.method, self.density, self.options)


@dataclass(frozen=True)
class ShuffleMasks(Event):
    """Move what each variable keeps to random places. Weights that come back are 0 until a `Rewind`."""

    def apply(self, run: ProcedureRun) -> None:
        """Shuffle the masks."""
        if run.state.masks is None:
            raise OptionError("There are no masks to shuffle. Put a Prune before.")
        run.state.masks = run.state.masks.shuffled(run.seed)
        attach(run.model, run.state.masks)


@dataclass(frozen=True)
class Snapshot(Event):
    """Keep the values of all variables of the model, moving statistics too, and the step, under a name."""

    name: str

    def apply(self, run: ProcedureRun) -> None:
        """Keep them."""
        run.state.snapshots[self.name] = (run.state.step, run.read_model())


@dataclass(frozen=True)
class Rewind(Event):
    """Go back to a snapshot; pruned weights stay exactly 0.0.

    Args:
        name: The snapshot.
        weights: Whether the variables go back.
        step: Whether the step goes back, and with it schedules and the order of the data.
    """

    name: str
    weights: bool = True
    step: bool = True

    def apply(self, run: ProcedureRun) -> None:
        """Go back."""
        if self.name not in run.state.snapshots:
            raise OptionError(f"There is no snapshot {self.name!r}. Put a Snapshot of that name before.")
        step, values = run.state.snapshots[self.name]
        if self.weights:
            run.write_model(values)
        if self.step:
            run.state.step = step


@dataclass(frozen=True)
class Reinitialize(Event):
    """Give the kernels other weights under the same masks, as `tpi.reinitialize` does."""

    kind: str = "random"

    def apply(self, run: ProcedureRun) -> None:
        """Draw them."""
        reinitialize(run.model, self.kind, seed=run.seed)


@dataclass(frozen=True)
class Evaluate(Event):
    """Evaluate on the test data; what it gives is in the history, under a name."""

    name: str = "evaluation"

    def apply(self, run: ProcedureRun) -> None:
        """Evaluate."""
        run.evaluate(self.name)


@dataclass(frozen=True)
class Repeat(Event):
    """A list of events, so many times."""

    times: int
    events: tuple[Event, ...]

    def apply(self, run: ProcedureRun) -> None:
        """Do nothing: a procedure takes the events in its place."""
        raise AssertionError("a procedure is flat")


def flatten(events: Sequence[Event]) -> list[Event]:
    """Put the events of each `Repeat` in its place.

    Raises:
        OptionError: If something is no event.

    Example:
        >>> from tfprune_init.training.events import Evaluate, Repeat, flatten
        >>> flatten([Repeat(2, (Evaluate("a"),))])
        [Evaluate(name='a'), Evaluate(name='a')]
    """
    flat: list[Event] = []
    for event in events:
        if isinstance(event, Repeat):
            flat += flatten(event.events) * check_integer("times", event.times, 1)
        elif isinstance(event, Event):
            flat.append(event)
        else:
            raise OptionError(f"A procedure is a list of events. Received: {event!r}.")
    return flat
