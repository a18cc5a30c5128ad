"""One run of an experiment: build, prune, train, evaluate; whatever happens becomes a row."""

from __future__ import annotations

import gc
import logging
import math
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend.protocols import Model
from tfprune_init.errors import ModelError, NetworkCollapseError, NetworkCollapseWarning
from tfprune_init.experiments.guessing import is_above_guessing
from tfprune_init.experiments.results import Run
from tfprune_init.experiments.run_config import DENSE, RunConfig, to_plain_values
from tfprune_init.experiments.stable_paths import make_stable_paths
from tfprune_init.experiments.storage import (
    COMPARED,
    MASKS_FILE,
    REPORT_FILE,
    remove_state,
    run_folder,
    state_folder,
    write_run_file,
)
from tfprune_init.files import write_json
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.masking.wrapper import strip
from tfprune_init.masks import Masks
from tfprune_init.training.feed import Feed
from tfprune_init.training.inputs import ExperimentData, compile_model, make_model, model_fingerprint
from tfprune_init.training.procedures import ProcedureRun
from tfprune_init.training.run_state import RunState

_SHORT = 2
"""Number of events of a method that prunes before training."""


@dataclass(frozen=True)
class ExperimentContext:
    """What all runs of a comparison share.

    Attributes:
        build_model: Returns a new untrained model at each call.
        optimizer: What to compile models with that come uncompiled: a name, or a function that returns one.
        loss: What to compile them with.
        data: The data.
        guess: Share of the most frequent class among the test examples.
        examples: Number of test examples.
        out: The folder of the comparison.
        steps_per_epoch: Number of batches in one walk through the training data.
    """

    build_model: Callable[..., Any]
    optimizer: Any
    loss: Any
    data: ExperimentData
    guess: float
    examples: int
    out: Path
    steps_per_epoch: int

    def model(self, seed: int) -> Any:
        """Build the untrained model at one seed, compiled.

        Raises:
            OptionError: If it comes compiled and there is an optimizer or a loss to compile it with.
        """
        model = make_model(self.build_model, seed)
        compile_model(model, self.optimizer, self.loss)
        return model


def run_one(context: ExperimentContext, config: RunConfig) -> Run:
    """Run one configuration and store it.

    Args:
        context: What all runs share.
        config: Method, sparsity and seed of the run.

    Returns:
        Its row, which is also in its folder, with masks and report.
    """
    progress = _Progress()
    accuracy = loss = error = None
    try:
        with _silence_expected_messages():
            accuracy, loss = _train(context, config, progress)
        error = None if progress.masks is None else progress.masks.collapse
        status = "trained" if error is None else "collapsed"
    except NetworkCollapseError as reason:
        status, error = "collapsed", str(reason)
    except Exception as reason:  # noqa: BLE001 - whatever a model or kernel raises stops this run, not all
        status, error = "failed", "".join(traceback.format_exception_only(reason)).strip()
        progress.trace = traceback.format_exc()
    state = progress.state
    row = Run(
        id=config.id,
        label=config.spec.label,
        method=config.spec.method,
        options=to_plain_values(config.spec.options),
        sparsity=config.sparsity,
        seed=config.seed,
        epochs=config.epochs,
        status=status,
        error=error,
        size=progress.size,
        kept=progress.kept,
        accuracy=accuracy,
        loss=loss,
        guess=context.guess,
        destroyed=_destroyed(status, accuracy, context),
        history=[{name: _finite(value) for name, value in epoch.items()} for epoch in state.epochs],
        steps=[{key: s[key] for key in ("number", "density", "kept", "objective")} for s in progress.search["steps"]]
        if progress.search
        else [],
        layers=[
            {"path": progress.names[path], "size": int(mask.size), "kept": int(np.count_nonzero(mask))}
            for path, mask in (progress.masks or {}).items()
        ],
        prune_seconds=state.seconds["pruning"],
        train_seconds=state.seconds["training"],
        training_steps=state.cost.training_steps,
        scoring_steps=state.cost.scoring_steps,
        multiply_adds=state.cost.multiply_adds,
    )
    _store(context.out, config, row, progress)
    gc.collect()  # Keras models are full of cycles; the next run would be built beside this one.
    return row


@contextmanager
def _silence_expected_messages() -> Iterator[None]:
    """Silence what each run may say anew.

    Functions are traced often, as each run trains a new model; data of unknown size ends; networks collapse, which the
    rows tell.
    """

    def is_unexpected(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(is_unexpected)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            warnings.simplefilter("ignore", NetworkCollapseWarning)
            yield
    finally:
        logger.removeFilter(is_unexpected)


@dataclass
class _Progress:
    """How far a run came."""

    size: int | None = None
    kept: int | None = None
    state: RunState = field(default_factory=RunState)
    masks: Masks | None = None
    search: dict[str, Any] | None = None
    names: dict[str, str] = field(default_factory=dict)
    trace: str | None = None

    def keep_masks(self, model: Model, masks: Masks, search: dict[str, Any] | None) -> None:
        """Keep the masks of a model, the report of how they were found, and the names variables have in all runs."""
        self.masks, self.search = masks, search
        self.size, self.kept = masks.size, masks.kept
        self.names = make_stable_paths(model, masks)


def _train(context: ExperimentContext, config: RunConfig, progress: _Progress) -> tuple[float, float | None]:
    spec, data = config.spec, context.data
    model = context.model(config.seed)
    if model_fingerprint(model) != config.model:
        raise ModelError(
            f"build_model returned another model at seed {config.seed} than before. All methods start from the same "
            "weights: let it draw them from its seed argument, or from Keras's global seed, which is set before each "
            "call."
        )
    accuracy = accuracy_in(model.evaluate(data.testing().take(1), verbose=0, return_dict=True))
    goal = spec.make_goal(config.sparsity)
    running = ProcedureRun(model, data, Feed(data, config.seed), config.seed, goal, spec.on_collapse)
    progress.state = running.state
    events = spec.make_events(config.sparsity, config.epochs, context.steps_per_epoch)
    dense = _count_weights(model)
    if spec.method == DENSE:
        progress.size = progress.kept = dense
    # What ends with one training begins anew after a crash; longer procedures go on inside.
    kept = state_folder(context.out, config.id) if len(events) > _SHORT else None
    try:
        running.follow(events, kept, verbose=0)
    except NetworkCollapseError as reason:
        progress.keep_masks(model, reason.masks, reason.report.to_dict())
        raise
    finally:
        progress.state = running.state
    model = running.model  # a smaller one where channels were cut out of it
    if running.state.compactions:
        progress.size, progress.kept = dense, _count_weights(model)
    if running.state.masks is not None:
        progress.keep_masks(model, running.state.masks, running.state.search)
        strip(model)  # refuses pruned weights that are not exactly zero
    logs = model.evaluate(data.testing(), verbose=0, return_dict=True)
    return float(logs[accuracy]), _finite(logs["loss"])


def _count_weights(model: Model) -> int:
    return sum(target.size for target in find_prunable_variables(model).prunable)


def accuracy_in(logs: dict[str, Any]) -> str:
    """Find the name of the accuracy among a model's metrics.

    Raises:
        ModelError: If there is none.
    """
    names = [name for name in logs if name == "accuracy" or name.endswith("_accuracy")]
    if not names:
        raise ModelError(
            'The model has no accuracy among its metrics. Compile it with metrics=["accuracy"], or return it '
            f"uncompiled. Received: {sorted(logs)}."
        )
    return names[0]


def _destroyed(status: str, accuracy: float | None, context: ExperimentContext) -> bool | None:
    if status == "failed":
        return None
    return accuracy is None or accuracy < is_above_guessing(context.guess, context.examples)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _store(out: Path, config: RunConfig, row: Run, progress: _Progress) -> None:
    with run_folder(out, config.id) as folder:
        if progress.masks is not None:
            found = progress.masks
            masks = Masks({progress.names[path]: mask for path, mask in found.items()}, found.collapse)
            masks.save(folder / MASKS_FILE)
        if progress.search is not None:
            write_json(folder / REPORT_FILE, progress.search)
        if progress.trace is not None:
            (folder / "error.txt").write_text(progress.trace, encoding="utf-8")
        write_json(folder / "setting.json", config.to_dict())
        write_run_file(folder, COMPARED, asdict(row))
    if row.status != "failed":
        remove_state(out, config.id)
