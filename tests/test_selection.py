"""Exact selection and schedules: properties, against sorting everything."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiers import rows

from tfprune_init.errors import OptionError
from tfprune_init.graph.kernel_axes import KernelAxes
from tfprune_init.selection import Layout, choose_masks, count_kept, find_allocation, keep_top, keep_top_on_device
from tfprune_init.selection.schedules import SCHEDULES, compute_densities

# Few distinct values, so that ties are the rule.
tied = st.sampled_from([0.0, -0.0, 1.0, 2.0, 2.5, 1e-30, -1.0])
arrays = hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=5), elements=tied)
scores_strategy = st.lists(arrays, min_size=1, max_size=4).map(lambda a: {f"v{i}": x for i, x in enumerate(a)})


def by_sorting(scores: dict[str, np.ndarray], keep: int, alive: dict[str, np.ndarray] | None) -> list[bool]:
    flat = [float(value) for score in scores.values() for value in score.ravel()]
    allowed = [True] * len(flat) if alive is None else [bool(v) for path in scores for v in alive[path].ravel()]
    order = sorted((i for i in range(len(flat)) if allowed[i]), key=lambda i: (-flat[i], i))
    chosen = set(order[:keep])
    return [i in chosen for i in range(len(flat))]


@given(scores_strategy, st.data())
def test_keep_top_equals_sorting_with_ties_to_the_lower_position(scores: dict[str, np.ndarray], data: Any) -> None:
    alive = None
    if data.draw(st.booleans()):
        alive = {path: data.draw(hnp.arrays(bool, score.shape)) for path, score in scores.items()}
    candidates = sum(int((score == score if alive is None else alive[p]).sum()) for p, score in scores.items())
    keep = data.draw(st.integers(0, candidates))
    before = {path: score.copy() for path, score in scores.items()}
    masks = keep_top(scores, keep, alive)
    assert [bool(v) for mask in masks.values() for v in mask.ravel()] == by_sorting(scores, keep, alive)
    assert {path: mask.shape for path, mask in masks.items()} == {path: s.shape for path, s in scores.items()}
    for path, score in scores.items():
        np.testing.assert_array_equal(score, before[path])


DTYPES = {tf.float64: np.float64, tf.float32: np.float32, tf.bfloat16: np.float32, tf.float16: np.float32}


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize("dtype", rows(DTYPES, [tf.float32, tf.float16]), ids=[one.name for one in DTYPES])
def test_selection_on_the_device_equals_that_on_the_host(dtype: tf.DType, compiled: bool) -> None:
    rng = np.random.default_rng(0)
    many = {"a": rng.normal(size=(40, 50)), "b": rng.normal(size=700) * 1e-30, "c": np.full((3, 7), -0.0)}
    few = {path: rng.choice([0.0, -0.0, 1.0, -2.5, 1e-7], size=value.shape) for path, value in many.items()}
    extremes = np.array([float(dtype.max), float(dtype.min), 0.0, -1.0])
    choose = tf.function(keep_top_on_device, jit_compile=compiled)
    looked_at = 0
    for arrays in (many, few, {"a": extremes.astype(np.float64)}):
        tensors = [tf.cast(value, dtype) for value in arrays.values()]
        scores = {p: tf.cast(t, DTYPES[dtype]).numpy() for p, t in zip(arrays, tensors, strict=True)}
        for alive in (None, {path: rng.random(value.shape) < 0.4 for path, value in arrays.items()}):
            chosen = None if alive is None else [tf.constant(one) for one in alive.values()]
            candidates = sum(v.size for v in arrays.values()) if alive is None else sum(a.sum() for a in alive.values())
            for keep in {0, 1, candidates // 3, candidates - 1, candidates}:
                if keep < 0:
                    continue
                masks = choose(tensors, tf.constant(keep), chosen)
                expected = keep_top(scores, int(keep), alive)
                for mask, path in zip(masks, expected, strict=True):
                    np.testing.assert_array_equal(mask.numpy(), expected[path])
                looked_at += 1
    assert looked_at > 20


def test_keep_top_refuses_more_than_there_is() -> None:
    with pytest.raises(ValueError, match="Cannot keep 3 of 2"):
        keep_top({"a": np.ones(2)}, 3)


def test_ties_are_kept_whatever_the_memory_order_of_the_scores() -> None:
    masks = keep_top({"a": np.asfortranarray(np.ones((3, 4)))}, 5)
    assert np.flatnonzero(masks["a"]).tolist() == [0, 1, 2, 3, 4]


def test_a_collapsed_network_does_not_keep_everything() -> None:
    masks = keep_top({"a": np.zeros((100, 100), np.float32)}, 7)
    assert masks["a"].sum() == 7
    assert masks["a"].ravel()[:7].all()


@given(st.integers(1, 10**9), st.integers(0, 9999))
def test_kept_count_is_the_floor_of_the_decimal_that_was_written(size: int, parts: int) -> None:
    sparsity = float(f"0.{parts:04d}")
    exact = size * (1 - Fraction(parts, 10_000))
    assert count_kept(size, 1.0 - sparsity) == math.floor(exact)


@given(st.sampled_from(sorted(SCHEDULES)), st.floats(1e-4, 1.0), st.integers(1, 200))
def test_schedules_never_rise_and_end_exactly(name: str, density: float, steps: int) -> None:
    values = compute_densities(name, density, steps)
    assert len(values) == steps
    assert float(values[-1]) == pytest.approx(density, rel=1e-12)
    assert all(a >= b > 0 for a, b in zip([1.0, *values], values, strict=False))


def test_schedules_have_their_closed_forms() -> None:
    assert compute_densities("exponential", 0.01, 4) == pytest.approx([0.01**0.25, 0.1, 0.01**0.75, 0.01])
    assert compute_densities("linear", 0.2, 4) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert compute_densities("one_shot", 0.2, 2) == [Fraction(1, 5), Fraction(1, 5)]
    assert compute_densities(lambda density, steps: [0.9, density], 0.3, 2) == [Fraction(9, 10), Fraction(3, 10)]


@pytest.mark.parametrize(
    ("final", "first", "last", "sparsities"),
    [
        (0.9, 0, 100, {10: 0.2439, 25: 0.5203125, 50: 0.7875, 75: 0.8859375, 100: 0.9}),
        (0.8, 10, 90, {30: 0.4625, 50: 0.7, 70: 0.7875, 90: 0.8}),
    ],
)
def test_the_cubic_schedule_has_the_sparsities_of_gradual_pruning(
    final: float, first: int, last: int, sparsities: dict[int, float]
) -> None:
    """s(t) = s_f (1 - (1 - (t - t0) / (t1 - t0))^3), worked out by hand."""
    densities = compute_densities("cubic", 1 - final, last - first)
    assert {t: float(1 - densities[t - first - 1]) for t in sparsities} == pytest.approx(sparsities, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "steps", "words"),
    [
        ("exponental", 3, "Did you mean 'exponential'"),
        ("linear", 0, "positive integer"),
        ("linear", 2.5, "positive integer"),
        ("linear", True, "positive integer"),
        (lambda density, steps: [0.5, 0.8, density], 3, "never rise"),
        (lambda density, steps: [0.5, density], 3, "3 densities"),
        (lambda density, steps: [0.5, 0.4, 0.3], 3, "end at 0.1"),
    ],
)
def test_schedules_refuse(schedule: Any, steps: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        compute_densities(schedule, 0.1, steps)


def test_allocations() -> None:
    scores = {"big": np.arange(90.0, 100.0), "small": np.arange(10.0)}
    layouts = {path: Layout((10,), KernelAxes((), (0,))) for path in scores}
    together = choose_masks(scores, 0.5, layouts)
    assert (together["big"].sum(), together["small"].sum()) == (10, 0)
    apart = choose_masks(scores, 0.5, layouts, allocation="uniform")
    assert (apart["big"].sum(), apart["small"].sum()) == (5, 5)
    assert apart["big"].tolist() == [False] * 5 + [True] * 5
    with pytest.raises(OptionError, match="Did you mean 'uniform'"):
        find_allocation("unifrom")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
def test_large_arrays_are_selected_exactly(seed: int, ties: bool) -> None:
    """Large enough that the threshold is bracketed by a sample first."""
    rng = np.random.default_rng(seed)
    scores = {f"{i}": rng.lognormal(i, 3, size=(7, 101, 97)).astype(np.float32) for i in range(6)}
    if ties:
        scores = {path: np.round(np.log(score)).astype(np.float32) for path, score in scores.items()}
    flat = np.concatenate([score.ravel() for score in scores.values()])
    for keep in (1, 57, flat.size // 50, flat.size // 2, flat.size - 3, flat.size):
        order = np.argsort(-flat, kind="stable")[:keep]
        expected = np.zeros(flat.size, bool)
        expected[order] = True
        masks = keep_top(scores, keep)
        np.testing.assert_array_equal(np.concatenate([mask.ravel() for mask in masks.values()]), expected)
        smaller = keep_top(scores, keep // 3, alive=masks)
        expected[order[keep // 3 :]] = False
        np.testing.assert_array_equal(np.concatenate([mask.ravel() for mask in smaller.values()]), expected)


def test_a_misleading_sample_does_not_mislead() -> None:
    """Every sampled score is small, every other one large."""
    score = np.arange(1.0, 500_001.0)
    score[::97] = 0.0
    masks = keep_top({"a": score}, 1000)
    np.testing.assert_array_equal(np.flatnonzero(masks["a"]), np.argsort(-score, kind="stable")[:1000][::-1])
