"""One run of an experiment: build, prune, train, evaluate; whatever happens becomes a row."""

from __future__ import annotations

import gc
import json
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
from tfprune_init.errors import ModelError, NetworkCollapseError, OptionError
from tfprune_init.experiments.chance import clearly_better
from tfprune_init.experiments.names import lasting_paths
from tfprune_init.experiments.results import Run
from tfprune_init.experiments.setting import DENSE, Setting, plain
from tfprune_init.experiments.sources import Data, model_at, model_fingerprint
from tfprune_init.experiments.store import run_folder
from tfprune_init.kerases import is_compiled, keras_of, set_random_seed
from tfprune_init.layers import strip
from tfprune_init.masks import Masks
from tfprune_init.report import PruningReport
from tfprune_init.targets import find_targets


@dataclass(frozen=True)
class Laboratory:
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
    data: Data
    guess: float
    examples: int
    out: Path

    def model(self, seed: int) -> Any:
        """The untrained model at one seed, compiled.

        Raises:
            OptionError: If it comes compiled and there is an optimizer or a loss to compile it with.
        """
        model = model_at(self.build_model, seed)
        if not is_compiled(model):
            losses = keras_of(model).losses
            optimizer = self.optimizer() if callable(self.optimizer) else self.optimizer or "adam"
            loss = self.loss or losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(optimizer, loss, metrics=["accuracy"])
        elif self.optimizer is not None or self.loss is not None:
            raise OptionError("build_model returns a compiled model, so optimizer= and loss= have no effect.")
        return model


def run(laboratory: Laboratory, setting: Setting) -> Run:
    """Run one setting and store it.

    Args:
        laboratory: What all runs share.
        setting: What this one is.

    Returns:
        Its row, which is also in its folder, with masks and report.
    """
    progress = _Progress()
    accuracy = loss = error = None
    try:
        with _without_old_news():
            accuracy, loss = _trained(laboratory, setting, progress)
        status = "trained"
    except NetworkCollapseError as reason:
        status, error = "collapsed", str(reason)
    except Exception as reason:  # noqa: BLE001 - whatever a model or kernel raises stops this run, not all
        status, error = "failed", "".join(traceback.format_exception_only(reason)).strip()
        progress.trace = traceback.format_exc()
    report = progress.report
    row = Run(
        id=setting.id,
        label=setting.contender.label,
        method=setting.contender.method,
        options=plain(setting.contender.options),
        sparsity=setting.sparsity,
        seed=setting.seed,
        epochs=setting.epochs,
        status=status,
        error=error,
        size=progress.size,
        kept=report.masks.kept if report else progress.size if setting.contender.method == DENSE else None,
        accuracy=accuracy,
        loss=loss,
        guess=laboratory.guess,
        destroyed=_destroyed(status, accuracy, laboratory),
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
    _store(laboratory.out, setting, row, progress)
    gc.collect()  # Keras models are full of cycles; the next run would be built beside this one.
    return row


@contextmanager
def _without_old_news() -> Iterator[None]:
    """Silence that functions are traced often, as each run trains a new model, and that data of unknown size ends."""

    def is_news(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(is_news)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            yield
    finally:
        logger.removeFilter(is_news)


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


def _trained(laboratory: Laboratory, setting: Setting, progress: _Progress) -> tuple[float, float | None]:
    contender, data = setting.contender, laboratory.data
    model = laboratory.model(setting.seed)
    if model_fingerprint(model) != setting.model:
        raise ModelError(
            f"build_model returned another model at seed {setting.seed} than before. All methods start from the same "
            "weights: let it draw them from its seed argument, or from Keras's global seed, which is set before each "
            "call."
        )
    accuracy = accuracy_in(model.evaluate(data.testing().take(1), verbose=0, return_dict=True))
    if contender.method == DENSE:
        progress.size = sum(target.size for target in find_targets(model).prunable)
    else:
        start = time.perf_counter()
        options: dict[str, Any] = {**({"seed": setting.seed} if contender.seeded else {}), **contender.options}
        try:
            progress.report = prune_at_init(
                model, data.train, sparsity=setting.sparsity, method=contender.method, verbose=0, **options
            )
        finally:
            progress.prune_seconds = time.perf_counter() - start
        progress.size = progress.report.masks.size
        progress.names = lasting_paths(model, progress.report.masks)
    set_random_seed(setting.seed)  # the same dropout for all methods, whatever pruning drew
    start = time.perf_counter()
    logged = model.fit(data.training(setting.seed), epochs=setting.epochs, shuffle=False, verbose=0).history
    progress.train_seconds = time.perf_counter() - start
    progress.history = [
        {key: _finite(values[epoch]) for key, values in logged.items()} for epoch in range(setting.epochs)
    ]
    if progress.report is not None:
        strip(model)  # refuses pruned weights that are not exactly zero
    logs = model.evaluate(data.testing(), verbose=0, return_dict=True)
    return float(logs[accuracy]), _finite(logs["loss"])


def accuracy_in(logs: dict[str, Any]) -> str:
    """The name of the accuracy among a model's metrics.

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


def _destroyed(status: str, accuracy: float | None, laboratory: Laboratory) -> bool | None:
    if status == "failed":
        return None
    return accuracy is None or accuracy < clearly_better(laboratory.guess, laboratory.examples)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _store(out: Path, setting: Setting, row: Run, progress: _Progress) -> None:
    with run_folder(out, setting.id) as folder:
        if progress.report is not None:
            masks = Masks({progress.names[path]: mask for path, mask in progress.report.masks.items()})
            masks.save(folder / "masks.npz")
            progress.report.save(folder / "report.json")
        if progress.trace is not None:
            (folder / "error.txt").write_text(progress.trace, encoding="utf-8")
        (folder / "setting.json").write_text(json.dumps(setting.to_dict(), indent=2) + "\n", encoding="utf-8")
        (folder / "run.json").write_text(json.dumps(asdict(row), indent=2) + "\n", encoding="utf-8")
