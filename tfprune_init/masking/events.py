"""Events of pruning at fixed places of a training: at the ends of epochs, or between its steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from tfprune_init.backend.callbacks import BackendCallback
from tfprune_init.backend.protocols import Model
from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.methods import ResolvedMethod
from tfprune_init.methods.goal import Goal
from tfprune_init.methods.mask_search import search_masks
from tfprune_init.methods.mask_selector import MaskSelector
from tfprune_init.report import PruningReport, conclude_search
from tfprune_init.scoring import Arrays, ScoringEngine

_UNITS = ("epochs", "steps")


@dataclass(frozen=True)
class EventPlan:
    """Where in a training events are: after delay + every, delay + 2 * every, ... epochs or steps.

    Attributes:
        unit: "epochs" or "steps".
        every: How many of them lie between two events.
        delay: How many of them lie before the first `every`.
        events: Number of events.
    """

    unit: str
    every: int
    delay: int
    events: int

    @property
    def last(self) -> int:
        """How many epochs or steps there are before the last event."""
        return self.delay + self.every * self.events

    def count_passed(self, done: int) -> int:
        """Return how many events fall on the first `done` epochs or steps.

        Example:
            >>> from tfprune_init.masking.events import EventPlan
            >>> [EventPlan("steps", every=10, delay=5, events=2).count_passed(done) for done in (14, 15, 25, 99)]
            [0, 1, 2, 2]
        """
        return min(max(done - self.delay, 0) // self.every, self.events)


def make_plan(unit: str, every: int, delay: int, *, events: int | None = None, until: int | None = None) -> EventPlan:
    """Return a checked plan.

    Args:
        unit: "epochs" or "steps".
        every: As in `EventPlan`.
        delay: As in `EventPlan`.
        events: Number of events.
        until: In place of `events`: the last event is the last one that is not after so many epochs or steps.

    Raises:
        OptionError: If one is out of range, or not exactly one of `events` and `until` is given.
    """
    if unit not in _UNITS:
        raise OptionError(f"unit must be one of {_UNITS}. Received: unit={unit!r}.")
    for name, value, least in (("every", every, 1), ("delay", delay, 0), ("events", events, 1), ("until", until, 1)):
        if value is not None:
            check_integer(name, value, least)
    if (events is None) == (until is None):
        raise OptionError(f"Either events= or until= says how long to prune. Received: {events=}, {until=}.")
    if until is not None:
        events = (until - delay) // every
        if events < 1:
            raise OptionError(
                f"No event comes before until: the first one is after {delay + every} {unit}. "
                f"Received: {until=}, {delay=}, {every=}."
            )
    assert events is not None
    return EventPlan(unit, every, delay, events)


def search_at_event(
    model: Model,
    selector: MaskSelector,
    resolved: ResolvedMethod,
    data: Any,
    density: Fraction,
    *,
    last: Fraction | None = None,
    left: Arrays | None = None,
    prune_bias: bool = False,
) -> PruningReport:
    """Find the masks of one event: the network judged once, as it is now.

    Args:
        model: The model.
        selector: How masks are chosen from scores.
        resolved: The method.
        data: What it judges by, or None.
        density: Share to keep.
        last: Density of the last event, which `density` is on the way to.
        left: What earlier events left; all by default.
        prune_bias: Whether biases are prunable.

    Raises:
        NetworkCollapseError: If they would leave a network that passes no signal.
    """
    once = replace(resolved, method=replace(resolved.method, schedule="one_shot", steps=1))
    with ScoringEngine(model, selector.variables.prunable, data=data, **once.engine_options) as engine:
        found = search_masks(engine, selector, once, Goal(density, last=last), verbose=0, left=left)
    return conclude_search(model, found, prune_bias)


class EventCallback(BackendCallback):
    """A callback that prunes in events, in `fit` of Keras 3 and of tf_keras.

    A class of it calls `follow(plan)` when training begins, and prunes in `prune_at`. Steps are counted from the
    beginning of epoch 0, so a training that goes on with `initial_epoch` goes on with its events.

    Attributes:
        history: For each event, the number of epochs or steps before it and the share of weights kept from there on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: list[tuple[int, float]] = []
        self.passed = 0
        self._plan: EventPlan | None = None
        self._before: int | None = None
        self._batch = 0

    def prune_at(self, number: int, place: int) -> None:
        """Prune.

        Args:
            number: Which event of the plan it is, counted from 1.
            place: How many epochs or steps lie before it.
        """
        raise NotImplementedError

    def follow(self, plan: EventPlan) -> None:
        """Begin to follow a plan.

        Raises:
            OptionError: If the training is known to end before the last event.
        """
        self._plan, self._before = plan, None
        length = self.find_length(plan.unit)
        if length is not None and length < plan.last:
            raise OptionError(
                f"The last of {plan.events} events comes after {plan.unit[:-1]} {plan.last}. Received: a training of "
                f"{length} {plan.unit}; train longer, or give fewer events or a smaller every or delay."
            )

    def find_length(self, unit: str) -> int | None:
        """Return how many epochs or steps the training has; None if that is not known.

        Args:
            unit: "epochs" or "steps".
        """
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        length: int | None = epochs if unit == "epochs" or epochs is None else steps and epochs * steps
        return length

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count the steps of the epochs before this one."""
        steps = self.params.get("steps")
        if steps:
            self._before = epoch * steps
        elif self._before is None:
            if epoch and self._plan is not None and self._plan.unit == "steps":
                raise OptionError(
                    "How many steps lie before epoch 1 and later is known only where an epoch's number of steps is. "
                    f"Received: initial_epoch={epoch}, and data of unknown length; give steps_per_epoch=."
                )
            self._before = 0
        else:
            self._before += self._batch
        self._batch = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Remember which step it is."""
        self._batch = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Prune, if an event falls on this step."""
        if self._plan is None or self._plan.unit != "steps":
            return
        if batch != self._batch:
            raise OptionError(
                f"Events between steps need steps one by one. Received: {batch - self._batch + 1} steps at once; "
                "compile with steps_per_execution=1."
            )
        self._batch = batch + 1
        self._reach((self._before or 0) + self._batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Prune, if an event falls on this epoch."""
        if self._plan is not None and self._plan.unit == "epochs":
            self._reach(epoch + 1)

    def on_train_end(self, logs: Any = None) -> None:
        """Refuse to end in silence before the last event, where nobody could know beforehand."""
        unknown = self._plan is not None and self._plan.unit == "steps" and not self.params.get("steps")
        if unknown and self._plan is not None and self.passed < self._plan.events and not self.model.stop_training:
            raise OptionError(
                f"The training ended after {self.passed} of {self._plan.events} events, the last of which comes after "
                f"step {self._plan.last}. The network is as the last event left it. Train longer, or give fewer events."
            )

    def _reach(self, place: int) -> None:
        assert self._plan is not None
        number = self._plan.count_passed(place)
        if number > self.passed and place == self._plan.delay + number * self._plan.every:
            self.passed = number
            self.prune_at(number, place)
