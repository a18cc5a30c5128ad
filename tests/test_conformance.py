"""Every law of the design, for every method, on every kind of model, under both Keras versions.

A new method joins by registering; a new kind of model by one row in model_kinds.py. The default run takes the methods
that a law can depend on; the whole product is the tier `exhaustive`.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from model_kinds import CLASSES, KERAS, KINDS, build, data, state

import tfprune_init as tpi
from tfprune_init.graph import build_dependency_graph
from tfprune_init.graph.variables import find_prunable_variables, list_variables
from tfprune_init.methods import find_method, resolve_method
from tfprune_init.methods.mask_selector import make_selector
from tfprune_init.scoring.traces import Traces
from tfprune_init.selection import ALLOCATIONS, GRANULARITIES, Layout

METHODS = tpi.list_methods()
# One method for each way to look at a network: gradient, Hessian, factors on units, flow, trials, weights alone.
MEASURES = ("snip", "grasp", "snap_it", "synflow", "exact", "magnitude")
# One method for each way through the search: at once, in steps, with regrowth, without cutting off layers, by units.
SEARCHES = ("snip", "iter_snip", "force", "synflow", "snap_it")
# Once masks are attached, only they count: of single weights, or of whole units.
MASKS = ("snip", "snap_it")


def cases(depends_on: Iterable[str], *, every_kind: Iterable[str] = ("snip",), every_method: bool = False) -> Any:
    """All cases of a law: those of the default run, and the rest of the product, marked `exhaustive`.

    Args:
        depends_on: The methods that make a difference to the law. The default run takes them on a stack of Dense
            layers, and on a network of convolutions with BatchNorm, Dropout and a sum, where `exact` takes too long.
        every_kind: The methods that the default run takes on every kind of model.
        every_method: Whether the default run takes every method on a stack of Dense layers.
    """

    def usual(method: str, kind: str) -> bool:
        if kind == "sequential":
            return every_method or method in depends_on
        return method in every_kind or (kind == "functional" and method in depends_on and method != "exact")

    rows = [
        pytest.param(*one, id="-".join(one), marks=() if usual(*one[:2]) else pytest.mark.exhaustive)
        for one in itertools.product(METHODS, KINDS, KERAS)
    ]
    # The scope makes pytest run all laws of a case before the next case, so that they can share what is costly.
    return pytest.mark.parametrize(("method", "kind", "package"), rows, scope="module")


def options(method: str) -> dict[str, Any]:
    """Few steps and the cheaper estimates, so that a table of this size stays affordable."""
    cheap = {"steps": 3, "estimator": "hutchinson"}
    return {name: value for name, value in cheap.items() if name in find_method(method).options}


def layout_of(path: str, model: Any) -> Layout:
    target = next(target for target in find_prunable_variables(model).prunable if target.path == path)
    return Layout(target.shape, target.units)


def counted(model: Any, masks: tpi.Masks, granularity: str, gated: bool = False) -> tuple[int, int]:
    """How much there is of what a granularity counts, and how much of it is kept."""
    if granularity != "units":
        return find_prunable_variables(model).size, masks.kept
    scored = {one.path for one in find_prunable_variables(model).prunable if not gated or one.channel_axis is not None}
    wiring = build_dependency_graph(model, data(1)[0]).pin_all_but(scored, "not scored")
    alive = np.zeros(wiring.removable.size, bool)
    for path, units in wiring.units.items():
        alive[units[layout_of(path, model).to_matrix(masks[path]).any(axis=0)]] = True
    return int(wiring.removable.sum()), int((alive & wiring.removable).sum())


def find(model: Any, method: str, sparsity: float, **more: Any) -> tpi.Masks:
    return tpi.find_masks(model, data(), sparsity=sparsity, method=method, verbose=0, **options(method), **more)


@functools.lru_cache(maxsize=8)
def shared_model(kind: str, package: str) -> Any:
    """One model of each kind for all tests that must leave it untouched."""
    model = build(kind, package)
    model.fit(*data(), epochs=1, batch_size=12, verbose=0)  # so that optimizer and metrics have a state
    return model


@functools.lru_cache(maxsize=8)
def masks_of_shared_model(method: str, kind: str, package: str) -> tpi.Masks:
    return find(shared_model(kind, package), method, 0.7)


@dataclass
class Trained:
    """A model pruned and trained, and what was seen after each batch."""

    model: Any
    report: tpi.PruningReport
    leaks: list[int]
    trained: list[int]


@functools.lru_cache(maxsize=8)
def trained_model(method: str, kind: str, package: str) -> Trained:
    model = build(kind, package)
    report = tpi.prune_at_init(model, data(), sparsity=0.7, method=method, verbose=0, exclude="head", **options(method))
    masked = [target for target in list_variables(model) if target.path in report.masks]
    start = {t.path: t.tensor.numpy() for t in masked}
    seen = Trained(model, report, [], [])

    def look(batch: int, logs: Any) -> None:
        for target in masked:
            value = target.tensor.numpy()
            mask = report.masks[target.path]
            seen.leaks.append(int(np.count_nonzero(value[~mask])))
            seen.trained.append(int(np.count_nonzero(value[mask] != start[target.path][mask])))

    watch = KERAS[package].callbacks.LambdaCallback(on_train_batch_end=look)
    model.fit(*data(), epochs=2, batch_size=8, verbose=0, callbacks=[watch])
    return seen


@cases(SEARCHES, every_method=True)
def test_law_1_exact_count(method: str, kind: str, package: str) -> None:
    model = shared_model(kind, package)
    for sparsity in ("0.1", "0.55", "0.7"):
        at_hand = sparsity == "0.7"
        masks = masks_of_shared_model(method, kind, package) if at_hand else find(model, method, float(sparsity))
        size, kept = counted(model, masks, find_method(method).granularity, find_method(method).scorer.of_units)
        exact = size * (1 - Fraction(sparsity))
        assert kept == exact.numerator // exact.denominator


# Each granularity, each allocation, and one of each kind of both.
USUAL = {(name, one.usual_allocation) for name, one in GRANULARITIES.items()}
USUAL |= {*itertools.product(["weights"], ALLOCATIONS), ("n_m", "erk"), ("block", "erk"), ("units", "uniform")}
USUAL |= {("per_unit", "erk")}
COMBINATIONS = [
    pytest.param(*pair, marks=[] if pair in USUAL else pytest.mark.exhaustive)
    for pair in itertools.product(GRANULARITIES, ALLOCATIONS)
    if pair[1] != "global" or GRANULARITIES[pair[0]].layers_compete
]


@pytest.mark.parametrize(("granularity", "allocation"), COMBINATIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("package", KERAS)
def test_law_1_exact_count_of_every_combination(granularity: str, allocation: str, kind: str, package: str) -> None:
    """Scores by chance, and no question whether the network survives them: only what is kept together counts."""
    model = shared_model(kind, package)
    options = {"granularity": granularity, "allocation": allocation}
    variables = find_prunable_variables(model)
    selector = make_selector(model, variables, resolve_method("random", None, options), data(), False)
    rng = np.random.default_rng(0)
    scores = {one.path: rng.random(one.shape) for one in selector.variables.prunable}
    masks = tpi.Masks(selector.choose(scores, Fraction(1, 2), None))
    if granularity == "n_m":
        kept = set()
        for path, mask in masks.items():
            layout = layout_of(path, model)
            matrix = layout.to_matrix(mask)
            n = int(matrix[:4].sum(axis=0).max())
            kept.add(n)
            for first in range(0, layout.rows, 4):
                assert (matrix[first : first + 4].sum(axis=0) == min(n, layout.rows - first)).all(), path
        assert kept == {2} if allocation == "uniform" else masks.kept <= masks.size // 2 and len(kept) > 1
    elif granularity == "per_unit":
        matrices = [layout_of(path, model).to_matrix(mask) for path, mask in masks.items()]
        kept = [(len(matrix), int(matrix[:, 0].sum())) for matrix in matrices]
        assert all((matrix.sum(axis=0) == count).all() for matrix, (_, count) in zip(matrices, kept, strict=True))
        uniform = all(count == max(1, inputs // 2) for inputs, count in kept)
        assert uniform if allocation == "uniform" else masks.kept <= masks.size // 2 and not uniform
    elif granularity == "units":
        size, kept = counted(model, masks, granularity)
        sizes = [units.size for _, units in selector.layouts.layers.values()]
        assert sum(sizes) == size
        assert kept == (sum(n // 2 for n in sizes) if allocation == "uniform" else size // 2)
    else:
        counts: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for path, mask in masks.items():
            matrix = layout_of(path, model).to_matrix(mask)
            blocked = granularity == "tflite" and mask.ndim == 2 and matrix.shape[0] % 4 == 0
            height, width = {"weights": (1, 1), "block": (1, 4), "channel": (matrix.shape[0], 1)}.get(
                granularity, (4, 1) if blocked else (1, 1)
            )
            parts = [
                matrix[row : row + height, column : column + width]
                for row, column in itertools.product(
                    range(0, matrix.shape[0], height), range(0, matrix.shape[1], width)
                )
            ]
            assert all(part.all() or not part.any() for part in parts), path
            kind_of_group = "blocks" if blocked and allocation == "global" else ""
            counts[kind_of_group].append((len(parts), sum(bool(part.all()) for part in parts)))
        for layers in counts.values():
            if allocation == "uniform":
                assert all(kept == size // 2 for size, kept in layers)
            assert sum(kept for _, kept in layers) == (
                sum(size // 2 for size, _ in layers) if allocation == "uniform" else sum(s for s, _ in layers) // 2
            )


@cases({*MEASURES, *SEARCHES})
def test_law_2_determinism(method: str, kind: str, package: str) -> None:
    """Models of the same weights, none of which has seen a trace of the other."""
    first, again = (find(build(kind, package), method, 0.7, exclude="head") for _ in range(2))
    assert first.fingerprint == again.fingerprint


@cases(MEASURES)
def test_law_3_no_trace(method: str, kind: str, package: str) -> None:
    model = shared_model(kind, package)
    at_first = masks_of_shared_model(method, kind, package)
    before = state(model)
    assert find(model, method, 0.7) == at_first
    assert state(model) == before


@cases(MASKS, every_kind=MASKS)
def test_law_4_exactly_zero_after_every_batch(method: str, kind: str, package: str) -> None:
    seen = trained_model(method, kind, package)
    assert len(seen.leaks) == 6 * len(seen.report.layers)
    assert sum(seen.leaks) == 0
    assert sum(seen.trained) > 0


@cases(MASKS, every_kind=MASKS)
def test_law_5_nothing_lost(method: str, kind: str, package: str, tmp_path: Any) -> None:
    model, report = (seen := trained_model(method, kind, package)).model, seen.report
    report.masks.save(tmp_path / "masks.npz")
    loaded = tpi.Masks.load(tmp_path / "masks.npz")
    assert loaded == report.masks

    model.save_weights(tmp_path / "model.weights.h5")
    resumed = build(kind, package, seed=1)
    tpi.attach(resumed, loaded)
    resumed.optimizer.build(resumed.trainable_variables)  # so that the file finds the optimizer it describes
    resumed.load_weights(tmp_path / "model.weights.h5")
    resumed.fit(*data(), batch_size=12, verbose=0)
    plain = tpi.strip(resumed)
    for path, target in report.masks.check(plain).items():
        assert not target.tensor.numpy()[~report.masks[path]].any()

    fewer = dict(list(report.masks.items())[1:])
    other = tpi.Masks({**fewer, "elsewhere/kernel": np.ones((2, 2), bool)})
    with pytest.raises(tpi.PruningError, match="elsewhere/kernel"):
        tpi.attach(build(kind, package), other)


@cases(MEASURES, every_method=True)
def test_law_6_no_silent_nonsense(method: str, kind: str, package: str) -> None:
    model = shared_model(kind, package)
    before = state(model)
    x, y = data()
    poisoned = x.copy()
    poisoned[3, 0, 0, 0] = np.nan
    empty = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).take(0)
    for bad, words in (((poisoned, y), "x of batch 1 holds NaN"), (empty, "dataset is empty")):
        with pytest.raises(tpi.PruningError, match=words):
            tpi.find_masks(model, bad, sparsity=0.7, method=method, verbose=0, **options(method))
    if find_method(method).needs_data:
        with pytest.raises(tpi.PruningError, match="batch 1"):
            tpi.find_masks(model, (x, y + CLASSES), sparsity=0.7, method=method, verbose=0, **options(method))
        with pytest.raises(tpi.PruningError, match="data=None"):
            tpi.find_masks(model, None, sparsity=0.7, method=method, verbose=0)
    assert state(model) == before


@cases(MASKS, every_kind=MASKS)
def test_law_7_nothing_excluded_in_silence(method: str, kind: str, package: str) -> None:
    model, report = (seen := trained_model(method, kind, package)).model, seen.report
    pruned = [row.path for row in report.layers]
    skipped = [row.path for row in report.skipped]
    assert "excluded" in {row.reason for row in report.skipped if row.path == "head/kernel"}
    assert sorted(pruned + skipped) == sorted(t.path for t in list_variables(model))
    assert len(set(pruned + skipped)) == len(pruned + skipped) == len({id(v) for v in model.variables})
    assert all(row.reason for row in report.skipped)
    assert list(report.masks) == pruned


def test_the_default_run_takes_every_kind_of_measurement() -> None:
    """What a method traces says how it looks at the network."""

    def measurements(method: str) -> set[str]:
        model = build("sequential", "keras")
        find(model, method, 0.5)
        return set(Traces.of(model).counts) - {"measure_signal"}

    used = {method: measurements(method) for method in METHODS}
    assert set().union(*used.values()) == set().union(*(used[method] for method in MEASURES))
    assert used["magnitude"] == set()


@pytest.mark.parametrize("kind", KINDS)
def test_paths_are_the_same_under_both_keras_versions(kind: str) -> None:
    found = [
        [(t.path, t.shape) for t in find_prunable_variables(shared_model(kind, package)).prunable] for package in KERAS
    ]
    assert found[0] == found[1]
