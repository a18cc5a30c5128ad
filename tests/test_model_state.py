"""No trace in any variable: layers may write to their own weights, and to states that Keras does not count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from model_kinds import KERAS, build, data, state

import tfprune_init as tpi
from tfprune_init.backend.model_state import find_state_variables, restore_state
from tfprune_init.compaction import compact
from tfprune_init.export.inference import InferenceFunction
from tfprune_init.export.inputs import find_signature
from tfprune_init.graph import build_dependency_graph
from tfprune_init.graph.cost import CostModel


def spectral() -> keras.Model:
    L = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [L.Input((6,)), L.SpectralNormalization(L.Dense(24, name="inner"), name="spectral"), L.Dense(3, name="head")]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("method", ["snip", "grasp", "force"])
def test_a_layer_that_writes_to_its_kernel_is_left_as_it_was(method: str) -> None:
    model, rng = spectral(), np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)).astype("float32"), np.arange(32) % 3
    before, outputs = state(model), np.asarray(model(x))
    scores = [tpi.score(model, (x, y), method, batches=2) for _ in range(2)]
    masks = [tpi.find_masks(model, (x, y), sparsity=0.5, method=method) for _ in range(2)]
    assert state(model) == before
    assert np.array_equal(np.asarray(model(x)), outputs)
    assert all(np.array_equal(scores[0][path], scores[1][path]) for path in scores[0])
    assert masks[0] == masks[1]


def test_each_batch_is_measured_at_the_given_weights() -> None:
    """The kernel is divided by its norm once in each of them, not once more in the second."""
    model, rng = spectral(), np.random.default_rng(0)
    x, y = rng.normal(size=(256, 6)).astype("float32"), np.arange(256) % 3
    both = tpi.score(model, (x, y), "snip", batches=2)
    kernels = {"spectral/inner/kernel": model.layers[0].layer.kernel, "head/kernel": model.layers[1].kernel}
    start = {path: np.asarray(kernel.value) for path, kernel in kernels.items()}
    u = np.asarray(model.layers[0].vector_u.value)
    gradients: list[list[np.ndarray]] = []
    for half in (slice(0, 128), slice(128, 256)):
        with tf.GradientTape() as tape:
            loss = model.loss(y[half], model(x[half], training=True))
        gradients.append([np.asarray(g) for g in tape.gradient(loss, [k.value for k in kernels.values()])])
        for path, kernel in kernels.items():
            kernel.assign(start[path])
        model.layers[0].vector_u.assign(u)
    for i, path in enumerate(kernels):
        expected = np.abs(start[path] * (gradients[0][i] + gradients[1][i]) / 2)
        np.testing.assert_allclose(both[path], expected, rtol=1e-4, atol=1e-8)


CALLS: dict[str, Callable[[Any], Any]] = {
    "score": lambda model: tpi.score(model, data(), "snip"),
    "find_masks": lambda model: tpi.find_masks(model, data(), sparsity=0.5, method="iter_snip", steps=2),
    "dependency graph": build_dependency_graph,
    "cost": lambda model: CostModel(model).count(),
    "compact": compact,
    "reference of an export": lambda model: InferenceFunction(model, find_signature(model)).reference([data()[0]]),
}


@pytest.mark.parametrize("package", KERAS)
@pytest.mark.parametrize("call", CALLS)
def test_public_calls_leave_no_trace(call: str, package: str) -> None:
    model = build("self_writing", package)
    model(data()[0])
    before = state(model)
    CALLS[call](model)
    assert state(model) == before


def test_what_is_found_and_put_back() -> None:
    """The generator of Dropout in tf_keras is in no list of variables."""
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Input((50,)),
            tf_keras.layers.Dropout(0.5, rng_type="stateful", name="dropout"),
            tf_keras.layers.Dense(1, name="dense"),
        ]
    )
    x = np.ones((1, 50), "float32")
    model(x, training=True)
    assert {"dense/kernel:0", "dropout/StateVar:0"} <= {variable.name for variable in find_state_variables(model)}
    with restore_state(model):
        first = np.asarray(model(x, training=True))
    assert np.array_equal(np.asarray(model(x, training=True)), first)
    assert not np.array_equal(np.asarray(model(x, training=True)), first)


def test_a_state_that_a_call_moved_is_put_back_after_an_error() -> None:
    model = build("self_writing", "keras")
    before = state(model)

    def fail() -> None:
        with restore_state(model):
            model(data()[0], training=True)
            assert state(model) != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert state(model) == before


def test_metrics_are_put_back(K) -> None:
    model = build("sequential", "keras" if K is keras else "tf_keras")
    x, y = data()
    model.evaluate(x, y, verbose=0)
    before = state(model)
    assert any("total" in name for name in before)
    with restore_state(model):
        model.evaluate(x[:7], y[:7], verbose=0)
        assert state(model) != before
    assert state(model) == before
