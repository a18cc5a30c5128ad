"""Budgets: the largest selection in rank order that fits, by brute force."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_kinds import KERAS, build, data

import tfprune_init as tpi
from tfprune_init.errors import OptionError
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.methods import resolve_method
from tfprune_init.methods.mask_selector import make_selector
from tfprune_init.selection import GRANULARITIES
from tfprune_init.selection.budget import count_kept, find_largest_count, to_fraction


@given(st.integers(1, 10**7), st.integers(1, 999))
def test_counts_are_those_of_the_decimals(size: int, thousandths: int) -> None:
    sparsity = float(f"0.{thousandths:03d}")
    expected = size * (1000 - thousandths) // 1000
    assert count_kept(size, 1 - to_fraction(sparsity)) == count_kept(size, 1.0 - sparsity) == expected


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 10**6))
def test_counts_are_those_of_small_fractions(n: int, m: int, size: int) -> None:
    n = min(n, m)
    assert to_fraction(n / m) == to_fraction(1.0 - (1.0 - n / m)) == Fraction(n, m)
    assert count_kept(size, n / m) == size * n // m


@given(st.integers(0, 50), st.integers(0, 60))
def test_bisection_finds_the_largest(limit: int, most: int) -> None:
    assert find_largest_count(lambda count: count <= limit, most) == min(limit, most)


@pytest.mark.parametrize("package", ["keras", pytest.param("tf_keras", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("method", ["snip", "force", "synflow", "magnitude"])
def test_a_budget_of_weights_is_that_count(method: str, package: str) -> None:
    model = build("functional", package)
    steps = {"steps": 4} if method in ("force", "synflow") else {}
    report = tpi.prune_at_init(model, data(), budget=tpi.Budget(weights=150), method=method, verbose=0, **steps)
    assert report.masks.kept == 150
    assert report.requested_sparsity is None
    assert report.budget == {
        "kind": "weights", "asked": 150, "limit": 150, "dense": report.masks.size, "got": 150,
        "counted": "nonzero prunable weights",
    }  # fmt: skip
    half = tpi.find_masks(build("functional", package), data(), budget=tpi.Budget(weights=0.5), method=method, **steps)
    assert half.kept == half.size // 2


def test_weights_are_counted_without_running_the_model() -> None:
    """What a subclassed model costs is found by running it, and there is no data; its weights are known."""
    budget = tpi.Budget(weights=100)
    assert tpi.find_masks(build("subclassed", "keras"), None, budget=budget, method="magnitude").kept == 100


def dense_model() -> Any:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("parameters", [83, 60, 45])
def test_parameters_equal_trying_every_count(granularity: str, allocation: str, parameters: int) -> None:
    if allocation == "global" and not GRANULARITIES[granularity].layers_compete:
        return
    model = dense_model()
    options = {"granularity": granularity, "allocation": allocation}
    resolved = resolve_method("magnitude", None, options)
    selector = make_selector(model, find_prunable_variables(model), resolved, None, False)
    rng = np.random.default_rng(0)
    scores = {one.path: rng.random(one.shape) for one in selector.variables.prunable}
    left = {}
    for count in range(1, selector.count + 1):
        masks = selector.choose(scores, Fraction(count, selector.count), None)
        left[count] = 83 - sum(int((~mask).sum()) for mask in masks.values())
    assert sorted(left.values()) == list(left.values())
    goal = selector.resolve_goal(None, tpi.Budget(parameters=parameters), model, None)
    found = goal.limit.find_density(scores, goal.share, None)
    best = max(cost for cost in left.values() if cost <= parameters)
    assert left[int(found * selector.count)] == goal.limit.cost(selector.choose(scores, found, None)) == best


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({}, "Received: none of them"),
        ({"weights": 10, "parameters": 10}, "Received: weights, parameters"),
        ({"weights": 0}, "Received: weights=0"),
        ({"weights": 1.5}, "Received: weights=1.5"),
        ({"weights": True}, "Received: weights=True"),
        ({"multiply_adds": "1e6"}, "Received: multiply_adds='1e6'"),
    ],
)
def test_bad_budgets_are_refused(given_: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        tpi.Budget(**given_)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 0.5, "budget": tpi.Budget(weights=10)}, "Received: both"),
        ({"allocation": {"*": 0.5}, "budget": tpi.Budget(weights=10)}, "Received: both"),
        ({"budget": 100}, "a tpi.Budget, such as"),
        ({"budget": tpi.Budget(weights=73)}, "has no effect: the dense network has 72 weights"),
        (
            {"budget": tpi.Budget(parameters=10)},
            "leaves nothing: with 1 of the weights kept the network still has 12 parameters",
        ),
    ],
)
def test_budgets_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        tpi.find_masks(dense_model(), None, method="magnitude", verbose=0, **options)


def convolutional(K: Any) -> Any:
    L = K.layers
    layers = [
        L.Conv2D(4, 3, strides=2, name="a"),
        L.ReLU(),
        L.Conv2D(6, 3, name="b"),
        L.ReLU(),
        L.GlobalAveragePooling2D(),
    ]
    model = K.Sequential([K.Input((9, 9, 2)), *layers, L.Dense(3, name="head")])
    model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("package", KERAS)
def test_multiply_adds_of_weights_by_hand(package: str) -> None:
    """a is used at 4 x 4 places, b at 2 x 2, head once: 16 * 72 + 4 * 216 + 18 = 2,034."""
    model = convolutional(KERAS[package])
    report = tpi.prune_at_init(model, None, budget=tpi.Budget(multiply_adds=700), method="magnitude", verbose=0)
    kept = {row.path: row.kept for row in report.layers}
    got = 16 * kept["a/kernel"] + 4 * kept["b/kernel"] + kept["head/kernel"]
    assert report.budget == {
        "kind": "multiply_adds", "asked": 700, "limit": 700, "dense": 2_034, "got": got,
        "counted": "nonzero weights times positions",
    }  # fmt: skip
    assert 700 - 16 < got <= 700  # one weight more, of at most 16 multiply-adds, would not fit


@pytest.mark.parametrize("package", KERAS)
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_multiply_adds_of_units_are_those_that_compact_leaves(package: str, share: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 9, 9, 2)).astype("float32"), np.arange(12) % 3
    model = convolutional(KERAS[package])
    budget = tpi.Budget(multiply_adds=share)
    report = tpi.prune_at_init(model, (x, y), budget=budget, method="snip", granularity="units", verbose=0)
    compact = tpi.compact(model, report.masks)
    assert report.budget["got"] == compact.after.multiply_adds <= report.budget["limit"] == int(2_034 * share)
    assert report.budget["dense"] == compact.before.multiply_adds == 2_034
    channels = {layer.path: layer.after for layer in compact.layers}
    # One unit more, whichever comes next, would not fit.
    a, b = channels["a"], channels["b"]
    assert a * 16 * 18 + a * b * 36 + 3 * b == report.budget["got"]
    assert max((a + 1) * 16 * 18 + (a + 1) * b * 36 + 3 * b, a * 16 * 18 + a * (b + 1) * 36 + 3 * (b + 1)) > int(
        2_034 * share
    )
