"""Every law of the design, for every method, on every kind of model, under both Kerases.

A new method joins by registering; a new kind of model by one row in model_kinds.py.
"""

from __future__ import annotations

import functools
import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from model_kinds import CLASSES, KERASES, KINDS, build, data

import tfprune_init as tpi
from tfprune_init import kerases
from tfprune_init.methods import method_named
from tfprune_init.targets import all_variables, find_targets

METHODS = tpi.methods()
CASES = list(itertools.product(METHODS, KINDS, KERASES))
case = pytest.mark.parametrize(("method", "kind", "package"), CASES, ids=["-".join(c) for c in CASES])


def options(method: str) -> dict[str, Any]:
    """Few steps, so that a table of this size stays affordable."""
    return {"steps": 3} if "steps" in method_named(method).options else {}


def find(model: Any, method: str, sparsity: float, **more: Any) -> tpi.Masks:
    return tpi.find_masks(model, data(), sparsity=sparsity, method=method, verbose=0, **options(method), **more)


@functools.cache
def shared_model(kind: str, package: str) -> Any:
    """One model of each kind for all tests that must leave it untouched."""
    model = build(kind, package)
    model.fit(*data(), epochs=1, batch_size=12, verbose=0)  # so that optimizer and metrics have a state
    return model


def state(model: Any) -> dict[str, bytes]:
    """The bits of everything a model holds: weights, statistics, seeds, metrics, optimizer."""
    optimizer = model.optimizer.variables  # a method in tf_keras
    metrics = [v for metric in model.metrics for v in metric.variables]
    held = [*model.variables, *(optimizer() if callable(optimizer) else optimizer), *metrics]
    return {f"{i} {v.name}": kerases.tensor_of(v).numpy().tobytes() for i, v in enumerate(held)}


@case
def test_law_1_exact_count(method: str, kind: str, package: str) -> None:
    model = shared_model(kind, package)
    size = find_targets(model).size
    for sparsity in ("0.1", "0.55", "0.7"):
        exact = size * (1 - Fraction(sparsity))
        assert find(model, method, float(sparsity)).kept == exact.numerator // exact.denominator


@case
def test_law_1_exact_count_in_each_variable(method: str, kind: str, package: str) -> None:
    masks = find(shared_model(kind, package), method, 0.4, scope="layerwise")
    for path, mask in masks.items():
        assert np.count_nonzero(mask) == mask.size * 6 // 10, path


@case
def test_law_2_determinism(method: str, kind: str, package: str) -> None:
    first = find(build(kind, package), method, 0.7)
    again = build(kind, package)
    assert find(again, method, 0.7).fingerprint == first.fingerprint
    assert find(again, method, 0.7).fingerprint == first.fingerprint


@case
def test_law_3_no_trace(method: str, kind: str, package: str) -> None:
    model = shared_model(kind, package)
    before = state(model)
    find(model, method, 0.7)
    assert state(model) == before


@case
def test_law_4_exactly_zero_after_every_batch(method: str, kind: str, package: str) -> None:
    model = build(kind, package)
    report = tpi.prune_at_init(model, data(), sparsity=0.7, method=method, verbose=0, **options(method))
    leaks: list[int] = []
    trained: list[int] = []
    start = {t.path: t.tensor.numpy() for t in find_targets(model).prunable}

    def look(batch: int, logs: Any) -> None:
        for target in find_targets(model).prunable:
            value = target.tensor.numpy()
            mask = report.masks[target.path]
            leaks.append(int(np.count_nonzero(value[~mask])))
            trained.append(int(np.count_nonzero(value[mask] != start[target.path][mask])))

    watch = KERASES[package].callbacks.LambdaCallback(on_train_batch_end=look)
    model.fit(*data(), epochs=2, batch_size=8, verbose=0, callbacks=[watch])
    assert len(leaks) == 6 * len(report.layers)
    assert sum(leaks) == 0
    assert sum(trained) > 0


@case
def test_law_5_nothing_lost(method: str, kind: str, package: str, tmp_path: Any) -> None:
    model = build(kind, package)
    report = tpi.prune_at_init(model, data(), sparsity=0.7, method=method, verbose=0, **options(method))
    report.masks.save(tmp_path / "masks.npz")
    loaded = tpi.Masks.load(tmp_path / "masks.npz")
    assert loaded == report.masks

    model.fit(*data(), batch_size=12, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    resumed = build(kind, package, seed=1)
    tpi.attach(resumed, loaded)
    resumed.optimizer.build(resumed.trainable_variables)  # so that the file finds the optimizer it describes
    resumed.load_weights(tmp_path / "model.weights.h5")
    resumed.fit(*data(), batch_size=12, verbose=0)
    plain = tpi.strip(resumed)
    for target in find_targets(plain).prunable:
        assert not target.tensor.numpy()[~report.masks[target.path]].any()

    fewer = {path: mask for path, mask in report.masks.items() if "head" not in path}
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
    model = build(kind, package)
    report = tpi.prune_at_init(model, data(), sparsity=0.7, method=method, verbose=0, filters="head", **options(method))
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
