"""Compare methods x sparsities x seeds on one model and dataset."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.checks import check_integer
from tfprune_init.errors import DataError, OptionError
from tfprune_init.experiments.processes import run_in_processes
from tfprune_init.experiments.progress import Progress
from tfprune_init.experiments.results import Results, Run
from tfprune_init.experiments.run_config import DENSE, MethodSpec, RunConfig, parse_methods
from tfprune_init.experiments.runner import ExperimentContext, run_one
from tfprune_init.experiments.storage import RUNS, load_run, prepare_folder
from tfprune_init.progress import is_progress_shown
from tfprune_init.training.events import outline_run
from tfprune_init.training.feed import Feed
from tfprune_init.training.inputs import check_callable, model_fingerprint, prepare_data
from tfprune_init.version import __version__

_MOST_SEEDS = 100_000
"""More seeds than anybody runs: a slip, which would take all memory."""


def compare(
    build_model: Callable[..., Any],
    data: Any,
    *,
    methods: Iterable[Any],
    sparsities: Iterable[float],
    seeds: int | Iterable[int] = 3,
    epochs: int = 10,
    out: str | os.PathLike[str],
    optimizer: Any = None,
    loss: Any = None,
    dense: bool = True,
    on_collapse: str = "raise",
    processes: int = 1,
    verbose: str | int | bool = "auto",
) -> Results:
    """Prune, train and evaluate one network with every method at every sparsity and seed.

    At one seed all methods start from the same weights. They see the same examples in the same order, and the same
    dropout. Each run has a folder under `out/runs`. The folder is named by a hash of everything that decides the
    result: method and options, sparsity, seed, epochs, the model's architecture, weights and compilation, every
    example, and versions. A folder appears when its run is finished, so the same call after a crash continues where it
    stopped, inside a procedure of several trainings too. If something is changed, only the runs that it affects are run
    again. Failed runs are tried again.

    Args:
        build_model: Returns a new untrained model at each call, Keras 3 or tf_keras. It is called as
            `build_model(seed=seed)` if it has that argument, after `keras.utils.set_random_seed(seed)`. An uncompiled
            model is compiled with `optimizer`, `loss` and accuracy.
        data: A pair (train, test), a dataset of `tpi.datasets.load`, or a function that returns one. Each part is a
            batched tf.data.Dataset of (x, y), used as it is, or a tuple of arrays, whose order is drawn anew for every
            epoch from the seed.
        methods: Names, or mappings such as {"method": "force", "steps": 10, "label": "FORCE-10"}: methods that prune
            before training, of `tpi.list_methods()`, and procedures that prune while they train, of
            `tpi.training.RECIPES`, such as {"method": "lottery_ticket", "rewind_to": 100}.
        sparsities: Shares of the prunable weights to remove, in (0, 1). A procedure that finds itself how much stays is
            run once a seed.
        seeds: Number of seeds (0, 1, ...), or a list of them.
        epochs: Passes over the training data of one whole training. Procedures may train several times; every run
            says what it cost in all.
        out: Folder of the comparison.
        optimizer: Optimizer of uncompiled models: a name, or a function that returns one, as one optimizer cannot
            train two models. "adam" by default.
        loss: Loss of uncompiled models; sparse categorical cross-entropy of logits by default.
        dense: Whether to train the unpruned network too, once a seed.
        on_collapse: What becomes of a network that pruning cut in two. Its row says "collapsed", and its masks and
            report are stored; "raise" does not train it, "warn" trains and evaluates it as any other. A method may
            have its own, as an option.
        processes: Number of runs at a time. With more than one, each runs in its own process: `build_model`,
            `optimizer` and `data` must then be picklable (functions of a module; arrays, or a function that returns
            the data), and a script guards its call with `if __name__ == "__main__":`.
        verbose: 0 shows nothing, 1 a progress bar with the time left, or lines where there is no terminal; "auto"
            shows only on a terminal.

    Returns:
        Results; also in `out` as results.jsonl and results.csv after every run.

    Raises:
        OptionError: If an option is out of range, unknown, or has no effect on its method.
        DataError: If the data is none of the above, or its labels are no classes.
        ModelError: If build_model returns no built model, or one without accuracy.

    Example:
        >>> import tempfile, tfprune_init as tpi
        >>> from tfprune_init.models import lenet_300_100
        >>> data = tpi.datasets.load("digits")
        >>> def build(seed):
        ...     return lenet_300_100(data.input_shape, data.classes, seed=seed)
        >>> results = tpi.compare(
        ...     build, data, methods=["snip"], sparsities=[0.9], seeds=1, epochs=1, out=tempfile.mkdtemp(), verbose=0
        ... )
        >>> [(run.label, run.kept, run.status) for run in results]
        [('dense', 50200, 'trained'), ('snip', 5020, 'trained')]

    Reference:
        Folders named by a hash of the run: Frankle, open_lth, https://github.com/facebookresearch/open_lth
    """
    check_callable(build_model)
    levels = _check_sparsities(sparsities)
    chosen = _check_seeds(seeds)
    epochs, processes = check_integer("epochs", epochs, 1), check_integer("processes", processes, 1)
    visible = is_progress_shown(verbose)
    context = _make_context(build_model, data, optimizer, loss, Path(out))
    specs = parse_methods(methods, context.data.train, dense, on_collapse)
    configs = _make_configs(context, specs, levels, chosen, epochs)

    prepare_folder(context.out)
    rows: dict[str, Run] = {}
    for config in configs:
        values = load_run(context.out, config.id)
        if values is None:
            continue
        row = Run.from_dict(values, f"{context.out / RUNS / config.id} is damaged; remove it to run it again")
        if row.status != "failed":
            rows[config.id] = replace(row, label=config.spec.label)
    waiting = [config for config in configs if config.id not in rows]
    with Progress(len(configs), len(rows), visible) as progress:
        for row in _run_all(context, waiting, data, processes, progress):
            rows[row.id] = row
            progress.finish_run(row)
            _collect_results(configs, rows, context.out).save()
    results = _collect_results(configs, rows, context.out)
    results.save()
    return results


def _run_all(
    context: ExperimentContext, waiting: list[RunConfig], given: Any, processes: int, progress: Progress
) -> Iterator[Run]:
    if processes > 1:
        yield from run_in_processes(replace(context, data=given), waiting, processes)
        return
    for config in waiting:
        progress.start_run(config)
        yield run_one(context, config)


def _collect_results(configs: list[RunConfig], rows: dict[str, Run], out: Path) -> Results:
    return Results([rows[config.id] for config in configs if config.id in rows], out)


def _make_context(
    build_model: Callable[..., Any], given: Any, optimizer: Any, loss: Any, out: Path
) -> ExperimentContext:
    if not (optimizer is None or isinstance(optimizer, str) or callable(optimizer)):
        raise OptionError(
            "One optimizer cannot train two models: give its name, or a function that returns a new one, such as "
            f"lambda: keras.optimizers.SGD(0.1). Received: {type(optimizer).__qualname__}."
        )
    data = prepare_data(given)
    labels = data.labels()
    if not len(labels):
        raise DataError("The test data is empty, so nothing can be evaluated.")
    guess = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    return ExperimentContext(build_model, optimizer, loss, data, guess, len(labels), out, Feed(data, 0).steps_per_epoch)


def _make_configs(
    context: ExperimentContext,
    specs: Sequence[MethodSpec],
    sparsities: list[float],
    seeds: list[int],
    epochs: int,
) -> list[RunConfig]:
    """List all runs, seed by seed, so that a first result of every method is there early."""
    data = context.data.fingerprint()
    configs = []
    for seed in seeds:
        model = context.model(seed)
        versions = {
            "tfprune_init": __version__,
            "tensorflow": tf.__version__,
            compat.get_package_name(model): compat.get_keras_version(model),
            "numpy": np.__version__,
            "python": platform.python_version(),
        }
        fingerprint = model_fingerprint(model)
        configs += [
            RunConfig(spec, sparsity, seed, int(epochs), fingerprint, data, versions)
            for spec in specs
            for sparsity in _choose_sparsities(spec, sparsities)
        ]
    for config in configs:
        outline_run(config.spec.make_events(config.sparsity, epochs, context.steps_per_epoch))
    return configs


def _choose_sparsities(spec: MethodSpec, asked: list[float]) -> Sequence[float | None]:
    if spec.method == DENSE:
        return [0.0]
    return [None] if spec.decides_sparsity else asked


def _check_sparsities(sparsities: Iterable[float]) -> list[float]:
    if isinstance(sparsities, (int, float)):
        raise OptionError(f"sparsities must be a list, such as [0.9, 0.99]. Received: {sparsities!r}.")
    values = [float(sparsity) for sparsity in sparsities]
    wrong = [sparsity for sparsity in values if not 0.0 < sparsity < 1.0]
    if wrong or not values or len(set(values)) < len(values):
        raise OptionError(
            "sparsities are shares of weights to remove, each in (0, 1) and named once; the dense network is trained "
            f"anyway unless dense=False. Received: {values!r}."
        )
    return values


def _check_seeds(seeds: int | Iterable[int]) -> list[int]:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds > _MOST_SEEDS:
            raise OptionError(f"seeds may be {_MOST_SEEDS:,} at most. Received: seeds={seeds!r}.")
        return list(range(check_integer("seeds", seeds, 1)))
    chosen = [] if isinstance(seeds, bool) else list(seeds)
    whole = all(isinstance(seed, (int, np.integer)) and 0 <= seed < 2**32 for seed in chosen)
    if not chosen or not whole or len(set(chosen)) < len(chosen):
        raise OptionError(
            f"seeds must be a number of seeds, or a list of different integers >= 0. Received: {seeds!r}."
        )
    return [int(seed) for seed in chosen]
