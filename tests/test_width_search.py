"""The search for widths: its parts against NumPy and by hand, its cost by brute force, its result a plain network."""

from __future__ import annotations

import itertools
import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune_init as tpi
from tfprune_init.errors import DataError, OptionError, ScoreError
from tfprune_init.graph.cost import CostModel
from tfprune_init.width_search.alternating import LogitLearner, WeightLearner
from tfprune_init.width_search.channels import (
    interpolate_channels,
    list_depths,
    list_widths,
    make_interpolation,
    make_widenings,
)
from tfprune_init.width_search.distributions import (
    WidthDraw,
    choose_two,
    compute_tails,
    compute_tau,
    draw_exponential,
    draw_gumbel,
    find_direction,
    relax,
)
from tfprune_init.width_search.expected_cost import WidthDistribution, expect_multiply_adds
from tfprune_init.width_search.halves import DataHalves
from tfprune_init.width_search.searchable import ElasticConv, SearchableResNet, _derive

RNG = np.random.default_rng(0)
SMALL = tpi.ResNetSpace((9, 8, 2), 3, stages=((2, 4), (1, 6)))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def test_candidates_are_those_of_the_paper() -> None:
    assert list_widths(16) == (4, 6, 8, 9, 11, 12, 14, 16)
    assert list_widths(32) == (9, 12, 16, 19, 22, 25, 28, 32)
    assert list_widths(64) == (19, 25, 32, 38, 44, 51, 57, 64)
    assert [list_widths(filters) for filters in (1, 4)] == [(1,), (1, 2, 3, 4)]
    assert [list_depths(blocks) for blocks in (1, 3, 5, 9, 6)] == [
        (1,), (1, 2, 3), (1, 3, 5), (1, 3, 5, 7, 9), (1, 3, 5, 6)
    ]  # fmt: skip


def average(x: np.ndarray, outputs: int) -> np.ndarray:
    """Adaptive average pooling over the last axis, as PyTorch documents it."""
    size = x.shape[-1]
    parts = [
        x[..., math.floor(i * size / outputs) : math.ceil((i + 1) * size / outputs)].mean(-1) for i in range(outputs)
    ]
    return np.stack(parts, -1)


def test_channels_are_interpolated() -> None:
    x = np.array([1.0, 2, 3, 4])
    assert interpolate_channels(tf.constant(x), 3).numpy().tolist() == [1.5, 2.5, 3.5]
    assert interpolate_channels(tf.constant(x), 6).numpy().tolist() == [1, 1.5, 2, 3, 3.5, 4]
    features = RNG.normal(size=(2, 3, 3, 19))
    for outputs in (1, 7, 19, 25, 64):
        found = interpolate_channels(tf.constant(features), outputs)
        np.testing.assert_allclose(found, average(features, outputs), atol=1e-12)
    table = make_widenings((2, 3, 5))
    assert table.shape == (3, 3, 5, 5)
    np.testing.assert_allclose(table[0, 2, :2], make_interpolation(2, 5), atol=1e-7)
    assert not table[0, 2, 2:].any()
    assert not table[2, 0].any()
    np.testing.assert_array_equal(table[1, 1], np.diag([1, 1, 1, 0, 0]))


def test_draws_against_numpy() -> None:
    logits, noise, gumbel = RNG.normal(size=5), RNG.exponential(size=5), RNG.gumbel(size=5)
    expected = (np.log(softmax(logits)) - np.log(noise)) / 0.7
    found = relax(tf.constant(logits), tf.constant(noise), 0.7)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    draw = choose_two(found, tf.constant(gumbel))
    order = np.argsort(-(np.log(softmax(expected) + 1e-7) + gumbel))[:2]
    assert draw.places.numpy().tolist() == order.tolist()
    np.testing.assert_allclose(draw.shares, softmax(expected[order]), atol=1e-12)
    assert int(draw.widest) == order.max()


def test_two_are_drawn_as_without_replacement() -> None:
    """How often each ordered pair comes, against p_i p_j / (1 - p_i)."""
    p = np.array([0.5, 0.3, 0.2])
    gumbel = RNG.gumbel(size=(1000, 3))
    counts = np.zeros((3, 3))
    for noise in gumbel:
        first, second = choose_two(tf.constant(np.log(p)), tf.constant(noise)).places.numpy()
        counts[first, second] += 1
    expected = np.array([[0 if i == j else p[i] * p[j] / (1 - p[i]) for j in range(3)] for i in range(3)])
    np.testing.assert_allclose(counts / 1000, expected, atol=4 * 0.5 / math.sqrt(1000))


def test_noise_has_its_distribution_and_repeats() -> None:
    keys = [tf.constant([3, step], tf.int64) for step in range(2)]
    first, again, other = draw_exponential(20_000, keys[0]), draw_exponential(20_000, keys[0]), draw_gumbel(9, keys[1])
    np.testing.assert_array_equal(first, again)
    assert float(tf.reduce_min(first)) > 0
    assert float(tf.reduce_mean(first)) == pytest.approx(1, abs=0.03)
    assert np.mean(first.numpy() > 1) == pytest.approx(math.exp(-1), abs=0.02)
    np.testing.assert_allclose(other, -np.log(draw_exponential(9, keys[1])), atol=1e-6)


def test_expectations_by_hand() -> None:
    """3x3, 4x4 output, 3 inputs expected, widths 2 and 4 with 0.25 and 0.75; depths with 0.2, 0.3, 0.5."""
    width = WidthDistribution((2, 4), tf.constant([0.25, 0.75], tf.float64))
    assert 9 * 16 * 3 * float(width.mean) == 1512
    assert compute_tails([0.2, 0.3, 0.5], (1, 2, 3)) == pytest.approx([1, 0.8, 0.5])
    assert compute_tails([0.2, 0.3, 0.5], (1, 3, 5)) == pytest.approx([1, 0.8, 0.8, 0.5, 0.5])
    other = WidthDistribution((4, 5), tf.constant([0.1, 0.9], tf.float64))
    assert float(width.expect_equal(other)) == pytest.approx(0.75 * 0.1 * 16)


def list_networks(space: tpi.ResNetSpace) -> Any:
    """Every choice of the space, as places among the candidates, by name."""
    choices = space.list_choices()
    for places in itertools.product(*(range(len(sizes)) for sizes in choices.values())):
        yield dict(zip(choices, places, strict=True))


def test_the_expected_cost_is_the_mean_over_all_networks() -> None:
    choices = SMALL.list_choices()
    probabilities = {name: softmax(RNG.normal(size=len(sizes))) for name, sizes in choices.items()}
    # Two candidates of each, so that all can be counted.
    for name, values in probabilities.items():
        values[2:] = 0
        probabilities[name] = values / values.sum()
    total = 0.0
    for places in list_networks(SMALL):
        likely = math.prod(probabilities[name][place] for name, place in places.items())
        if likely:
            chosen = {name: np.eye(len(choices[name]))[place] for name, place in places.items()}
            total += likely * SMALL.choose(chosen).count_multiply_adds()
    found = expect_multiply_adds(SMALL, {name: tf.constant(p, tf.float64) for name, p in probabilities.items()})
    assert float(found) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_cost_of_a_network_is_that_of_its_model(seed: int) -> None:
    space = tpi.ResNetSpace((9, 8, 2), 3, stages=((2, 8), (3, 12)))
    drawn = np.random.default_rng(seed)
    chosen = space.choose({name: drawn.random(len(sizes)) for name, sizes in space.list_choices().items()})
    model = chosen.build(seed)
    assert chosen.count_multiply_adds() == CostModel(model).count().multiply_adds
    widths = {layer.name: layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}
    for stage, blocks in enumerate(chosen.stages, 1):
        for number, pair in enumerate(blocks, 1):
            assert tuple(widths[f"stage{stage}_block{number}_conv{conv}"] for conv in (1, 2)) == pair
    assert model.output_shape == (None, 3)


def test_the_largest_network_is_resnet20() -> None:
    space = tpi.ResNetSpace((32, 32, 3), 10, stages=((3, 16), (3, 32), (3, 64)))
    model, known = space.largest.build(seed=0), tpi.models.resnet20(seed=0)
    for one, other in zip(model.get_weights(), known.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    certain = {name: tf.constant(np.eye(len(s))[-1]) for name, s in space.list_choices().items()}
    assert float(expect_multiply_adds(space, certain)) == space.largest.count_multiply_adds()


@pytest.mark.parametrize("places", [(1, 3), (2, 0)])
def test_a_convolution_of_two_widths_against_numpy(places: tuple[int, int]) -> None:
    widths, shares = (2, 3, 4, 6), np.array([0.3, 0.7], "float32")
    layer = ElasticConv(widths, 3, seed=0, name="conv")
    draw = WidthDraw(tf.constant(places), tf.constant(shares), tf.constant(max(places)))
    x = RNG.normal(size=(5, 4, 4, 3)).astype("float32")
    layer(x, draw)
    scales, offsets = RNG.normal(size=(2, 4, 6)).astype("float32")
    layer.gamma.assign(scales)
    layer.beta.assign(offsets)
    full = tf.nn.conv2d(x, layer.kernel.value, 1, "SAME").numpy().astype(np.float64)
    normal = (full - full.mean((0, 1, 2))) / np.sqrt(full.var((0, 1, 2)) + 1e-5)
    wide = widths[max(places)]
    expected = np.zeros_like(full)
    for place, share in zip(places, shares, strict=True):
        own = widths[place]
        out = normal[..., :own] * scales[place, :own] + offsets[place, :own]
        expected[..., :wide] += share * average(out, wide)
    np.testing.assert_allclose(layer(x, draw), expected, atol=1e-5)


def test_a_network_of_one_certain_choice_is_the_plain_network() -> None:
    """With all probability on the full widths, and the share of the other draw next to nothing."""
    network = SearchableResNet(SMALL, seed=0)
    for logits in network.logits.values():
        logits.assign(100 * np.eye(logits.shape[0])[-1])
    x = RNG.normal(size=(6, 9, 8, 2)).astype("float32")
    found = network(x, tf.constant([0, 1], tf.int64), tf.constant(0.1))
    model = SMALL.largest.build(seed=0)  # the same weights, as layers have the same names
    np.testing.assert_allclose(found, model(x, training=True), atol=1e-4)


def compute_by_widths(network: SearchableResNet, x: np.ndarray, key: tuple[int, int], tau: float) -> np.ndarray:
    """What the network computes, with feature maps of their own widths: padded, cut and interpolated one by one."""
    space, relaxed, draws = network.space, {}, {}
    choices = space.list_choices()
    for place, (name, logits) in enumerate(network.logits.items()):
        keys = [_derive(tf.constant(key, tf.int64), 2 * place + part) for part in (0, 1)]
        noise, gumbel = draw_exponential(len(choices[name]), keys[0]).numpy(), draw_gumbel(len(choices[name]), keys[1])
        relaxed[name] = (np.log(softmax(np.array(logits, np.float64))) - np.log(noise)) / tau
        both = np.argsort(-(np.log(softmax(relaxed[name]) + 1e-7) + gumbel.numpy()))[:2]
        draws[name] = both, softmax(relaxed[name][both])
    layers = network._convolutions

    def convolve(x: np.ndarray, name: str, choice: str) -> np.ndarray:
        layer, (places, shares) = layers[name], draws[choice]
        kernel = layer.kernel.numpy()
        padded = np.pad(x, [(0, 0)] * 3 + [(0, kernel.shape[2] - x.shape[3])])
        full = tf.nn.conv2d(padded, kernel.astype(np.float64), layer.strides, "SAME").numpy()
        widths = [layer.widths[place] for place in places]
        total = 0.0
        for place, share, width in zip(places, shares, widths, strict=True):
            own = full[..., :width]
            own = (own - own.mean((0, 1, 2))) / np.sqrt(own.var((0, 1, 2)) + 1e-5)
            own = own * layer.gamma.numpy()[place, :width] + layer.beta.numpy()[place, :width]
            total = total + share * average(own, max(widths))
        return total

    x = np.maximum(convolve(x.astype(np.float64), "stem", "stem"), 0)
    for stage, (blocks, _) in enumerate(space.stages, 1):
        ends = []
        for number in range(1, blocks + 1):
            name = f"stage{stage}_block{number}"
            y = np.maximum(convolve(x, f"{name}_conv1", f"{name}_conv1"), 0)
            y = convolve(y, f"{name}_conv2", f"{name}_conv2")
            if f"{name}_shortcut" in layers:
                x = convolve(x, f"{name}_shortcut", f"{name}_conv2")
            wide, narrow = (x, y) if x.shape[-1] > y.shape[-1] else (y, x)
            wide = wide.copy()
            wide[..., : narrow.shape[-1]] += narrow
            x = np.maximum(wide, 0)
            ends.append(x)
        chosen = [ends[depth - 1] for depth in choices[f"stage{stage}_depth"]]
        shares = softmax(relaxed[f"stage{stage}_depth"])
        widest = max(one.shape[-1] for one in chosen)
        x = sum(share * average(one, widest) for share, one in zip(shares, chosen, strict=True))
    kernel, bias = (np.array(value, np.float64) for value in network._head.get_weights())
    return x.mean((1, 2)) @ kernel[: x.shape[-1]] + bias


@pytest.mark.parametrize("step", [pytest.param(s, marks=() if s < 2 else pytest.mark.exhaustive) for s in range(8)])
def test_the_network_computes_what_feature_maps_of_their_own_widths_give(step: int) -> None:
    network = SearchableResNet(SMALL, seed=0)
    for layer in network._convolutions.values():
        for variable in (layer.gamma, layer.beta):
            variable.assign(RNG.normal(1, 0.5, variable.shape))
    x = RNG.normal(size=(6, 9, 8, 2)).astype("float32")
    found = network(x, tf.constant([7, step], tf.int64), tf.constant(3.0))
    np.testing.assert_allclose(found, compute_by_widths(network, x, (7, step), 3.0), atol=1e-4)


def test_gradients_reach_all_logits_and_narrow_networks_work() -> None:
    network = SearchableResNet(SMALL, seed=0)
    x, y = RNG.normal(size=(6, 9, 8, 2)).astype("float32"), np.arange(6) % 3
    reached = dict.fromkeys(network.logits, False)
    for step in range(12):
        with tf.GradientTape() as tape:
            logits = network(x, tf.constant([0, step], tf.int64), tf.constant(2.0))
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        found = tape.gradient(loss, list(network.logits.values()))
        for name, gradient in zip(reached, found, strict=True):
            reached[name] |= gradient is not None and bool(np.abs(gradient).max() > 0)
    assert [name for name, hit in reached.items() if not hit] == ["stage2_depth"]  # one block: nothing to choose
    assert len(network.network_variables) + len(network.logits) == len(network.trainable_variables)


def test_temperatures_and_the_band() -> None:
    assert [compute_tau(done, 5, 0.1, "cosine") for done in (0, 1)] == pytest.approx([5, 0.1])
    assert compute_tau(0.25, 5, 0.1, "cosine") == pytest.approx(0.1 + 4.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert compute_tau(0.25, 10, 0.1, "linear") == pytest.approx(0.1 + 9.9 * 0.75)
    assert [find_direction(cost, 1000, 0.05) for cost in (1001, 1000, 950, 949)] == [-1, 0, 0, 1]


def test_steps_change_their_own_variables_alone() -> None:
    network = SearchableResNet(SMALL, seed=0)
    x, y = RNG.normal(size=(6, 9, 8, 2)).astype("float32"), np.arange(6) % 3

    def read() -> tuple[list[np.ndarray], list[np.ndarray]]:
        return [np.array(v) for v in network.network_variables], [np.array(v) for v in network.logits.values()]

    start = read()
    WeightLearner(network, 0.1, 5e-4, steps=4).learn(x, y, (0, 0), 5.0)
    middle = read()
    assert any((a != b).any() for a, b in zip(start[0], middle[0], strict=True))
    assert all((a == b).all() for a, b in zip(start[1], middle[1], strict=True))
    expected = []
    learner = LogitLearner(network, 0.01, cost_weight=100.0)
    for direction in (-1, 1):
        before = float(expect_multiply_adds(SMALL, network.compute_probabilities()))
        for step in range(15):
            learner.learn(x, y, (0, step), 5.0, direction)
        expected.append(float(expect_multiply_adds(SMALL, network.compute_probabilities())) - before)
    assert expected[0] < 0 < expected[1]
    after = read()
    assert all((a == b).all() for a, b in zip(middle[0], after[0], strict=True))


def test_halves_share_no_example_and_have_all_classes() -> None:
    y = np.repeat([0, 1, 2], [10, 7, 4])
    halves = DataHalves(SMALL, (np.zeros((21, 9, 8, 2)), y), 4, seed=1)
    first, second = halves.rows
    assert sorted([*first, *second]) == list(range(21))
    assert [np.bincount(y[rows]).tolist() for rows in halves.rows] == [[5, 4, 2], [5, 3, 2]]
    assert (halves.batch_size, halves.steps_per_epoch) == (4, 2)
    images = np.arange(21.0)[:, None, None, None] * np.ones((1, 9, 8, 2))
    halves = DataHalves(SMALL, (images, y), 4, seed=1)
    seen = np.concatenate([halves.take(0, step)[0][:, 0, 0, 0] for step in range(2)])
    assert len(set(seen)) == 8
    assert set(seen.astype(int)) <= set(first)
    later = np.concatenate([halves.take(0, step)[0][:, 0, 0, 0] for step in (2, 3)])
    assert seen.tolist() != later.tolist()


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).normal(size=(48, 9, 8, 2)).astype("float32"), np.arange(48) % 3


def search(data: Any, **options: Any) -> tpi.SearchedWidths:
    given = {"epochs": 4, "batch_size": 8, "logit_learning_rate": 0.2, "verbose": 0}
    return tpi.search_widths(SMALL, data, **{**given, **options})


def test_a_search_finds_a_network_of_the_cost(data: Any) -> None:
    found = search(data, cost_weight=10.0, ratio=0.5)
    full = SMALL.largest.count_multiply_adds()
    assert (found.full, found.asked) == (full, full // 2)
    assert 0.8 * found.asked < found.got <= found.asked
    assert found.network == SMALL.choose(found.probabilities)
    assert found.got == CostModel(found.build(0)).count().multiply_adds
    assert [round(one["tau"], 4) for one in found.history][-1] == 0.1
    assert len(found.history) == 4
    steps = 4 * 3
    assert (found.cost.training_steps, found.cost.scoring_steps) == (steps, steps)
    assert found.cost.multiply_adds == 2 * steps * 8 * 3 * full
    assert f"{found.got:,} multiply-adds of at most {found.asked:,}" in found.describe()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(data: Any) -> None:
    """Also where the data are a dataset, and whatever Keras's own seed is."""
    found = search(data)
    keras.utils.set_random_seed(5)
    again, other = search(tf.data.Dataset.from_tensor_slices(data).batch(7)), search(data, seed=1)
    assert again.history == found.history
    assert other.history != found.history
    for name, values in found.probabilities.items():
        np.testing.assert_array_equal(values, again.probabilities[name])


@pytest.mark.slow
def test_a_search_that_diverges_says_so(data: Any) -> None:
    with pytest.raises(ScoreError, match="diverged in step"):
        search(data, learning_rate=1e30)


@pytest.mark.slow
def test_what_costs_too_much_is_never_returned(data: Any) -> None:
    """Ratios so low that only some steps, and then none, have a likeliest network that fits."""
    found = search(data, ratio=0.3, cost_weight=10.0, epochs=8)
    assert found.got <= found.asked
    later = [one["chosen"] for one in found.history[-(-found.step // 3) :]]
    assert all(cost > found.asked for cost in later)
    with pytest.raises(OptionError, match="at all 3 steps"):
        search(data, ratio=0.05, epochs=1)


def test_the_searched_network_is_taught_by_the_largest(data: Any) -> None:
    network = tpi.ResNetWidths((9, 8, 2), 3, 3, (((2, 3),), ((4, 6),)))
    student, teacher = network.build(0), SMALL.largest.build(1)
    history = tpi.distill(student, teacher, data, epochs=2, optimizer=lambda: keras.optimizers.SGD(0.1))
    assert np.isfinite(history["loss"]).all()
    assert str(network) == "3 | 2 3 | 4 6"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"ratio": 1}, OptionError, "ratio must be a number between 0 and 1"),
        ({"epochs": 0}, OptionError, "epochs must be a positive integer"),
        ({"tau": 5}, OptionError, "tau is a pair"),
        ({"tau": (5, 0)}, OptionError, "two numbers above 0"),
        ({"decay": "step"}, OptionError, "decay must be one of"),
        ({"learning_rate": -1}, OptionError, "learning_rate must be"),
        ({"cost_weight": -1}, OptionError, "cost_weight must be"),
        ({"seed": -1}, OptionError, "seed must be"),
    ],
)
def test_refuses_options(data: Any, options: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        search(data, **options)


def test_refuses_data(data: Any) -> None:
    x, y = data
    with pytest.raises(DataError, match=r"images of shape \(48, 8, 8, 2\)"):
        search((x[:, :8], y))
    with pytest.raises(DataError, match="from 0 to 2"):
        search((x, y + 1))
    with pytest.raises(DataError, match="a pair of arrays"):
        search(x)
    with pytest.raises(DataError, match="NaN"):
        search((x * np.nan, y))
    with pytest.raises(DataError, match="one example of class 1"):
        search((x[:3], np.array([0, 0, 1])))
    with pytest.raises(DataError, match="empty"):
        search((x[:0], y[:0]))


@pytest.mark.parametrize("stages", [(), ((1,),), ((0, 4),), ((1, 4.0),)])
def test_refuses_spaces(stages: Any) -> None:
    with pytest.raises(OptionError, match="stages"):
        tpi.ResNetSpace((8, 8, 1), 10, stages=stages)
