"""What an event is, and lists of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


@dataclass
class RunOutline:
    """Where a run will be when its events are done one after the other: known before anything runs.

    Attributes:
        step: Step of training.
        training_steps: Gradient steps that were trained to get there.
        learning_steps: Gradient steps that learned masks, and no weights, to get there.
        snapshots: Step of each snapshot, by name.
        is_pruned: Whether there are masks.
        is_compacted: Whether channels were cut out of the network.
        rescales_dropout: Whether rates of Dropout follow the masks.
    """

    step: int = 0
    training_steps: int = 0
    learning_steps: int = 0
    snapshots: dict[str, int] = field(default_factory=dict)
    is_pruned: bool = False
    is_compacted: bool = False
    rescales_dropout: bool = False

    @property
    def gradient_steps(self) -> int:
        """Gradient steps to get there, but for those of searches."""
        return self.training_steps + self.learning_steps

    def check_snapshot(self, name: str) -> None:
        """Refuse a snapshot that nobody kept.

        Raises:
            OptionError: If there is none of that name.
        """
        if name not in self.snapshots:
            raise OptionError(f"There is no snapshot {name!r}. Put a Snapshot of that name before.")


class Event:
    """One event of a procedure. Its `repr` names all that decides what it does."""

    def outline(self, outline: RunOutline) -> None:
        """Say where the run will be after it, and refuse what can't be done there.

        Args:
            outline: Where the run will be before it; it is changed.

        Raises:
            OptionError: If it can't be done there, such as going back to a snapshot that nobody kept.
        """

    def check(self, run: ProcedureRun) -> None:
        """Refuse what cannot work on the network of a run, before any event is done.

        Args:
            run: The run, which stays as it is.
        """

    def apply(self, run: ProcedureRun) -> None:
        """Do it.

        Args:
            run: The run, whose state it changes.
        """
        raise NotImplementedError

    def resume(self, run: ProcedureRun) -> None:
        """Do again what the saved state does not hold, in a run that goes on after this event. Mostly nothing.

        Args:
            run: The run, with the state that was saved last.
        """


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


def outline_run(events: Sequence[Event]) -> RunOutline:
    """Follow a flat list of events without running them.

    Raises:
        OptionError: If one of them can't be done at its place.

    Example:
        >>> from tfprune_init.training.events import Rewind, Snapshot, Train, outline_run
        >>> outline_run([Train(10), Snapshot("early"), Train(100), Rewind("early"), Train(100)]).training_steps
        190
    """
    outline = RunOutline()
    for event in events:
        event.outline(outline)
    return outline
