"""Train, prune, fine-tune: thresholds, what is left alone, Dropout that follows masks, scaled learning rates, scans."""

from __future__ import annotations

import csv
import io
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import model_kinds
import numpy as np
import pytest
import tf_keras
from test_training import DATA, Look, interrupting, same
from test_training import build as build_with_dropout

import tfprune_init as tpi
from tfprune_init.errors import (
    DataError,
    EnforcementError,
    ModelError,
    NetworkCollapseError,
    OptionError,
    PruningError,
    ScoreError,
)
from tfprune_init.graph.unit_makers import UnitMakers
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.training import (
    RECIPES,
    Event,
    Prune,
    PruneByThreshold,
    RescaleDropout,
    Rewind,
    RunPlan,
    ShuffleMasks,
    Snapshot,
    Train,
)
from tfprune_init.training.dropout_rates import DropoutRates
from tfprune_init.training.sensitivity import SensitivityPoint, SensitivityScan
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
    record = json.loads((tmp_path / "run" / "state.json").read_text())
    for paths in (record["paths"][:-1], ["other", *record["paths"][1:]]):
        (tmp_path / "run" / "state.json").write_text(json.dumps({**record, "paths": paths}))
        with pytest.raises(OptionError, match="is damaged"):
            run(events, unnamed, folder=tmp_path / "run")


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
        (lambda: run("train_prune_fine_tune", sparsity=0.5, rescale_dropout=0), "rescale_dropout must be"),
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


@pytest.mark.parametrize("K", [keras, pytest.param(tf_keras, marks=pytest.mark.exhaustive)])
def test_rates_follow_every_pruning_whatever_a_run_goes_on_from(K: Any, tmp_path: Path) -> None:
    """Stopped between and in the middle of events, with a second pruning that judges by losses under Dropout."""
    half = Fraction(1, 2)
    events = [
        *(Train(2), Prune("magnitude", half), RescaleDropout(), Train(steps=1)),
        *(Prune("snip", half**2), Train(steps=2, learning_rate_scale=0.5), ShuffleMasks()),
    ]

    def build(seed: int) -> Any:
        return build_with_dropout(seed, K)

    whole = run(events, build)
    kept = {mask.shape: mask.mean() for mask in whole.masks.values()}[6, 16]
    assert whole.model.layers[2].rate == pytest.approx(0.2 * math.sqrt(kept), rel=1e-12)
    assert kept < 0.5
    for _ in range(9):
        try:
            with interrupting(4):
                parts = run(events, build, folder=tmp_path / "parts")
        except KeyboardInterrupt:
            continue
        break
    assert same(parts, whole)
    assert parts.model.layers[2].rate == whole.model.layers[2].rate


# ---------------------------------------------------------------------------------------------- learning rates


def constant(K: Any) -> Any:
    return K.optimizers.SGD(0.2)


def schedule(K: Any) -> Any:
    return K.optimizers.SGD(K.optimizers.schedules.PiecewiseConstantDecay([1], [0.4, 0.2]))


def divided(K: Any) -> Any:
    wrapper = getattr(K, "mixed_precision", K).LossScaleOptimizer
    return wrapper(schedule(K))


def function(K: Any) -> Any:
    return K.optimizers.SGD(_get_rate)


def _get_rate() -> float:
    return 0.2


@pytest.mark.parametrize(
    ("make", "K"),
    [(make, K) for make in (constant, schedule, divided) for K in (keras, tf_keras)] + [(function, keras)],
    ids=lambda value: value.__name__,
)
def test_a_scaled_step_is_so_much_shorter_and_the_optimizer_is_as_before(make: Any, K: Any) -> None:
    def make_model(seed: int) -> Any:
        return build(seed, K, make(K))

    def move(scale: float) -> tuple[list[np.ndarray], Any]:
        look = Look()
        found = run([Train(2), look, Train(steps=1, learning_rate_scale=scale), look], make_model)
        return [after - before for before, after in zip(*look.seen, strict=True)], found.model.optimizer

    plain, _ = move(1)
    scaled, optimizer = move(0.25)
    for one, other in zip(plain, scaled, strict=True):
        assert np.abs(one).max() > 1e-3
        np.testing.assert_allclose(other, 0.25 * one, atol=2e-7)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    assert float(inner.learning_rate) == pytest.approx(0.2)
    if make in (schedule, divided):
        assert type(inner._learning_rate).__name__ == "PiecewiseConstantDecay"
        assert inner._learning_rate.values == [0.4, 0.2]


@BOTH
def test_the_training_after_a_scaled_one_has_the_whole_learning_rate(K: Any) -> None:
    def make_model(seed: int) -> Any:
        return build(seed, K, schedule(K))

    def go(scales: tuple[float, float]) -> list[list[np.ndarray]]:
        look = Look()
        run([Train(2), *(e for s in scales for e in (Train(steps=1, learning_rate_scale=s), look))], make_model)
        return look.seen

    # Steps of 1/2 and of 1, where the same gradient is taken at the same weights.
    (first, then), (same_first, scaled_then) = go((0.5, 1)), go((0.5, 0.5))
    for start, again, whole, half in zip(first, same_first, then, scaled_then, strict=True):
        np.testing.assert_array_equal(start, again)
        np.testing.assert_allclose(half - start, 0.5 * (whole - start), atol=2e-7)


def test_a_learning_rate_of_nothing_is_an_error() -> None:
    def ended(seed: int) -> Any:
        cosine = keras.optimizers.schedules.CosineDecay(0.1, 4)
        return build(seed, keras, keras.optimizers.SGD(cosine))

    with pytest.raises(OptionError, match=r"learning rate is 0 at step 4.*Rewind"):
        run("train_prune_fine_tune", ended, sparsity=0.5)
    back = [Snapshot("start"), Train(4), Prune("magnitude", Fraction(1, 2)), Rewind("start", weights=False)]
    run([*back, Train(2, learning_rate_scale=0.1)], ended)


# ---------------------------------------------------------------------------------------------- recipes


def test_the_events_of_fine_tuning() -> None:
    plan = RunPlan(Fraction(1, 4), 100, 10)
    events = RECIPES["train_prune_fine_tune"].make(plan, iterations=2, fine_tuning_steps=30, exclude="head")
    assert events == [
        Train(100),
        RescaleDropout(optional=True),
        Prune("magnitude", Fraction(1, 2), {"allocation": "uniform"}, ("head",)),
        Train(steps=30, learning_rate_scale=0.1),
        Prune("magnitude", Fraction(1, 4), {"allocation": "uniform"}, ("head",)),
        Train(steps=30, learning_rate_scale=0.1),
    ]
    cut = PruneByThreshold(0.5, (), True)
    options: dict[str, Any] = {"quality": 0.5, "iterations": 2, "rescale_dropout": False, "prune_bias": True}
    by_threshold = RECIPES["threshold_fine_tune"].make(RunPlan(Fraction(1), 100, 10), learning_rate_scale=1, **options)
    assert by_threshold == [Train(100), cut, Train(steps=100), cut, Train(steps=100)]
    asked = RECIPES["threshold_fine_tune"].make(RunPlan(Fraction(1), 100, 10), rescale_dropout=True)
    assert asked[1] == RescaleDropout()


@pytest.mark.parametrize(
    ("name", "K"),
    [
        ("train_prune_fine_tune", keras),
        ("threshold_fine_tune", tf_keras),
        pytest.param("train_prune_fine_tune", tf_keras, marks=pytest.mark.exhaustive),
        pytest.param("threshold_fine_tune", keras, marks=pytest.mark.exhaustive),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_fine_tuning_that_is_stopped_goes_on_with_the_same_bits(name: str, K: Any, tmp_path: Path) -> None:
    def make_model(seed: int) -> Any:
        return build_with_dropout(seed, K)

    options: dict[str, Any] = {"steps": 2, "iterations": 2, "rescale_dropout": True}
    options |= {"sparsity": 0.75} if name == "train_prune_fine_tune" else {"quality": 0.5}
    whole = run(name, make_model, **options)
    for _ in range(9):
        try:
            with interrupting(4):
                parts = run(name, make_model, folder=tmp_path / "run", **options)
        except KeyboardInterrupt:
            continue
        break
    assert same(parts, whole)
    assert parts.model.layers[2].rate == whole.model.layers[2].rate < 0.2
    assert whole.cost.training_steps == 6
    if name == "train_prune_fine_tune":
        assert whole.masks.kept == 144 // 4
    for path, kernel in kernels(whole.model).items():
        if path in whole.masks:
            assert not kernel[~whole.masks[path]].any()


def test_what_is_fine_tuned_starts_from_its_values() -> None:
    look = Look()
    found = run([Train(4), look, Prune("magnitude", Fraction(1, 2)), look])
    before, after = look.seen
    for one, other in zip(before, after, strict=True):
        masks = [mask for mask in found.masks.values() if mask.shape == one.shape]
        np.testing.assert_array_equal(other, one * masks[0] if masks else one)


# ---------------------------------------------------------------------------------------------- sensitivity


@BOTH
@pytest.mark.parametrize("kind", ["sequential", "functional", "subclassed", "self_writing"])
def test_a_scan_evaluates_each_layer_alone_and_leaves_no_trace(kind: str, K: Any) -> None:
    model = model_kinds.build(kind, K.__name__)
    x, y = model_kinds.data()
    model.evaluate(x, y, verbose=0)  # metrics with something in them
    before = model_kinds.state(model)
    scan = tpi.scan_sensitivity(model, (x, y), sparsities=[0.9, 0.5], verbose=0)
    assert model_kinds.state(model) == before
    targets = find_prunable_variables(model).prunable
    assert [(point.path, point.sparsity) for point in scan.points] == [
        (target.path, sparsity) for target in targets for sparsity in (0.5, 0.9)
    ]
    assert scan.baseline == pytest.approx(model.evaluate(x, y, verbose=0, return_dict=True))
    for target, point in [(targets[0], scan.points[1]), (targets[-1], scan.points[-2])]:
        weights = target.tensor.numpy()
        keep = int(target.size * (0.1 if point.sparsity == 0.9 else 0.5))
        pruned = np.zeros(target.size, weights.dtype)
        best = np.argsort(-np.abs(weights.ravel()), kind="stable")[:keep]
        pruned[best] = weights.ravel()[best]
        target.tensor.assign(pruned.reshape(weights.shape))
        assert point.metrics == pytest.approx(model.evaluate(x, y, verbose=0, return_dict=True))
        assert point.metrics["loss"] != scan.baseline["loss"]
        assert (point.kept, point.size) == (keep, target.size)
        target.tensor.assign(weights)


@BOTH
def test_metrics_that_a_scan_made_are_left_empty(K: Any) -> None:
    model = build(0, K)
    tpi.scan_sensitivity(model, DATA[1], sparsities=[0.5], verbose=0)
    made = [variable for metric in model.metrics for variable in metric.variables]
    assert len(made) == 4
    assert not np.concatenate([np.ravel(np.array(variable)) for variable in made]).any()


class Centered(keras.layers.Dense):
    @property
    def kernel(self) -> Any:
        return self._kernel - keras.ops.mean(self._kernel, axis=0, keepdims=True)


def test_a_scan_of_a_pruned_model_prunes_further() -> None:
    model = build(0)
    masks = tpi.find_masks(model, None, method="magnitude", sparsity=0.5, allocation="uniform", verbose=0)
    tpi.attach(model, masks)
    weights = model.get_weights()
    scan = tpi.scan_sensitivity(model, DATA[1], sparsities=[0.5, 0.75], exclude="head", verbose=0)
    assert [point.kept for point in scan.points] == [36, 18]
    assert scan.points[0].metrics == scan.baseline
    assert scan.points[1].metrics != scan.baseline
    assert all(map(np.array_equal, weights, model.get_weights()))
    with pytest.raises(OptionError, match="hidden/kernel leave 36 of 72"):
        tpi.scan_sensitivity(model, DATA[1], sparsities=[0.25], verbose=0)


def test_a_scan_as_csv(tmp_path: Path) -> None:
    scan = tpi.scan_sensitivity(build(0), DATA[1], sparsities=[0.5], verbose=0)
    text = scan.to_csv(tmp_path / "scan.csv")
    assert (tmp_path / "scan.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["path"] for row in rows] == ["", "hidden/kernel", "head/kernel"]
    assert (rows[1]["sparsity"], rows[1]["kept"], rows[1]["size"]) == ("0.5", "36", "72")
    assert [float(row["loss"]) for row in rows] == [scan.baseline["loss"], *(p.metrics["loss"] for p in scan.points)]


def test_what_a_scan_refuses() -> None:
    model = build(0)
    for sparsities, words in (([], "each once"), ([0.5, 0.5], "each once"), ([1.0], "in [0, 1)"), (["a"], "in [0, 1)")):
        with pytest.raises(OptionError) as caught:
            tpi.scan_sensitivity(model, DATA[1], sparsities=sparsities, verbose=0)
        assert words in str(caught.value)
    with pytest.raises(OptionError, match="Did you mean 'head'"):
        tpi.scan_sensitivity(model, DATA[1], exclude="heat", verbose=0)
    plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="head")])
    with pytest.raises(ModelError, match="not compiled"):
        tpi.scan_sensitivity(plain, DATA[1], verbose=0)
    derived = keras.Sequential([keras.Input((6,)), Centered(3, name="head")])
    derived.compile("sgd", "mse")
    with pytest.raises(ModelError, match="head/kernel compute with something"):
        tpi.scan_sensitivity(derived, DATA[1], verbose=0)
    broken = build(0)
    before = broken.get_weights()
    broken.layers[1].bias.assign([np.nan, 0, 0])
    with pytest.raises(DataError, match="nothing could be compared"):
        tpi.scan_sensitivity(broken, DATA[1], verbose=0)
    frozen = build(0)
    frozen.set_weights(before)
    masks = tpi.find_masks(frozen, None, method="magnitude", sparsity=0.5, verbose=0)
    tpi.freeze(frozen, masks, tpi.copy_weights(frozen))
    with pytest.raises(EnforcementError, match="are frozen"):
        tpi.scan_sensitivity(frozen, DATA[1], verbose=0)


def test_the_figure_of_a_scan_draws_what_was_measured() -> None:
    paths = [f"layer_{number}/kernel" for number in range(10)]
    points = [
        SensitivityPoint(path, share, 1, 10, {"loss": 1.0 + share * place, "accuracy": 0.9 - share * place / 20})
        for place, path in enumerate(paths)
        for share in (0.5, 0.9)
    ]
    scan = SensitivityScan({"loss": 1.0, "accuracy": 0.9}, tuple(points))
    (axes,) = tpi.plots.sensitivity(scan).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert [name for name in lines if name.startswith("layer_")] == paths[2:]
    np.testing.assert_allclose(lines["layer_9/kernel"].get_data(), [[0, 50, 90], [90, 67.5, 49.5]])
    np.testing.assert_allclose(lines["the network as it is"].get_ydata(), 90)
    np.testing.assert_allclose(lines["2 more, which change less"].get_ydata(), 90)
    (axes,) = tpi.plots.sensitivity(scan, metric="loss").axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    np.testing.assert_allclose(lines["layer_3/kernel"].get_ydata(), [1, 2.5, 3.7])
    with pytest.raises(OptionError, match="Did you mean 'accuracy'"):
        tpi.plots.sensitivity(scan, metric="acuracy")
