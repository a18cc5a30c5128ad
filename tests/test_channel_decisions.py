"""The layers that decide on channels for each example: what they decide, its gradient, what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune_init as tpi
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.layers import ApplyDecisions, ChannelDecisions, CostTerm, DecisionCost

RNG = np.random.default_rng(0)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def make_built(shape: tuple[int | None, ...] = (None, 3, 3, 8), **options: Any) -> ChannelDecisions:
    keras.utils.set_random_seed(0)
    layer = ChannelDecisions(5, dtype="float64", **options)
    layer.build(shape)
    for variable in layer.trainable_variables:
        variable.assign(RNG.normal(size=variable.shape))
    return layer


def logits_by_loop(layer: ChannelDecisions, x: np.ndarray) -> np.ndarray:
    """g of each example and channel, with plain sums."""
    if layer.data_format == "channels_first":
        x = np.moveaxis(x, 1, -1)
    weights = {v.name: np.asarray(v) for v in layer.trainable_variables}
    found = np.zeros((len(x), layer.channels))
    for example, image in enumerate(x):
        taken = []
        for channel in range(image.shape[-1]):
            places = image[..., channel].ravel()
            taken.append(np.mean(np.abs(places) if layer.pooling == "mean_abs" else places))
        if "hidden_weights" in weights:
            hidden = [
                max(0.0, sum(t * w for t, w in zip(taken, column, strict=True)) + b)
                for column, b in zip(weights["hidden_weights"].T, weights["hidden_bias"], strict=True)
            ]
        else:
            hidden = taken
        for channel in range(layer.channels):
            column = weights["decision_weights"][:, channel]
            found[example, channel] = sum(h * w for h, w in zip(hidden, column, strict=True))
            found[example, channel] += weights["decision_bias"][channel]
    return found


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 3, 3, 8), {}),
        ((4, 3, 3, 8), {"hidden": 0, "pooling": "mean_abs"}),
        ((4, 8, 3, 3), {"hidden": 3, "data_format": "channels_first"}),
        ((4, 6, 8), {}),
        ((4, 2, 2, 2, 8), {"pooling": "mean_abs"}),
    ],
    ids=str,
)
def test_inference_decides_by_the_sign_of_the_logit(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    layer = make_built((None, *shape[1:]), **options)
    x = RNG.normal(size=shape)
    expected = logits_by_loop(layer, x)
    np.testing.assert_allclose(layer.compute_logits(x), expected, rtol=1e-12)
    decisions = np.asarray(layer(x))
    assert (decisions == (expected > 0)).all()
    assert 0 < decisions.mean() < 1
    assert (decisions == np.asarray(layer(x))).all()  # no noise


@pytest.mark.parametrize("is_hard", [True, False])
@pytest.mark.parametrize(
    ("noise", "temperature"), [("normal", None), ("logistic", None), ("logistic", 0.5), ("none", None)]
)
def test_decisions_of_training_and_their_gradient(is_hard: bool, noise: str, temperature: float | None) -> None:
    """Values by formula; gradients of all weights by a loop in float64 over examples and channels."""
    layer = make_built(noise=noise, temperature=temperature)
    x, drawn, upstream = RNG.normal(size=(6, 3, 3, 8)), RNG.normal(size=(6, 5)), RNG.normal(size=(6, 5))
    with tf.GradientTape() as tape:
        decisions = layer.decide(layer.compute_logits(x) + drawn, is_hard)
        total = tf.reduce_sum(decisions * upstream)
    found = dict(
        zip(
            [v.name for v in layer.trainable_variables],
            tape.gradient(total, [v.value for v in layer.trainable_variables]),
            strict=True,
        )
    )
    noisy = logits_by_loop(layer, x) + drawn
    slope = np.zeros_like(noisy)
    soft = np.zeros_like(noisy)
    for place in np.ndindex(*noisy.shape):
        if noise == "logistic":
            soft[place] = sigmoid(noisy[place] / (temperature or 1))
            slope[place] = soft[place] * (1 - soft[place]) / (temperature or 1)
        else:
            stretched = 1.2 * sigmoid(noisy[place]) - 0.1
            soft[place] = min(1.0, max(0.0, stretched))
            slope[place] = 1.2 * sigmoid(noisy[place]) * (1 - sigmoid(noisy[place])) if 0 < stretched < 1 else 0.0
    if is_hard:
        assert (np.asarray(decisions) == (noisy > 0)).all()
    else:
        np.testing.assert_allclose(decisions, soft, rtol=1e-12)
    hidden_weights, hidden_bias, decision_weights = (
        np.asarray(v) for v in (layer.hidden_kernel, layer.hidden_bias, layer.decision_kernel)
    )
    expected = {v.name: np.zeros(v.shape) for v in layer.trainable_variables}
    for example in range(6):
        pooled = x[example].mean(axis=(0, 1))
        hidden = np.maximum(0, pooled @ hidden_weights + hidden_bias)
        for channel in range(5):
            by_logit = upstream[example, channel] * slope[example, channel]
            expected["decision_bias"][channel] += by_logit
            expected["decision_weights"][:, channel] += by_logit * hidden
            back = by_logit * decision_weights[:, channel] * (hidden > 0)
            expected["hidden_bias"] += back
            expected["hidden_weights"] += np.outer(pooled, back)
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(found[name], gradient, rtol=1e-10, atol=1e-12)


def test_mixed_takes_hard_or_soft_for_a_whole_batch_with_equal_chance() -> None:
    layer = make_built(seed=3)
    x = RNG.normal(size=(16, 3, 3, 8))
    drawn = [np.asarray(layer(x, training=True)) for _ in range(200)]
    hard = [bool(np.isin(one, (0, 1)).all()) for one in drawn]
    assert 70 < sum(hard) < 130
    assert all(0 < np.isin(one, (0, 1)).mean() < 1 for one, is_hard in zip(drawn, hard, strict=True) if not is_hard)
    for forward, expected in (("hard", True), ("soft", False)):
        assert bool(np.isin(make_built(forward=forward)(x, training=True), (0, 1)).all()) is expected


@pytest.mark.parametrize("noise", ["normal", "logistic"])
def test_noise_has_its_distribution_and_follows_the_seed(noise: str) -> None:
    layer, again = make_built(noise=noise, seed=1), make_built(noise=noise, seed=1)
    drawn = np.asarray(layer.draw_noise((200, 500)))
    assert (drawn == np.asarray(again.draw_noise((200, 500)))).all()
    assert (drawn != np.asarray(layer.draw_noise((200, 500)))).any()
    variance = 1.0 if noise == "normal" else np.pi**2 / 3
    assert (drawn.mean(), drawn.var()) == (pytest.approx(0, abs=0.03), pytest.approx(variance, rel=0.03))
    # The chance to be open is that of the distribution beyond -g.
    beyond = {"normal": 0.841345, "logistic": sigmoid(1.0)}[noise]
    assert (drawn > -1).mean() == pytest.approx(beyond, abs=0.01)


def test_scale_gives_factors_beside_decisions() -> None:
    layer = make_built(scale=True)
    x = RNG.normal(size=(4, 3, 3, 8))
    decisions, factors = map(np.asarray, layer(x))
    logits = logits_by_loop(layer, x)
    assert (decisions == (logits > 0)).all()
    np.testing.assert_allclose(factors, (logits > 0) * sigmoid(logits), rtol=1e-12)


@pytest.mark.parametrize("form", ["channels_last", "channels_first"])
def test_closed_channels_are_exactly_zero_and_open_ones_as_they_were(form: str) -> None:
    values = RNG.normal(size=(2, 3, 4, 3) if form == "channels_last" else (2, 3, 3, 4)).astype("float32")
    decisions = np.array([[1, 0, 1], [0, 0, 1]] if form == "channels_first" else [[1, 0, 1], [0, 1, 1]], "float32")
    found = np.asarray(ApplyDecisions(form)([values, decisions]))
    for example, channel in np.ndindex(2, 3):
        place = (example, channel) if form == "channels_first" else (example, ..., channel)
        assert (found[place] == (values[place] if decisions[example, channel] else 0)).all()


def test_the_worked_example_of_the_cost() -> None:
    """Two convolutions of 100 and 200 multiply-adds, 4 channels each; 2 and 3 are open."""
    terms = [CostTerm("one/kernel", 100, made=0), CostTerm("two/kernel", 200, taken=0, made=1)]
    layer = DecisionCost(terms, strength=2.0, budget=0.3)
    opened = [np.array([[1.0, 1, 0, 0]], "float32"), np.array([[1.0, 1, 1, 0]], "float32")]
    outputs = np.ones((1, 3), "float32")
    assert (np.asarray(layer([outputs, *opened])) == outputs).all()
    assert float(layer.compute_shares(opened)[0]) == pytest.approx(0.416667, abs=1e-6)
    assert float(layer.losses[0]) == pytest.approx(0.027222, abs=1e-6)
    assert sum(int(term.count(opened)[0]) for term in terms) == 125


def test_the_cost_is_a_mean_over_examples_and_its_gradient_that_of_a_loop() -> None:
    terms = [
        CostTerm("a", 36, made=0),
        CostTerm("b", 48, taken=0, made=1, groups=2),
        CostTerm("c", 30, taken=1),
        CostTerm("d", 6),
    ]
    layer = DecisionCost(terms, strength=3.0, budget=0.25, dtype="float64")
    given = [tf.constant(RNG.random((5, 4))), tf.constant(RNG.random((5, 6)))]
    with tf.GradientTape() as tape:
        tape.watch(given)
        layer([tf.zeros((5, 2), tf.float64), *given])
        loss = layer.losses[0]
    found = [np.asarray(one) for one in tape.gradient(loss, given)]

    def compute(one: np.ndarray, two: np.ndarray) -> float:
        shares = []
        for i in range(5):
            total = 36 * one[i].mean() + 30 * two[i].mean() + 6
            total += 48 * np.mean([one[i, 2 * g : 2 * g + 2].mean() * two[i, 3 * g : 3 * g + 3].mean() for g in (0, 1)])
            shares.append(total / 120)
        return 3.0 * (np.mean(shares) - 0.25) ** 2

    arrays = [np.asarray(one) for one in given]
    assert float(loss) == pytest.approx(compute(*arrays), rel=1e-7)  # the budget is a float32
    for side in (0, 1):
        for place in np.ndindex(*arrays[side].shape):
            moved = [array.copy() for array in arrays], [array.copy() for array in arrays]
            moved[0][side][place] += 1e-5
            moved[1][side][place] -= 1e-5
            slope = (compute(*moved[0]) - compute(*moved[1])) / 2e-5
            assert found[side][place] == pytest.approx(slope, rel=1e-5)


def test_counts_are_whole_numbers_by_brute_force() -> None:
    """A grouped convolution, weight by weight: one counts where its channels are open on both sides."""
    groups, taken, made, uses = 3, 6, 9, 7
    one, two = (RNG.integers(0, 2, (8, n)).astype("float32") for n in (taken, made))
    dense = uses * (taken // groups) * made
    term = CostTerm("k", dense, taken=0, made=1, groups=groups)
    for example, count in enumerate(term.count([one, two])):
        expected = 0
        for channel in range(made):
            group = channel // (made // groups)
            for row in range(taken // groups):
                if two[example, channel] and one[example, group * (taken // groups) + row]:
                    expected += uses
        assert count == expected
    assert term.count([one, two]).dtype == np.int64


def test_layers_are_saved_and_loaded(tmp_path: Path) -> None:
    inputs = keras.Input((3, 3, 8))
    options = {"hidden": 3, "pooling": "mean_abs", "noise": "logistic", "forward": "soft", "temperature": 0.5}
    decisions = ChannelDecisions(8, **options, seed=4, kernel_initializer="zeros", name="module")(inputs)
    outputs = ApplyDecisions(name="apply")([inputs, decisions])
    cost = DecisionCost([CostTerm("k", 10, made=0)], 2.0, 0.5, {"conv": "excluded"}, name="cost")
    model = keras.Model(inputs, cost([outputs, decisions]))
    for variable in model.trainable_variables:
        variable.assign(RNG.normal(size=variable.shape))
    cost.budget.assign(0.25)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = RNG.normal(size=(6, 3, 3, 8)).astype("float32")
    np.testing.assert_array_equal(model(x), loaded(x))
    np.testing.assert_array_equal(model(x, training=True), loaded(x, training=True))  # the noise goes on
    assert loaded.get_layer("cost").get_config() == cost.get_config()
    assert loaded.get_layer("module").get_config() == model.get_layer("module").get_config()
    assert float(loaded.get_layer("cost").budget) == 0.25
    assert float(loaded.losses[0]) == float(model.losses[0]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels must be a positive integer"),
        ({"hidden": -1}, "hidden must be a non-negative integer"),
        ({"pooling": "max"}, "pooling must be one of 'mean', 'mean_abs'. Received: pooling='max'"),
        ({"noise": "gumbel"}, "noise must be one of"),
        ({"forward": "both"}, "forward must be one of"),
        ({"temperature": 0.5}, "temperature= has no effect with noise='normal'"),
        ({"temperature": 0.0, "noise": "logistic"}, "temperature must be a number above 0"),
        ({"scale": 1}, "scale must be True or False"),
        ({"data_format": "NCHW"}, "data_format must be one of"),
        ({"seed": -1}, "seed must be a non-negative integer"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ChannelDecisions(**{"channels": 4, **options})


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(ModelError, match=r"fixed number of channels. Received: \(None, 4, 4, None\)"):
        ChannelDecisions(4).build((None, 4, 4, None))
    with pytest.raises(OptionError, match="data_format must be one of"):
        ApplyDecisions("last")
    with pytest.raises(OptionError, match="terms must count multiply-adds"):
        DecisionCost([])
    for options, message in (({"strength": -1}, "strength must be"), ({"budget": 0}, r"budget must be .* in \(0, 1\]")):
        with pytest.raises(OptionError, match=message):
            DecisionCost([CostTerm("k", 1)], **options)


def test_the_layers_are_public() -> None:
    assert tpi.layers.ChannelDecisions is ChannelDecisions
    assert ChannelDecisions(3, hidden=2).compute_output_shape((None, 4, 4, 8)) == (None, 3)
