"""Traces are kept with the model: reused where nothing changed, never where anything did, and gone with the model."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from model_kinds import KERAS, KINDS, build, data
from tiers import rows

import tfprune_init as tpi
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.scoring import ScoringEngine
from tfprune_init.scoring.traces import Traces

both = pytest.mark.parametrize("package", KERAS)


def signal(package: str, times: int = 1) -> dict[str, int]:
    """The traces of the check that a signal passes, which Keras 3 does without one."""
    return {"measure_signal": times} if package == "tf_keras" else {}


def traces(model: Any) -> int:
    return Traces.of(model).counts.total()


@pytest.mark.parametrize("kind", rows(KINDS, ["sequential", "functional"]))
@both
def test_two_searches_trace_each_measurement_once(package: str, kind: str) -> None:
    model = build(kind, package)
    first = tpi.find_masks(model, data(), sparsity=0.3, method="iter_snip", steps=3, verbose=0)
    once = {"measure_gradients": 1, **signal(package)}
    assert Traces.of(model).counts == once
    second = tpi.find_masks(model, data(), sparsity=0.6, method="iter_snip", steps=3, verbose=0)
    scores = tpi.score(model, data(), "snip", verbose=0)
    # Dropout of tf_keras draws from a state inside the graph, so that a graph used again would draw other numbers.
    draws = (package, kind) == ("tf_keras", "functional")
    assert Traces.of(model).counts == ({"measure_gradients": 3, **signal(package, 2)} if draws else once)
    assert tpi.find_masks(build(kind, package), data(), sparsity=0.6, method="iter_snip", steps=3, verbose=0) == second
    assert first.kept > second.kept
    for path, expected in tpi.score(build(kind, package), data(), "snip", verbose=0).items():
        np.testing.assert_array_equal(scores[path], expected)


@both
@pytest.mark.parametrize("method", rows(["snip_it", "snap_it", "synflow"], ["snip_it"]))
def test_five_events_of_training_trace_each_measurement_once(package: str, method: str) -> None:
    model = build("sequential", package)
    pruning = tpi.PruneDuringTraining(data(), sparsity=0.6, method=method, every=1, delay=0, events=5)
    model.fit(*data(), epochs=5, batch_size=12, verbose=0, callbacks=[pruning])
    assert len(pruning.history) == 5
    measure = {"snip_it": "measure_gradients", "snap_it": "measure_gate_derivatives", "synflow": "_shares"}[method]
    assert Traces.of(model).counts == {measure: 1, **signal(package)}


def scores_of(model: Any, **options: Any) -> dict[str, np.ndarray]:
    x, labels = data()
    return tpi.score(model, (x, np.eye(3, dtype="float32")[labels]), "snip", verbose=0, **options)


def compile_with_another_loss(model: Any, K: Any) -> dict[str, Any]:
    model.compile("adam", "mse")
    return {}


def change_the_compiled_loss(model: Any, K: Any) -> dict[str, Any]:
    """Compiled again with a loss of the same kind."""
    model.compile("adam", K.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3))
    return {}


def give_another_loss(model: Any, K: Any) -> dict[str, Any]:
    return {"loss": K.losses.Huber(0.5)}


def change_the_policy(model: Any, K: Any) -> dict[str, Any]:
    layer = model.get_layer("hidden")
    if K is keras:
        layer.dtype_policy = "mixed_bfloat16"
    else:
        layer._set_dtype_policy("mixed_bfloat16")
    return {}


def leave_a_layer_alone(model: Any, K: Any) -> dict[str, Any]:
    return {"exclude": "narrow"}


def change_an_activation(model: Any, K: Any) -> dict[str, Any]:
    model.get_layer("hidden").activation = K.activations.linear
    return {}


def change_a_rate(model: Any, K: Any) -> dict[str, Any]:
    model.get_layer("drop").rate = 0.9
    return {}


def judge_as_in_prediction(model: Any, K: Any) -> dict[str, Any]:
    return {"training": False}


def draw_other_noise(model: Any, K: Any) -> dict[str, Any]:
    return {"seed": 5}


CHANGES = [
    compile_with_another_loss,
    change_the_compiled_loss,
    give_another_loss,
    change_the_policy,
    leave_a_layer_alone,
    change_an_activation,
    change_a_rate,
    judge_as_in_prediction,
    draw_other_noise,
]


def network(K: Any, rate: float = 0.2) -> Any:
    K.utils.set_random_seed(0)
    layers = [
        K.layers.Input((6, 6, 2)),
        K.layers.Flatten(name="flat"),
        K.layers.Dense(12, activation="tanh", name="hidden"),
        K.layers.Dropout(rate, name="drop"),
        K.layers.Dense(8, activation="relu", name="narrow"),
        K.layers.Dense(3, name="head"),
    ]
    model = K.Sequential(layers)
    model.compile("adam", K.losses.CategoricalCrossentropy(from_logits=True))
    return model


@both
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_model_is_traced_anew(package: str, change: Callable[[Any, Any], dict[str, Any]]) -> None:
    K = KERAS[package]
    model = network(K)
    before = scores_of(model)
    now = scores_of(model, **change(model, K))
    assert Traces.of(model).counts["measure_gradients"] == 2
    fresh = network(K)
    expected = scores_of(fresh, **change(fresh, K))
    assert now.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(now[path], value)
    assert now.keys() != before.keys() or any((now[path] != before[path]).any() for path in now)


@both
def test_losses_of_the_same_content_share_a_trace(package: str) -> None:
    K = KERAS[package]
    model = network(K, rate=0.0)
    for delta, expected in ((0.5, 1), (0.5, 1), (0.4, 2), (0.5, 2)):
        scores_of(model, loss=K.losses.Huber(delta))
        assert traces(model) == expected


def test_an_attribute_set_to_an_equal_value_is_no_change() -> None:
    model = network(keras)
    scores_of(model)
    model.get_layer("hidden").table = np.arange(3)
    scores_of(model)
    assert traces(model) == 2
    model.get_layer("hidden").table = np.arange(3)
    model.get_layer("drop").rate = float("0.2")
    scores_of(model)
    assert traces(model) == 2


@both
def test_trained_weights_and_attached_masks_need_no_new_trace(package: str) -> None:
    model = network(KERAS[package], rate=0.0)
    before = scores_of(model)
    tpi.attach(model, tpi.find_masks(model, None, sparsity=0.5, method="magnitude", verbose=0))
    x, labels = data()
    model.fit(x, np.eye(3)[labels], epochs=2, verbose=0)
    model.evaluate(x, np.eye(3)[labels], verbose=0)
    model.predict(x, verbose=0)
    after = scores_of(model)
    assert Traces.of(model).counts["measure_gradients"] == 1
    assert any((after[path] != before[path]).any() for path in after)


@both
def test_a_model_under_a_strategy_shares_no_trace_with_one_without(package: str) -> None:
    """A strategy belongs to the variables of a model, so it can change only with the model."""
    import tensorflow as tf

    K = KERAS[package]
    alone = network(K)
    scores_of(alone)
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        under = network(K)
    scores_of(under)
    assert Traces.of(under) is not Traces.of(alone)
    assert traces(under) == traces(alone) == 1


@both
def test_traces_do_not_keep_a_model_alive(package: str) -> None:
    model = build("functional", package)
    tpi.find_masks(model, data(), sparsity=0.5, method="force", steps=2, verbose=0)
    held = weakref.ref(model), weakref.ref(model.get_layer("conv1"))
    assert traces(model) == 1 + len(signal(package))
    del model
    gc.collect()
    assert [reference() for reference in held] == [None, None]


def test_traces_do_not_keep_a_network_and_its_copy_of_the_weights() -> None:
    model = build("sequential", "keras")
    with ScoringEngine(model, find_prunable_variables(model).prunable, data=data()) as engine:
        engine.gradients()
        assert engine.traces == 1
    held = weakref.ref(engine)
    del engine
    gc.collect()
    assert held() is None


def test_traces_are_no_part_of_a_copy_or_a_file(tmp_path: Any) -> None:
    model = build("sequential", "keras")
    tpi.score(model, data(), "snip", verbose=0)
    model.save(tmp_path / "model.keras")
    for copy in (keras.models.load_model(tmp_path / "model.keras", compile=False), keras.models.clone_model(model)):
        copy.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        assert traces(copy) == 0
    legacy = build("sequential", "tf_keras")
    tpi.score(legacy, data(), "snip", verbose=0)
    legacy.save(tmp_path / "saved_model")
    assert traces(tf_keras.models.load_model(tmp_path / "saved_model")) == 0


def test_the_trace_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfprune_init.scoring.traces._MOST", 2)
    model = network(keras)
    for seed, traced in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
        scores_of(model, seed=seed)
        assert traces(model) == traced
