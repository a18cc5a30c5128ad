"""What an event is, and lists of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError

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
