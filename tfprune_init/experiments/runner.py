"""One run of an experiment: build, prune, train, evaluate; whatever happens becomes a row."""

from __future__ import annotations

import gc
import logging
import math
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfprune_init.api import prune_at_init
from tfprune_init.backend.compat import get_keras, is_compiled, set_random_seed
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import ModelError, NetworkCollapseError, NetworkCollapseWarning, OptionError
from tfprune_init.experiments.guessing import is_above_guessing
from tfprune_init.experiments.results import Run
from tfprune_init.experiments.run_config import DENSE, RunConfig, to_plain_values
from tfprune_init.experiments.stable_paths import make_stable_paths
from tfprune_init.experiments.storage import COMPARED, MASKS_FILE, REPORT_FILE, run_folder, write_run_file
from tfprune_init.files import write_json
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.masking.wrapper import strip
from tfprune_init.masks import Masks
from tfprune_init.report import PruningReport
from tfprune_init.training.inputs import ExperimentData, make_model, model_fingerprint


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
    """

    build_model: Callable[..., Any]
    optimizer: Any
    loss: Any
    data: ExperimentData
    guess: float
    examples: int
    out: Path

    def model(self, seed: int) -> Any:
        """Build the untrained model at one seed, compiled.

        Raises:
            OptionError: If it comes compiled and there is an optimizer or a loss to compile it with.
        """
        model = make_model(self.build_model, seed)
        if not is_compiled(model):
            losses = get_keras(model).losses
            optimizer = self.optimizer() if callable(self.optimizer) else self.optimizer or "adam"
            loss = self.loss or losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(optimizer, loss, metrics=["accuracy"])
        elif self.optimizer is not None or self.loss is not None:
            raise OptionError("build_model returns a compiled model, so optimizer= and loss= have no effect.")
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
        error = None if progress.report is None else progress.report.collapse
        status = "trained" if error is None else "collapsed"
    except NetworkCollapseError as reason:
        status, error = "collapsed", str(reason)
    except Exception as reason:  # noqa: BLE001 - whatever a model or kernel raises stops this run, not all
        status, error = "failed", "".join(traceback.format_exception_only(reason)).strip()
        progress.trace = traceback.format_exc()
    report = progress.report
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
        kept=report.masks.kept if report else progress.size if config.spec.method == DENSE else None,
        accuracy=accuracy,
        loss=loss,
        guess=context.guess,
        destroyed=_destroyed(status, accuracy, context),
        history=progress.history,
        steps=[{key: asdict(s)[key] for key in ("number", "density", "kept", "objective")} for s in report.steps]
        if report
        else [],
        layers=[{"path": progress.names[r.path], "size": r.size, "kept": r.kept} for r in report.layers]
        if report
        else [],
        prune_seconds=progress.prune_seconds,
        train_seconds=progress.train_seconds,
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
    report: PruningReport | None = None
    names: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, float | None]] = field(default_factory=list)
    prune_seconds: float = 0.0
    train_seconds: float = 0.0
    trace: str | None = None

    def keep_report(self, model: Model, report: PruningReport) -> None:
        """Keep the report of a pruned model, and the names that its variables have in all runs."""
        self.report = report
        self.size = report.masks.size
        self.names = make_stable_paths(model, report.masks)


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
    if spec.method == DENSE:
        progress.size = sum(target.size for target in find_prunable_variables(model).prunable)
    else:
        start = time.perf_counter()
        options: dict[str, Any] = {**({"seed": config.seed} if spec.seeded else {}), **spec.options}
        try:
            report = prune_at_init(
                model, data.train, sparsity=config.sparsity, method=spec.method, verbose=0, **options
            )
        except NetworkCollapseError as reason:
            progress.keep_report(model, reason.report)
            raise
        finally:
            progress.prune_seconds = time.perf_counter() - start
        progress.keep_report(model, report)
    set_random_seed(config.seed)  # the same dropout for all methods, whatever pruning drew
    start = time.perf_counter()
    logged = model.fit(data.training(config.seed), epochs=config.epochs, shuffle=False, verbose=0).history
    progress.train_seconds = time.perf_counter() - start
    progress.history = [
        {key: _finite(values[epoch]) for key, values in logged.items()} for epoch in range(config.epochs)
    ]
    if progress.report is not None:
        strip(model)  # refuses pruned weights that are not exactly zero
    logs = model.evaluate(data.testing(), verbose=0, return_dict=True)
    return float(logs[accuracy]), _finite(logs["loss"])


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
        if progress.report is not None:
            found = progress.report.masks
            masks = Masks({progress.names[path]: mask for path, mask in found.items()}, found.collapse)
            masks.save(folder / MASKS_FILE)
            progress.report.save(folder / REPORT_FILE)
        if progress.trace is not None:
            (folder / "error.txt").write_text(progress.trace, encoding="utf-8")
        write_json(folder / "setting.json", config.to_dict())
        write_run_file(folder, COMPARED, asdict(row))
