"""Kernels read through masks: exact zeros in what the network computes, dense gradients, dense variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_kinds import KERAS, KINDS, build, data
from tiers import rows
from training import dense, random_masks

import tfprune_init as tpi
from tfprune_init.errors import EnforcementError, ModelError
from tfprune_init.graph.variables import find_prunable_variables, list_variables
from tfprune_init.masking.straight_through import StraightThrough

both = pytest.mark.parametrize("package", KERAS)


def held(model: Any, seed: int = 0) -> tuple[StraightThrough, dict[str, np.ndarray]]:
    """The model reading through random masks that keep 40%, and these masks."""
    targets = find_prunable_variables(model).prunable
    rng = np.random.default_rng(seed)
    masks = {target.path: rng.random(target.shape) < 0.4 for target in targets}
    hold = StraightThrough(model, targets)
    hold.set_masks(masks)
    return hold, masks


def outputs_at_masked_weights(model: Any, x: Any, masks: dict[str, np.ndarray]) -> np.ndarray:
    """What a model that is not held computes with m * w in its variables."""
    targets = find_prunable_variables(model).prunable
    weights = {target.path: target.tensor.numpy() for target in targets}
    for target in targets:
        target.tensor.assign(weights[target.path] * masks[target.path])
    outputs = model.predict(x, verbose=0)
    for target in targets:
        target.tensor.assign(weights[target.path])
    return outputs


@both
@pytest.mark.parametrize("kind", rows(KINDS, ["functional", "subclassed", "nested"]))
def test_networks_compute_with_masked_weights_to_the_last_bit(kind: str, package: str) -> None:
    model, (x, _) = build(kind, package), data()
    unmasked = model.predict(x, verbose=0)
    hold, masks = held(model)
    dense_weights = hold.read_dense()
    outputs, called = model.predict(x, verbose=0), np.asarray(model(x, training=False))
    hold.release()
    expected = outputs_at_masked_weights(model, x, masks)
    assert outputs.tobytes() == expected.tobytes()
    np.testing.assert_allclose(called, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(unmasked - expected).max() > 0.01
    assert model.predict(x, verbose=0).tobytes() == unmasked.tobytes()
    assert all(np.array_equal(hold.read_dense()[path], weight) for path, weight in dense_weights.items())


def recurrent(K: Any) -> Any:
    """Layers that hand the weights of their cells to fused kernels without calling the cell, where they can."""
    recurrent = K.layers.Bidirectional(K.layers.LSTM(3, return_sequences=True))
    stacked = K.layers.RNN(K.layers.StackedRNNCells([K.layers.GRUCell(3), K.layers.SimpleRNNCell(2)]))
    return K.Sequential([K.Input((4, 2)), recurrent, K.layers.GRU(3, return_sequences=True), stacked])


@both
def test_cells_are_masked_where_their_layer_reads_them(package: str) -> None:
    model = recurrent(KERAS[package])
    x = np.random.default_rng(0).normal(size=(6, 4, 2)).astype("float32")
    hold, masks = held(model)
    outputs = model.predict(x, verbose=0)
    hold.release()
    assert outputs.tobytes() == outputs_at_masked_weights(model, x, masks).tobytes()


@both
def test_mixed_precision_masks_what_is_cast(package: str) -> None:
    K = KERAS[package]
    model = K.Sequential([K.Input((6,)), K.layers.Dense(3, dtype="mixed_bfloat16", name="a")])
    hold, masks = held(model)
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    with tf.GradientTape() as tape:
        outputs = model(x)
        total = tf.reduce_sum(tf.cast(outputs, tf.float32))
    gradient = tape.gradient(total, model.trainable_variables[0])
    weight = tf.cast(hold.read_dense()["a/kernel"] * masks["a/kernel"], tf.bfloat16)
    np.testing.assert_array_equal(np.asarray(outputs), np.asarray(tf.matmul(tf.cast(x, tf.bfloat16), weight)))
    assert gradient.dtype == tf.float32
    assert np.count_nonzero(gradient) == 18


@both
def test_nan_in_a_pruned_weight_is_not_seen(package: str) -> None:
    model = dense(KERAS[package])
    hold, masks = held(model)
    target = find_prunable_variables(model).prunable[0]
    target.tensor.assign(np.where(masks[target.path], target.tensor.numpy(), np.nan))
    assert np.isfinite(np.asarray(model(np.ones((2, 6), "float32")))).all()
    assert np.isnan(hold.read_dense()[target.path]).any()


def test_new_masks_take_effect_without_a_new_trace() -> None:
    model = dense()
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            traces.append(1)
            return x

    model.add(Counting())
    hold, _ = held(model)
    x = np.ones((2, 6), "float32")
    model.predict(x, verbose=0)
    before = len(traces)
    hold.set_masks({path: np.zeros_like(mask) for path, mask in hold.masks.items()})
    assert not model.predict(x, verbose=0).any()
    assert len(traces) == before


@pytest.fixture
def _float64() -> Iterator[None]:
    """Let both Kerases hand on data and outputs in float64."""
    for K in KERAS.values():
        K.backend.set_floatx("float64")
    yield
    for K in KERAS.values():
        K.backend.set_floatx("float32")


@both
@pytest.mark.usefixtures("_float64")
def test_gradients_are_those_at_the_masked_weights_over_100_steps_bit_for_bit(package: str) -> None:
    """Products alone, so that float64 NumPy rounds as TensorFlow does whatever the order of sums: two kernels read one
    number each, and SGD with momentum moves the dense weights. The masks change every 7 steps, over both together."""
    K = KERAS[package]
    inputs = K.Input((1,), dtype="float64")
    layers = [K.layers.Dense(n, use_bias=False, name=name, dtype="float64") for name, n in (("a", 8), ("b", 5))]
    model = K.Model(inputs, K.layers.Concatenate(dtype="float64")([layer(inputs) for layer in layers]))
    model.compile(
        K.optimizers.SGD(0.125, momentum=0.75), lambda y, p: tf.reduce_sum((p - y) ** 2) / 2, jit_compile=False
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 1)), rng.normal(size=(100, 13))
    w = rng.normal(size=13)
    targets = find_prunable_variables(model).prunable
    for target, part in zip(targets, (w[:8], w[8:]), strict=True):
        target.tensor.assign(part[None])
    hold = StraightThrough(model, targets)
    m, momentum = np.ones(13, bool), np.zeros(13)
    returned = 0
    for t in range(100):
        if t % 7 == 0:
            before, m = m, np.zeros(13, bool)
            m[np.argsort(-np.abs(w), kind="stable")[:5]] = True
            hold.set_masks({"a/kernel": m[None, :8], "b/kernel": m[None, 8:]})
            returned += int((m & ~before).sum()) if t else 0
        model.train_on_batch(x[t : t + 1], y[t : t + 1])
        gradient = (np.where(m, w, 0.0) * x[t, 0] - y[t]) * x[t, 0]
        momentum = momentum * 0.75 - gradient * 0.125
        w = w + momentum
        found = np.concatenate([target.tensor.numpy()[0] for target in targets])
        assert found.tobytes() == w.tobytes(), t
    assert returned > 5


@both
def test_refuses_a_model_with_masks(package: str) -> None:
    model = dense(KERAS[package])
    tpi.attach(model, random_masks(model))
    with pytest.raises(EnforcementError, match=r"carries masks.*tpi\.strip"):
        held(model)


def test_refuses_lora() -> None:
    model = dense()
    model.layers[0].enable_lora(2)
    with pytest.raises(EnforcementError, match="as with LoRA"):
        StraightThrough(model, [t for t in list_variables(model) if t.path == "a/kernel"])


@both
def test_refuses_a_second_hold(package: str) -> None:
    model = dense(KERAS[package])
    held(model)
    with pytest.raises(EnforcementError, match="another training already"):
        held(model)


@both
def test_refuses_variables_that_a_layer_keeps_in_a_list(package: str) -> None:
    K = KERAS[package]

    class Listed(K.layers.Layer):
        def build(self, shape: Any) -> None:
            self.all = [self.add_weight(name="kernel", shape=(shape[-1], 2))]

        def call(self, x: Any) -> Any:
            return tf.matmul(x, self.all[0])

        def get_prunable_weights(self) -> Any:
            return self.all

    model = K.Sequential([K.Input((3,)), Listed()])
    with pytest.raises(ModelError, match="not an attribute of its layer Listed"):
        held(model)
