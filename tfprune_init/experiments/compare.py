"""Methods x sparsities x seeds on one model and data set."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.errors import DataError, OptionError
from tfprune_init.experiments.one_run import Laboratory, run
from tfprune_init.experiments.parallel import run_in_processes
from tfprune_init.experiments.progress import Progress
from tfprune_init.experiments.results import Results, Run
from tfprune_init.experiments.setting import DENSE, Contender, Setting, contenders_of
from tfprune_init.experiments.sources import check_callable, data_of, model_fingerprint
from tfprune_init.experiments.store import prepare, stored
from tfprune_init.search import shown
from tfprune_init.version import __version__


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
    processes: int = 1,
    verbose: str | int | bool = "auto",
) -> Results:
    """Prune, train and evaluate one network with every method at every sparsity and seed.

    At one seed all methods start from the same weights, see the same examples in the same order and the same dropout.
    Each run has a folder under `out/runs`, named by a hash of everything that decides what it gives: method and
    options, sparsity, seed, epochs, the model's architecture, weights and compilation, every example, and versions. A
    folder appears when its run is finished. So the same call after a crash goes on where it stopped, and a call with
    anything changed runs anew what the change concerns. Runs that failed are tried again.

    Args:
        build_model: Returns a new untrained model at each call, Keras 3 or tf_keras. It is called as
            `build_model(seed=seed)` if it has that argument, after `keras.utils.set_random_seed(seed)`. An uncompiled
            model is compiled with `optimizer`, `loss` and accuracy.
        data: A pair (train, test), a data set of `tpi.datasets.load`, or a function that returns one. Each part is a
            batched tf.data.Dataset of (x, y), used as it is, or a tuple of arrays, whose order is drawn anew for every
            epoch from the seed.
        methods: Names, or mappings such as {"method": "force", "steps": 10, "label": "FORCE-10"}.
        sparsities: Shares of the prunable weights to remove, in (0, 1).
        seeds: How many (0, 1, ...), or which.
        epochs: Passes over the training data.
        out: Folder of the comparison.
        optimizer: What uncompiled models are compiled with: a name, or a function that returns an optimizer, as one
            optimizer cannot train two models. "adam" by default.
        loss: What they are compiled with; sparse categorical cross-entropy of logits by default.
        dense: Whether to train the unpruned network too, once a seed.
        processes: How many runs go on at a time. With more than one, each in a process of its own: `build_model`,
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
    asked = _asked_sparsities(sparsities)
    chosen = _asked_seeds(seeds)
    _check_count("epochs", epochs)
    _check_count("processes", processes)
    visible = shown(verbose)
    laboratory = _laboratory(build_model, data, optimizer, loss, Path(out))
    contenders = contenders_of(methods, laboratory.data.train, dense)
    settings = _settings(laboratory, contenders, asked, chosen, epochs)

    prepare(laboratory.out)
    rows: dict[str, Run] = {}
    for setting in settings:
        values = stored(laboratory.out, setting.id)
        if values is not None and values["status"] != "failed":
            rows[setting.id] = replace(Run.from_dict(values), label=setting.contender.label)
    waiting = [setting for setting in settings if setting.id not in rows]
    with Progress(len(settings), len(rows), visible) as progress:
        for row in _runs(laboratory, waiting, data, processes, progress):
            rows[row.id] = row
            progress.finished(row)
            _results(settings, rows, laboratory.out).save()
    results = _results(settings, rows, laboratory.out)
    results.save()
    return results


def _runs(
    laboratory: Laboratory, waiting: list[Setting], given: Any, processes: int, progress: Progress
) -> Iterator[Run]:
    if processes > 1:
        yield from run_in_processes(replace(laboratory, data=given), waiting, processes)
        return
    for setting in waiting:
        progress.started(setting)
        yield run(laboratory, setting)


def _results(settings: list[Setting], rows: dict[str, Run], out: Path) -> Results:
    return Results([rows[setting.id] for setting in settings if setting.id in rows], out)


def _laboratory(build_model: Callable[..., Any], given: Any, optimizer: Any, loss: Any, out: Path) -> Laboratory:
    if not (optimizer is None or isinstance(optimizer, str) or callable(optimizer)):
        raise OptionError(
            "One optimizer cannot train two models: give its name, or a function that returns a new one, such as "
            f"lambda: keras.optimizers.SGD(0.1). Received: {type(optimizer).__qualname__}."
        )
    data = data_of(given)
    labels = data.labels()
    if not len(labels):
        raise DataError("The test data is empty, so nothing can be evaluated.")
    guess = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    return Laboratory(build_model, optimizer, loss, data, guess, len(labels), out)


def _settings(
    laboratory: Laboratory, contenders: Sequence[Contender], sparsities: list[float], seeds: list[int], epochs: int
) -> list[Setting]:
    """All runs, seed by seed, so that a first result of every method is there early."""
    data = laboratory.data.fingerprint()
    settings = []
    for seed in seeds:
        model = laboratory.model(seed)
        versions = {
            "tfprune_init": __version__,
            "tensorflow": tf.__version__,
            kerases.package_of(model): kerases.version_of(model),
            "numpy": np.__version__,
            "python": platform.python_version(),
        }
        drawn = model_fingerprint(model)
        settings += [
            Setting(contender, sparsity, seed, int(epochs), drawn, data, versions)
            for contender in contenders
            for sparsity in ([0.0] if contender.method == DENSE else sparsities)
        ]
    return settings


def _asked_sparsities(sparsities: Iterable[float]) -> list[float]:
    if isinstance(sparsities, (int, float)):
        raise OptionError(f"sparsities is a list, such as [0.9, 0.99]. Received: {sparsities!r}.")
    asked = [float(sparsity) for sparsity in sparsities]
    wrong = [sparsity for sparsity in asked if not 0.0 < sparsity < 1.0]
    if wrong or not asked or len(set(asked)) < len(asked):
        raise OptionError(
            "sparsities are shares of weights to remove, each in (0, 1) and named once; the dense network is trained "
            f"anyway unless dense=False. Received: {asked!r}."
        )
    return asked


def _asked_seeds(seeds: int | Iterable[int]) -> list[int]:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        _check_count("seeds", seeds)
        return list(range(seeds))
    chosen = [] if isinstance(seeds, bool) else list(seeds)
    whole = all(isinstance(seed, (int, np.integer)) and 0 <= seed < 2**32 for seed in chosen)
    if not chosen or not whole or len(set(chosen)) < len(chosen):
        raise OptionError(f"seeds is how many, or a list of different integers from 0 up. Received: {seeds!r}.")
    return [int(seed) for seed in chosen]


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise OptionError(f"{name} must be an integer of at least 1. Received: {name}={value!r}.")
