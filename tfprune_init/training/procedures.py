"""Runs of procedures: events in turn, the state saved after each."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.backend.model_state import find_layer_variables
from tfprune_init.backend.optimizers import get_optimizer_variables
from tfprune_init.backend.protocols import Model
from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.graph.cost import CostModel
from tfprune_init.graph.variables import list_variables
from tfprune_init.masking.attachment import attach
from tfprune_init.masks import Masks
from tfprune_init.options import OPTIONS
from tfprune_init.selection import Budget
from tfprune_init.training.compacted_runs import cut_again
from tfprune_init.training.cost import count_multiply_adds
from tfprune_init.training.dropout_rates import DropoutRates
from tfprune_init.training.events import Event, outline_run
from tfprune_init.training.feed import Feed
from tfprune_init.training.final_report import report_masks
from tfprune_init.training.inputs import (
    ExperimentData,
    check_callable,
    compile_model,
    make_model,
    model_fingerprint,
    prepare_data,
)
from tfprune_init.training.named_procedures import RunGoal, make_events
from tfprune_init.training.one_training import OneTraining
from tfprune_init.training.run_progress import RunProgress
from tfprune_init.training.run_result import RunResult
from tfprune_init.training.run_state import RunState, load_state, save_state

_TRAINING = 1 << 32
"""Tells the seeds of training from those of events, whose number is smaller."""


def run(
    procedure: str | Sequence[Event],
    build_model: Callable[..., Any],
    data: Any,
    *,
    sparsity: float | None = None,
    budget: Budget | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    on_collapse: str = "raise",
    verbose: str | int | bool = "auto",
    **options: Any,
) -> RunResult:
    """Run a method that trains: a named procedure, a method that prunes before training, or events of your own.

    The state is saved after each event. A run that was killed and is started again with the same arguments begins at
    the event it was in, and ends with the same bits.

    Args:
        procedure: "lottery_ticket" or another name of `tpi.training.RECIPES`; a method of `tpi.list_methods()`, which
            is the procedure [Prune, Train]; or a list of events.
        build_model: Returns a new untrained model, as in `tpi.compare`. An uncompiled model is compiled with Adam,
            sparse categorical cross-entropy of logits and accuracy.
        data: A pair (train, test), a dataset of `tpi.datasets.load`, or a function that returns one. Arrays are drawn
            in a new order for every epoch from the seed; a tf.data.Dataset should give the same at every walk.
        sparsity: Share of the prunable weights that is removed in the end, in [0, 1).
        budget: What may stay, in place of `sparsity`; for procedures that prune once.
        steps: Gradient steps of one whole training. Give this or `epochs`.
        epochs: Walks through the training data of one whole training.
        seed: Seed of the model, the order of arrays, and everything random.
        folder: Where the state is kept; nothing is saved without.
        on_collapse: What a network is that pruning cut in two: "raise" for an error, "warn" for a warning, and the run
            goes on.
        verbose: 0 shows nothing, 1 a progress bar with the time left, "auto" a progress bar on a terminal.
        **options: Options of the procedure, such as rewind_to=500 for "lottery_ticket", or of the method.

    Returns:
        RunResult.

    Raises:
        OptionError: If an option is out of range, unknown or has no effect, or the folder holds another run.
        PruningError: As the events raise it.

    Example:
        >>> import tfprune_init as tpi
        >>> from tfprune_init.models import lenet_300_100
        >>> digits = tpi.datasets.load("digits")
        >>> def build(seed):
        ...     return lenet_300_100(digits.input_shape, digits.classes, seed=seed)
        >>> ticket = tpi.run("lottery_ticket", build, digits, sparsity=0.36, steps=20, verbose=0)
        >>> round(ticket.masks.density, 2), ticket.cost.training_steps
        (0.64, 60)
    """
    check_callable(build_model)
    prepared = prepare_data(data)
    seed = check_integer("seed", seed, 0)
    feed = Feed(prepared, seed)
    goal = RunGoal(sparsity, budget)
    events = make_events(procedure, goal, _count_steps(steps, epochs, feed), feed.steps_per_epoch, options)
    model = make_model(build_model, seed)
    compile_model(model)
    running = ProcedureRun(model, prepared, feed, seed, goal, on_collapse)
    running.follow(events, None if folder is None else Path(folder), verbose)
    running.evaluate("end")
    return running.conclude(procedure if isinstance(procedure, str) else "events", options)


class ProcedureRun:
    """A run of a procedure.

    Args:
        model: A built, compiled model.
        data: Training and test data.
        feed: The batches by step.
        seed: Seed of everything random.
        goal: How much is to stay.
        on_collapse: "raise" or "warn": what a network is that pruning cut in two.

    Attributes:
        state: Where it is.
        feed: As given.
        progress: The bar over its gradient steps.
        dropout_rates: Rates of Dropout that follow the masks; None where they stay as they are.

    Raises:
        OptionError: If `on_collapse` is neither.
    """

    def __init__(
        self, model: Model, data: ExperimentData, feed: Feed, seed: int, goal: RunGoal, on_collapse: str = "raise"
    ):
        self.data = data
        self.seed = seed
        self.goal = goal
        self.on_collapse = OPTIONS["on_collapse"].check(on_collapse)
        self.state = RunState()
        self.state.follow_names(model)
        self.dropout_rates: DropoutRates | None = None
        self.feed = feed
        self.progress = RunProgress()
        self._counted = 0
        self._dense_gradients = False
        self.replace_model(model)

    def replace_model(self, model: Model) -> None:
        """Go on with another built, compiled model and its optimizer; the state has to be made to fit it."""
        self.model = model
        self._costs = CostModel(model) if compat.is_symbolic(model) else None
        self._variables = find_layer_variables(model)
        model.optimizer.build(model.trainable_variables)  # as Keras does at the first step
        self._optimizer = get_optimizer_variables(model.optimizer)
        self._fresh = [np.array(variable.numpy()) for variable in self._optimizer]

    def follow(self, events: Sequence[Event], folder: Path | None, verbose: str | int | bool) -> None:
        """Do the events that are not done yet."""
        outline = outline_run(events)
        settings = self._describe(events)
        saved = None if folder is None else load_state(folder, settings)
        if saved is not None:
            self.state, values = saved
            cut_again(self)
            self.state.follow_names(self.model)
            if self.state.masks is not None:
                attach(self.model, self.state.masks)
            self.write_model(values)
            for event in events[: self.state.done]:
                event.resume(self)
        for event in events[self.state.done :]:
            event.check(self)
        with self.progress.show(outline.gradient_steps, outline_run(events[: self.state.done]).gradient_steps, verbose):
            for event in events[self.state.done :]:
                # What is random in an event does not depend on the events that a resumed run leaves out.
                self._seed_with(self.state.done)
                event.apply(self)
                if self.dropout_rates is not None:
                    self.dropout_rates.rescale(self.state.masks)
                self.state.done += 1
                if folder is not None:
                    save_state(folder, self.state, self.read_model(), settings)

    def conclude(self, name: str, options: Mapping[str, Any]) -> RunResult:
        """Return what the run gives.

        Args:
            name: Name of the procedure.
            options: Its options.
        """
        state = self.state
        report = None if state.masks is None else report_masks(self, name, options)
        found = (self.model, state.masks, state.cost, state.history, state.epochs, report, self.list_snapshots())
        return RunResult(*found, [one.account for one in state.compactions])

    def read_model(self) -> list[np.ndarray]:
        """Return the values of all variables of the model."""
        return [np.array(variable.numpy()) for variable in self._variables]

    def write_model(self, values: Sequence[np.ndarray]) -> None:
        """Set all variables of the model; what the masks prune stays at zero."""
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        if self.state.masks is not None:
            attach(self.model, self.state.masks)

    def list_snapshots(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the snapshots, each by variable path."""
        paths = {id(target.tensor): target.path for target in list_variables(self.model)}
        return {
            name: {
                paths[id(variable)]: value
                for variable, value in zip(self._variables, values, strict=True)
                if id(variable) in paths
            }
            for name, (_, values) in self.state.snapshots.items()
        }

    def renew_optimizer(self) -> None:
        """Give the optimizer the state that it began with, at the step of the run."""
        for variable, value in zip(self._optimizer, self._fresh, strict=True):
            variable.assign(value)
        self.model.optimizer.iterations.assign(self.state.step)

    def train(self, stop: int, watch: int | None, callbacks: Sequence[Any] = ()) -> None:
        """Train until a step. What is random in it, such as dropout, depends on the step that it begins at.

        Args:
            stop: The step.
            watch: Evaluate after every so many steps; None for never.
            callbacks: Callbacks of Keras. They see one training of one epoch, whose steps have the numbers that they
                have in the run. One that changes masks calls `change_masks`.
        """
        began = time.perf_counter()
        self._seed_with(_TRAINING, self.state.step)
        whole = OneTraining(self.model, callbacks, self.state.step, stop)
        self._counted = self.state.step
        whole.begin()
        while self.state.step < stop:
            start, per_epoch = self.state.step, self.feed.steps_per_epoch
            end = min(stop, (start // per_epoch + 1) * per_epoch)
            if watch is not None:
                end = min(end, (start // watch + 1) * watch)
            with deterministic_reductions():
                pieces = [whole] if callbacks else None
                batches = self.feed.batches(start, end)
                logged = self.model.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=pieces).history
            self._count_until(end)
            self.state.step = end
            self.state.epochs.append({name: float(values[-1]) for name, values in logged.items()})
            self.progress.advance(end - start)
            if watch is not None and end % watch == 0:
                self.evaluate("watch")
        whole.end()
        self.state.seconds["training"] += time.perf_counter() - began

    def change_masks(self, masks: Masks, step: int, *, dense_gradients: bool = False) -> None:
        """Go on under other masks, which a callback has given the model within a training.

        Args:
            masks: The masks that the model computes with from now on.
            step: How many steps of the run were done under the masks of before.
            dense_gradients: Whether pruned weights get a gradient, which costs a dense pass for each example.
        """
        self._count_until(step)
        self.state.masks, self._dense_gradients = masks, dense_gradients

    def _count_until(self, step: int) -> None:
        self.count(step - self._counted, 0, self.state.masks, self._counted, self._dense_gradients)
        self._counted = step

    def evaluate(self, name: str) -> None:
        """Evaluate on the test data, and note it in the history."""
        self.state.note(name, self.measure(), self.state.density)

    def measure(self) -> dict[str, float]:
        """Return what `model.evaluate` gives on the test data, by name."""
        measured = self.model.evaluate(self.data.testing(), verbose=0, return_dict=True)
        return {key: float(value) for key, value in measured.items()}

    def count(
        self, training: int, scoring: int, masks: Masks | None, start: int = 0, dense_gradients: bool = False
    ) -> None:
        """Count gradient steps and their multiply-adds, as `count_multiply_adds` says."""
        examples = self.feed.count_examples(start, start + training + scoring)
        one = None if self._costs is None else count_multiply_adds(self._costs, masks, dense_gradients=dense_gradients)
        multiply_adds = None if one is None else examples * one
        self.state.cost.add(training_steps=training, scoring_steps=scoring, multiply_adds=multiply_adds)

    def _seed_with(self, *numbers: int) -> None:
        compat.set_random_seed(int(np.random.SeedSequence([self.seed, *numbers]).generate_state(1)[0]))

    def _describe(self, events: Sequence[Event]) -> str:
        parts = (
            model_fingerprint(self.model),
            self.data.fingerprint(),
            self.seed,
            self.goal.sparsity,
            self.goal.budget,
            self.on_collapse,
            list(events),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def _count_steps(steps: int | None, epochs: int | None, feed: Feed) -> int:
    if (steps is None) == (epochs is None):
        raise OptionError(f"Give steps= or epochs=. Received: steps={steps!r}, epochs={epochs!r}.")
    if steps is not None:
        return check_integer("steps", steps, 1)
    return check_integer("epochs", epochs, 1) * feed.steps_per_epoch
