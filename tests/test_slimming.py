"""Network Slimming: the penalty on scales, the choice of channels, and the procedure."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras

import tfprune_init as tpi
from tfprune_init.errors import ModelError, OptionError, ScoreError
from tfprune_init.graph.variables import list_variables
from tfprune_init.training import RECIPES, PruneScales, RunPlan, Train, TrainScales

KERAS = {"keras": keras, "tf_keras": tf_keras}
CLASSES = 3


def build(package: str = "keras", seed: int = 0) -> Any:
    """Two convolutions with BatchNorm, a residual one, an expansion with a depthwise one, Dense without BatchNorm."""
    K = KERAS[package]
    K.utils.set_random_seed(seed)
    L = K.layers

    def bn(x: Any, name: str) -> Any:
        return L.ReLU(name=f"{name}_relu")(L.BatchNormalization(name=f"{name}_bn")(x))

    inputs = K.Input((8, 8, 2))
    x = bn(L.Conv2D(5, 3, padding="same", name="one")(inputs), "one")
    x = bn(L.Conv2D(4, 3, name="two")(x), "two")
    y = bn(L.Conv2D(4, 3, padding="same", name="branch")(x), "branch")
    x = L.Add(name="add")([bn(L.Conv2D(4, 1, name="short")(x), "short"), y])
    x = bn(L.Conv2D(6, 1, name="expand")(x), "expand")
    x = bn(L.DepthwiseConv2D(3, name="depth")(x), "depth")
    x = L.Dense(5, "relu", name="hidden")(L.Flatten(name="flat")(x))
    model = K.Model(inputs, L.Dense(CLASSES, name="head")(x))
    model.compile(
        K.optimizers.SGD(0.05), K.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    return model


def data(examples: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(examples, 8, 8, 2)).astype("float32"), np.arange(examples) % CLASSES


def scales_of(model: Any) -> dict[str, Any]:
    return {t.path.partition("_bn")[0]: t.tensor for t in list_variables(model) if t.path.endswith("_bn/gamma")}


def small(seed: int = 0) -> Any:
    """Two layers with BatchNorm, 9 channels."""
    keras.utils.set_random_seed(seed)
    L = keras.layers
    layers = [
        L.Flatten(),
        L.Dense(5, name="one"),
        L.BatchNormalization(name="one_bn"),
        L.ReLU(),
        L.Dense(4, name="two"),
    ]
    return keras.Sequential([keras.Input((8, 8, 2)), *layers, L.BatchNormalization(name="two_bn"), L.Dense(CLASSES)])


def slim(model: Any, **values: Any) -> Any:
    for name, one in scales_of(model).items():
        one.assign(np.resize(values.get(name, 1.0), one.shape))
    return model


def test_the_worked_example_keeps_exactly_the_share() -> None:
    L = keras.layers
    bn = L.BatchNormalization(name="bn")
    model = keras.Sequential([keras.Input((4,)), L.Dense(5, name="hidden"), bn, L.ReLU(), L.Dense(2, name="head")])
    bn.gamma.assign([0.1, -0.2, 0.3, -0.4, 0.5])
    found = tpi.find_slimming_masks(model, 0.4)
    assert found.channels["hidden/kernel"].tolist() == [False, False, True, True, True]
    np.testing.assert_allclose(found.scales["hidden/kernel"], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)
    assert found.masks["bn/beta"].tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("package", KERAS)
def test_channels_are_ranked_together_and_no_layer_is_emptied(package: str) -> None:
    model = slim(
        build(package),
        one=[0.5, 0.5, -0.9, 0.5, 0.1],
        two=[0.01, -0.02, 0.0, 0.01],
        expand=[0.0, 0.8, 0.0, 0.0, 0.0, 0.6],
        depth=[0.7, 0.0, 0.0, 0.0, 0.0, 0.0],
    )
    before = [np.array(one) for one in model.get_weights()]
    found = tpi.find_slimming_masks(model, 0.6)  # of 5 + 4 + 6 channels 6 stay
    assert {path: np.flatnonzero(kept).tolist() for path, kept in found.channels.items()} == {
        "one/kernel": [0, 2],  # of three ties the lowest
        "two/kernel": [1],  # the best of a layer that would be empty
        "expand/kernel": [0, 1, 5],  # a channel with two scales counts with the larger
    }
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    reasons = found.left_whole
    assert reasons["branch/kernel"] == reasons["short/kernel"] == "a sum ties its channels to others"
    assert reasons["hidden/kernel"] == "no BatchNorm with a scale is behind it"
    assert reasons["head/kernel"] == "it is an output of the model"
    assert "depth/kernel" in reasons or "depth/depthwise_kernel" in reasons
    # What is left is what compact makes.
    expected = {"one": 2, "two": 1, "expand": 3}
    smaller = tpi.compact(model, found.masks)
    assert {name: len(smaller.channels[name]) for name in expected} == expected
    tpi.attach(model, found.masks)
    x, _ = data(4)
    np.testing.assert_allclose(smaller.model(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_share_that_would_empty_all_layers_keeps_the_best_of_each() -> None:
    found = tpi.find_slimming_masks(build(), 0.99)
    assert [int(kept.sum()) for kept in found.channels.values()] == [1, 1, 1]
    assert all(kept.all() for kept in tpi.find_slimming_masks(build(), 0).channels.values())


@pytest.mark.parametrize("package", KERAS)
def test_the_penalty_is_in_the_loss_and_gone_afterwards(package: str) -> None:
    model = slim(build(package), one=[-0.5], two=[0.25], branch=[0.0], short=[0.0], expand=[0.0], depth=[0.0])
    x, y = data()
    losses = len(model.losses)
    plain = model.evaluate(x, y, verbose=0)[0]
    with tpi.penalize_scales(model, 0.1):
        np.testing.assert_allclose(model.evaluate(x, y, verbose=0)[0], plain + 0.1 * (5 * 0.5 + 4 * 0.25), rtol=1e-5)
        assert len(model.losses) == losses + 6
    assert len(model.losses) == losses
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0)[0], plain, rtol=1e-6)


@pytest.mark.parametrize("package", KERAS)
def test_a_step_moves_scales_by_the_sign_too(package: str) -> None:
    x, y = data()
    values = {"one": [0.5, -0.5, 0.0, 0.5, -0.5]}
    plain, penalized = (slim(build(package), **values) for _ in range(2))
    plain.train_on_batch(x, y)
    with tpi.penalize_scales(penalized, 0.2):
        penalized.train_on_batch(x, y)
    for name, one in scales_of(plain).items():
        start = np.resize(values.get(name, 1.0), one.shape)
        np.testing.assert_allclose(scales_of(penalized)[name], one - 0.05 * 0.2 * np.sign(start), atol=1e-6)


def test_a_penalty_stands_beside_a_regularizer_of_the_layer() -> None:
    L = keras.layers
    bn = L.BatchNormalization(gamma_regularizer=keras.regularizers.L2(0.5))
    model = keras.Sequential([keras.Input((4,)), L.Dense(2), bn])
    regularizer = bn.gamma.regularizer
    with tpi.penalize_scales(model, 0.25):
        assert float(model.losses[0]) == 0.5 * 2 + 0.25 * 2
    assert bn.gamma.regularizer is regularizer
    with pytest.raises(KeyError), tpi.penalize_scales(model, 0.25):
        raise KeyError
    assert bn.gamma.regularizer is regularizer


def pre_activation(package: str) -> Any:
    """A stem and two blocks that read a sum through BatchNorm."""
    K = KERAS[package]
    K.utils.set_random_seed(0)
    L = K.layers

    def bn(x: Any, name: str) -> Any:
        return L.ReLU(name=f"{name}_relu")(L.BatchNormalization(name=f"{name}_bn")(x))

    inputs = K.Input((8, 8, 2))
    x = L.Conv2D(4, 3, padding="same", name="stem")(inputs)
    for block in "ab":
        y = L.Conv2D(5, 1, name=f"{block}_in")(bn(x, f"{block}_read"))
        y = L.Conv2D(4, 3, padding="same", name=f"{block}_out")(bn(y, f"{block}_mid"))
        x = L.Add(name=f"{block}_add")([x, y])
    x = L.GlobalAveragePooling2D(name="pool")(bn(x, "last"))
    model = K.Model(inputs, L.Dense(CLASSES, name="head")(x))
    rng = np.random.default_rng(4)
    for target in list_variables(model):
        if target.name == "beta":
            target.tensor.assign(rng.normal(size=target.shape))
    return model


@pytest.mark.parametrize("package", ["keras", pytest.param("tf_keras", marks=pytest.mark.exhaustive)])
def test_a_scale_that_reads_a_sum_selects_inputs(package: str) -> None:
    model = slim(
        pre_activation(package),
        a_read=[0.9, 0.1, 0.8, 0.1], a_mid=[0.9, 0.1, 0.1, 0.1, 0.7],
        b_read=[0.1, 0.1, 0.1, 0.6], b_mid=[0.1, 0.5, 0.1, 0.1, 0.1],
        last=[0.9, 0.9, 0.9, 0.2],
    )  # fmt: skip
    found = tpi.find_slimming_masks(model, Fraction(13, 22))  # 9 of 22 stay
    assert {path: np.flatnonzero(kept).tolist() for path, kept in found.channels.items()} == {
        "a_in/kernel": [0, 4],
        "b_in/kernel": [1],
        "a_read_bn/gamma": [0, 2],
        "b_read_bn/gamma": [3],
        "last_bn/gamma": [0, 1, 2],
    }
    # The sum stays as it is.
    for path in ("stem/kernel", "a_out/bias", "b_out/bias"):
        assert path not in found.masks or found.masks[path].all()
    assert found.masks["a_out/kernel"].any((0, 1, 2)).all()
    np.testing.assert_array_equal(found.masks["a_in/kernel"][0, 0].any(1), [True, False, True, False])
    np.testing.assert_array_equal(found.masks["head/kernel"].all(1), [True, True, True, False])
    # The same, written down in another way: channels at zero behind BatchNorm.
    x, _ = data(4)
    smaller = tpi.compact(model, found.masks)
    for name, kept in {"a_read": [0, 2], "a_mid": [0, 4], "b_read": [3], "b_mid": [1], "last": [0, 1, 2]}.items():
        layer = model.get_layer(f"{name}_bn")
        for one in (layer.gamma, layer.beta):
            one.assign(np.where(np.isin(np.arange(one.shape[0]), kept), np.array(one), 0))
    np.testing.assert_allclose(smaller.model(x), model(x), rtol=1e-4, atol=1e-5)
    assert smaller.after.parameters < smaller.before.parameters


def run(build_model: Any, folder: Path | None = None, **options: Any) -> Any:
    given, chosen = (data(), data(12, seed=1)), {"strength": 0.01, **options}
    return tpi.run("network_slimming", build_model, given, sparsity=0.6, steps=4, verbose=0, folder=folder, **chosen)


@pytest.mark.parametrize("package", ["keras", pytest.param("tf_keras", marks=pytest.mark.exhaustive)])
def test_the_procedure_prunes_a_share_of_the_channels(package: str) -> None:
    found = run(lambda seed: build(package, seed), fine_tuning_steps=2)
    kept = {path: mask.reshape(-1, mask.shape[-1]).any(0) for path, mask in found.masks.items() if "kernel" in path}
    assert sum(int(kept[f"{name}/kernel"].sum()) for name in ("one", "two", "expand")) == 6
    assert found.cost.training_steps == 6
    # Exactly zero.
    values = {target.path: target.tensor.numpy() for target in list_variables(found.model)}
    assert not any(values[path][~mask].any() for path, mask in found.masks.items())
    # Every variable is in the report.
    told = [row.path for row in found.report.layers] + [row.path for row in found.report.skipped]
    assert sorted(told) == sorted(values)
    x, _ = data(4)
    smaller = tpi.compact(found.model)
    assert len(smaller.channels["one"]) + len(smaller.channels["two"]) + len(smaller.channels["expand"]) == 6
    np.testing.assert_allclose(smaller.model(x), found.model(x), rtol=1e-4, atol=1e-5)


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(small)

    def die(*_: Any) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(PruneScales, "apply", die)
        with pytest.raises(InterruptedError):
            run(small, tmp_path / "run")
    resumed = run(small, tmp_path / "run")
    for one, other in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.history == resumed.history
    with pytest.raises(OptionError, match="holds another run"):
        run(small, tmp_path / "run", strength=0.02)


def test_the_events_of_the_recipe() -> None:
    recipe = RECIPES["network_slimming"]
    events = recipe.make_events(
        RunPlan(Fraction(3, 10), 100, 10), {"fine_tuning_steps": 40, "learning_rate_scale": 0.1}
    )
    assert events == [
        TrainScales(100, strength=1e-4),
        PruneScales(Fraction(3, 10)),
        Train(steps=40, learning_rate_scale=0.1),
    ]


def test_a_second_pruning_keeps_what_the_first_removed() -> None:
    given = data(), data(12, seed=1)
    events = [TrainScales(2), PruneScales(Fraction(1, 2)), Train(steps=2), PruneScales(Fraction(1, 4))]
    found = tpi.run(events, small, given, steps=4, verbose=0)
    assert sum(int(found.masks[f"{name}_bn/gamma"].sum()) for name in ("one", "two")) == 2  # of 9 channels


def test_subclassed_models_are_run_on_their_data() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            L = keras.layers
            self.steps = [L.Flatten(), L.Dense(6, name="hidden"), L.BatchNormalization(name="bn"), L.ReLU(), L.Dense(3)]

        def call(self, x: Any, training: bool = False) -> Any:
            for step in self.steps:
                x = step(x, training=training) if step.name == "bn" else step(x)
            return x

    def make(seed: int) -> Any:
        model = Own()
        model(data(1)[0])
        return model

    given = data(), data(12, seed=1)
    found = tpi.run("network_slimming", make, given, sparsity=0.5, steps=2, verbose=0)
    assert int(found.masks["bn/gamma"].sum()) == 3


def test_bad_input_is_named() -> None:
    without = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    with pytest.raises(ModelError, match="no BatchNorm with a scale that trains"), tpi.penalize_scales(without):
        pass
    with pytest.raises(ModelError, match="no channel that can be pruned by its scale"):
        tpi.find_slimming_masks(without, 0.5)
    with pytest.raises(OptionError, match="strength"), tpi.penalize_scales(build(), 0):
        pass
    with pytest.raises(OptionError, match="sparsity"):
        tpi.find_slimming_masks(build(), 1.0)
    with pytest.raises(OptionError, match="strength"):
        TrainScales(3, strength=-1.0)
    with pytest.raises(ScoreError, match="one_bn/gamma"):
        tpi.find_slimming_masks(slim(build(), one=[np.nan]), 0.5)
    # Before anything is trained.
    given = (np.ones((4, 4), "float32"), np.zeros(4)), (np.ones((4, 4), "float32"), np.zeros(4))
    with pytest.raises(ModelError, match="no BatchNorm"):
        tpi.run("network_slimming", lambda: without, given, sparsity=0.5, steps=2, verbose=0)
