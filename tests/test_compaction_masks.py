"""What becomes of masks, training, files, and of the model itself, when a smaller one is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from compaction_networks import (
    NETWORKS,
    assert_same,
    dead,
    drawn,
    in_dtype,
    inputs_for,
    kept,
    made,
    outputs,
    pair,
    put,
    random_masks,
    set_to_zero,
    values,
)
from model_kinds import KERAS
from training import leaks

import tfprune_init as tpi
from tfprune_init.compaction import compact
from tfprune_init.graph.variables import list_variables
from tfprune_init.masking.attachment import get_attached_masks

PACKAGES = list(KERAS)


# Masks.


def test_with_masks_a_kept_weight_that_is_zero_stays(K: Any) -> None:
    L = K.layers
    layers = [L.Dense(4, name="a"), L.BatchNormalization(gamma_initializer="zeros", name="bn"), L.Dense(2, name="head")]
    model = K.Sequential([K.Input((3,)), *layers])
    put(model, {"a/kernel": np.zeros((3, 4))})
    masks = tpi.Masks({"a/kernel": np.ones((3, 4), bool) & [True, True, False, False]})
    assert kept(compact(model, masks))["a"] == [0, 1]
    assert len(compact(model).channels["a"]) == 1


def test_outputs_are_those_of_the_model_under_the_masks(K: Any) -> None:
    with in_dtype(K, "float64"):
        model = drawn(NETWORKS["lenet"](K), 0)
    masks = random_masks(model, 0.5, 0)
    whole = values(model)
    done = compact(model, masks)
    assert all(np.array_equal(array, whole[path]) for path, array in values(model).items())
    set_to_zero(model, masks)
    assert_same(model, done.model, 1e-12)
    assert done.masks is not None
    assert not leaks(done.model, done.masks)
    assert get_attached_masks(done.model) is None


def test_the_masks_come_along(K: Any) -> None:
    model, masks = made("nested", "keras" if K is keras else "tf_keras", 0, 0.4)
    done = compact(model, masks)
    assert done.masks is not None
    assert list(done.masks) == list(masks)
    done.masks.check(done.model)
    rows, columns = done.channels["a"], done.channels["outer/conv"]
    expected = masks["outer/conv/kernel"][:, :, rows][..., columns]
    np.testing.assert_array_equal(done.masks["outer/conv/kernel"], expected)
    assert sum(mask.size for mask in done.masks.values()) < masks.size


def test_a_pruned_bias_takes_nothing_over(K: Any) -> None:
    model = pair(K)
    masks = tpi.Masks(
        {"a/kernel": values(model)["a/kernel"] != 0, "b/bias": [True, False], "b/kernel": np.ones((3, 3, 3, 2), bool)}
    )
    done = compact(model, masks)
    assert kept(done)["a"] == [0, 1]
    assert dead(done)["a"] == {"is a constant that no bias of b can take over": 1}
    put(model, {"b/bias": values(model)["b/bias"] * [1, 0]})
    assert_same(model, done.model, 1e-13)


def test_attached_masks_are_attached_again_and_given_ones_take_precedence(K: Any) -> None:
    model = pair(K)
    carried = {"a/kernel": values(model)["a/kernel"] != 0, "b/kernel": np.ones((3, 3, 3, 2), bool)}
    tpi.attach(model, tpi.Masks(carried))
    fewer = np.ones((3, 3, 3, 2), bool) & [True, False]
    done = compact(model, tpi.Masks({"b/kernel": fewer}))
    assert kept(done)["b"] == [0]
    assert done.masks == get_attached_masks(done.model)
    assert done.masks == {"a/kernel": carried["a/kernel"][..., :1], "b/kernel": fewer[:, :, :1, :1]}
    assert get_attached_masks(model) == carried


def test_a_wrapped_model_becomes_a_plain_one_with_masks_attached() -> None:
    model = pair(keras)
    masks = tpi.Masks({"a/kernel": values(model)["a/kernel"] != 0})
    done = compact(tpi.wrap(model, masks))
    assert [type(layer).__name__ for layer in done.model.layers] == ["Conv2D", "Conv2D", "Flatten", "Dense"]
    assert get_attached_masks(done.model) == {"a/kernel": masks["a/kernel"][..., :1]}
    assert_same(model, done.model, 1e-13)


# Training.


def relu_net(K: Any, activation: str = "relu") -> tuple[Any, tpi.Masks]:
    L = K.layers
    with in_dtype(K, "float64"):
        model = K.Sequential(
            [
                K.Input((6, 6, 1)),
                L.Conv2D(8, 3, padding="same", use_bias=False, name="a"),
                L.BatchNormalization(name="bn"),
                L.Activation(activation),
                L.Conv2D(8, 3, name="b"),
                L.Activation(activation),
                L.Flatten(),
                L.Dense(3, name="head"),
            ]
        )
    model.compile(K.optimizers.SGD(0.1, momentum=0.9), K.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    masks = tpi.Masks(
        {
            "a/kernel": (rng.uniform(size=(3, 3, 1, 8)) < 0.7) & [1, 1, 1, 0, 0, 0, 0, 0],
            "b/kernel": (rng.uniform(size=(3, 3, 8, 8)) < 0.7) & [0, 0, 0, 1, 1, 0, 1, 1],
            "head/kernel": rng.uniform(size=(128, 3)) < 0.5,
        }
    )
    tpi.attach(model, masks)
    return model, masks


def trained(model: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6, 6, 1)), np.arange(32) % 3
    model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    return outputs(model, x)


def test_training_the_smaller_model_is_training_the_larger_one(K: Any) -> None:
    model, _ = relu_net(K)
    done = compact(model)
    assert done.compiled
    assert done.after.parameters < 0.4 * done.before.parameters
    untrained = outputs(model, inputs_for(model, 4))
    np.testing.assert_allclose(trained(done.model), trained(model), rtol=1e-9, atol=1e-9)
    assert np.abs(outputs(model, inputs_for(model, 4))[0] - untrained[0]).max() > 0.1
    assert done.masks is not None
    assert not leaks(done.model, done.masks)
    before, after = values(model), values(done.model)
    np.testing.assert_allclose(after["a/kernel"], before["a/kernel"][..., done.channels["a"]], rtol=1e-9, atol=1e-12)
    # Once trained it is still what compacting the trained one gives.
    later = compact(model)
    assert kept(later) == kept(done)
    assert_same(done.model, later.model, 1e-9)


def test_training_is_not_the_same_where_constants_would_have_moved(K: Any) -> None:
    # The slope of tanh at 0 is not 0, so biases of dead units, which are no longer there, would have trained.
    model, _ = relu_net(K, activation="tanh")
    done = compact(model)
    assert_same(model, done.model, 1e-12)
    assert np.abs(trained(done.model)[0] - trained(model)[0]).max() > 1e-4


# No trace, determinism.


@pytest.mark.parametrize("name", ["nested", "normalized", "left_whole"])
def test_the_model_stays_as_it_is(K: Any, name: str) -> None:
    model, masks = made(name, "keras" if K is keras else "tf_keras", 0, 0.4)
    model.compile("adam", "mse")
    x, before, config = inputs_for(model, 4), values(model), model.get_config()
    nodes = {layer.name: len(layer._inbound_nodes) for layer in model.layers}
    result = outputs(model, x)
    one, other = compact(model, masks), compact(model, masks)
    assert all(np.array_equal(array, before[path]) for path, array in values(model).items())
    assert json.dumps(model.get_config(), default=str) == json.dumps(config, default=str)
    assert {layer.name: len(layer._inbound_nodes) for layer in model.layers} == nodes
    assert all(np.array_equal(a, b) for a, b in zip(outputs(model, x), result, strict=True))
    # Twice the same, to the bit.
    assert one.to_dict() == other.to_dict()
    assert one.masks == other.masks
    ours, theirs = values(one.model), values(other.model)
    assert all(np.array_equal(ours[path], theirs[path]) for path in ours)
    # Nothing is shared: training one leaves the other.
    for target in list_variables(one.model):
        if target.tensor.dtype.is_floating:
            target.tensor.assign(target.tensor * 0 - 1)
    assert all(np.array_equal(array, before[path]) for path, array in values(model).items())


def test_names_and_paths_stay(K: Any) -> None:
    model, _ = made("nested", "keras" if K is keras else "tf_keras", 0, 0.4)
    smaller = compact(model).model
    assert (smaller.name, type(smaller)) == (model.name, type(model))
    assert [target.path for target in list_variables(smaller)] == [target.path for target in list_variables(model)]
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]


# Compiling, files.


def test_compiled_as_the_model_was(K: Any) -> None:
    model = pair(K)
    assert not compact(model).compiled
    optimizer = K.optimizers.Adam(0.25, beta_1=0.5)
    model.compile(optimizer, K.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    done = compact(model)
    assert done.compiled
    assert done.model.optimizer is not optimizer
    assert float(done.model.optimizer.learning_rate) == 0.25
    assert done.model.optimizer.get_config() == optimizer.get_config()
    x, y = inputs_for(model, 6), np.arange(6) % 2
    np.testing.assert_allclose(done.model.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-6)
    model.compile("sgd", lambda y, p: p)
    assert not compact(model).compiled


def test_saved_loaded_and_trained_on(K: Any, tmp_path: Path) -> None:
    model, _ = relu_net(K)
    done = compact(model)
    path = tmp_path / "model.keras"
    smaller = tpi.strip(done.model)
    smaller.save(path)
    loaded = K.models.load_model(path)
    assert_same(smaller, loaded, 0)
    loaded.load_weights(_saved_weights(smaller, tmp_path))
    trained(loaded)


def _saved_weights(model: Any, folder: Path) -> Path:
    path = folder / "model.weights.h5"
    model.save_weights(path)
    return path


def test_masks_are_saved_with_an_attached_compact_model(tmp_path: Path) -> None:
    model, _ = relu_net(keras)
    done = compact(model)
    done.model.save(tmp_path / "model.keras")
    assert get_attached_masks(keras.models.load_model(tmp_path / "model.keras")) == done.masks


@pytest.mark.slow
def test_exported(K: Any, tmp_path: Path) -> None:
    with in_dtype(K, "float32"):
        model = drawn(NETWORKS["lenet"](K), 0)
    set_to_zero(model, random_masks(model, 0.4, 0))
    done = compact(model)
    x = np.asarray(inputs_for(model, 8))
    edge = tpi.export_tflite(done.model, tmp_path / "small.tflite", verify=x)
    assert edge.relative_difference < 1e-4
