"""Bad input: a clear error, and nothing changes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_kinds import KINDS, build, data
from test_conformance import state

import tfprune_init as tpi
from tfprune_init.errors import DataError, EnforcementError, ModelError, NetworkCollapseError, OptionError, ScoreError
from tfprune_init.graph.variables import find_prunable_variables


@pytest.fixture(scope="module")
def model() -> Any:
    model = build("sequential", "keras")
    model.fit(*data(), verbose=0)
    return model


OPTIONS = [
    ({"sparsity": -0.1}, r"in \[0, 1\). Received: -0.1"),
    ({"sparsity": 1.0}, r"in \[0, 1\)"),
    ({"sparsity": 95}, r"Did you mean 0.95\?"),
    ({"sparsity": 1.5}, r"Did you mean 0.015\?"),
    ({"sparsity": float("nan")}, r"in \[0, 1\)"),
    ({"sparsity": "0.9"}, "Received: '0.9'"),
    ({"sparsity": True}, "Received: True"),
    ({"sparsity": None}, "Received: neither"),
    ({"sparsity": 0.99999}, "keeps none"),
    ({"method": "forse"}, "Did you mean 'force'"),
    ({"method": "sinp"}, "Did you mean 'snip'"),
    ({"method": None}, "no method None"),
    ({"granularity": "blok"}, "Did you mean 'block'"),
    ({"allocation": "unifrom"}, "Did you mean 'uniform'"),
    ({"granularity": "n_m", "allocation": "global"}, "use 'uniform', 'erk'"),
    ({"granularity": "per_unit", "allocation": "global"}, "granularity='per_unit' every .*use 'uniform', 'erk'"),
    ({"granularity": "n_m", "allocation": "erk", "sparsity": 0.95}, "keeps at least .*use a lower one"),
    ({"allocation": {}}, "an empty dict"),
    ({"allocation": {"nothing": 0.5}}, "names layers that are not pruned"),
    ({"allocation": {"*": 0.5}}, "sparsity= has no effect"),
    ({"allocation": {"*": 1.5}}, "sparsity is the share"),
    ({"schedule": "linaer"}, "Did you mean 'linear'"),
    ({"steps": 0}, "positive integer"),
    ({"steps": 2.0}, "positive integer"),
    ({"batches": 0}, "positive integer"),
    ({"batches": 1.5}, "positive integer"),
    ({"training": "batch"}, "training must be True or False"),
    ({"seed": -1}, "non-negative integer"),
    ({"verbose": 2}, "verbose must be"),
    ({"exclude": "hidden2"}, "Did you mean 'hidden'"),
    ({"method": "snip", "steps": 5}, "'snip' does not use steps=5"),
    ({"method": "snip", "schedule": "linear"}, "does not use schedule='linear'"),
    ({"method": "random", "batches": 2}, "'random' does not use batches=2"),
    ({"method": "random", "loss": "mse"}, "does not use loss='mse'"),
    ({"method": "random", "training": False}, "does not use training=False"),
    ({"method": "random", "jit_compile": True}, "does not use jit_compile=True"),
    ({"method": "magnitude", "seed": 1}, "'magnitude' does not use seed=1"),
]


@pytest.mark.parametrize(("options", "words"), OPTIONS, ids=[str(options) for options, _ in OPTIONS])
def test_options(model: Any, options: dict[str, Any], words: str) -> None:
    before = state(model)
    with pytest.raises(OptionError, match=words):
        tpi.prune_at_init(model, data(), **{"sparsity": 0.5, **options})
    assert state(model) == before


def test_unknown_options_are_refused_by_name(model: Any) -> None:
    with pytest.raises(OptionError, match=r"no option 'step'. Did you mean 'steps'"):
        tpi.find_masks(model, data(), sparsity=0.5, step=3)
    with pytest.raises(OptionError, match="score\\(\\) does not take steps"):
        tpi.score(model, data(), "snip", steps=3)


x, y = data()
DATA = [
    ((x, y + 1), "batch 1"),  # a label beyond the classes
    ((x, -y), "batch 1"),
    ((x, np.zeros((len(y), 7))), "labels do not suit"),
    ((x[:, :3], y), "inputs do not suit the model"),
    ((x[:5], y), "same number of examples"),
    ((x[:0], y[:0]), "empty"),
    ((np.where(x > 2.5, np.inf, x), y), "x of batch 1 holds NaN or Inf"),
    ((x, y, np.full(len(y), np.nan)), "sample_weight of batch 1"),
    (x, r"must give \(x, y\)"),
    ([1, 2, 3, 4], "Received: builtins.list"),
    (tf.data.Dataset.from_tensor_slices((x, y)), "not batched"),
    (tf.data.Dataset.from_tensor_slices(x).batch(8), r"must give \(x, y\)"),
    (tf.data.Dataset.from_tensor_slices((x, y)).batch(99, drop_remainder=True), "the dataset is empty"),
    (tf.data.Dataset.from_tensor_slices((x, y)).batch(8).filter(lambda x, y: False), "the dataset is empty"),
]


@pytest.mark.parametrize(("bad", "words"), DATA, ids=[words for _, words in DATA])
def test_data(model: Any, bad: Any, words: str) -> None:
    before = state(model)
    with pytest.raises(DataError, match=rf"(?i){words}"):
        tpi.prune_at_init(model, bad, sparsity=0.5, method="snip")
    assert state(model) == before


def test_a_bad_batch_is_named_by_its_number(model: Any) -> None:
    poisoned = x.copy()
    poisoned[17] = np.nan
    dataset = tf.data.Dataset.from_tensor_slices((poisoned, y)).batch(8)
    with pytest.raises(DataError, match="x of batch 3"):
        tpi.prune_at_init(model, dataset, sparsity=0.5, method="force", steps=5)


def test_a_loss_that_is_nan_is_blamed_on_the_batch(model: Any) -> None:
    with pytest.raises(DataError, match="loss of batch 1 is nan"):
        tpi.prune_at_init(model, (x, y), sparsity=0.5, loss=lambda t, p: keras.ops.mean(keras.ops.log(p * 0 - 1)))


def test_weights_that_are_nan() -> None:
    broken = build("sequential", "keras")
    kernel = broken.get_layer("narrow").kernel
    kernel.assign(keras.ops.where(keras.ops.arange(8) == 3, np.nan, kernel))
    for method in tpi.list_methods():
        with pytest.raises(ModelError, match=r"narrow/kernel.*NaN"):
            tpi.prune_at_init(broken, (x, y), sparsity=0.5, method=method)


def test_models_without_a_loss() -> None:
    bare = KINDS["sequential"](keras)
    bare.compile("sgd")
    with pytest.raises(ModelError, match=r"no loss to judge"):
        tpi.prune_at_init(bare, (x, y), sparsity=0.5)
    uncompiled = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(ModelError, match=r"model.compile\(loss=...\)"):
        tpi.prune_at_init(uncompiled, (x, y), sparsity=0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert tpi.prune_at_init(uncompiled, (x, y), sparsity=0.5, loss=loss, steps=2).sparsity == 0.5


def test_a_loss_without_gradient(model: Any) -> None:
    with pytest.raises(ScoreError, match="gives no gradient to hidden/kernel"):
        tpi.prune_at_init(model, (x, y), sparsity=0.5, loss=lambda t, p: keras.ops.sum(t * 1.0))
    with pytest.raises(ScoreError, match="scores 0"):
        tpi.prune_at_init(model, (x, y), sparsity=0.5, loss=lambda t, p: keras.ops.mean(p * 0.0))


def test_a_head_the_loss_does_not_see_is_named() -> None:
    inputs = keras.Input((4,))
    seen, unseen = keras.layers.Dense(2, name="seen")(inputs), keras.layers.Dense(2, name="unseen")(inputs)
    model = keras.Model(inputs, {"seen": seen, "unseen": unseen})
    model.compile("sgd", {"seen": "mse", "unseen": None})
    examples = (np.ones((8, 4), "float32"), {"seen": np.zeros((8, 2)), "unseen": np.zeros((8, 2))})
    with pytest.raises(ScoreError, match=r"unseen/kernel.*exclude"):
        tpi.prune_at_init(model, examples, sparsity=0.5, method="snip")
    report = tpi.prune_at_init(model, examples, sparsity=0.5, method="snip", exclude="unseen")
    assert [row.path for row in report.layers] == ["seen/kernel"]


class TestCollapse:
    @staticmethod
    def deep() -> keras.Model:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(10, "relu", name=f"d{i}") for i in range(6)]
        model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3, name="head")])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    data = (np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 3)

    def test_says_step_layers_and_what_to_try(self) -> None:
        model = self.deep()
        before = state(model)
        with pytest.raises(NetworkCollapseError) as caught:
            tpi.prune_at_init(model, self.data, sparsity=0.99, method="random")
        message = str(caught.value)
        assert "collapsed at step 1" in message
        assert "Emptied: d" in message
        assert "lower sparsity" in message
        assert state(model) == before

    def test_on_the_way(self) -> None:
        """Iterative methods notice at the step where everything scores 0."""
        plan = [0.9, 0.004, 0.0039, 0.0038]
        with pytest.raises(NetworkCollapseError, match="collapsed at step 2"):
            tpi.find_masks(
                self.deep(), self.data, sparsity=1 - plan[-1], method="iter_snip", steps=4,
                schedule=lambda density, steps: [*plan[:-1], density],
            )  # fmt: skip

    def test_without_data_too(self) -> None:
        with pytest.raises(NetworkCollapseError, match="no signal from the inputs"):
            tpi.find_masks(self.deep(), None, sparsity=0.99, method="random")

    def test_an_emptied_layer_with_a_bypass_is_reported_not_an_error(self) -> None:
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8,))
        h = keras.layers.Dense(8, "relu", name="stem")(inputs)
        weak = keras.layers.Dense(8, name="weak", kernel_initializer=keras.initializers.RandomNormal(stddev=1e-6))
        out = keras.layers.Dense(3, name="head")(keras.layers.Add()([h, weak(h)]))
        model = keras.Model(inputs, out)
        report = tpi.prune_at_init(model, self.data, sparsity=0.5, method="magnitude")
        assert report.empty == ("weak/kernel",)
        assert report.connected is True

    def test_constant_paths_do_not_pass_for_a_signal(self) -> None:
        """Biases feed the outputs although no input does: the network is dead all the same."""
        model = self.deep()
        model.get_layer("d3").bias.assign(np.ones(10))
        empty = {t.path: np.full(t.shape, t.layer.name != "d2") for t in find_prunable_variables(model).prunable}
        kernel = model.get_layer("d2").kernel
        kernel.assign(kernel * 1e-9)
        kept = sum(int(mask.sum()) for mask in empty.values())
        size = sum(mask.size for mask in empty.values())
        with pytest.raises(NetworkCollapseError, match="Emptied: d2/kernel"):
            tpi.find_masks(model, self.data, sparsity=1 - kept / size, method="magnitude")


@pytest.mark.process
def test_another_keras_backend_is_refused() -> None:
    code = (
        "import keras, tfprune_init as tpi\n"
        "model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])\n"
        "try:\n    tpi.find_masks(model, None, sparsity=0.5, method='random')\n"
        "except tpi.PruningError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert "KERAS_BACKEND=tensorflow" in done.stdout, done.stderr
    assert "Received: backend 'jax'" in done.stdout


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    model = build("sequential", "keras")
    kernel = model.get_layer("hidden").kernel
    weights = kernel.numpy()
    weights[0, 0] = value
    kernel.assign(weights)
    for method in ("snip", "magnitude"):
        with pytest.raises(ModelError, match=r"Variable 'hidden/kernel' of model 'sequential.*' holds NaN or Inf"):
            tpi.find_masks(model, data(), sparsity=0.5, method=method, verbose=0)


def test_a_dtype_that_exact_cannot_change_is_not_blamed_on_the_labels() -> None:
    class Doubled(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * keras.ops.cast(2, "float32")

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), Doubled()])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.ones((6, 4), "float32"), np.arange(6) % 3
    with pytest.raises(ScoreError, match="could not be computed in float64, as 'exact' does"):
        tpi.score(model, (x, y), "exact", training=True, verbose=0)
    with pytest.raises(DataError, match="the labels do not suit the loss"):
        tpi.score(model, (x, np.ones((6, 2))), "exact", verbose=0)


def test_a_clone_is_named_where_masks_come_over_new_weights() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    tpi.attach(model, tpi.find_masks(model, None, sparsity=0.5, method="magnitude", verbose=0))
    clone = keras.models.clone_model(model)
    with pytest.raises(EnforcementError, match="clone_model, which copies masks and draws weights anew"):
        tpi.strip(clone)
    tpi.attach(clone)
    assert np.count_nonzero(clone.layers[0].kernel) == 6
