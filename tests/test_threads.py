"""Threads that score and train at the same time compute what they compute alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfprune_init as tpi
from tfprune_init.backend.contracts import find_private
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.backend.moments import use_differentiable_moments
from tfprune_init.backend.optimizers import run_undistributed
from tfprune_init.backend.thread_overrides import carry_overrides, run_functions_eagerly

SHARED = [
    "tensorflow nn.moments",
    "tensorflow compat.v2.nn.moments",
    "tensorflow gen_math_ops.add_n",
    "tensorflow Function._run_functions_eagerly",
    "keras loss.scale_loss_for_distribution",
    "keras TFOptimizer._backend_update_step",
    "keras LossScaleOptimizer._tf_apply",
]


def originals() -> list[Any]:
    return [vars(owner)[name] for owner, name in map(find_private, SHARED)]


BEFORE = originals()


@pytest.fixture(autouse=True)
def _everything_is_put_back() -> Any:
    yield
    assert all(now is before for now, before in zip(originals(), BEFORE, strict=True))


def in_other_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(timeout=60)


def operations(function: Callable[[], Any]) -> set[str]:
    """Kinds of operations in the graph of a function."""
    return {operation.type for operation in tf.function(function).get_concrete_function().graph.get_operations()}


def moments() -> Any:
    return tf.nn.moments(tf.random.stateless_uniform((4, 3), (0, 1)), 0)


def sum_of_three() -> tf.Tensor:
    return tf.add_n([tf.random.stateless_uniform((2,), (0, seed)) for seed in range(3)])


def test_other_threads_get_the_original_moments() -> None:
    assert "StopGradient" in operations(moments)
    with use_differentiable_moments():
        assert "StopGradient" not in operations(moments)
        assert "StopGradient" in in_other_thread(lambda: operations(moments))
        assert "StopGradient" not in in_other_thread(carry_overrides(lambda: operations(moments)))
    assert "StopGradient" in operations(moments)


def test_other_threads_add_up_as_they_did() -> None:
    def count() -> list[int]:
        graph = tf.function(sum_of_three).get_concrete_function().graph
        return [len(operation.inputs) for operation in graph.get_operations() if operation.type == "AddN"]

    with deterministic_reductions():
        assert count() == [2, 2]
        assert in_other_thread(count) == [3]
    assert count() == [3]


def test_other_threads_do_not_run_eagerly() -> None:
    runs_eagerly = tf.function(lambda: tf.constant(tf.executing_eagerly()))
    with run_functions_eagerly():
        assert tf.function(tf.executing_eagerly)()
        assert not in_other_thread(runs_eagerly).numpy()
    assert not tf.config.functions_run_eagerly()


def test_other_threads_take_distributed_steps() -> None:
    """An optimizer's step in another thread goes through Keras's own code for replicas."""
    optimizer = keras.optimizers.SGD(0.5)
    variable = keras.Variable([1.0, 2.0])
    optimizer.build([variable])
    owner, _ = find_private("keras TFOptimizer._apply_weight_decay")
    seen: list[int] = []

    def step() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(optimizer), "_distributed_tf_update_step", lambda *given: seen.append(1), raising=True)
            optimizer.apply([tf.constant([1.0, 1.0])])

    with run_undistributed():
        step()
        assert (seen, variable.numpy().tolist()) == ([], [0.5, 1.5])
        in_other_thread(step)
    assert seen == [1]
    assert owner is keras.optimizers.Optimizer.__mro__[1]


def test_first_to_enter_may_be_first_to_leave() -> None:
    """Overlapping threads: the one that put the function there leaves while another one still needs it."""
    inside, leave = threading.Event(), threading.Event()

    def second() -> bool:
        with use_differentiable_moments():
            inside.set()
            assert leave.wait(60)
            return "StopGradient" in operations(moments)

    with ThreadPoolExecutor(1) as pool:
        with use_differentiable_moments(), use_differentiable_moments():
            later = pool.submit(second)
            assert inside.wait(60)
        assert "StopGradient" in operations(moments)
        leave.set()
        assert later.result(timeout=60) is False


def test_an_error_leaves_nothing_behind() -> None:
    with pytest.raises(ZeroDivisionError), use_differentiable_moments(), run_undistributed(), run_functions_eagerly():
        raise ZeroDivisionError


X = np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 64)


def build(package: Any) -> Any:
    """Make the same model each time, with a normalization inside whose statistics scoring overrides."""
    layers, glorot = package.layers, package.initializers.GlorotUniform
    model = package.Sequential(
        [
            package.Input((12,)),
            layers.BatchNormalization(name="first"),
            layers.Dense(16, kernel_initializer=glorot(seed=1), name="wide"),
            layers.BatchNormalization(name="inner"),
            layers.Activation("relu", name="relu"),
            layers.Dense(3, kernel_initializer=glorot(seed=2), name="head"),
        ]
    )
    model.compile("sgd", package.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def build_for_fit() -> Any:
    """Make a model whose gradients are sums of two at most: TensorFlow leaves the order of three open."""
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.BatchNormalization(name="first"),
            keras.layers.Dense(16, "relu", kernel_initializer=keras.initializers.GlorotUniform(seed=3), name="wide"),
            keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed=4), name="head"),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def score(model: Any, method: str) -> list[np.ndarray]:
    return list(tpi.score(model, (X, Y), method, verbose=0).values())


def train(model: Any) -> list[np.ndarray]:
    model.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    return list(model.get_weights())


def works() -> list[Callable[[], list[np.ndarray]]]:
    """Two threads that score and one that traces and trains, each with a model of its own that is new."""
    models = build(keras), build(tf_keras), build_for_fit()
    return [
        lambda: score(models[0], "grasp"),
        lambda: score(models[1], "grasp"),
        lambda: train(models[2]),
    ]


@pytest.mark.slow
def test_threads_compute_what_they_compute_alone() -> None:
    alone = [work() for work in works()]
    for _ in range(3):
        start = threading.Barrier(3)

        def begin(work: Callable[[], list[np.ndarray]], start: threading.Barrier = start) -> list[np.ndarray]:
            start.wait(60)
            return work()

        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(begin, works()))
        for expected, found in zip(alone, together, strict=True):
            assert len(expected) == len(found) > 0
            for one, other in zip(expected, found, strict=True):
                np.testing.assert_array_equal(one, other)
