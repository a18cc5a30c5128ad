"""The scoring step under XLA: what a TPU would run, at static shapes, chooses what the usual graph chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from model_kinds import KERAS
from tiers import rows

import tfprune_init as tpi
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.methods import find_method
from tfprune_init.scoring import ScoringEngine
from tfprune_init.scoring.measures.gradients import measure_gradients
from tfprune_init.selection import keep_top_on_device

COMPILED = [name for name in tpi.list_methods() if "jit_compile" in find_method(name).options]
MEASUREMENTS = ["snip", "grasp", "synflow", "snap_it", "exact"]  # one method of each kind
CASES = [*(("keras", name) for name in COMPILED), *(("tf_keras", name) for name in MEASUREMENTS)]
USUAL = [("keras", "snip"), ("keras", "snap_it"), ("tf_keras", "snip")]
OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {"training": False},
    "hessian": {"estimator": "hutchinson"},
    "snip2": {"estimator": "hutchinson"},
}


def case(which: str) -> Any:
    """A small network in float64, where one way to compute is as good as another, and a batch."""
    K = KERAS[which]
    L = K.layers
    inputs = K.Input((6, 6, 1), dtype="float64")
    x = L.Conv2D(4, 3, use_bias=False, name="conv", dtype="float64")(inputs)
    x = L.BatchNormalization(name="bn", dtype="float64")(x)
    x = L.Flatten(name="flat", dtype="float64")(L.Activation("tanh", name="tanh", dtype="float64")(x))
    x = L.Dense(8, activation="tanh", name="hidden", dtype="float64")(x)
    K.utils.set_random_seed(0)
    model = K.Model(inputs, L.Dense(3, name="head", dtype="float64")(x))
    model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([rng.uniform(0.5, 1.5, w.shape) if "bn" in layer.name else w for w in layer.get_weights()])
    return model, (rng.normal(size=(16, 6, 6, 1)), np.arange(16) % 3)


@pytest.mark.parametrize(("which", "method"), rows(CASES, USUAL))
def test_masks_of_the_compiled_step_are_those_of_the_graph(which: str, method: str) -> None:
    model, data = case(which)
    options = OPTIONS.get(method, {})
    usual = tpi.find_masks(model, data, sparsity=0.3, method=method, **options)
    assert tpi.find_masks(model, data, sparsity=0.3, method=method, jit_compile=True, **options) == usual
    assert 0 < usual.kept < usual.size


@pytest.mark.parametrize("which", KERAS)
def test_scores_and_selection_in_one_compiled_step(which: str) -> None:
    model, data = case(which)
    targets = find_prunable_variables(model).prunable
    expected = tpi.find_masks(model, data, sparsity=0.5, method="snip")
    with ScoringEngine(model, targets, data=data) as engine:

        @tf.function(jit_compile=True)
        def step(x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
            _, slopes = measure_gradients(engine, x, y, None, tf.constant(1.0), 1.0)
            scores = [tf.abs(target.tensor * slope) for target, slope in zip(targets, slopes, strict=True)]
            return keep_top_on_device(scores, expected.kept)

        masks = step(*map(tf.constant, data))
    for target, mask in zip(targets, masks, strict=True):
        np.testing.assert_array_equal(mask.numpy(), expected[target.path])


def test_which_methods_a_tpu_can_run_is_in_the_registry() -> None:
    assert {name for name in tpi.list_methods() if find_method(name).scorer.needs_float64} == {"synflow", "exact"}
