"""Sums in the order of the graph, whichever buffers are free."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.python.eager import context
from tensorflow.python.ops import gen_math_ops

import tfprune_init as tpi
from tfprune_init.backend.determinism import deterministic_reductions

# float32: (big - big) + 1 is 1, (1 + big) - big is 0.
TERMS = [tf.fill([8], value) for value in (1e8, -1e8, 1.0)]
FRESH = list(itertools.product([False, True], repeat=3))


def terms(given: Sequence[tf.Tensor], fresh: Sequence[bool]) -> list[tf.Tensor]:
    """The same numbers; buffers of the fresh ones are free once the sum has read them, arguments' are not."""
    return [tf.reverse(term, [0]) if new else term for term, new in zip(given, fresh, strict=True)]


def named(given: Sequence[tf.Tensor], fresh: Sequence[bool]) -> tf.Tensor:
    return tf.add_n(terms(given, fresh))


def plain(given: Sequence[tf.Tensor], fresh: Sequence[bool]) -> tf.Tensor:
    first, second, third = terms(given, fresh)
    return first + second + third


def by_tape(given: Sequence[tf.Tensor], fresh: Sequence[bool]) -> tf.Tensor:
    """Three uses of one tensor. The tape meets the last use first."""
    factor = tf.ones_like(given[0])
    with tf.GradientTape() as tape:
        tape.watch(factor)
        products = [factor * term for term in reversed(terms(given, fresh))]
        whole = tf.concat(products, 0)
    return tape.gradient(whole, factor)


def by_tf_gradients(given: Sequence[tf.Tensor], fresh: Sequence[bool]) -> tf.Tensor:
    factor = tf.ones_like(given[0])
    return tf.gradients([factor * term for term in terms(given, fresh)], factor)[0]


def sums(function: Any) -> list[float]:
    """What the function gives for each choice of fresh buffers, traced anew."""
    return [float(tf.function(lambda *given, new=fresh: function(given, new))(*TERMS)[0]) for fresh in FRESH]


def test_tensorflow_lets_free_buffers_decide() -> None:
    """The reason for all this: once it fails, `summation` can go."""
    assert set(sums(named)) == {0.0, 1.0}


@pytest.mark.parametrize("function", [named, plain, by_tape, by_tf_gradients])
def test_in_order(function: Any) -> None:
    with deterministic_reductions():
        assert len(set(sums(function))) == 1


@pytest.mark.parametrize("function", [named, plain])
def test_from_left_to_right(function: Any) -> None:
    with deterministic_reductions():
        assert sums(function) == [1.0] * len(FRESH)


def test_nothing_is_left_behind() -> None:
    before = context.context().function_call_options, gen_math_ops.add_n
    options = before[0].config_proto_serialized

    @deterministic_reductions()
    def failing() -> None:
        assert context.context().function_call_options.config_proto_serialized != options
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert (context.context().function_call_options, gen_math_ops.add_n) == before
    assert before[0].config_proto_serialized == options


@pytest.mark.parametrize("package", [keras, tf_keras])
def test_scores_are_computed_so(package: Any) -> None:
    """A layer whose sum is (big - big) + x: out of order it would be 0, and all scores with it."""

    class Sum(package.layers.Layer):
        def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
            big, small, x = inputs
            return tf.add_n([big, small, tf.reverse(x, [1])])

    inputs = [package.Input((3,)) for _ in range(3)]
    model = package.Model(inputs, package.layers.Dense(2, use_bias=False, name="head")(Sum()(inputs)))
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    y = np.ones((4, 2), np.float32)
    big = np.full((4, 3), 1e8, np.float32)
    scores = tpi.score(model, ((big, -big, x), y), "snip", loss=package.losses.MeanSquaredError())

    kernel = model.get_layer("head").get_weights()[0].astype(np.float64)
    reached = x[:, ::-1].astype(np.float64)
    gradient = reached.T @ (reached @ kernel - 1) * 2 / 8
    np.testing.assert_allclose(scores["head/kernel"], np.abs(gradient * kernel), rtol=1e-5)
