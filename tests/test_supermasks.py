"""Supermasks: masks learned over weights that stay as they were drawn, and masks from a training on initial weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import model_kinds
import numpy as np
import pytest
import tensorflow as tf
from command import call
from model_kinds import KERAS, KINDS
from tiers import rows
from training import TWO_REPLICAS, Policy, dense, fresh_process, loss

import tfprune_init as tpi
from tfprune_init.errors import (
    EnforcementError,
    ModelError,
    NetworkCollapseError,
    NetworkCollapseWarning,
    OptionError,
    ScoreError,
)
from tfprune_init.graph.variables import find_prunable_variables, list_variables
from tfprune_init.masking.attachment import get_attached_masks
from tfprune_init.masking.learned_masks import BernoulliMasks, LearnedMasks, TopScoreMasks, count_inputs, draw_factor
from tfprune_init.scoring.training_criteria import TRAINING_CRITERIA
from tfprune_init.selection.granularity import Share
from tfprune_init.training import (
    Event,
    LearnBernoulliMasks,
    LearnTopScores,
    Prune,
    PruneByTraining,
    Reinitialize,
    RunResult,
    Snapshot,
    Train,
)
from tfprune_init.training.mask_learning import ScoreDescent, learn_masks

X, Y = np.random.default_rng(0).normal(size=(40, 6)).astype("float32"), np.arange(40) % 3
DATA = ((X[:24], Y[:24]), (X[24:], Y[24:]))
SIZES = {"a/kernel": 96, "b/kernel": 192, "c/kernel": 36}


def build(seed: int, K: Any = keras) -> Any:
    model = dense(K, seed)
    model.compile(K.optimizers.Adam(0.01), loss(K), metrics=["accuracy"])
    return model


def run(procedure: Any, build_model: Callable[..., Any] = build, **options: Any) -> RunResult:
    return tpi.run(procedure, build_model, DATA, **{"steps": 4, "verbose": 0, **options})


def read(model: Any) -> dict[str, np.ndarray]:
    return {one.path: one.tensor.numpy() for one in find_prunable_variables(model).prunable}


# The worked example: one output, whose derivative is taken by the scores.
W, INPUTS = np.array([1, -2, 3, 0.5]), np.array([1, 1, 2, -1.0])


@pytest.mark.parametrize(
    ("rescale", "output", "derivative"),
    [
        (False, 7, [0.25, -0.209987, 1.179672, -0.117502]),
        (True, 14, [-1.25, -1.154929, 0.98306, -1.88003]),
    ],
)
def test_a_draw_and_its_gradient_are_those_of_the_example(
    rescale: bool, output: float, derivative: list[float]
) -> None:
    score = tf.constant([0, 2, -1, 0.5], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(score)
        factor = draw_factor(score, tf.constant([0.4, 0.9, 0.1, 0.7], tf.float64), rescale)
        y = tf.reduce_sum(INPUTS * W * factor)
    assert float(y) == output
    np.testing.assert_allclose(tape.gradient(y, score), derivative, atol=5e-7)
    assert float(tf.reduce_mean(tf.sigmoid(score))) == pytest.approx(0.568050, abs=1e-6)


def test_where_nothing_is_drawn_nothing_is_rescaled() -> None:
    factor = draw_factor(tf.constant([-1.0, 0.5]), tf.constant([0.9, 0.9]), True)
    assert factor.numpy().tolist() == [0, 0]


def column() -> Any:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False, name="head", dtype="float64")])
    model.layers[0].kernel.assign(W[:, None])
    return model


def test_top_scores_and_their_gradient_are_those_of_the_example() -> None:
    targets = find_prunable_variables(column()).prunable
    masks = TopScoreMasks(targets, [Share(("head/kernel",), 2, None)])
    score = masks.scores["head/kernel"]
    score.assign(np.array([[0.3], [-0.8], [0.1], [0.5]]))
    with tf.GradientTape() as tape:
        factor = masks.make_factors(tf.constant(0, tf.int64))["head/kernel"]
        y = tf.reduce_sum((INPUTS * W)[:, None] * factor)
    assert factor.numpy().ravel().tolist() == [0, 1, 0, 1]
    assert masks.choose()["head/kernel"].ravel().tolist() == [False, True, False, True]
    assert float(y) == -2.5
    np.testing.assert_array_equal(np.ravel(tape.gradient(y, score)), [1, 2, 6, -0.5])


def test_equal_scores_are_kept_by_their_position() -> None:
    masks = TopScoreMasks(find_prunable_variables(column()).prunable, [Share(("head/kernel",), 2, None)])
    masks.scores["head/kernel"].assign(np.array([[0.5], [-0.7], [-0.5], [0.5]]))
    assert masks.choose()["head/kernel"].ravel().tolist() == [True, True, False, False]
    np.testing.assert_array_equal(
        masks.make_factors(tf.constant(0, tf.int64))["head/kernel"].numpy(), masks.choose()["head/kernel"]
    )


def test_draws_are_as_frequent_as_they_should_be_and_others_in_each_step() -> None:
    model = keras.Sequential(
        [keras.Input((300,)), keras.layers.Dense(100, name="a"), keras.layers.Dense(300, name="b")]
    )
    masks = BernoulliMasks(find_prunable_variables(model).prunable, start=1.0, seed=3)
    draws = [masks.sample(step) for step in range(3)]
    for drawn in draws:
        for mask in drawn.values():  # 30,000 draws with probability .731: five deviations are .0128
            assert mask.mean() == pytest.approx(1 / (1 + np.exp(-1)), abs=0.0128)
    pairs = [(draws[0]["a/kernel"], draws[1]["a/kernel"]), (draws[1]["a/kernel"], draws[2]["a/kernel"])]
    pairs.append((draws[0]["a/kernel"].ravel(), draws[0]["b/kernel"].ravel()))
    for one, other in pairs:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03
    for path, factor in masks.make_factors(tf.constant(2, tf.int64)).items():
        np.testing.assert_array_equal(factor, draws[2][path])


@pytest.mark.parametrize("package", KERAS)
def test_scores_begin_in_the_interval_of_their_inputs(package: str) -> None:
    K = KERAS[package]
    inputs = K.Input((8, 8, 6))
    x = K.layers.Conv2D(40, 3, name="conv", use_bias=False)(inputs)
    x = K.layers.Conv2DTranspose(30, 5, name="transposed", use_bias=False)(x)
    x = K.layers.DepthwiseConv2D(3, depth_multiplier=8, name="depthwise", use_bias=False)(x)
    model = K.Model(inputs, K.layers.Dense(50, name="dense", use_bias=False)(x))
    # What each output is a sum of; a transposed convolution of 5x5 adds up 25 pixels of 40 channels.
    expected = {"conv": 9 * 6, "transposed": 25 * 40, "depthwise": 9, "dense": 30 * 8}
    targets = find_prunable_variables(model).prunable
    masks = TopScoreMasks(targets, [], seed=1)
    assert {one.path.split("/")[0]: count_inputs(one) for one in targets} == expected
    for one in targets:
        score, bound = masks.scores[one.path].numpy(), expected[one.path.split("/")[0]] ** -0.5
        assert np.abs(score).max() <= bound
        assert score.max() > 0.98 * bound
        assert score.min() < -0.98 * bound
        assert score.std() == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.fixture
def _float64() -> Iterator[None]:
    """Let losses be computed in float64."""
    keras.backend.set_floatx("float64")
    yield
    keras.backend.set_floatx("float32")


class Learn(Event):
    """Learns masks, and keeps them."""

    def __init__(self, make: Callable[[Any], LearnedMasks], descent: ScoreDescent, steps: int) -> None:
        self.make, self.descent, self.steps = make, descent, steps

    def apply(self, run: Any) -> None:
        targets = find_prunable_variables(run.model).prunable
        self.start = read(run.model)
        self.masks = self.make(targets)
        self.first = {path: score.numpy() for path, score in self.masks.scores.items()}
        learn_masks(run, targets, self.masks, self.descent, self.steps)


def two_layers(seed: int) -> Any:
    keras.utils.set_random_seed(seed)
    hidden = keras.layers.Dense(5, "relu", use_bias=False, name="hidden", dtype="float64")
    head = keras.layers.Dense(2, use_bias=False, name="head", dtype="float64")
    model = keras.Sequential([keras.Input((6,), dtype="float64"), hidden, head])
    model.compile("sgd", "mse", metrics=["mae"])
    return model


KEEP = {"hidden/kernel": 12, "head/kernel": 4}


def follow_by_hand(learn: Learn, x: np.ndarray, y: np.ndarray, kind: str, masks: LearnedMasks) -> dict[str, np.ndarray]:
    """The scores after learning, by loops of NumPy over examples; draws come from `masks`, at the scores of here."""
    scores = {path: score.copy() for path, score in learn.first.items()}
    velocity = {path: np.zeros_like(score) for path, score in scores.items()}
    w = learn.start
    d = learn.descent
    for step in range(learn.steps):
        if kind == "top":
            m = {}
            for path, keep in KEEP.items():
                order = np.argsort(-np.abs(scores[path]), axis=None, kind="stable")
                m[path] = np.zeros(w[path].shape)
                m[path].flat[order[:keep]] = 1
        else:
            for path, score in scores.items():
                masks.scores[path].assign(score)
            m = {path: mask.astype(float) for path, mask in masks.sample(step).items()}
        c = {path: mask.size / mask.sum() if kind == "rescaled" else 1.0 for path, mask in m.items()}
        v = {path: c[path] * w[path] * m[path] for path in w}
        g = {path: np.zeros_like(one) for path, one in w.items()}
        for one, goal in zip(x, y, strict=True):
            h = np.maximum(one @ v["hidden/kernel"], 0)
            out = 2 * (h @ v["head/kernel"] - goal) / y.size
            g["head/kernel"] += np.outer(h, out)
            g["hidden/kernel"] += np.outer(one, (v["head/kernel"] @ out) * (h > 0))
        rate = d.learning_rate * ((1 + np.cos(np.pi * step / learn.steps)) / 2 if d.cosine else 1)
        for path, score in scores.items():
            slope = g[path] * w[path]  # by the mask
            if kind == "rescaled":
                slope = c[path] * slope - m[path].size / m[path].sum() ** 2 * (slope * m[path]).sum()
            p = 1 / (1 + np.exp(-score))
            slope = slope * np.sign(score) if kind == "top" else slope * p * (1 - p)
            velocity[path] = d.momentum * velocity[path] + slope + d.weight_decay * score
            scores[path] = score - rate * velocity[path]
    return scores


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("kind", rows(["top", "drawn", "rescaled"], ["top", "rescaled"]))
def test_scores_follow_the_gradient_as_by_hand(kind: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(7, 6)), rng.normal(size=(7, 2))

    def make(targets: Any) -> LearnedMasks:
        if kind == "top":
            return TopScoreMasks(targets, [Share((path,), keep, None) for path, keep in KEEP.items()], seed=5)
        return BernoulliMasks(targets, start=0.3, seed=5, rescale=kind == "rescaled")

    descent = ScoreDescent(0.5, 0.9, 1e-2, cosine=True) if kind == "top" else ScoreDescent(3.0, 0.8)
    learn = Learn(make, descent, 25)
    found = tpi.run([learn], two_layers, ((x, y), (x, y)), steps=1, verbose=0)
    expected = follow_by_hand(learn, x, y, kind, make(find_prunable_variables(found.model).prunable))
    for path, score in learn.masks.scores.items():
        assert score.dtype == tf.float64
        assert np.abs(expected[path] - learn.first[path]).max() > 0.05
        np.testing.assert_allclose(score.numpy(), expected[path], rtol=1e-9, atol=1e-12)


CASES = [(recipe, kind, package) for recipe in ("supermask", "edge_popup") for kind in KINDS for package in KERAS]
USUAL = [
    ("supermask", "functional", "keras"),
    ("supermask", "nested", "tf_keras"),
    ("edge_popup", "subclassed", "keras"),
    ("edge_popup", "functional", "tf_keras"),
]


@pytest.mark.parametrize(("recipe", "kind", "package"), rows([c for c in CASES if c[1] != "self_writing"], USUAL))
def test_what_is_kept_has_the_bits_it_was_drawn_with(recipe: str, kind: str, package: str) -> None:
    x, y = model_kinds.data()

    def build_kind(seed: int) -> Any:
        return model_kinds.build(kind, package, seed=seed)

    options = {"sparsity": 0.5, "learning_rate": 1.0} if recipe == "edge_popup" else {"draws": 2}
    found = tpi.run(recipe, build_kind, ((x, y), (x, y)), steps=3, seed=4, verbose=0, **options)
    drawn, model = build_kind(4), found.model
    masks = dict(zip(read(model), found.masks.values(), strict=True))
    for before, after in zip(list_variables(drawn), list_variables(model), strict=True):
        w0, w = before.tensor.numpy(), after.tensor.numpy()
        if after.path in masks:
            mask = masks[after.path]
            assert w[mask].tobytes() == w0[mask].tobytes()
            assert not w[~mask].any()
            kept = int(mask.size * Fraction(1, 2)) if recipe == "edge_popup" else mask.sum()
            assert mask.sum() == kept
            assert 0 < kept < mask.size
        elif "moving" in after.path:
            assert not np.array_equal(w0, w)
        elif "seed" not in after.path:
            assert w0.tobytes() == w.tobytes()
    assert get_attached_masks(model) == found.masks


@pytest.mark.parametrize("package", KERAS)
def test_layers_that_write_to_their_kernel_are_refused_and_the_model_is_let_go(package: str) -> None:
    model = model_kinds.build("self_writing", package)
    x, y = model_kinds.data()
    with pytest.raises(EnforcementError, match=r"'normed'.*writes to its kernel"):
        tpi.run("supermask", lambda: model, ((x, y), (x, y)), steps=1, verbose=0)
    assert not any("call" in vars(layer) for layer in model.layers)


class Killed(Event):
    """Is killed the first time."""

    def __init__(self, times: int = 0) -> None:
        self.times = times

    def __repr__(self) -> str:
        return "Killed()"

    def apply(self, run: Any) -> None:
        self.times += 1
        if self.times == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("recipe", "sparsity", "options"), [("supermask", 0, {"choose": "sampled"}), ("edge_popup", 0.3, {})], ids=str
)
def test_runs_that_were_killed_end_with_the_same_bits(
    recipe: str, sparsity: float, options: dict[str, Any], tmp_path: Path
) -> None:
    (learn,) = tpi.training.RECIPES[recipe].make_events(plan(3, sparsity), options)

    def same(one: RunResult, other: RunResult) -> bool:
        weights = zip(one.model.get_weights(), other.model.get_weights(), strict=True)
        alike = all(a.tobytes() == b.tobytes() for a, b in weights)
        return alike and one.history == other.history and one.cost == other.cost

    events = [Train(2), Killed(), learn, Killed()]
    whole = run([Train(2), Killed(times=1), learn, Killed(times=1)])
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(events, folder=tmp_path / "run")
    assert same(whole, run(events, folder=tmp_path / "run"))


def plan(steps: int, sparsity: float) -> Any:
    return tpi.training.RunPlan(1 - Fraction(str(sparsity)), steps, 1)


def test_edge_popup_counts_exactly_whatever_the_allocation() -> None:
    found = run("edge_popup", sparsity=0.7)
    counts = {path: int(mask.sum()) for path, mask in found.masks.items()}
    assert counts == {path: int(size * Fraction(3, 10)) for path, size in SIZES.items()}
    assert (found.cost.training_steps, found.cost.scoring_steps) == (0, 4)
    assert found.cost.multiply_adds == 3 * 4 * 24 * sum(SIZES.values())
    assert (found.history[-1]["step"], found.history[-1]["density"]) == (4, found.masks.density)
    assert [sorted(epoch) for epoch in found.epochs] == [["loss"]] * 4  # of one step each
    together = run("edge_popup", sparsity=0.7, allocation="global").masks
    assert together.kept == int(sum(SIZES.values()) * Fraction(3, 10))
    assert {path: int(mask.sum()) for path, mask in together.items()} != counts
    by_layer = run([LearnTopScores(2, Fraction(1), {"b": 0.9})])
    assert {path: int(mask.sum()) for path, mask in by_layer.masks.items()} == {**SIZES, "b/kernel": 19}


def test_expected_and_drawn_networks_are_measured() -> None:
    """Scores that hardly move stay at the start, where every probability is a half."""

    def losses(**options: Any) -> tuple[dict[str, dict[str, Any]], RunResult]:
        found = run([LearnBernoulliMasks(2, learning_rate=1e-12, draws=3, **options)])
        return {row["event"]: row for row in found.history}, found

    dense_loss = build(0).evaluate(*DATA[1], verbose=0)[0]
    halved = build(0)
    for one in find_prunable_variables(halved).prunable:
        one.tensor.assign(one.tensor * 0.5)
    rows_, found = losses()
    assert [row["event"] for row in found.history] == ["sampled", "expected", "end"]
    assert rows_["expected"]["loss"] == pytest.approx(halved.evaluate(*DATA[1], verbose=0)[0], rel=1e-5)
    assert (rows_["expected"]["density"], rows_["expected"]["step"]) == (1, 2)
    # Three draws of 324 weights with probability a half: four deviations are .065.
    assert rows_["sampled"]["density"] == pytest.approx(0.5, abs=0.065)
    rescaled, _ = losses(rescale=True)
    assert rescaled["expected"]["loss"] == pytest.approx(dense_loss, rel=1e-5)
    assert rescaled["sampled"]["loss"] != rows_["sampled"]["loss"]
    # The mean over the draws, each by hand.
    masks = BernoulliMasks(find_prunable_variables(build(0)).prunable, seed=0)
    by_hand = []
    for number in (2, 3, 4):
        model = build(0)
        for one, mask in zip(find_prunable_variables(model).prunable, masks.sample(number).values(), strict=True):
            one.tensor.assign(one.tensor.numpy() * mask * np.float32(mask.size / mask.sum()))
        by_hand.append(model.evaluate(*DATA[1], verbose=0)[0])
    assert rescaled["sampled"]["loss"] == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_what_is_kept_of_a_rescaled_network_is_one_multiple_of_the_draw() -> None:
    found = run("supermask", rescale=True)
    for path, w in read(build(0)).items():
        mask, now = found.masks[path], read(found.model)[path]
        np.testing.assert_array_equal(
            now, np.where(mask, w.astype(float) * (mask.size / mask.sum()), 0).astype("float32")
        )
    assert len({float(mask.mean()) for mask in found.masks.values()}) > 1


def test_the_start_moves_how_many_are_kept() -> None:
    low, high = (run([LearnBernoulliMasks(4, start=start, choose="sampled", draws=0)]) for start in (-1.0, 1.0))
    assert high.masks.density - low.masks.density > 0.3
    assert [row["event"] for row in low.history] == ["end"]
    whole = run([LearnBernoulliMasks(1, learning_rate=1e-3, start=9.0, rescale=True, draws=0)])
    assert whole.masks.density == 1
    assert all(np.array_equal(w, read(build(0))[path]) for path, w in read(whole.model).items())


def test_a_mask_that_keeps_nothing_is_a_collapse() -> None:
    nothing = [LearnBernoulliMasks(1, learning_rate=1e-3, start=-1.0, draws=0)]
    with pytest.raises(
        NetworkCollapseError, match=r"no signal.*Thinnest: a/kernel \(0 kept\).*lower sparsity"
    ) as caught:
        run(nothing)
    assert caught.value.masks.kept == 0
    assert caught.value.report.to_dict()["empty"] == list(SIZES)
    with pytest.warns(NetworkCollapseWarning, match="no signal"):
        found = run(nothing, on_collapse="warn")
    assert found.masks.collapse is not None


def test_signed_constants_replace_the_weights_first() -> None:
    drawn = read(build(0))
    found = run("supermask", weights="signed_constant")
    for path, w in read(found.model).items():
        constant = np.std(drawn[path].astype(float))
        expected = np.where(found.masks[path], np.sign(drawn[path]) * constant, 0)
        np.testing.assert_allclose(w, expected, rtol=1e-6)
    popped = run("edge_popup", weights="signed_constant", sparsity=0.5)
    for path, w in read(popped.model).items():
        kept = w[popped.masks[path]]
        assert len(np.unique(np.abs(kept))) == 1
        np.testing.assert_array_equal(np.sign(kept), np.sign(drawn[path][popped.masks[path]]))
        fans = sum(drawn[path].shape)  # Glorot's uniform values have the variance 2 / (inputs + outputs)
        assert np.abs(kept[0]) == pytest.approx((2 / fans) ** 0.5, rel=0.1)


@functools.cache
def trained_weights() -> dict[str, np.ndarray]:
    return read(run([Train(4)]).model)


@pytest.mark.parametrize(
    "criterion", rows([name for name, one in TRAINING_CRITERIA.items() if not one.decides], ["movement", "random"])
)
def test_masks_from_a_training_lie_on_the_initial_weights(criterion: str) -> None:
    found = run("supermask_from_training", sparsity=0.5, criterion=criterion)
    initial = read(build(0))
    options = {"seed": 0} if criterion == "random" else {}
    masks = tpi.find_masks_from_training(
        build(0), initial, trained_weights(), criterion=criterion, sparsity=0.5, **options
    )
    assert found.masks == masks
    for path, w in read(found.model).items():
        np.testing.assert_array_equal(w, np.where(masks[path], initial[path], 0))
    biases = [one.tensor.numpy() for one in list_variables(found.model) if one.path.endswith("bias")]
    assert len(biases) == 3
    assert not any(bias.any() for bias in biases)
    assert (found.cost.training_steps, found.history[-1]["step"]) == (4, 4)


def test_signed_constants_of_masks_from_a_training_look_at_pruned_weights_too() -> None:
    found = run("supermask_from_training", sparsity=0.75, criterion="large_final_same_sign", weights="signed_constant")
    for path, w0 in read(build(0)).items():
        expected = np.where(found.masks[path], np.sign(w0) * np.std(w0.astype(float)), 0)
        np.testing.assert_allclose(read(found.model)[path], expected, rtol=1e-6)


def test_criteria_that_decide_how_many_stay_are_events() -> None:
    events = [Snapshot("start"), Train(4), PruneByTraining("large_final_same_sign_single", "start")]
    found = run([*events, Reinitialize("unchanged", weights="start")])
    trained, initial = trained_weights(), read(build(0))
    for path, mask in found.masks.items():
        np.testing.assert_array_equal(mask, np.sign(trained[path]) == np.sign(initial[path]))
        np.testing.assert_array_equal(read(found.model)[path], np.where(mask, initial[path], 0))


@pytest.mark.parametrize(
    ("procedure", "options", "words"),
    [
        ("supermask", {"sparsity": 0.5}, "finds itself how many weights stay"),
        ("supermask", {"start": float("nan")}, "start must be a number"),
        ("supermask", {"choose": "likley"}, "choose must be one of"),
        ("supermask", {"rescale": 1}, "rescale must be True or False"),
        ("supermask", {"draws": -1}, "draws must be"),
        ("supermask", {"learning_rate": 0}, "learning_rate must be a positive number"),
        ("supermask", {"momentum": 1.0}, "momentum must be in [0, 1)"),
        ("supermask", {"weights": "constant"}, 'weights must be "initial" or "signed_constant"'),
        ("supermask", {"leraning_rate": 1}, "Did you mean 'learning_rate'"),
        ("edge_popup", {}, "prunes to a sparsity"),
        ("edge_popup", {"sparsity": 0.5, "weight_decay": -1}, "weight_decay must be a number of at least 0"),
        ("edge_popup", {"sparsity": 0.5, "allocation": "unifrm"}, "Did you mean 'uniform'"),
        ("edge_popup", {"sparsity": 0.0}, "nothing to learn"),
        ("edge_popup", {"sparsity": 0.98}, "No weight would stay of c/kernel"),
        ("supermask_from_training", {"sparsity": 0.5, "criterion": "large_finl"}, "Did you mean 'large_final'"),
        (
            "supermask_from_training",
            {"sparsity": 0.5, "criterion": "large_final_diff_sign_single"},
            "Use 'large_final_diff_sign', or a list of events with PruneByTraining",
        ),
        ([Prune("magnitude", Fraction(1, 2)), LearnTopScores(1)], {}, "Put the event before any that prunes"),
        ([PruneByTraining("movement", "strat", Fraction(1, 2))], {}, "There is no snapshot 'strat'"),
        ([Reinitialize("unchanged", weights="strat")], {}, "There is no snapshot 'strat'"),
    ],
    ids=str,
)
def test_refused(procedure: Any, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        run(procedure, folder=tmp_path / "run", **options)
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_scores_that_explode_are_an_error_and_leave_the_weights() -> None:
    models = []

    def remember(seed: int) -> Any:
        models.append(build(seed))
        return models[-1]

    with pytest.raises(ScoreError, match=r"a/kernel.*NaN or infinite.*learning_rate=1e\+38"):
        run("edge_popup", remember, sparsity=0.5, learning_rate=1e38, steps=8)
    (model,) = models
    assert all(np.array_equal(w, read(build(0))[path]) for path, w in read(model).items())
    assert not any("call" in vars(layer) for layer in model.layers)


def test_the_command_line_learns_masks(tmp_path: Path) -> None:
    usual = ("lenet_300_100", "--data", "digits", "--epochs", "1", "-o", "run", "--json")
    done = call("run", "supermask", *usual, "--set", "rescale=True", "--set", "draws=0", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert (told["cost"]["training_steps"], told["cost"]["scoring_steps"]) == (0, 12)
    masks, model = tpi.Masks.load(tmp_path / "run" / "masks.npz"), keras.models.load_model(tmp_path / "run/model.keras")
    assert 0 < masks.kept == told["report"]["kept"] == sum(np.count_nonzero(w) for w in read(model).values())
    (epoch,) = json.loads((tmp_path / "run" / "history.json").read_text())["epochs"]
    assert set(epoch) == {"epoch", "loss", "val_loss", "val_accuracy"}


def test_data_that_are_no_numbers_are_an_error() -> None:
    x = np.where(np.arange(24)[:, None] == 7, np.nan, X[:24])
    with pytest.raises(ScoreError, match=r"loss of step 1 .* is nan.*data are finite"):
        tpi.run("supermask", build, ((x, Y[:24]), DATA[1]), steps=2, verbose=0)


def test_a_layer_that_the_loss_does_not_depend_on_is_an_error() -> None:
    def build_two(seed: int) -> Any:
        inputs = keras.Input((6,))
        outputs = [keras.layers.Dense(3, name=name)(inputs) for name in ("used", "unused")]
        model = keras.Model(inputs, outputs)
        model.compile("sgd", [loss(), None], metrics=[["accuracy"], []])
        return model

    with pytest.raises(ScoreError, match=r"does not depend on unused/kernel"):
        run("supermask", build_two)


def test_half_precision_that_underflows_is_refused_and_bfloat16_learns() -> None:
    def build_mixed(policy: str) -> Callable[[int], Any]:
        def make(seed: int) -> Any:
            with Policy(policy):
                return build(seed)

        return make

    with pytest.raises(ModelError, match=r"float16.*underflow.*mixed_bfloat16"):
        run("supermask", build_mixed("mixed_float16"))
    found = run("supermask", build_mixed("mixed_bfloat16"), draws=0)
    for path, w in read(build(0)).items():
        np.testing.assert_array_equal(read(found.model)[path], np.where(found.masks[path], w, 0))


@pytest.mark.process
def test_several_replicas_are_refused() -> None:
    code = """
import keras, tfprune_init as tpi
from tfprune_init.errors import ReplicaError

def build(seed):
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model

try:
    tpi.run("supermask", build, ((x, y), (x, y)), steps=1, verbose=0)
except ReplicaError as error:
    result["error"] = str(error)
print(json.dumps(result))
"""
    result = fresh_process(TWO_REPLICAS + code)
    assert result["replicas"] == 2
    assert "2 replicas" in result["error"]


@pytest.mark.parametrize("package", KERAS)
def test_statistics_are_those_of_the_masked_network_and_factors_stay(package: str) -> None:
    K = KERAS[package]

    def normalized(seed: int) -> Any:
        K.utils.set_random_seed(seed)
        hidden, norm = K.layers.Dense(5, use_bias=False, name="hidden"), K.layers.BatchNormalization(name="norm")
        model = K.Sequential([K.Input((6,)), hidden, norm, K.layers.ReLU(), K.layers.Dense(3, name="head")])
        model.compile("sgd", loss(K), metrics=["accuracy"])
        return model

    shares = [Share(("hidden/kernel",), 15, None), Share(("head/kernel",), 7, None)]
    targets = find_prunable_variables(normalized(0)).prunable
    start = TopScoreMasks(targets, shares, seed=0).choose()
    found = run("edge_popup", normalized, sparsity=0.5, steps=1)
    after = {one.path: one.tensor.numpy() for one in list_variables(found.model)}
    masked = X[:24].astype(float) @ (targets[0].tensor.numpy() * start["hidden/kernel"])
    np.testing.assert_allclose(after["norm/moving_mean"], 0.01 * masked.mean(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(after["norm/moving_variance"], 0.99 + 0.01 * masked.var(0), rtol=1e-4)
    assert after["norm/gamma"].tolist() == [1] * 5
    assert after["norm/beta"].tolist() == [0] * 5
