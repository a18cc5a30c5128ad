"""k-winners layers: who wins, how often, and what is saved; in both Kerases."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import tfprune_init as tpi
from tfprune_init import layers
from tfprune_init.backend import compat
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.layers import legacy
from tfprune_init.layers.winners import find_winners

DUTY = [0.5, 0.0, 0.2, 0.0, 0.1]
EXAMPLES = np.array([[1, 0.6, 0.9, 0.8, 0.7], [0.2, 0.9, 0.4, 0.1, 0.3]], "float32")


def layers_of(K: Any) -> ModuleType:
    return layers if K is keras else legacy


def value(variable: Any) -> np.ndarray:
    return np.asarray(compat.get_tf_variable(variable))


def make_seen(K: Any, **options: Any) -> Any:
    """A layer of five units, of which two win, with the duty cycles of 8 examples."""
    layer = layers_of(K).KWinners(2, **options)
    layer.build((None, 5))
    layer.duty_cycle.assign(DUTY)
    layer.examples_seen.assign(8)
    return layer


def winners(outputs: Any) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in np.asarray(outputs)]


def test_the_worked_example(K: Any) -> None:
    assert winners(make_seen(K, boost=0)(EXAMPLES, training=True)) == [[0, 2], [1, 2]]
    layer = make_seen(K, boost=1.5)
    outputs = np.asarray(layer(EXAMPLES, training=True))
    assert winners(outputs) == [[2, 3], [1, 2]]
    assert (outputs[outputs != 0] == EXAMPLES[outputs != 0]).all()  # x, not what it was boosted to
    np.testing.assert_allclose(value(layer.duty_cycle), [0.4, 0.1, 0.36, 0.1, 0.08], rtol=1e-6)
    assert value(layer.examples_seen) == 10


def test_entropy_of_the_worked_example() -> None:
    entropy = make_seen(keras).compute_entropy()
    assert (entropy.bits, entropy.most) == (pytest.approx(2.190924, abs=1e-6), pytest.approx(4.854753, abs=1e-6))
    images = layers.KWinners2D(3)
    images.build((None, 2, 3, 2))
    images.duty_cycle.assign([0.25, 0.5])
    assert images.compute_entropy().bits == pytest.approx(6 * (0.8112781245 + 1))
    assert images.compute_entropy().most == pytest.approx(12 * 0.8112781245)
    with pytest.raises(ModelError, match="not built"):
        layers.KWinners(2).compute_entropy()


VALUES = st.integers(-3, 3).map(float)


@given(st.lists(st.lists(VALUES, min_size=7, max_size=7), min_size=1, max_size=4), st.integers(1, 7))
def test_exactly_k_win_and_ties_go_to_the_lower_position(rows: list[list[float]], k: int) -> None:
    found = find_winners(tf.constant(rows), k).numpy()
    for row, won in zip(rows, found, strict=True):
        assert np.flatnonzero(won).tolist() == sorted(sorted(range(7), key=lambda i: (-row[i], i))[:k])


def test_inference_has_more_winners_and_leaves_no_trace(K: Any) -> None:
    layer = make_seen(K, k_inference_factor=1.5)
    before = [value(variable).tobytes() for variable in layer.variables]
    assert winners(layer(EXAMPLES)) == winners(layer(EXAMPLES, training=False)) == [[2, 3, 4], [1, 2, 4]]
    assert [value(variable).tobytes() for variable in layer.variables] == before
    assert make_seen(K, k_inference_factor=1.25).winners == (2, 2)  # 2.5, to the even number
    assert make_seen(K, k_inference_factor=9).winners == (2, 5)


def test_a_share_of_the_units() -> None:
    layer = layers.KWinners(0.3)
    layer.build((None, 10))
    assert layer.winners == (3, 4)  # 4.5, to the even number
    small = layers.KWinners(0.01)
    small.build((None, 10))
    assert small.winners == (1, 2)


def test_gradients_pass_through_winners_alone(K: Any) -> None:
    layer, x, weights = make_seen(K), tf.constant(EXAMPLES), np.arange(1.0, 11).reshape(2, 5).astype("float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(layer(x, training=True) * weights)
    assert tape.gradient(total, x).numpy().tolist() == [[0, 0, 3, 4, 0], [0, 7, 8, 0, 0]]


def test_negative_winners_come_out_and_do_not_count(K: Any) -> None:
    layer = layers_of(K).KWinners(2, boost=0)
    outputs = layer(np.array([[-3, -1, 2, -2]], "float32"), training=True)
    assert np.asarray(outputs).tolist() == [[0, -1, 2, 0]]
    assert value(layer.duty_cycle).tolist() == [0, 0, 1, 0]


def test_duty_cycles_equal_float64_over_many_batches(K: Any) -> None:
    layer, rng = layers_of(K).KWinners(3, period=50), np.random.default_rng(0)
    duty, seen = np.zeros(8), 0
    for size in (7, 20, 30, 64, 5):  # past the period, and a batch larger than it
        x = rng.normal(size=(size, 8)).astype("float32")
        boosted = x * np.exp(1.5 * (3 / 8 - duty))
        won = np.argsort(-boosted, axis=1, kind="stable")[:, :3]
        positive = np.zeros((size, 8), bool)
        np.put_along_axis(positive, won, True, axis=1)
        seen += size
        period = max(min(50, seen), size)
        duty = (duty * (period - size) + (positive & (x > 0)).sum(axis=0)) / period
        outputs = np.asarray(layer(x, training=True))
        assert (outputs != 0).tolist() == positive.tolist()
        np.testing.assert_allclose(value(layer.duty_cycle), duty, atol=1e-6)
    assert value(layer.examples_seen) == 50


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_images_compete_as_a_whole_with_a_duty_cycle_a_channel(K: Any, data_format: str) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3, 2, 5)).astype("float32")
    duty = np.array([0.5, 0.0, 0.2, 0.0, 0.1])
    boosted = x * np.exp(1.5 * (9 / 30 - duty))
    if data_format == "channels_first":
        x, boosted = (array.transpose(0, 3, 1, 2) for array in (x, boosted))
    layer = layers_of(K).KWinners2D(9, data_format=data_format)
    layer.build(x.shape)
    layer.duty_cycle.assign(duty)
    outputs = np.asarray(layer(x, training=True))
    expected = np.zeros((4, 30), bool)
    np.put_along_axis(expected, np.argsort(-boosted.reshape(4, 30), axis=1)[:, :9], True, axis=1)
    assert (outputs.reshape(4, 30) != 0).tolist() == expected.tolist()
    others = (0, 1, 2) if data_format == "channels_last" else (0, 2, 3)
    np.testing.assert_allclose(value(layer.duty_cycle), (outputs > 0).sum(axis=others) / (4 * 6), rtol=1e-6)


def test_on_images_units_compete_at_each_place() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype("float32")
    layer = layers.KWinners(2, boost=0)
    outputs = layer(x, training=True).numpy()
    assert ((outputs != 0).sum(axis=-1) == 2).all()
    np.testing.assert_allclose(value(layer.duty_cycle), (outputs > 0).mean(axis=(0, 1, 2)), rtol=1e-6)


def test_nan_stays_nan() -> None:
    assert np.isnan(layers.KWinners(1)(np.array([[np.nan, 1.0, 2.0]], "float32")).numpy()).any()


def test_mixed_precision_counts_in_full_precision(K: Any) -> None:
    layer = layers_of(K).KWinners(2, dtype="mixed_float16")
    for _ in range(3):
        outputs = layer(EXAMPLES[:1], training=True)
    assert outputs.dtype == "float16"
    assert {str(np.asarray(value(v)).dtype) for v in (layer.duty_cycle, layer.boost)} == {"float32"}
    # One of three: no half-precision number is as near to a third.
    assert sorted(value(layer.duty_cycle).tolist())[-1] in (1.0, pytest.approx(2 / 3, abs=1e-7))


def network(K: Any, boost: float = 1.5) -> Any:
    kit, L = layers_of(K), K.layers
    model = K.Sequential(
        [
            L.Input((8, 8, 1)),
            *(L.Conv2D(6, 3, name="conv"), L.MaxPooling2D(2), kit.KWinners2D(20, boost=boost, name="places")),
            *(L.Flatten(), L.Dense(12, name="dense"), kit.KWinners(4, boost=boost, name="units")),
            L.Dense(3, name="head"),
        ]
    )
    model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def data() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).normal(size=(24, 8, 8, 1)).astype("float32"), np.arange(24) % 3


def state(model: Any) -> list[bytes]:
    return [value(variable).tobytes() for variable in model.variables]


def test_masks_hold_while_boosting_decays_and_duty_cycles_settle(K: Any, tmp_path: Path) -> None:
    model = network(K)
    report = tpi.prune_at_init(model, data(), sparsity=0.7, method="snip", granularity="per_unit", exclude="head")
    counted = {path: set(mask.reshape(-1, mask.shape[-1]).sum(axis=0).tolist()) for path, mask in report.masks.items()}
    assert counted == {"conv/kernel": {2}, "dense/kernel": {16}}  # of 9 and of 54
    skipped = {row.path: row.reason for row in report.skipped}
    assert {path for path in skipped if path.startswith(("places", "units"))} == {
        f"{layer}/{name}" for layer in ("places", "units") for name in ("duty_cycle", "boost", "examples_seen")
    }
    model.fit(*data(), epochs=2, batch_size=8, verbose=0, callbacks=[layers.BoostDecay(0.5)])
    assert value(model.get_layer("units").boost) == 0.375
    assert value(model.get_layer("units").examples_seen) == 48
    assert 0 < value(model.get_layer("places").duty_cycle).sum() <= 20 / 9
    tpi.strip(model).save(tmp_path / "model.keras")
    loaded = K.models.load_model(tmp_path / "model.keras")
    assert state(loaded) == state(model)
    assert np.array_equal(loaded.predict(data()[0], verbose=0), model.predict(data()[0], verbose=0))
    for path, target in report.masks.check(loaded).items():
        assert not value(target.variable)[~report.masks[path]].any()
    loaded.fit(*data(), epochs=1, verbose=0, callbacks=[layers.BoostDecay(0.5)])
    assert value(loaded.get_layer("units").boost) == 0.1875


# What a method does to the states of a layer depends on how it measures, in training mode or in float64.
MEASURES = ("snip", "synflow")
METHODS = [
    pytest.param(method, marks=[] if method in MEASURES else pytest.mark.exhaustive) for method in tpi.list_methods()
]


@pytest.mark.parametrize("method", METHODS)
def test_scoring_leaves_no_trace(K: Any, method: str) -> None:
    """Law 3 covers duty cycles, and law 2 holds though they move in training mode."""
    model = network(K)
    model.fit(*data(), batch_size=8, verbose=0)
    before = state(model)
    first, again = (tpi.find_masks(model, data(), sparsity=0.5, method=method, verbose=0) for _ in range(2))
    assert state(model) == before
    assert first == again


def test_wrapped_models_keep_duty_cycles() -> None:
    model = network(keras)
    model.fit(*data(), batch_size=8, verbose=0)
    wrapped = tpi.wrap(model, tpi.find_masks(model, None, sparsity=0.5, method="random"))
    assert value(wrapped.get_layer("units").duty_cycle).tolist() == value(model.get_layer("units").duty_cycle).tolist()


def test_training_on_replicas_and_under_xla_counts_too() -> None:
    model = network(keras)
    tpi.distribute.fit(model, data(), epochs=1, verbose=0, callbacks=[layers.BoostDecay(0.5)])
    compiled = network(keras)
    compiled.compile("sgd", compiled.loss, jit_compile=True)
    compiled.fit(*data(), batch_size=24, verbose=0, callbacks=[layers.BoostDecay(0.5)])
    for one in (model, compiled):
        units = one.get_layer("units")
        assert [value(units.examples_seen), value(units.boost)] == [24, 0.75]
        assert 0 < value(units.duty_cycle).sum() <= 4


def test_a_unit_without_weights_competes_with_zero() -> None:
    model = network(keras)
    masks = tpi.prune_at_init(model, None, sparsity=0.5, method="magnitude", granularity="units").masks
    lost = ~masks["dense/kernel"].any(axis=0)
    assert lost.any()
    before_winners = keras.Model(model.inputs[0], model.get_layer("dense").output)
    assert not np.asarray(before_winners(data()[0]))[:, lost].any()
    compaction = tpi.compact(model)
    assert [layer.units for layer in compaction.model.layers if layer.name in ("dense", "head")] == [12, 3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, "k must be a positive integer"),
        ({"k": True}, "Received: k=True"),
        ({"k": 1.0}, r"a share of them, in \(0, 1\)\. Received: k=1.0"),
        ({"k": "2"}, "Received: k='2'"),
        ({"k": 2, "boost": -1}, "boost must be a number from 0 to 50"),
        ({"k": 2, "boost": math.nan}, "boost=nan"),
        ({"k": 2, "k_inference_factor": 0}, "k_inference_factor must be a number above 0"),
        ({"k": 2, "period": 0}, "period must be a positive integer"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        layers.KWinners(**options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OptionError, match="use ReLU in place of k winners"):
        layers.KWinners(5).build((None, 5))
    with pytest.raises(ModelError, match="fixed number of units"):
        layers.KWinners(5).build((None, None))
    with pytest.raises(ModelError, match="images of a fixed size"):
        layers.KWinners2D(5).build((None, None, 8, 3))
    with pytest.raises(OptionError, match="data_format='first'"):
        layers.KWinners2D(5, data_format="first")


def test_a_decay_without_effect_is_refused() -> None:
    model = network(keras, boost=0)
    with pytest.raises(OptionError, match=r"no boosted k-winners layer\. Received: 2 k-winners layers"):
        model.fit(*data(), verbose=0, callbacks=[layers.BoostDecay()])
    with pytest.raises(OptionError, match="factor=1"):
        layers.BoostDecay(1)
