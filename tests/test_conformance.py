"""Every law of the design, for every method, on every kind of model, under both Kerases.

A new method joins by registering; a new kind of model by one row in model_kinds.py.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from model_kinds import CLASSES, KERASES, KINDS, build, data

import tfprune_init as tpi
from tfprune_init import kerases
from tfprune_init.methods import method_named, recipe_for
from tfprune_init.scopes import Layout
from tfprune_init.selector import selector_for
from tfprune_init.targets import all_variables, find_targets
from tfprune_init.wiring import find_wiring

METHODS = tpi.methods()
CASES = [pytest.param(*one, id="-".join(one)) for one in itertools.product(METHODS, KINDS, KERASES)]
# The scope makes pytest run all laws of a case before the next case, so that they can share what is costly.
case = pytest.mark.parametrize(("method", "kind", "package"), CASES, scope="module")


def options(method: str) -> dict[str, Any]:
    """Few steps and the cheaper estimates, so that a table of this size stays affordable."""
    cheap = {"steps": 3, "estimator": "hutchinson"}
    return {name: value for name, value in cheap.items() if name in method_named(method).options}


def layout_of(path: str, model: Any) -> Layout:
    target = next(target for target in find_targets(model).prunable if target.path == path)
    return Layout(target.shape, target.units)


def counted(model: Any, masks: tpi.Masks, scope: str) -> tuple[int, int]:
    """How much there is of what a scope counts, and how much of it is kept."""
    if scope != "units":
        return find_targets(model).size, masks.kept
    wiring = find_wiring(model, data(1)[0])
    alive = np.zeros(wiring.removable.size, bool)
    for path, units in wiring.units.items():
        mask = masks[path]
        alive[units[mask.any(axis=tuple(range(mask.ndim - 1)))]] = True
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
    report = tpi.prune_at_init(model, data(), sparsity=0.7, method=method, verbose=0, filters="head", **options(method))
    masked = [target for target in all_variables(model) if target.path in report.masks]
    start = {t.path: t.tensor.numpy() for t in masked}
    seen = Trained(model, report, [], [])

    def look(batch: int, logs: Any) -> None:
        for target in masked:
            value = target.tensor.numpy()
            mask = report.masks[target.path]
            seen.leaks.append(int(np.count_nonzero(value[~mask])))
            seen.trained.append(int(np.count_nonzero(value[mask] != start[target.path][mask])))

    watch = KERASES[package].callbacks.LambdaCallback(on_train_batch_end=look)
    model.fit(*data(), epochs=2, batch_size=8, verbose=0, callbacks=[watch])
    return seen


def state(model: Any) -> dict[str, bytes]:
    """The bits of everything a model holds: weights, statistics, seeds, metrics, optimizer."""
    optimizer = model.optimizer.variables  # a method in tf_keras
    metrics = [v for metric in model.metrics for v in metric.variables]
    held = [*model.variables, *(optimizer() if callable(optimizer) else optimizer), *metrics]
    return {f"{i} {v.name}": kerases.tensor_of(v).numpy().tobytes() for i, v in enumerate(held)}


@case
def test_law_1_exact_count(method: str, kind: str, package: str) -> None:
    model = shared_model(kind, package)
    for sparsity in ("0.1", "0.55", "0.7"):
        at_hand = sparsity == "0.7"
        masks = masks_of_shared_model(method, kind, package) if at_hand else find(model, method, float(sparsity))
        size, kept = counted(model, masks, method_named(method).scope)
        exact = size * (1 - Fraction(sparsity))
        assert kept == exact.numerator // exact.denominator


@pytest.mark.parametrize("scope", ["global", "layerwise", "erk", "er", "balanced", "block", "channel", "n_m", "units"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("package", KERASES)
def test_law_1_exact_count_in_every_scope(scope: str, kind: str, package: str) -> None:
    """Scores by chance, and no question whether the network survives them: it is the scope alone that counts."""
    model = shared_model(kind, package)
    selector = selector_for(model, find_targets(model), recipe_for("random", None, {"scope": scope}), data(), False)
    rng = np.random.default_rng(0)
    scores = {target.path: rng.random(target.shape) for target in selector.targets.prunable}
    masks = tpi.Masks(selector.choose(scores, 0.5, None))
    if scope == "n_m":
        for path, mask in masks.items():
            layout = layout_of(path, model)
            matrix = layout.to_matrix(mask)
            for first in range(0, layout.rows, 4):
                assert (matrix[first : first + 4].sum(axis=0) == min(2, layout.rows - first)).all(), path
    elif scope == "layerwise":
        assert all(np.count_nonzero(mask) == mask.size // 2 for mask in masks.values())
    elif scope in ("block", "channel"):
        blocks = kept = 0
        for path, mask in masks.items():
            matrix = layout_of(path, model).to_matrix(mask)
            width, height = (4, 1) if scope == "block" else (1, matrix.shape[0])
            for row, column in itertools.product(range(0, matrix.shape[0], height), range(0, matrix.shape[1], width)):
                part = matrix[row : row + height, column : column + width]
                assert part.all() or not part.any(), path
                blocks, kept = blocks + 1, kept + bool(part.all())
        assert kept == blocks // 2
    else:
        size, kept = counted(model, masks, scope)
        assert kept == size // 2


@case
def test_law_2_determinism(method: str, kind: str, package: str) -> None:
    again = find(build(kind, package), method, 0.7, filters="head")
    assert again.fingerprint == trained_model(method, kind, package).report.masks.fingerprint


@case
def test_law_3_no_trace(method: str, kind: str, package: str) -> None:
    model = shared_model(kind, package)
    at_first = masks_of_shared_model(method, kind, package)
    before = state(model)
    assert find(model, method, 0.7) == at_first
    assert state(model) == before


@case
def test_law_4_exactly_zero_after_every_batch(method: str, kind: str, package: str) -> None:
    seen = trained_model(method, kind, package)
    assert len(seen.leaks) == 6 * len(seen.report.layers)
    assert sum(seen.leaks) == 0
    assert sum(seen.trained) > 0


@case
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


@case
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
    if method_named(method).needs_data:
        with pytest.raises(tpi.PruningError, match="batch 1"):
            tpi.find_masks(model, (x, y + CLASSES), sparsity=0.7, method=method, verbose=0, **options(method))
        with pytest.raises(tpi.PruningError, match="data=None"):
            tpi.find_masks(model, None, sparsity=0.7, method=method, verbose=0)
    assert state(model) == before


@case
def test_law_7_nothing_excluded_in_silence(method: str, kind: str, package: str) -> None:
    model, report = (seen := trained_model(method, kind, package)).model, seen.report
    pruned = [row.path for row in report.layers]
    skipped = [row.path for row in report.skipped]
    assert "left alone by filters" in {row.reason for row in report.skipped if row.path == "head/kernel"}
    assert sorted(pruned + skipped) == sorted(t.path for t in all_variables(model))
    assert len(set(pruned + skipped)) == len(pruned + skipped) == len({id(v) for v in model.variables})
    assert all(row.reason for row in report.skipped)
    assert list(report.masks) == pruned


@pytest.mark.parametrize("kind", KINDS)
def test_paths_are_the_same_under_both_kerases(kind: str) -> None:
    found = [[(t.path, t.shape) for t in find_targets(shared_model(kind, package)).prunable] for package in KERASES]
    assert found[0] == found[1]
