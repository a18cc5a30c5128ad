"""Training that prunes every few steps: with masks that only shrink, and with masks that change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tfprune_init.backend.callbacks import BackendCallback
from tfprune_init.checks import check_integer, check_number
from tfprune_init.errors import OptionError
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.masking.callbacks import PruneDuringTraining
from tfprune_init.masking.dynamic_pruning import DynamicPruning
from tfprune_init.selection.budget import to_fraction
from tfprune_init.selection.schedules import SCHEDULES
from tfprune_init.training.events.event import Event, RunOutline
from tfprune_init.training.pruning import complete_options, count_judged_batches, resolve_pruning
from tfprune_init.training.watching import check_watch

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun

_FIELDS = ("sparsity", "every", "delay", "until", "events", "unit", "method", "schedule", "exclude", "masks", "data")


@dataclass(frozen=True)
class PruningTraining(Event):
    """Train with a fresh optimizer, and prune in between: after steps begin + every, begin + 2 * every, ..., end.

    Args:
        until: Train until this step of the run.
        every: Steps between two prunings.
        begin: Step from which they are counted; the one that the run is at by default.
        end: The last pruning is the last one that is not after this step; by default 75% of the way from `begin` to
            `until`. The steps that are left train the network that the last one gave.
        schedule: Name of the schedule of densities: "cubic", "linear", "exponential", "halving" or "one_shot".
        density: Share of the prunable weights that stays, in (0, 1]; that of the run by default.
        exclude: What not to prune: names of layers, paths or glob patterns.
        options: Options of the method, as `tpi.find_masks` takes them.
        watch: Evaluate on the test data after every so many steps, after the pruning of that step if there is one.

    Raises:
        OptionError: If a value is out of range, no pruning fits in, or an option has no effect.
    """

    until: int
    every: int = 100
    begin: int | None = None
    end: int | None = None
    schedule: str = "cubic"
    density: Fraction | float | None = None
    exclude: str | tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    watch: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("until", 1), ("every", 1), ("begin", 0), ("end", 1), ("watch", 1)):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), least)
        self._find_times(0 if self.begin is None else self.begin)
        if not isinstance(self.schedule, str):
            raise OptionError(f"schedule is the name of a schedule here. Received: schedule={self.schedule!r}.")
        SCHEDULES.find(self.schedule)
        if self.density is not None:
            check_number("density", self.density, "the share that stays, in (0, 1]", lambda share: 0 < share <= 1)
        names = self.exclude if isinstance(self.exclude, tuple) else (self.exclude,)
        if self.exclude is not None and not all(isinstance(name, str) for name in names):
            raise OptionError(f"exclude is a name or a tuple of names here. Received: exclude={self.exclude!r}.")
        fixed = [name for name in self.options if name in _FIELDS]
        if fixed:
            raise OptionError(f"{', '.join(fixed)} cannot be among options=. {type(self).__name__} decides it.")

    def outline(self, outline: RunOutline) -> None:
        """Count the steps; refuse to train backwards, and to watch what cannot be watched."""
        at = outline.step
        if self.until <= at or (self.begin is not None and self.begin < at):
            raise OptionError(f"The run is at step {at} already. Received: {self!r}.")
        check_watch(self.watch, at, self.until)
        self._find_times(at if self.begin is None else self.begin)
        outline.training_steps += self.until - at
        outline.step = self.until
        outline.is_pruned = True

    def check(self, run: ProcedureRun) -> None:
        """Refuse options that do not fit the network."""
        find_prunable_variables(run.model, exclude=self.exclude)
        self._make_callback(run, *self._find_times(0 if self.begin is None else self.begin))

    def apply(self, run: ProcedureRun) -> None:
        """Train and prune."""
        begin, end = self._find_times(run.state.step if self.begin is None else self.begin)
        pruning = self._make_callback(run, begin, end)
        run.renew_optimizer()
        run.train(self.until, self.watch, [pruning, _MaskReport(run, self, pruning, end - (end - begin) % self.every)])

    def count_scoring_steps(self, run: ProcedureRun) -> int:
        """Return the gradient steps that judge connections at one pruning."""
        return 0

    def has_dense_gradients(self) -> bool:
        """Return whether weights that are pruned get a gradient, until the last pruning."""
        return False

    def _make_callback(self, run: ProcedureRun, begin: int, end: int) -> Any:
        raise NotImplementedError

    def _find_times(self, begin: int) -> tuple[int, int]:
        """Return the steps from which prunings are counted, and that none is after."""
        end = begin + (self.until - begin) * 3 // 4 if self.end is None else self.end
        if end > self.until:
            raise OptionError(f"The training ends before end=. Received: end={end}, until={self.until}.")
        if begin + self.every > end:
            raise OptionError(
                f"No pruning fits in: the first one is after step {begin + self.every}, and none is after step {end}. "
                f"Received: begin={begin}, every={self.every}, end={self.end}, until={self.until}; train longer, or "
                "prune more often."
            )
        return begin, end

    def _find_sparsity(self, run: ProcedureRun) -> Fraction:
        if self.density is None and run.goal.sparsity is None:
            raise OptionError(
                f"How much may stay? Give {type(self).__name__} a density=, or the run a sparsity=. "
                f"Received: density=None, sparsity=None, budget={run.goal.budget!r}."
            )
        return 1 - (run.goal.density if self.density is None else to_fraction(self.density))


@dataclass(frozen=True)
class TrainAndPrune(PruningTraining):
    """Train, and prune every few steps what is left by then; pruned weights stay at exactly zero.

    The work is that of `tpi.PruneDuringTraining`. With "magnitude" and "cubic" it is gradual magnitude pruning.

    Args:
        method: A method whose pruned weights stay pruned.

    The others are those of `PruningTraining`.

    Example:
        >>> from tfprune_init.training import TrainAndPrune
        >>> TrainAndPrune(until=400, every=100, density=0.1).method
        'magnitude'
    """

    method: str = "magnitude"

    def count_scoring_steps(self, run: ProcedureRun) -> int:
        """Return the batches that the method judges by."""
        return count_judged_batches(resolve_pruning(run, self.method, self.options))

    def _make_callback(self, run: ProcedureRun, begin: int, end: int) -> PruneDuringTraining:
        return PruneDuringTraining(
            run.data.train,
            sparsity=self._find_sparsity(run),
            method=self.method,
            every=self.every,
            delay=begin,
            until=end,
            unit="steps",
            schedule=self.schedule,
            exclude=self.exclude,
            **complete_options(run, self.method, self.options),
        )


@dataclass(frozen=True)
class TrainDynamically(PruningTraining):
    """Train dense weights that the network reads through masks, chosen anew every few steps (DPF).

    The work is that of `tpi.DynamicPruning`: pruned weights go on training and may return, until the last pruning. From
    there on the masks are attached. The network must be dense at the beginning.

    The arguments are those of `PruningTraining`.

    Example:
        >>> from tfprune_init.training import TrainDynamically
        >>> TrainDynamically(until=400, density=0.1).every
        16
    """

    every: int = 16

    def outline(self, outline: RunOutline) -> None:
        """Refuse to begin with pruned weights, which could not return."""
        if outline.is_pruned:
            raise OptionError(
                "TrainDynamically begins with a dense network, as weights that were pruned before could not return. "
                f"Received: {self!r} after a pruning; leave that out, or use TrainAndPrune."
            )
        super().outline(outline)

    def has_dense_gradients(self) -> bool:
        """Return True: all dense weights train."""
        return True

    def _make_callback(self, run: ProcedureRun, begin: int, end: int) -> DynamicPruning:
        return DynamicPruning(
            sparsity=self._find_sparsity(run),
            every=self.every,
            delay=begin,
            until=end,
            schedule=self.schedule,
            exclude=self.exclude,
            **complete_options(run, "magnitude", self.options),
        )


class _MaskReport(BackendCallback):
    """Tells a run which masks its network has got, after each step at which a callback pruned it."""

    def __init__(self, run: ProcedureRun, event: PruningTraining, pruning: Any, last: int):
        super().__init__()
        self._run = run
        self._pruning = pruning
        self._scoring = event.count_scoring_steps(run)
        self._dense_until = last if event.has_dense_gradients() else 0
        self._seen = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Look whether there was a pruning after this step of the run."""
        if len(self._pruning.history) == self._seen:
            return
        self._seen = len(self._pruning.history)
        done = batch + 1
        if self._scoring:
            self._run.count(0, self._scoring, self._run.state.masks, done)
        self._run.change_masks(self._pruning.masks, done, dense_gradients=done < self._dense_until)
