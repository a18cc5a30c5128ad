"""Runs of procedures: events in turn, the state saved after each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.backend.model_state import find_layer_variables
from tfprune_init.backend.optimizers import get_optimizer_variables
from tfprune_init.backend.protocols import Model
from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.graph.cost import CostModel
from tfprune_init.masking.attachment import attach
from tfprune_init.masks import Masks
from tfprune_init.methods.method import METHODS
from tfprune_init.progress import is_progress_shown, track
from tfprune_init.selection import Budget
from tfprune_init.selection.budget import parse_sparsity
from tfprune_init.training.cost import TrainingCost
from tfprune_init.training.events import Event, Prune, Train, flatten
from tfprune_init.training.feed import Feed
from tfprune_init.training.inputs import ExperimentData, check_callable, make_model, model_fingerprint, prepare_data
from tfprune_init.training.recipe_registry import RECIPES, RunPlan
from tfprune_init.training.run_state import RunState, load_state, save_state


@dataclass(frozen=True)
class RunResult:
    """What a run gives.

    Attributes:
        model: The trained model, with its masks attached.
        masks: The masks; None if nothing was pruned.
        cost: What the run has cost.
        history: What was measured on the test data, in order: dicts with "event", "step", "density", and the numbers
            of `model.evaluate`. The last is of the end.
    """

    model: Model
    masks: Masks | None
    cost: TrainingCost
    history: list[dict[str, Any]]


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
        verbose: 0 shows nothing, 1 a progress bar over the events, "auto" a progress bar on a terminal.
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
    length = _count_steps(steps, epochs, feed)
    if sparsity is not None and budget is not None:
        raise OptionError("Give sparsity= or budget=, not both.")
    density = 1 - parse_sparsity(sparsity) if sparsity is not None else None
    events = _make_events(
        procedure, density, budget, RunPlan(density or Fraction(1), length, feed.steps_per_epoch), options
    )
    model = make_model(build_model, seed)
    if not compat.is_compiled(model):
        loss = compat.get_keras(model).losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
    running = ProcedureRun(model, prepared, feed, seed, sparsity, budget)
    running.follow(events, None if folder is None else Path(folder), verbose)
    running.evaluate("end")
    return RunResult(model, running.state.masks, running.state.cost, running.state.history)


class ProcedureRun:
    """A run of a procedure.

    Args:
        model: A built, compiled model.
        data: Training and test data.
        feed: The batches by step.
        seed: Seed of everything random.
        sparsity: Share to remove in the end, or None.
        budget: A limit in place of a sparsity, or None.

    Attributes:
        state: Where it is.
        density: Share that stays in the end; 1 where it is not known.
    """

    def __init__(
        self, model: Model, data: ExperimentData, feed: Feed, seed: int, sparsity: float | None, budget: Budget | None
    ):
        self.model = model
        self.data = data
        self.seed = seed
        self.sparsity = sparsity
        self.budget = budget
        self.density = Fraction(1) if sparsity is None else 1 - parse_sparsity(sparsity)
        self.state = RunState()
        self._feed = feed
        self._costs = CostModel(model) if compat.is_symbolic(model) else None
        self._variables = find_layer_variables(model)
        model.optimizer.build(model.trainable_variables)  # as Keras does at the first step
        self._optimizer = get_optimizer_variables(model.optimizer)
        self._fresh = [np.array(variable) for variable in self._optimizer]

    def follow(self, events: Sequence[Event], folder: Path | None, verbose: str | int | bool) -> None:
        """Do the events that are not done yet."""
        settings = self._describe(events)
        saved = None if folder is None else load_state(folder, settings)
        if saved is not None:
            self.state, values = saved
            if self.state.masks is not None:  # Keras may have numbered the layers of this model otherwise
                self.state.masks = self.state.masks.carried_to(self.model)
                attach(self.model, self.state.masks)
            self.write_model(values)
        for event in track(events[self.state.done :], "run", shown=is_progress_shown(verbose)):
            # What is random in an event does not depend on the events that a resumed run leaves out.
            compat.set_random_seed(int(np.random.SeedSequence([self.seed, self.state.done]).generate_state(1)[0]))
            event.apply(self)
            self.state.done += 1
            if folder is not None:
                save_state(folder, self.state, self.read_model(), settings)

    def read_model(self) -> list[np.ndarray]:
        """Return the values of all variables of the model."""
        return [np.array(variable) for variable in self._variables]

    def write_model(self, values: Sequence[np.ndarray]) -> None:
        """Set all variables of the model; what the masks prune stays at zero."""
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        if self.state.masks is not None:
            attach(self.model, self.state.masks)

    def renew_optimizer(self) -> None:
        """Give the optimizer the state that it began with, at the step of the run."""
        for variable, value in zip(self._optimizer, self._fresh, strict=True):
            variable.assign(value)
        self.model.optimizer.iterations.assign(self.state.step)

    def batches(self, start: int, stop: int) -> tf.data.Dataset:
        """Return the training batches of the steps from `start` to before `stop`."""
        return self._feed.batches(start, stop)

    def train(self, stop: int, watch: int | None) -> None:
        """Train until a step.

        Args:
            stop: The step.
            watch: Evaluate after every so many steps; None for never.
        """
        while self.state.step < stop:
            start, per_epoch = self.state.step, self._feed.steps_per_epoch
            end = min(stop, (start // per_epoch + 1) * per_epoch)
            if watch is not None:
                end = min(end, (start // watch + 1) * watch)
            with deterministic_reductions():
                self.model.fit(self._feed.batches(start, end), epochs=1, shuffle=False, verbose=0)
            self.state.step = end
            self.count(end - start, 0, self.state.masks, start)
            if watch is not None and end % watch == 0:
                self.evaluate("watch")

    def evaluate(self, name: str) -> None:
        """Evaluate on the test data, and note it in the history."""
        self.note(name, self.measure(), 1.0 if self.state.masks is None else self.state.masks.density)

    def measure(self) -> dict[str, float]:
        """Return what `model.evaluate` gives on the test data, by name."""
        measured = self.model.evaluate(self.data.testing(), verbose=0, return_dict=True)
        return {key: float(value) for key, value in measured.items()}

    def note(self, name: str, numbers: Mapping[str, float], density: float) -> None:
        """Note in the history what was measured of a network with that share of its weights."""
        self.state.history.append({"event": name, "step": self.state.step, "density": density, **numbers})

    def count(self, training: int, scoring: int, masks: Masks | None, start: int = 0) -> None:
        """Count gradient steps and their multiply-adds, three passes an example."""
        examples = self._feed.count_examples(start, start + training + scoring)
        one = (
            None
            if self._costs is None
            else self._costs.count_nonzero({} if masks is None else dict(masks)).multiply_adds
        )
        self.state.cost.add(
            training_steps=training,
            scoring_steps=scoring,
            multiply_adds=None if one is None else 3 * examples * one,
        )

    def _describe(self, events: Sequence[Event]) -> str:
        parts = (
            model_fingerprint(self.model),
            self.data.fingerprint(),
            self.seed,
            self.sparsity,
            self.budget,
            list(events),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def _count_steps(steps: int | None, epochs: int | None, feed: Feed) -> int:
    if (steps is None) == (epochs is None):
        raise OptionError(f"Give steps= or epochs=. Received: steps={steps!r}, epochs={epochs!r}.")
    if steps is not None:
        return check_integer("steps", steps, 1)
    return check_integer("epochs", epochs, 1) * feed.steps_per_epoch


def _make_events(
    procedure: Any, density: Fraction | None, budget: Budget | None, plan: RunPlan, options: dict[str, Any]
) -> list[Event]:
    if isinstance(procedure, str) and procedure in METHODS:
        if density is None and budget is None:
            raise OptionError(f"How much may stay? Give sparsity= or budget= for method {procedure!r}.")
        return [Prune(procedure, None, options), Train(plan.steps)]
    if isinstance(procedure, str):
        recipe = RECIPES.find(procedure)
        if recipe.decides_sparsity and (density is not None or budget is not None):
            raise OptionError(
                f"Procedure {procedure!r} finds itself how many weights stay, so sparsity= and budget= have no effect. "
                f"Received: density={density}, budget={budget!r}."
            )
        if density is None and not recipe.decides_sparsity:
            raise OptionError(
                f"Procedure {procedure!r} prunes to a sparsity. Received: sparsity=None, budget={budget!r}."
            )
        return flatten(recipe.make_events(plan, options))
    if options:
        raise OptionError(f"A list of events takes no options. Received: {', '.join(options)}.")
    return flatten(procedure)
