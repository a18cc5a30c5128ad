"""Compaction: what goes, what stays and why, what is folded where, and what becomes of masks, training and files."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from compaction_networks import (
    NETWORKS,
    assert_same,
    dead,
    drawn,
    in_dtype,
    kept,
    made,
    pair,
    put,
    random_masks,
    set_to_zero,
    values,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kinds import KERAS
from training import Policy

import tfprune_init as tpi
from tfprune_init.compaction import compact
from tfprune_init.errors import EnforcementError, MaskMismatchError, ModelError, OptionError
from tfprune_init.graph.channel_groups import ChannelGroups
from tfprune_init.graph.variables import list_variables

PACKAGES = list(KERAS)
LAST = "is the last of {}"
OUTPUT = "is an output of the model"
TIED = "goes only together with channels that live"


# What goes: against sets found in NumPy.


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 0.99), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_of_an_mlp_exactly_the_units_on_no_way_from_input_to_output_go(seed: int, sparsity: float, sizes: Any) -> None:
    rng = np.random.default_rng(seed)
    widths = [5, *sizes, 2]
    with in_dtype(keras, "float64"):
        layers = [keras.layers.Dense(n, "tanh", name=f"d{i}") for i, n in enumerate(widths[1:])]
        model = keras.Sequential([keras.Input((5,)), *layers])
    kernels = [rng.normal(size=s) * (rng.uniform(size=s) >= sparsity) for s in itertools.pairwise(widths)]
    biases = [rng.normal(size=n) for n in widths[1:]]
    put(model, {f"d{i}/kernel": one for i, one in enumerate(kernels)})
    put(model, {f"d{i}/bias": one for i, one in enumerate(biases)})
    reached = [np.ones(5, bool)]
    for kernel in kernels:
        reached.append((kernel != 0)[reached[-1]].any(axis=0))
    leads = [np.ones(2, bool)]
    for kernel in kernels[:0:-1]:
        leads.insert(0, (kernel != 0)[:, leads[0]].any(axis=1))

    done = compact(model)

    x = rng.normal(size=(4, 5))
    expected = x
    for kernel, bias in zip(kernels, biases, strict=True):
        expected = np.tanh(expected @ kernel + bias)
    np.testing.assert_allclose(np.asarray(done.model(x)), expected, rtol=1e-12, atol=1e-12)
    for i, (way, lead) in enumerate(zip(reached[1:-1], leads, strict=False)):
        alive = np.flatnonzero(way & lead).tolist()
        assert done.channels[f"d{i}"].tolist() == alive or (not alive and len(done.channels[f"d{i}"]) == 1)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", ["mlp", "lenet", "steps_of_features", "reshaped", "several_ends"])
def test_where_every_constant_folds_nothing_dead_stays_but_outputs(name: str, package: str) -> None:
    for seed, sparsity in ((0, 0.3), (50, 0.6)):
        model, _ = made(name, package, seed, sparsity)
        done = compact(model)
        assert done.after.parameters < done.before.parameters
        for path, reasons in dead(done).items():
            assert set(reasons) <= {OUTPUT, LAST.format(path), "the activation of c looks at several channels at once"}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("left_whole", "open_sizes")])
def test_what_is_compact_is_not_made_smaller(name: str) -> None:
    once = compact(made(name, "keras", 7, 0.4)[0])
    again = compact(once.model)
    assert again.before == again.after == once.after


# What is folded where.


def test_a_constant_becomes_part_of_the_bias_behind_it(K: Any) -> None:
    model = pair(K)
    before = values(model)
    done = compact(model)
    assert kept(done) == {"a": [0], "b": [0, 1], "head": [0, 1]}
    after = values(done.model)
    np.testing.assert_array_equal(after["b/kernel"], before["b/kernel"][:, :, :1])
    folded = before["b/bias"] + np.tanh(0.5) * before["b/kernel"][:, :, 1].sum(axis=(0, 1))
    np.testing.assert_allclose(after["b/bias"], folded, rtol=1e-14)
    assert_same(model, done.model, 1e-13)


def test_a_layer_without_bias_gets_one(K: Any) -> None:
    model = pair(K, use_bias=False)
    kernel = values(model)["b/kernel"]
    done = compact(model)
    bias = np.tanh(0.5) * kernel[:, :, 1].sum(axis=(0, 1))
    np.testing.assert_allclose(values(done.model)["b/bias"], bias, rtol=1e-14)
    assert done.model.get_layer("b").use_bias
    assert not model.get_layer("b").use_bias
    assert_same(model, done.model, 1e-13)


def test_a_layer_gets_no_bias_where_nothing_is_added(K: Any) -> None:
    model = pair(K, use_bias=False)
    put(model, {"a/bias": [0.1, 0.0, 0.0]})
    assert not compact(model).model.get_layer("b").use_bias


@pytest.mark.parametrize(
    ("second", "bias", "stays"),
    [
        ({"padding": "valid"}, 0.5, [0]),
        ({"padding": "same"}, 0.5, [0, 1]),
        ({"padding": "same"}, 30.0, [0, 1]),  # a constant of exactly 1
        ({"padding": "same"}, 0.0, [0]),
        ({"padding": "same", "kernel_size": 1}, 0.5, [0]),
        ({"padding": "same", "kernel_size": 1, "strides": 2}, 0.5, [0]),
        ({"padding": "same", "kernel_size": 5, "strides": 5}, 0.5, [0]),
        ({"padding": "same", "kernel_size": 2, "strides": 2}, 0.5, [0, 1]),
    ],
)
def test_a_constant_stays_where_padding_makes_it_differ(K: Any, second: Any, bias: float, stays: list[int]) -> None:
    model = pair(K, **second)
    put(model, {"a/bias": [0.1, bias, 0.0]})
    done = compact(model)
    assert kept(done)["a"] == stays
    assert dead(done).get("a", {}) == ({"is a constant that no bias of b can take over": 1} if len(stays) > 1 else {})
    assert_same(model, done.model, 1e-13)


def test_padding_meets_a_constant_only_where_a_weight_is_left(K: Any) -> None:
    model = pair(K, padding="same")
    kernel = values(model)["b/kernel"]
    kernel[:, :, 1] = 0
    kernel[1, 1, 1] = 2.0  # the middle, which no padding reaches
    put(model, {"b/kernel": kernel})
    assert kept(compact(model))["a"] == [0]
    kernel[0, 0, 1] = 1e-9  # a corner; little, but more than rounding
    put(model, {"b/kernel": kernel})
    assert kept(compact(model))["a"] == [0, 1]


def test_constants_that_are_no_numbers_are_none(K: Any) -> None:
    L = K.layers
    layers = [L.Dense(3, tf.math.log, name="a"), L.Dense(2, name="b"), L.Dense(2, name="head")]
    model = drawn(K.Sequential([K.Input((2,)), *layers]), 0)
    put(model, {"a/kernel": np.ones((2, 3)) * [1, 0, 0], "a/bias": [0, 0, 1]})
    # Unit 1 of a is log 0, which one of b takes; unit 2 is log 1. The other unit of b takes nothing.
    put(model, {"b/kernel": [[1, 0], [1, 0], [1, 0]]})
    assert kept(compact(model)) == {"a": [0, 1], "b": [0], "head": [0, 1]}


def open_pair(K: Any, edges: bool, **second: Any) -> Any:
    """Two convolutions on images of any size: channel 1 of the first is sigmoid(0.5) everywhere."""
    L, inputs = K.layers, K.Input((None, None, 1))
    x = L.Conv2D(2, 1, activation="sigmoid", name="a")(inputs)
    x = L.Conv2D(2, 2, name="b", **second)(x)
    x = L.ZeroPadding2D(1)(x) if edges else x
    model = drawn(K.Model(inputs, L.Dense(2, name="head")(L.GlobalAveragePooling2D()(x))), 0)
    put(model, {"a/kernel": [[[[1, 0]]]], "a/bias": [0, 0.5]})
    return model


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_what_is_constant_at_one_size_may_not_be_at_another(K: Any, padding: str, both: bool, edges: bool) -> None:
    model = open_pair(K, edges, padding=padding, strides=2)
    # Unit 0 of b takes what lives, and both or not; unit 1 takes the constant, and meets padding at odd sizes.
    put(model, {"b/kernel": values(model)["b/kernel"] * [[1, 0], [both, 1]]})
    done = compact(model)
    assert kept(done)["a"] == ([0, 1] if padding == "same" else [0])
    # Even where unit 1 is constant, its mean with edges of 0 around it is another one at each size.
    assert kept(done)["b"] == ([0, 1] if padding == "same" or edges else [0])
    rng = np.random.default_rng(0)
    for size in (5, 6, 9):
        x = rng.normal(size=(3, size, size + 1, 1)).astype("float32")
        np.testing.assert_allclose(np.asarray(done.model(x)), np.asarray(model(x)), rtol=1e-5, atol=1e-6)


def test_what_padding_keeps_from_the_size_that_stands_for_all_may_come_in_at_others(K: Any) -> None:
    L, inputs = K.layers, K.Input((None, 1))
    x = L.Conv1D(2, 3, dilation_rate=40, padding="same", name="a")(inputs)
    model = drawn(K.Model(inputs, L.Dense(2, name="head")(x)), 0)
    kernel = values(model)["a/kernel"]
    kernel[:, :, 0], kernel[1:, :, 1] = 0, 0  # unit 1 takes what is 40 steps earlier
    put(model, {"a/kernel": kernel})
    done = compact(model)
    assert kept(done)["a"] == [1]
    x = np.random.default_rng(0).normal(size=(2, 90, 1)).astype("float32")
    np.testing.assert_allclose(np.asarray(done.model(x)), np.asarray(model(x)), rtol=1e-5, atol=1e-6)


def test_a_size_that_is_open_stays_open(K: Any) -> None:
    L, inputs = K.layers, K.Input((None, 2))
    model = drawn(K.Model(inputs, L.Reshape((-1,))(L.Conv1D(3, 2, name="a")(inputs))), 0)
    x = np.ones((2, 9, 2), "float32")
    np.testing.assert_allclose(np.asarray(compact(model).model(x)), np.asarray(model(x)), rtol=1e-6)


def test_a_softmax_over_units_makes_all_of_them_vary(K: Any) -> None:
    L = K.layers
    layers = [L.Dense(3, "softmax", name="a"), L.Dense(2, name="b"), L.Dense(2, name="head")]
    model = drawn(K.Sequential([K.Input((4,)), *layers]), 0)
    # Nothing enters unit 2 of a, and unit 1 of b takes that one alone.
    put(model, {"a/kernel": values(model)["a/kernel"] * [1, 1, 0], "b/kernel": [[1, 0], [0, 0], [0, 1]]})
    done = compact(model)
    assert kept(done) == {"a": [0, 1, 2], "b": [0, 1], "head": [0, 1]}
    assert_same(model, done.model, 1e-6)


def test_a_constant_that_differs_between_positions_folds_behind_flatten(K: Any) -> None:
    model = pair(K, padding="same")
    # Unit 1 of b takes the constant alone, and gives less of it at the borders.
    put(model, {"b/kernel": values(model)["b/kernel"] * [[1, 0], [0, 1], [0, 0]]})
    done = compact(model)
    assert kept(done) == {"a": [0], "b": [0], "head": [0, 1]}
    assert_same(model, done.model, 1e-13)


def test_a_constant_folds_if_the_positions_where_it_differs_are_not_used(K: Any) -> None:
    model = pair(K, padding="same")
    rows = values(model)["head/kernel"].reshape(5, 5, 2, 2)
    rows[[0, -1]], rows[:, [0, -1]] = 0, 0  # the borders of the image
    put(model, {"head/kernel": rows.reshape(50, 2)})
    done = compact(model)
    assert kept(done)["a"] == [0]
    assert_same(model, done.model, 1e-13)


def test_scale_and_statistics_make_the_constant(K: Any) -> None:
    with in_dtype(K, "float64"):
        L = K.layers
        model = K.Sequential(
            [
                K.Input((4,)),
                L.Dense(3, use_bias=False, name="a"),
                L.BatchNormalization(epsilon=0.25, name="bn"),
                L.Dense(2, name="head"),
            ]
        )
    drawn(model, 0)
    kernel = np.ones((4, 3))
    kernel[:, 2] = 0
    numbers = {
        "gamma": [1.0, 0.0, 3.0],
        "beta": [0.0, 0.7, -1.0],
        "moving_mean": [0, 0, 4.0],
        "moving_variance": [1, 1, 2],
    }
    put(model, {"a/kernel": kernel, **{f"bn/{name}": value for name, value in numbers.items()}})
    done = compact(model)
    assert kept(done) == {"a": [0], "bn": [0], "head": [0, 1]}
    head = values(model)
    constants = np.array([0.7, 3.0 * (0 - 4.0) / np.sqrt(2.25) - 1.0])
    np.testing.assert_allclose(
        values(done.model)["head/bias"], head["head/bias"] + constants @ head["head/kernel"][1:], rtol=1e-14
    )


def test_flatten_keeps_the_rows_of_each_channel_that_stays(K: Any) -> None:
    model = pair(K)
    put(model, {"b/kernel": values(model)["b/kernel"] * [1, 0], "b/bias": [0.3, -0.4]})
    before = values(model)
    done = compact(model)
    after = values(done.model)
    np.testing.assert_array_equal(after["head/kernel"], before["head/kernel"][0::2])
    np.testing.assert_allclose(after["head/bias"], before["head/bias"] - 0.4 * before["head/kernel"][1::2].sum(axis=0))


def test_a_shared_layer_has_one_bias_for_all_its_calls(K: Any) -> None:
    L = K.layers
    with in_dtype(K, "float64"):
        inputs = K.Input((3,))
        a, b, twice = L.Dense(3, name="a"), L.Dense(3, name="b"), L.Dense(2, name="twice")
        model = K.Model(inputs, L.Concatenate()([twice(a(inputs)), twice(b(inputs))]))
    drawn(model, 1)
    kernel = np.ones((3, 3)) * [1, 0, 0]
    put(model, {"a/kernel": kernel, "b/kernel": kernel, "a/bias": [0, 0.5, 0.25], "b/bias": [0, 0.5, 0.75]})
    done = compact(model)
    assert kept(done)["a"] == kept(done)["b"] == [0, 2]
    assert dead(done)["a"] == {"is a constant that no bias of twice can take over": 1}
    assert_same(model, done.model, 1e-14)


# Channels that are tied.


def branches(K: Any, join: str) -> Any:
    L = K.layers
    with in_dtype(K, "float64"):
        inputs = K.Input((3,))
        joined = getattr(L, join)(name="join")([L.Dense(4, name="a")(inputs), L.Dense(4, name="b")(inputs)])
        model = K.Model(inputs, L.Dense(2, name="head")(joined))
    drawn(model, 0)
    # a: 0 and 1 live; b: 0 and 2 live. Channel 3 is dead in both.
    one, other = np.ones((3, 4)) * [1, 1, 0, 0], np.ones((3, 4)) * [1, 0, 1, 0]
    put(model, {"a/kernel": one, "b/kernel": other, "a/bias": [0.5, 0.5, 0, 0.5], "b/bias": [1, 0, 1, 2]})
    return model


@pytest.mark.parametrize(
    ("join", "stays"), [("Add", [0, 1, 2]), ("Subtract", [0, 1, 2]), ("Maximum", [0, 1, 2]), ("Multiply", [0])]
)
def test_branches_lose_only_what_is_dead_in_all_of_them(K: Any, join: str, stays: list[int]) -> None:
    model = branches(K, join)
    done = compact(model)
    # A product with a constant 0 is 0: channel 1 of a is multiplied by 0, channel 2 of b too.
    assert kept(done)["a"] == kept(done)["b"] == stays
    assert dead(done).get("a", {}) == ({TIED: 1} if len(stays) > 1 else {})
    assert_same(model, done.model, 1e-14)


def test_the_constant_of_a_sum_is_the_sum(K: Any) -> None:
    model = branches(K, "Add")
    before, after = values(model), values(compact(model).model)
    np.testing.assert_allclose(after["head/bias"], before["head/bias"] + 2.5 * before["head/kernel"][3], rtol=1e-14)


def test_what_meets_an_input_of_the_model_stays(K: Any) -> None:
    L = K.layers
    inputs = K.Input((3,))
    x = L.Add(name="join")([L.Dense(3, name="a", kernel_initializer="zeros")(inputs), inputs])
    done = compact(K.Model(inputs, L.Dense(2, name="head")(x)))
    assert kept(done)["a"] == [0, 1, 2]
    assert dead(done)["a"] == {"meets in join what cannot go": 3}


def test_a_group_stays_whichever_of_its_channels_has_to() -> None:
    groups = ChannelGroups(strict=True)
    labels = groups.make_labels(4)
    groups.couple(labels[[0, 3]], labels[[1, 2]], "sum")
    assert groups.pin(labels[[1, 2]], "why")
    assert not groups.pin(labels[1:2], "again")
    assert groups.find_reasons() == {0: "why", 2: "why"}
    assert groups.find_roots().tolist() == [0, 0, 2, 2, -1]


def test_what_is_tied_to_a_channel_that_stays_stays_too(K: Any) -> None:
    L, inputs = K.layers, K.Input((3,))
    a, b = (L.Dense(4, name=name, kernel_initializer="zeros")(inputs) for name in "ab")
    ends = [L.Add()([a, b]), L.LayerNormalization(name="norm")(b)]
    done = compact(K.Model(inputs, [L.Dense(2, name=f"head{i}")(end) for i, end in enumerate(ends)]))
    assert kept(done)["a"] == kept(done)["b"] == [0, 1, 2, 3]
    assert dead(done)["a"] == dead(done)["b"] == {"enters norm, which is left whole": 4}


def test_what_is_spread_over_the_channels_of_others_stays(K: Any) -> None:
    L, inputs = K.layers, K.Input((6, 3))
    x = L.Dense(4, name="a")(inputs)
    gate = L.Reshape((6, 1))(L.Dense(6, "sigmoid", name="gate")(L.Flatten()(inputs)))
    model = drawn(K.Model(inputs, L.Dense(2, name="head")(L.Multiply(name="product")([x, gate]))), 0)
    put(model, {"a/kernel": np.ones((3, 4)) * [1, 0, 1, 0], "gate/kernel": np.ones((18, 6)) * [1, 1, 0, 1, 1, 1]})
    put(model, {"a/bias": [0, 0, 1, 1]})
    done = compact(model)
    # Channel 1 of a is 0; channel 3 is 1, but times a gate that lives.
    assert kept(done)["a"] == [0, 2, 3]
    assert kept(done)["gate"] == [0, 1, 2, 3, 4, 5]
    assert dead(done) == {
        "a": {TIED: 1},
        "gate": {"is spread over others by product": 1},
    }
    assert_same(model, done.model, 1e-6)


def test_units_whose_outgoing_weights_are_gone_are_cut_off_one_after_the_other(K: Any) -> None:
    L = K.layers
    model = K.Sequential([K.Input((3,)), L.Dense(4, name="a"), L.Dense(4, name="b"), L.Dense(2, name="c")])
    drawn(model, 2)
    first, second = values(model)["b/kernel"], values(model)["c/kernel"]
    first[1] = 0  # unit 1 of a feeds nothing
    first[2, :3] = 0  # unit 2 of a feeds unit 3 of b alone, which feeds nothing
    second[3] = 0
    put(model, {"b/kernel": first, "c/kernel": second})
    assert kept(compact(model)) == {"a": [0, 3], "b": [0, 1, 2], "c": [0, 1]}


def test_a_layer_keeps_one_channel(K: Any) -> None:
    L = K.layers
    inputs = K.Input((3,))
    dark = L.Dense(5, "tanh", name="dark", kernel_initializer="zeros", bias_initializer="ones")(inputs)
    model = K.Model(inputs, L.Dense(2, name="head")(L.Concatenate()([dark, inputs])))
    done = compact(model)
    assert kept(done) == {"dark": [0], "head": [0, 1]}
    assert dead(done) == {"dark": {LAST.format("dark"): 1}}
    assert_same(model, done.model, 1e-6)


# Kinds of models and layers.


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_other_dtypes(K: Any, policy: str) -> None:
    with Policy(policy, K):
        model = drawn(NETWORKS["residual"](K), 0)
    set_to_zero(model, random_masks(model, 0.3, 0))
    done = compact(model)
    assert done.after.parameters < done.before.parameters
    for layer, smaller in zip(model.layers[1:], done.model.layers[1:], strict=True):
        assert (smaller.compute_dtype, smaller.dtype) == (layer.compute_dtype, layer.dtype)
    assert_same(model, done.model, {"float32": 1e-6, "mixed_float16": 4e-3, "mixed_bfloat16": 4e-2}[policy])


def test_volumes_are_pooled_in_float32(K: Any) -> None:
    L = K.layers
    inputs = K.Input((6, 6, 6, 1))
    x = L.MaxPooling3D(2, name="pool")(L.Conv3D(6, 1, activation="sigmoid", name="a")(inputs))
    x = L.AveragePooling3D(3, padding="same")(L.Conv3D(6, 1, activation="tanh", name="b")(x))
    model = drawn(K.Model(inputs, L.Dense(2, name="head")(L.Flatten()(x))), 0)
    put(model, {"a/kernel": np.ones((1, 1, 1, 1, 6)) * [1, 0, 0, 1, 0, 0]})
    done = compact(model)
    assert kept(done)["a"] == [0, 3]
    assert_same(model, done.model, 1e-6)


def test_channels_first(K: Any) -> None:
    L, first = K.layers, {"data_format": "channels_first"}
    layers = [
        L.Conv2D(5, 3, activation="sigmoid", name="a", **first),
        L.BatchNormalization(axis=1, name="bn"),
        L.ZeroPadding2D(1, **first),
        L.Conv2D(4, 3, activation="tanh", name="b", **first),
        L.Flatten(**first),
        L.Dense(3, name="head"),
    ]
    model = K.Sequential([K.Input((2, 7, 6)), *layers])
    drawn(model, 0)
    first_kernel, second_kernel = values(model)["a/kernel"], values(model)["b/kernel"]
    put(model, {"a/kernel": first_kernel * [1, 0, 1, 1, 1], "b/kernel": second_kernel * [1, 0, 1, 0]})
    second_kernel[:, :, 2] = 0
    put(model, {"b/kernel": second_kernel * [1, 0, 1, 0]})
    done = compact(model)
    # Unit 1 of a is a constant other than 0 that meets padding; unit 2 feeds nothing; 1 and 3 of b are constants.
    assert kept(done) == {"a": [0, 1, 3, 4], "bn": [0, 1, 3, 4], "b": [0, 2], "head": [0, 1, 2]}
    before, after = values(model), values(done.model)
    pixels = 5 * 4 + 2 * (5 + 4) - 18  # 5 x 4 positions
    rows = before["head/kernel"].reshape(pixels, 4, 3)
    np.testing.assert_array_equal(after["head/kernel"], rows[:, [0, 2]].reshape(-1, 3))
    constants = np.tanh(before["b/bias"][[1, 3]])
    folded = before["head/bias"] + np.einsum("c,pck->k", constants, rows[:, [1, 3]])
    np.testing.assert_allclose(after["head/bias"], folded, rtol=1e-5, atol=1e-5)


def test_what_is_left_whole_is_named(K: Any) -> None:
    model, _ = made("left_whole", "keras" if K is keras else "tf_keras", 0, 0.4)
    done = compact(model)
    assert list(done.left_whole) == ["norm", "softmax", "rnn"]
    assert done.left_whole["norm"] == "LayerNormalization normalizes over its channels"
    assert kept(done)["b"] == list(range(8))
    mixed = compact(made("not_separable", "keras" if K is keras else "tf_keras", 0, 0.3)[0])
    assert mixed.left_whole == {"mixed": "Reshape mixes channels with positions"}
    assert len(mixed.channels["a"]) == 8


def odd(K: Any, what: str) -> Any:
    """A layer whose four channels are dead, and something odd behind it."""
    L, inputs = K.layers, K.Input((4,))
    x = L.Dense(4, name="a", kernel_initializer="zeros", bias_initializer="ones")(inputs)
    later = {
        "training": lambda: L.BatchNormalization(name="odd")(x, training=True),
        "dropout": lambda: L.Dropout(0.5, name="odd")(x, training=True),
        "activation": lambda: L.Activation("softmax", name="odd")(x),
        "own": lambda: type("Own", (L.Dense,), {"call": lambda self, x: x * 2.0})(4, name="odd")(x),
        "slopes": lambda: L.Dense(4, name="odd", activation=L.PReLU())(x),
        "scale": lambda: L.Rescaling([1.0, 2.0, 3.0, 4.0], name="odd")(x),
        "lambda": lambda: L.Lambda(lambda x: x * 2.0, name="odd")(x),
    }[what]()
    return K.Model(inputs, L.Dense(2, name="head")(later))


def test_normalization_along_another_axis_lets_no_channel_go(K: Any) -> None:
    L, inputs = K.layers, K.Input((5, 3))
    x = L.Dense(4, name="a", kernel_initializer="zeros", bias_initializer="ones")(inputs)
    model = drawn(K.Model(inputs, L.Dense(2, name="head")(L.BatchNormalization(axis=1, name="bn")(x))), 0)
    put(model, {"a/kernel": np.zeros((3, 4))})
    done = compact(model)
    assert dead(done)["a"] == {"lies along another axis than the channels of bn": 4}
    assert_same(model, done.model, 1e-6)


def test_what_works_along_the_batch_is_left_whole(K: Any) -> None:
    L, inputs = K.layers, K.Input((3,))
    a, b = (L.Dense(4, name=name, kernel_initializer="zeros")(inputs) for name in "ab")
    model = K.Model(inputs, L.Dense(2, name="head")(L.Concatenate(axis=0, name="rows")([a, b])))
    done = compact(model)
    assert done.left_whole == {"rows": "Concatenate works along the batch"}
    assert kept(done)["a"] == [0, 1, 2, 3]


def test_a_nested_model_that_is_called_in_training_is_left_whole(K: Any) -> None:
    L, inputs = K.layers, K.Input((3,))
    layers = [L.Dense(4, name="a", kernel_initializer="zeros"), L.BatchNormalization(name="bn"), L.Dense(4, name="b")]
    inner = K.Sequential([K.Input((4,)), *layers], name="inner")
    x = L.Dense(4, name="first", kernel_initializer="zeros")(inputs)
    x = L.Add()([inner(x), inner(x, training=True)])
    done = compact(K.Model(inputs, L.Dense(2, name="head")(x)))
    assert done.left_whole == {"inner": "Sequential is called with more than tensors"}
    assert kept(done) == {
        "first": [0, 1, 2, 3],
        "inner/a": [0, 1, 2, 3],
        "inner/bn": [0, 1, 2, 3],
        "inner/b": [0, 1, 2, 3],
        "head": [0, 1],
    }


def test_a_nested_model_that_is_called_on_another_rank_is_left_whole(K: Any) -> None:
    """Keras drops the last axis, of size 1, by itself."""
    layers = [K.layers.Dense(4, name="a", kernel_initializer="zeros"), K.layers.Dense(3, name="b")]
    inner = K.Sequential([K.Input((4,)), *layers], name="inner")
    inputs = K.Input((4, 1))
    done = compact(K.Model(inputs, K.layers.Dense(2, name="head")(inner(inputs))))
    assert list(done.left_whole) == ["inner"]
    assert done.after == done.before


def test_a_nested_model_of_a_class_of_ones_own_is_left_whole(K: Any) -> None:
    class Tower(K.Model):
        def __init__(self, **options: Any) -> None:
            super().__init__(**{"name": "tower", **options})
            self.dense = K.layers.Dense(4, name="inside", kernel_initializer="zeros")

        def call(self, x: Any) -> Any:
            return self.dense(x)

    inputs = K.Input((3,))
    x = K.layers.Dense(4, name="a", kernel_initializer="zeros", bias_initializer="ones")(inputs)
    model = K.Model(inputs, K.layers.Dense(2, name="head")(Tower()(x)))
    done = compact(model)
    assert list(done.left_whole) == ["tower"]
    assert dead(done)["a"] == {"enters tower, which is left whole": 4}
    assert_same(model, done.model, 1e-6)


@pytest.mark.parametrize("what", ["training", "dropout", "activation", "own", "slopes", "scale", "lambda"])
def test_what_computes_in_an_odd_way_is_left_whole(K: Any, what: str) -> None:
    model = odd(K, what)
    done = compact(model)
    assert list(done.left_whole) == ["odd"]
    assert dead(done)["a"] == {"enters odd, which is left whole": 4}
    if what != "dropout":
        assert_same(model, done.model, 1e-6)


def test_operations_outside_of_layers_are_left_whole(K: Any) -> None:
    L, inputs = K.layers, K.Input((4,))
    x = L.Dense(4, name="a", kernel_initializer="zeros", bias_initializer="ones")(inputs)
    model = K.Model(inputs, L.Dense(2, name="head")(x * 2.0 + inputs))
    done = compact(model)
    assert len(done.left_whole) == 2
    assert kept(done)["a"] == [0, 1, 2, 3]
    assert_same(model, done.model, 1e-6)


def test_a_layer_that_is_left_whole_in_one_call_is_so_in_all(K: Any) -> None:
    L, inputs = K.layers, K.Input((4,))
    norm, zeros = L.BatchNormalization(name="norm"), {"kernel_initializer": "zeros"}
    a, b = (norm(L.Dense(4, name=name, **zeros)(inputs), training=name == "b") for name in "ab")
    model = K.Model(inputs, L.Dense(2, name="head")(L.Concatenate()([a, b])))
    done = compact(model)
    assert dead(done)["a"] == {"is of norm, which is left whole in another call": 4}
    assert_same(model, done.model, 1e-6)


def test_a_nested_model_has_one_shape_for_all_its_calls(K: Any) -> None:
    L, inputs = K.layers, K.Input((3,))
    inner = K.Sequential([K.Input((3,)), L.Activation("tanh")], name="inner")
    a, b = L.Dense(3, name="a"), L.Dense(3, name="b")
    model = drawn(K.Model(inputs, L.Dense(2, name="head")(L.Concatenate()([inner(a(inputs)), inner(b(inputs))]))), 0)
    put(model, {"a/kernel": np.ones((3, 3)) * [1, 0, 0], "b/kernel": np.ones((3, 3)) * [0, 1, 0]})
    done = compact(model)
    assert kept(done)["a"] == kept(done)["b"] == [0, 1]
    assert_same(model, done.model, 1e-6)


def test_a_class_made_of_a_graph_is_kept(K: Any) -> None:
    class Own(K.Model):
        def train_step(self, data: Any) -> Any:
            return {"loss": 7.0}

    inputs = K.Input((4,))
    hidden = K.layers.Dense(4, name="a", kernel_initializer="zeros")(inputs)
    done = compact(Own(inputs, K.layers.Dense(2, name="head")(hidden)))
    assert type(done.model).__name__ == "Own"
    assert done.model.train_step(None) == {"loss": 7.0}
    assert kept(done)["a"] == [0]


def test_what_is_frozen_stays_frozen(K: Any) -> None:
    model, _ = made("nested", "keras" if K is keras else "tf_keras", 0, 0.4)
    model.get_layer("outer").trainable = False
    smaller = compact(model).model
    assert not smaller.get_layer("outer").trainable
    before = [target.path for target in list_variables(model) if target.variable.trainable]
    assert [target.path for target in list_variables(smaller) if target.variable.trainable] == before


# The account.


def test_the_account(K: Any) -> None:
    model = pair(K)
    done = compact(model)
    # 5x5 positions of a, 3x3 of b.
    assert done.before.multiply_adds == 25 * 2 * 2 * 1 * 3 + 9 * 3 * 3 * 3 * 2 + 18 * 2
    assert done.after.multiply_adds == 25 * 2 * 2 * 1 * 1 + 9 * 3 * 3 * 1 * 2 + 18 * 2
    assert (done.before.parameters, done.after.parameters) == (model.count_params(), 5 + 20 + 38)
    assert done.new_index("a").tolist() == [0, -1, -1]
    with pytest.raises(OptionError, match=r"'c'.*a, b, head"):
        done.new_index("c")
    assert json.loads(json.dumps(done.to_dict())) == {
        "model": model.name,
        "before": {"parameters": 109, "multiply_adds": 822},
        "after": {"parameters": 63, "multiply_adds": 298},
        "layers": [
            {"path": "a", "before": 3, "after": 1, "dead": {}},
            {"path": "b", "before": 2, "after": 2, "dead": {}},
            {"path": "head", "before": 2, "after": 2, "dead": {}},
        ],
        "channels": {"a": [0], "b": [0, 1], "head": [0, 1]},
        "left_whole": {},
        "compiled": False,
    }


def test_multiply_adds_of_every_convolution(K: Any) -> None:
    L, inputs = K.layers, K.Input((8, 8, 2))
    x = L.Conv2DTranspose(3, 2, strides=2, name="a")(inputs)  # 64 positions in
    x = L.SeparableConv2D(5, 3, strides=2, depth_multiplier=2, name="b")(x)  # 7x7 positions out
    x = L.DepthwiseConv2D(3, name="c")(x)  # 5x5 positions out
    model = drawn(K.Model(inputs, L.Dense(2, name="d")(x)), 0)
    expected = 64 * 2 * 2 * 3 * 2 + 49 * (3 * 3 * 3 * 2 + 6 * 5) + 25 * 3 * 3 * 5 + 25 * 5 * 2
    assert compact(model).before.multiply_adds == expected
    opened = drawn(NETWORKS["open_sizes"](K), 0)
    assert compact(opened).before.multiply_adds is None


def test_print_tells_what_stays_and_why(K: Any) -> None:
    model, _ = made("left_whole", "keras" if K is keras else "tf_keras", 0, 0.4)
    page = io.StringIO()
    compact(model).print(page)
    text = " ".join(page.getvalue().split())
    assert "LayerNormalization normalizes over its channels" in text
    assert "multiply-adds for one example became" in text
    assert f"{model.count_params():,} parameters became" in text


# Errors.


def test_models_that_cannot_be_made_smaller_are_refused(K: Any) -> None:
    L = K.layers

    class Subclassed(K.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = L.Dense(2)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    subclassed = Subclassed()
    subclassed(np.zeros((1, 3), "float32"))
    with pytest.raises(ModelError, match="Received: Subclassed, a subclassed model"):
        compact(subclassed)
    with pytest.raises(ModelError, match="not built"):
        compact(K.Sequential([L.Dense(2)]))
    with pytest.raises(ModelError, match=r"keras\.Model"):
        compact("model")

    class Twice(K.Model):
        def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
            return 2 * super().call(inputs, training=training, mask=mask)

    inputs = K.Input((3,))
    with pytest.raises(ModelError, match="Twice, which replaces call"):
        compact(Twice(inputs, L.Dense(2)(inputs)))

    class NoConfig(L.Layer):
        def __init__(self, factor: Any, name: str):
            super().__init__(name=name)
            self.factor = factor

        def call(self, x: Any) -> Any:
            return x * self.factor

        def get_config(self) -> dict[str, Any]:
            return {"name": self.name}

    with pytest.raises(ModelError, match=r"'own'.*cannot be copied from its config"):
        compact(K.Model(inputs, L.Dense(2)(NoConfig(3.0, "own")(inputs))))

    class Fitted(K.Model):
        def __init__(self, width: int):
            inputs = K.Input((width,))
            super().__init__(inputs, L.Dense(2)(inputs))

        def train_step(self, data: Any) -> Any:
            return {}

    with pytest.raises(ModelError, match="would lack train_step of its class Fitted"):
        compact(Fitted(3))


def test_masks_that_do_not_fit_are_refused(K: Any) -> None:
    model = pair(K)
    with pytest.raises(MaskMismatchError, match="Not in the model: c/kernel"):
        compact(model, tpi.Masks({"c/kernel": [True]}))
    tpi.attach(model, tpi.Masks({"a/kernel": values(model)["a/kernel"] != 0}))
    target = next(target for target in list_variables(model) if target.path == "a/kernel")
    target.tensor.assign_add(np.ones(target.shape))
    with pytest.raises(EnforcementError, match="Pruned weights came back"):
        compact(model)


def test_nan_is_refused_where_it_counts(K: Any) -> None:
    model = pair(K)
    kernel = values(model)["b/kernel"]
    kernel[0, 0, 1, 0] = np.nan
    put(model, {"b/kernel": kernel})
    with pytest.raises(ModelError, match="'b/kernel' holds NaN or Inf"):
        compact(model)
    masks = tpi.Masks({"b/kernel": np.isfinite(kernel)})
    assert np.isfinite(values(compact(model, masks).model)["b/kernel"]).all()


def test_losses_inside_a_tf_keras_model_are_refused() -> None:
    inputs = tf_keras.Input((3,))
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(2)(inputs))
    model.add_loss(tf_keras.backend.sum(model.output))
    with pytest.raises(ModelError, match="add_loss"):
        compact(model)


def test_tfmot_wrappers_are_refused() -> None:
    from tfprune_init import tfmot

    layers = [tf_keras.layers.Dense(4, name="a"), tf_keras.layers.Dense(4)]
    model = tf_keras.Sequential([tf_keras.Input((8,)), *layers])
    wrapped = tfmot.wrap(model, tpi.Masks({"a/kernel": np.ones((8, 4), bool) & [True, True, False, False]}))
    with pytest.raises(ModelError, match=r"Call tfprune_init\.tfmot\.strip\(model\) first"):
        compact(wrapped)
    assert kept(compact(tfmot.strip(wrapped)))["a"] == [0, 1]


def test_a_size_that_cannot_stand_for_open_ones_is_an_error(K: Any) -> None:
    L, inputs = K.layers, K.Input((None, 3))
    x = L.Conv1D(4, 40, name="long")(inputs)
    with pytest.raises(ModelError, match=r"(?s)'long'.*fixed size"):
        compact(K.Model(inputs, L.GlobalAveragePooling1D()(x)))
