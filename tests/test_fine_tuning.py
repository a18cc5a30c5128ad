"""Train, prune, fine-tune: thresholds, what is left alone, Dropout that follows masks, scaled learning rates, scans."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from test_training import DATA, Look
from test_training import build as build_with_dropout

import tfprune_init as tpi
from tfprune_init.errors import ModelError, NetworkCollapseError, OptionError, PruningError, ScoreError
from tfprune_init.graph.unit_makers import UnitMakers
from tfprune_init.training import (
    Event,
    Prune,
    PruneByThreshold,
    RescaleDropout,
    Rewind,
    Snapshot,
    Train,
)
from tfprune_init.training.dropout_rates import DropoutRates
from tfprune_init.training.thresholds import count_above_threshold

BOTH = pytest.mark.parametrize("K", [keras, tf_keras], ids=["keras", "tf_keras"])


def build(seed: int, K: Any = keras, optimizer: Any = None) -> Any:
    """6 -> 12 -> 3, named, with biases."""
    K.utils.set_random_seed(seed)
    model = K.Sequential(
        [K.Input((6,)), K.layers.Dense(12, "tanh", name="hidden"), K.layers.Dense(3, name="head")]
    )  # fmt: skip
    loss = K.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or K.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return model


def run(procedure: Any, build: Any = build, **options: Any) -> Any:
    return tpi.run(procedure, build, DATA, **{"steps": 4, "verbose": 0, **options})


def kernels(model: Any) -> dict[str, np.ndarray]:
    return {f"{layer.name}/kernel": layer.get_weights()[0] for layer in model.layers if layer.get_weights()}


# ---------------------------------------------------------------------------------------------- what is left alone


@BOTH
def test_what_is_excluded_is_not_pruned_and_does_not_count(K: Any) -> None:
    found = run([Prune("magnitude", Fraction(1, 4), exclude="head")], lambda seed: build(seed, K))
    (path,) = found.masks
    weights = np.abs(build(0, K).layers[0].get_weights()[0]).ravel()
    assert path == "hidden/kernel"
    assert set(np.flatnonzero(found.masks[path])) == set(np.argsort(-weights, kind="stable")[: 72 // 4])


def test_biases_count_when_they_are_pruned() -> None:
    found = run([Train(2), Prune("magnitude", Fraction(1, 2), prune_bias=True)])
    assert list(found.masks) == ["hidden/kernel", "hidden/bias", "head/kernel", "head/bias"]
    assert found.masks.kept == (72 + 12 + 36 + 3) // 2
    assert not found.model.layers[0].bias.numpy()[~found.masks["hidden/bias"]].any()


def test_a_method_by_name_takes_what_is_left_alone() -> None:
    found = run("snip", sparsity=0.5, exclude=["head"])
    direct = tpi.find_masks(build(0), DATA[0], method="snip", sparsity=0.5, exclude="head", verbose=0)
    assert found.masks == direct
    assert found.masks.size == 72


def test_masks_of_what_a_later_pruning_leaves_alone_stay() -> None:
    half, quarter = Fraction(1, 2), Fraction(1, 4)
    found = run([Prune("magnitude", half, exclude="head"), Prune("magnitude", quarter, exclude="hidden"), Train(2)])
    assert {path: int(mask.sum()) for path, mask in found.masks.items()} == {"hidden/kernel": 36, "head/kernel": 9}
    for path, kernel in kernels(found.model).items():
        assert not kernel[~found.masks[path]].any()


def test_a_run_that_leaves_layers_alone_goes_on_when_keras_numbers_them_anew(tmp_path: Path) -> None:
    def unnamed(seed: int) -> Any:
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((6,)), *(keras.layers.Dense(6) for _ in range(3))])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        return model

    number = int(list(kernels(unnamed(0)))[1].removesuffix("/kernel").rpartition("_")[2])
    middle = f"dense_{number + 3}"  # of the next model, by the number that Keras gives it
    events = [Prune("magnitude", Fraction(1, 2), exclude=middle), Train(2)]
    found = run(events, unnamed, folder=tmp_path / "run")
    assert len(found.masks) == 2
    again = run(events, unnamed, folder=tmp_path / "run")
    assert list(again.masks.values())[1].tolist() == list(found.masks.values())[1].tolist()
    assert list(again.masks) == [list(kernels(again.model))[place] for place in (0, 2)]


# ---------------------------------------------------------------------------------------------- thresholds

EIGHT = np.array([0.1, -0.2, 0.3, -0.4, 0.5, 0.05, -0.6, 0.02], "float32")


def eight(seed: int, K: Any = keras) -> Any:
    model = K.Sequential([K.Input((8,)), K.layers.Dense(1, use_bias=False, name="only")])
    model.compile("sgd", "mse", metrics=["mae"])
    model.set_weights([EIGHT[:, None]])
    return model


ONES = ((np.ones((4, 8), "float32"), np.zeros((4, 1))),) * 2


@BOTH
@pytest.mark.parametrize(("quality", "kept"), [(0.5, [1, 2, 3, 4, 6]), (1, [3, 4, 6]), (1.5, [6])])
def test_worked_examples_of_thresholds(quality: float, kept: list[int], K: Any) -> None:
    assert math.isclose(EIGHT.astype("float64").std(), 0.336580, abs_tol=1e-6)
    found = tpi.run([PruneByThreshold(quality)], lambda seed: eight(seed, K), ONES, steps=1, verbose=0)
    assert np.flatnonzero(found.masks["only/kernel"]).tolist() == kept
    assert found.model.get_weights()[0].ravel().tolist() == [w if i in kept else 0 for i, w in enumerate(EIGHT)]


def test_a_second_threshold_is_one_of_what_is_left() -> None:
    """Divided by n, around the mean, over what is left: in steps that share no code with the package."""
    first = [-0.2, 0.3, -0.4, 0.5, -0.6]
    mean = sum(map(float, np.float32(first))) / 5
    deviation = math.sqrt(sum((float(np.float32(w)) - mean) ** 2 for w in first) / 5)
    kept = [w for w in first if abs(float(np.float32(w))) >= 0.8 * deviation]
    assert kept == [-0.4, 0.5, -0.6]  # 0.8 * 0.4317 = 0.345
    events = [PruneByThreshold(0.5), PruneByThreshold(0.8)]
    found = tpi.run(events, eight, ONES, steps=1, verbose=0)
    assert found.masks.kept == 3
    # With the zeros among them their deviation would be smaller, and 0.3 would stay.
    assert 0.8 * np.array([0, *first[:], 0, 0]).std() < 0.3


def test_each_layer_has_its_threshold_and_what_was_pruned_stays_pruned() -> None:
    look, again = Look(), Look()
    qualities = {"head": 0.25, "*": 0.9}
    cut = PruneByThreshold(qualities)
    found = run([Train(4), look, cut, Train(steps=3), again, cut])
    masks = {(6, 12): np.ones((6, 12), bool), (12, 3): np.ones((12, 3), bool)}
    for seen in (look.seen[0], again.seen[0]):
        for value in seen:
            if value.shape in masks:
                quality = 0.25 if value.shape == (12, 3) else 0.9
                mask = masks[value.shape]
                masks[value.shape] = mask & (abs(value) >= quality * np.std(value[mask], dtype=np.float64))
    assert [3 < mask.sum() < mask.size for mask in masks.values()] == [True, True]
    for mask in found.masks.values():
        np.testing.assert_array_equal(mask, masks[mask.shape])


def test_a_weight_at_the_threshold_stays() -> None:
    assert count_above_threshold("w", np.array([1.0, -1.0, 1.0, -1.0]), 1.0) == 4
    assert count_above_threshold("w", np.array([3.0]), 5.0) == 1  # one weight has no deviation


@pytest.mark.parametrize(
    ("events", "error", "words"),
    [
        ([PruneByThreshold(9)], OptionError, ["hidden/kernel", "standard deviations", '"hidden/kernel": ', '"*": 9']),
        ([PruneByThreshold({"hidden": 0.5})], OptionError, ["head/kernel", "exclude="]),
        ([PruneByThreshold({"hiden": 0.5, "*": 1})], OptionError, ["hiden", "Did you mean 'hidden'"]),
        ([PruneByThreshold(0.5, exclude="heat")], OptionError, ["heat", "Did you mean 'head'"]),
        ([PruneByThreshold(0.5, prune_bias=True)], ScoreError, ["hidden/bias", "Train before"]),
        ([RescaleDropout()], ModelError, ["no layer", "Leave it out"]),
    ],
    ids=str,
)
def test_refused_in_a_run(events: list[Event], error: type, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        run(events, folder=tmp_path / "run")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PruneByThreshold(0), "quality must be a number above 0"),
        (lambda: PruneByThreshold({}), "at least one layer"),
        (lambda: PruneByThreshold({"head": -1}), "quality of head must be a number above 0"),
        (lambda: PruneByThreshold(1, exclude=lambda target: True), "tell its runs apart"),
        (lambda: Prune("snip", exclude=[3]), "tell its runs apart"),
        (lambda: RescaleDropout(exclude=3), "tell its runs apart"),
        (lambda: Train(2, learning_rate_scale=0), "learning_rate_scale must be a number above 0"),
        (lambda: run("train_prune_fine_tune", sparsity=0.5, iterations=0), "iterations must be a positive integer"),
        (lambda: run("train_prune_fine_tune", sparsity=0.5, fine_tuning_steps=0), "fine_tuning_steps must be"),
        (lambda: run("train_prune_fine_tune", sparsity=0.5, rescale_dropout="no"), "rescale_dropout must be"),
        (lambda: run("train_prune_fine_tune"), "prunes to a sparsity"),
        (lambda: run("threshold_fine_tune", sparsity=0.5), "finds itself how many weights stay"),
    ],
)
def test_refused_before_a_run(make: Any, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        make()
    assert words in str(caught.value)


def test_thresholds_that_cut_the_network_in_two_are_an_error() -> None:
    def chain(seed: int) -> Any:
        model = build(seed)
        hidden, head = np.full((6, 12), 0.01), np.full((12, 3), 0.01)
        hidden[:, 0], head[1] = 1, 1  # the large weights of the two layers meet in no unit
        model.set_weights([hidden, np.zeros(12), head, np.zeros(3)])
        return model

    with pytest.raises(NetworkCollapseError):
        run([PruneByThreshold(1)], chain)


def test_weights_that_are_not_finite_are_refused() -> None:
    def broken(seed: int) -> Any:
        model = build(seed)
        model.layers[0].kernel.assign(np.full((6, 12), np.nan))
        return model

    with pytest.raises(PruningError, match="hidden/kernel"):
        run([PruneByThreshold(1)], broken)


# ---------------------------------------------------------------------------------------------- Dropout


def test_worked_examples_of_rates() -> None:
    layers = [keras.layers.Dense(5, name="hidden"), keras.layers.Dropout(0.5, name="drop"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    rates = DropoutRates(model)
    for kept, rate in ((8, 0.258199), (30, 0.5), (0, 0)):
        rates.rescale({"hidden/kernel": np.arange(30).reshape(6, 5) < kept})
        assert math.isclose(layers[1].rate, rate, abs_tol=1e-6)
    rates.rescale(None)
    assert layers[1].rate == 0.5


@BOTH
def test_what_the_training_drops_is_what_the_masks_say(K: Any) -> None:
    """A unit is dropped in a step where the gradient of its weight in the head is exactly 0."""

    def wide(seed: int) -> Any:
        K.utils.set_random_seed(seed)
        hidden = K.layers.Dense(4000, kernel_initializer="ones", name="hidden")
        head = K.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="head")
        model = K.Sequential([K.Input((4,)), hidden, K.layers.Dropout(0.5, name="drop"), head])
        model.compile(K.optimizers.SGD(1e-3), "mse", metrics=["mae"])
        return model

    data = (np.ones((1, 4), "float32"), np.ones((1, 1)))
    look = Look()
    cut = Prune("magnitude", Fraction(1, 4), exclude="head")  # of equal weights the first row
    back = [Rewind("start"), Train(steps=1), look]
    events = [Snapshot("start"), RescaleDropout(), *back, cut, *back, cut, *back]
    found = tpi.run(events, wide, (data, data), steps=1, verbose=0)
    heads = [next(value for value in seen if value.shape == (4000, 1)) for seen in look.seen]
    shares = [np.mean(head == 0) for head in heads]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.04)  # five standard deviations
    assert found.model.get_layer("drop").rate == 0.25


NOISE = {"Dropout": (12,), "SpatialDropout1D": (3, 12), "GaussianDropout": (12,), "AlphaDropout": (12,)}


@BOTH
@pytest.mark.parametrize("kind", NOISE)
def test_every_kind_of_dropout_works_with_the_new_rate(kind: str, K: Any) -> None:
    def deviation(rate: float) -> float:
        if kind != "AlphaDropout":
            return math.sqrt(rate / (1 - rate))
        other = -1.6732632423543772 * 1.0507009873554805
        scale = ((1 - rate) * (1 + rate * other**2)) ** -0.5
        return scale * (1 - other) * math.sqrt(rate * (1 - rate))

    K.utils.set_random_seed(0)
    hidden = K.layers.Dense(12, kernel_initializer="zeros", bias_initializer="ones", name="hidden")
    model = K.Sequential([K.Input(NOISE[kind]), hidden, getattr(K.layers, kind)(0.4)])
    DropoutRates(model).rescale({"hidden/kernel": np.arange(144).reshape(12, 12) % 4 == 0})
    assert model.layers[-1].rate == 0.2
    noise = np.asarray(model(np.ones((1000, *NOISE[kind]), "float32"), training=True))
    assert math.isclose(noise.std(), deviation(0.2), rel_tol=0.06)
    assert abs(deviation(0.4) / deviation(0.2) - 1) > 0.2


@BOTH
def test_the_way_back_from_dropout_to_its_kernels(K: Any) -> None:
    L = K.layers
    block = K.Sequential([K.Input((5, 5, 4)), L.Dropout(0.1, name="first"), L.Conv2D(3, 2, name="conv")], name="block")
    drop, late = L.Dropout(0.2, name="drop"), L.SpatialDropout2D(0.3, name="late")
    inputs = K.Input((6, 6, 2))
    x = L.SeparableConv2D(4, 2, name="two")(inputs)
    x = L.ReLU()(L.BatchNormalization()(x))
    x = late(block(x))
    x = L.Flatten()(L.MaxPooling2D()(x))
    x = drop(L.Activation("relu")(L.Dense(7, name="dense")(x)))
    model = K.Model(inputs, L.Dense(2, name="head")(x))
    makers = UnitMakers(model)
    found = {one.name: makers.find_kernels(one) for one in (block.layers[0], late, drop)}
    assert {name: [target.path for target in kernels] for name, kernels in found.items()} == {
        "first": ["two/depthwise_kernel", "two/pointwise_kernel"],
        "late": ["block/conv/kernel"],
        "drop": ["dense/kernel"],
    }
    sparsities = {"dense": 0.75, "conv": 0.5}
    masks = tpi.find_masks(model, None, method="magnitude", sparsity=0.5, allocation=sparsities, verbose=0)
    DropoutRates(model, ["first"]).rescale(masks)
    np.testing.assert_allclose([late.rate, drop.rate], [0.3 * math.sqrt(0.5), 0.1])
    assert block.layers[0].rate == 0.1


def unknown(K: Any, kind: str) -> Any:
    L = K.layers
    inputs = K.Input((4, 6))
    if kind == "inputs":
        return K.Model(inputs, L.Dense(2)(L.Dropout(0.2, name="lost")(inputs)))
    if kind == "sum":
        x = L.Add(name="add")([L.Dense(3)(inputs), L.Dense(3)(inputs)])
        return K.Model(inputs, L.Dense(2)(L.Dropout(0.2, name="lost")(x)))
    if kind == "twice":
        lost = L.Dropout(0.2, name="lost")
        x = L.Dense(3, name="a")(inputs)
        return K.Model(inputs, L.Dense(2)(lost(L.Dense(3, name="b")(lost(x)))))
    if kind == "recurrent":
        return K.Model(inputs, L.Dense(2)(L.LSTM(3, dropout=0.2, name="lost")(inputs)))
    if kind == "wrapped":
        return K.Model(inputs, L.TimeDistributed(L.Dropout(0.2, name="lost"), name="times")(L.Dense(2)(inputs)))
    if kind == "attention":
        return K.Model(inputs, L.MultiHeadAttention(2, 2, dropout=0.2, name="lost")(inputs, inputs))
    if kind == "embedding":
        words = K.Input((4,))
        return K.Model(words, L.Dense(2)(L.Dropout(0.2, name="lost")(L.Embedding(5, 3, name="table")(words))))

    class Own(K.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.lost = L.Dense(2), L.Dropout(0.2, name="lost")

        def call(self, x: Any, training: bool = False) -> Any:
            return self.lost(self.dense(x), training=training)

    model = Own()
    model(np.zeros((1, 6), "float32"))
    return model


@BOTH
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("inputs", "lost: it takes the inputs of the model"),
        ("sum", "lost: several tensors meet in add before it"),
        ("twice", "lost: it is behind several layers: a, b"),
        ("recurrent", "lost: it is no Dropout layer"),
        ("wrapped", "times/lost: it is inside of another layer"),
        ("attention", "lost"),
        ("embedding", "lost: table before it has weights that are no kernels"),
        ("subclassed", "lost: it is in a subclassed model"),
    ],
)
def test_dropout_of_unknown_connections_is_an_error_by_name(kind: str, words: str, K: Any) -> None:
    model = unknown(K, kind)
    with pytest.raises(ModelError) as caught:
        DropoutRates(model)
    assert words in str(caught.value)
    assert len(DropoutRates(model, ["lost"])) == 0
    with pytest.raises(OptionError, match="matches no layer that drops out"):
        DropoutRates(model, ["lost", "found"])


def test_a_second_event_must_leave_the_same_layers_alone() -> None:
    events = [RescaleDropout(), RescaleDropout(), RescaleDropout(exclude="dropout*")]
    with pytest.raises(OptionError, match="same exclude="):
        run(events, build_with_dropout)
    run(events[:2], build_with_dropout)
