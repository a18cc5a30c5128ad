"""Scores of every criterion against float64 computations by hand, which share no code with the engine.

Each network is written twice: in Keras, and in NumPy. The NumPy one takes complex numbers, so a weight with an
imaginary part of 1e-30 gives the derivative to it to the last digits, and differences of these second derivatives.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from by_hand import batchnorm, conv, variables
from model_kinds import KERAS

import tfprune_init as tpi
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.scoring import ScoringEngine
from tfprune_init.scoring import engine as scoring_engine

Arrays = dict[str, np.ndarray]
TINY = 1e-30


@pytest.fixture(params=list(KERAS), name="K")
def either_keras_in_float64(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from in_float64(KERAS[request.param])


@pytest.fixture(name="keras64")
def keras_3_in_float64() -> Iterator[Any]:
    yield from in_float64(keras)


def in_float64(K: Any) -> Iterator[Any]:
    def set_to(dtype: str) -> None:
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        tf_keras.backend.set_floatx(dtype)
        tf_keras.mixed_precision.set_global_policy(dtype)

    set_to("float64")
    try:
        yield K
    finally:
        set_to("float32")


# The networks, in Keras and by hand.


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log(1 + np.exp(x))


def mlp(K: Any) -> Any:
    return K.Sequential(
        [
            K.layers.Input((5,)),
            K.layers.Dense(6, activation="tanh", name="a"),
            K.layers.Dense(5, activation="softplus", name="b"),
            K.layers.Dense(3, name="c"),
        ]
    )


def mlp_by_hand(w: Arrays, x: np.ndarray, training: bool, unit: Callable) -> np.ndarray:
    x = unit("a", np.tanh(x @ w["a/kernel"] + w["a/bias"]))
    x = unit("b", softplus(x @ w["b/kernel"] + w["b/bias"]))
    return unit("c", x @ w["c/kernel"] + w["c/bias"])


def normalized(K: Any) -> Any:
    return K.Sequential(
        [
            K.layers.Input((5,)),
            K.layers.Dense(6, use_bias=False, name="a"),
            K.layers.BatchNormalization(name="bn"),
            K.layers.Activation("softplus", name="softplus"),
            K.layers.Dense(3, name="b"),
        ]
    )


def normalized_by_hand(w: Arrays, x: np.ndarray, training: bool, unit: Callable) -> np.ndarray:
    x = softplus(batchnorm(unit("a", x @ w["a/kernel"]), w, "bn", training))
    return unit("b", x @ w["b/kernel"] + w["b/bias"])


def cnn(K: Any) -> Any:
    return K.Sequential(
        [
            K.layers.Input((5, 5, 2)),
            K.layers.Conv2D(3, 3, use_bias=False, name="conv1"),
            K.layers.BatchNormalization(name="bn1"),
            K.layers.Activation("tanh", name="tanh"),
            K.layers.Conv2D(4, 2, activation="softplus", name="conv2"),
            K.layers.Flatten(name="flat"),
            K.layers.Dense(3, name="head"),
        ]
    )


def cnn_by_hand(w: Arrays, x: np.ndarray, training: bool, unit: Callable) -> np.ndarray:
    x = unit("conv1", conv(x, w["conv1/kernel"]))
    x = np.tanh(batchnorm(x, w, "bn1", training))
    x = unit("conv2", softplus(conv(x, w["conv2/kernel"]) + w["conv2/bias"]))
    return unit("head", x.reshape(len(x), -1) @ w["head/kernel"] + w["head/bias"])


def residual(K: Any) -> Any:
    inputs = K.Input((5, 5, 2))
    x = K.layers.Conv2D(4, 3, use_bias=False, name="stem")(inputs)
    x = K.layers.BatchNormalization(name="bn0")(x)
    x = K.layers.Activation("softplus", name="softplus")(x)
    y = K.layers.Conv2D(3, 3, padding="same", use_bias=False, name="conv1")(x)
    y = K.layers.BatchNormalization(name="bn1")(y)
    y = K.layers.Add(name="add")([y, K.layers.Conv2D(3, 1, name="short")(x)])
    y = K.layers.Activation("tanh", name="tanh")(y)
    y = K.layers.GlobalAveragePooling2D(name="pool")(y)
    return K.Model(inputs, K.layers.Dense(3, name="head")(y))


def residual_by_hand(w: Arrays, x: np.ndarray, training: bool, unit: Callable) -> np.ndarray:
    x = softplus(batchnorm(unit("stem", conv(x, w["stem/kernel"])), w, "bn0", training))
    y = batchnorm(unit("conv1", conv(x, w["conv1/kernel"], same=True)), w, "bn1", training)
    y = np.tanh(y + unit("short", conv(x, w["short/kernel"]) + w["short/bias"]))
    return unit("head", y.mean((1, 2)) @ w["head/kernel"] + w["head/bias"])


RNG = np.random.default_rng(11)
IMAGES = RNG.normal(size=(12, 5, 5, 2))
ROWS = RNG.normal(size=(40, 5))


@dataclass(frozen=True)
class Net:
    build: Callable[[Any], Any]
    forward: Callable[..., np.ndarray]
    x: np.ndarray
    kernels: tuple[str, ...]

    @property
    def y(self) -> np.ndarray:
        return np.random.default_rng(2).integers(0, 3, len(self.x))

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        return self.x, self.y

    def batched(self, size: int) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(self.data).batch(size)

    def model(self, K: Any, seed: int = 0, **compiled: Any) -> Any:
        """Compiled, with random weights, scales, offsets and statistics, so that nothing is 0 or 1 by accident."""
        model = self.build(K)
        rng = np.random.default_rng(seed)
        for path, variable in variables(model).items():
            positive = path.endswith(("gamma", "moving_variance"))
            variable.assign(rng.uniform(0.5, 1.5, variable.shape) if positive else rng.normal(0, 0.5, variable.shape))
        model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True), **compiled)
        return model

    def loss(self, rows: slice = slice(None), training: bool = True, temperature: float = 1.0) -> Callable[..., Any]:
        """Cross-entropy by hand, as a function of the weights and of a factor on each unit's output."""

        def loss(w: Arrays, factors: Mapping[str, np.ndarray] | None = None) -> Any:
            given = factors or {}
            z = self.forward(w, self.x[rows], training, lambda name, out: out * given.get(name, 1.0)) / temperature
            own = z[np.arange(len(z)), self.y[rows]]
            return np.mean(np.log(np.exp(z).sum(1)) - own)

        return loss


NETS = {
    "mlp": Net(mlp, mlp_by_hand, ROWS, ("a/kernel", "b/kernel", "c/kernel")),
    "normalized": Net(normalized, normalized_by_hand, ROWS, ("a/kernel", "b/kernel")),
    "cnn": Net(cnn, cnn_by_hand, IMAGES, ("conv1/kernel", "conv2/kernel", "head/kernel")),
    "residual": Net(residual, residual_by_hand, IMAGES, ("stem/kernel", "conv1/kernel", "short/kernel", "head/kernel")),
}
each_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)
nets_with_batchnorm = pytest.mark.parametrize("net", list(NETS.values())[1:], ids=list(NETS)[1:])
MLP, NORMALIZED, CNN, RESIDUAL = NETS.values()


def weights_of(model: Any) -> Arrays:
    return {path: np.asarray(v).astype("float64") for path, v in variables(model).items()}


# Derivatives by hand.


def gradient(loss: Callable, w: Arrays, paths: tuple[str, ...]) -> Arrays:
    found = {}
    for path in paths:
        found[path] = np.empty(w[path].shape)
        for i in range(w[path].size):
            moved = w[path].astype(complex)
            moved.flat[i] += TINY * 1j
            found[path].flat[i] = loss({**w, path: moved}).imag / TINY
    return found


def along(function: Callable[[float], Any], step: float) -> Any:
    """The derivative at 0, to the fourth order."""
    near, far = function(step) - function(-step), function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


def hessian_times(loss: Callable, w: Arrays, vector: Arrays) -> Arrays:
    paths = tuple(vector)

    def flat(t: float) -> np.ndarray:
        g = gradient(loss, {**w, **{p: w[p] + t * vector[p] for p in paths}}, paths)
        return np.concatenate([g[p].ravel() for p in paths])

    product = along(flat, 1e-3 / max(abs(v).max() for v in vector.values()))
    return split(product, vector)


def curvatures(loss: Callable, w: Arrays, paths: tuple[str, ...]) -> Arrays:
    found = {}
    for path in paths:
        found[path] = np.empty(w[path].shape)
        for i in range(w[path].size):

            def slope(t: float, path: str = path, i: int = i) -> float:
                moved = w[path].astype(complex)
                moved.flat[i] += t + TINY * 1j
                return float(loss({**w, path: moved}).imag / TINY)

            found[path].flat[i] = along(slope, 1e-3)
    return found


def unit_slopes(loss: Callable, w: Arrays, paths: tuple[str, ...]) -> Arrays:
    """dL/dc at c = 1 for a factor c on each unit's output."""
    found = {}
    for path in paths:
        name, units = path.split("/")[0], w[path].shape[-1]
        found[path] = np.array([loss(w, {name: 1 + TINY * 1j * one}).imag / TINY for one in np.eye(units)])
    return found


def averaged(net: Net, sizes: list[int], derive: Callable[[Callable], Arrays], **options: Any) -> Arrays:
    """The mean of what `derive` finds on consecutive batches, by examples."""
    ends = np.cumsum(sizes)
    parts = [derive(net.loss(slice(end - size, end), **options)) for size, end in zip(sizes, ends, strict=True)]
    return {p: sum(n * part[p] for n, part in zip(sizes, parts, strict=True)) / sum(sizes) for p in parts[0]}


def split(flat: np.ndarray, like: Arrays) -> Arrays:
    parts = np.split(flat, np.cumsum([v.size for v in like.values()])[:-1])
    return {p: part.reshape(like[p].shape) for p, part in zip(like, parts, strict=True)}


def assert_scores(found: Arrays, expected: Arrays, tolerance: float = 1e-8, paths: tuple[str, ...] = ()) -> None:
    """Equal to within a share of each variable's largest score; and there is something to compare."""
    assert list(found) == list(paths or expected)
    for path in found:
        largest = abs(expected[path]).max()
        assert largest > 0
        np.testing.assert_allclose(found[path], expected[path], rtol=0, atol=tolerance * largest, err_msg=path)


def worst(found: Arrays, expected: Arrays) -> float:
    """The largest difference, as a share of its variable's largest score."""
    return max(float(abs(found[p] - expected[p]).max() / abs(expected[p]).max()) for p in expected)


def masks_for(net: Net, w: Arrays, share: float = 0.6) -> tpi.Masks:
    return tpi.Masks({p: np.random.default_rng(5).random(w[p].shape) < share for p in net.kernels})


def masked(w: Arrays, masks: Mapping[str, np.ndarray]) -> Arrays:
    return {p: v * masks[p] if p in masks else v for p, v in w.items()}


def top(scores: Arrays, keep: int, alive: Mapping[str, np.ndarray] | None = None) -> Arrays:
    """The `keep` best by sorting everything, ties to the lower position."""
    flat = np.concatenate([s.ravel() for s in scores.values()])
    if alive is not None:
        flat[~np.concatenate([alive[p].ravel() for p in scores])] = -np.inf
    chosen = np.zeros(flat.size, bool)
    chosen[np.argsort(-flat, kind="stable")[:keep]] = True
    return split(chosen, scores)


def assert_masks(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for path in found:
        np.testing.assert_array_equal(found[path], expected[path], err_msg=path)


@each_net
@pytest.mark.parametrize("training", [True, False])
def test_the_networks_by_hand_are_those_in_keras(K: Any, net: Net, training: bool) -> None:
    model = net.model(K)
    w = weights_of(model)
    assert {v.dtype.name if hasattr(v.dtype, "name") else v.dtype for v in model.weights} == {"float64"}
    found = np.asarray(model(net.x, training=training))
    np.testing.assert_allclose(found, net.forward(w, net.x, training, lambda name, out: out), rtol=1e-12, atol=1e-12)


# GraSP.


def grasp_by_hand(loss: Callable, w: Arrays, net: Net) -> Arrays:
    products = hessian_times(loss, w, gradient(loss, w, net.kernels))
    return {p: w[p] * products[p] for p in net.kernels}


@each_net
def test_grasp_is_w_times_hg_at_temperature_200(K: Any, net: Net) -> None:
    model = net.model(K)
    expected = grasp_by_hand(net.loss(temperature=200.0), weights_of(model), net)
    assert_scores(tpi.score(model, net.data, "grasp"), expected)
    assert min(s.min() for s in expected.values()) < 0 < max(s.max() for s in expected.values())


@each_net
def test_grasp_at_temperature_1(keras64: Any, net: Net) -> None:
    model = net.model(keras64)
    expected = grasp_by_hand(net.loss(), weights_of(model), net)
    found = tpi.score(model, net.data, "grasp", temperature=1)
    assert_scores(found, expected)
    at_200 = tpi.score(model, net.data, "grasp")
    # Not only another scale: other connections come first.
    orders = [np.argsort(np.concatenate([s.ravel() for s in scores.values()])) for scores in (found, at_200)]
    assert not np.array_equal(*orders)


@nets_with_batchnorm
def test_grasp_differentiates_batch_statistics_twice(K: Any, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Keras's own moments, which stop a gradient, the scores are wrong by far: the tests above can fail."""
    model = net.model(K)
    expected = grasp_by_hand(net.loss(temperature=200.0), weights_of(model), net)
    monkeypatch.setattr("tfprune_init.scoring.measures.gradients.use_differentiable_moments", contextlib.nullcontext)
    assert worst(tpi.score(model, net.data, "grasp"), expected) > 1e-4


@pytest.mark.parametrize("K", KERAS.values(), ids=KERAS)
@nets_with_batchnorm
def test_grasp_in_float32(K: Any, net: Net) -> None:
    """tf_keras has a fused kernel for BatchNorm of images there, with a second derivative of its own."""
    model = net.model(K)
    found = tpi.score(model, (net.x.astype("float32"), net.y), "grasp")
    assert {s.dtype for s in found.values()} == {np.dtype("float32")}
    assert_scores(found, grasp_by_hand(net.loss(temperature=200.0), weights_of(model), net), 2e-5)


def test_grasp_judges_by_inference_if_told(keras64: Any) -> None:
    model = CNN.model(keras64)
    expected = grasp_by_hand(CNN.loss(training=False, temperature=200.0), weights_of(model), CNN)
    assert_scores(tpi.score(model, CNN.data, "grasp", training=False), expected)


def test_removing_what_grasp_removes_moves_the_gradient_as_predicted(keras64: Any) -> None:
    """|g|^2 changes by -2 t w (Hg) when a share t of a weight is removed: up for the smallest, negative scores."""
    model = MLP.model(keras64)
    w, loss = weights_of(model), MLP.loss(temperature=200.0)
    scores = tpi.score(model, MLP.data, "grasp")
    kept = tpi.find_masks(model, MLP.data, sparsity=0.2, method="grasp")

    def squared_norm(t: float, removed: Mapping[str, np.ndarray]) -> float:
        moved = {**w, **{p: w[p] * (1 - t * removed[p]) for p in removed}}
        return float(sum((g**2).sum() for g in gradient(loss, moved, MLP.kernels).values()))

    removed = {p: ~kept[p] for p in MLP.kernels}
    lowest = sum(float(scores[p][removed[p]].sum()) for p in removed)
    assert lowest < 0
    assert squared_norm(1e-3, removed) > squared_norm(0, removed)
    assert along(lambda t: squared_norm(t, removed), 1e-3) == pytest.approx(-2 * lowest, rel=1e-7)
    for best in (True, False):  # and one by one: the very best, the very worst
        pick = {p: np.zeros(s.shape, bool) for p, s in scores.items()}
        path = (max if best else min)(scores, key=lambda p: scores[p].max() if best else -abs(scores[p].min()))
        place = int(np.argmax(scores[path]) if best else np.argmin(scores[path]))
        pick[path].flat[place] = True
        slope = along(lambda t, pick=pick: squared_norm(t, pick), 1e-3)
        assert slope == pytest.approx(-2 * scores[path].flat[place], rel=1e-7)
        assert (slope < 0) == best


@pytest.mark.parametrize(("net", "sizes"), [(MLP, [16, 16, 8]), (CNN, [8, 4])], ids=["mlp", "cnn"])
def test_grasp_averages_gradient_and_product_by_examples(keras64: Any, net: Net, sizes: list[int]) -> None:
    model = net.model(keras64)
    w = weights_of(model)
    g = averaged(net, sizes, lambda loss: gradient(loss, w, net.kernels), temperature=200.0)
    products = averaged(net, sizes, lambda loss: hessian_times(loss, w, g), temperature=200.0)
    expected = {p: w[p] * products[p] for p in net.kernels}
    assert_scores(tpi.score(model, net.batched(sizes[0]), "grasp", batches=len(sizes)), expected)
    each_its_own = averaged(net, sizes, lambda loss: grasp_by_hand(loss, w, net), temperature=200.0)
    assert worst(each_its_own, expected) > 1e-2


def test_grasp_under_masks(keras64: Any) -> None:
    """The gradient that flows is that of what is kept; what was pruned is scored too, at its dense weight."""
    model = RESIDUAL.model(keras64)
    w, loss = weights_of(model), RESIDUAL.loss(temperature=200.0)
    masks = masks_for(RESIDUAL, w)
    thin = masked(w, masks)
    flowing = {p: g * masks[p] for p, g in gradient(loss, thin, RESIDUAL.kernels).items()}
    products = hessian_times(loss, thin, flowing)
    found = tpi.score(model, RESIDUAL.data, "grasp", masks=masks)
    assert_scores(found, {p: w[p] * products[p] for p in RESIDUAL.kernels})
    assert all(found[p][~masks[p]].any() for p in RESIDUAL.kernels)


def test_temperature_needs_logits(K: Any) -> None:
    model = MLP.model(K)
    w = weights_of(model)
    probabilities = K.Sequential([K.layers.Input((5,)), *model.layers, K.layers.Softmax()])
    probabilities.compile("sgd", K.losses.SparseCategoricalCrossentropy())
    for options in ({}, {"temperature": 2.0}):
        with pytest.raises(OptionError, match="does not take logits"):
            tpi.score(probabilities, MLP.data, "grasp", **options)
    assert_scores(tpi.score(probabilities, MLP.data, "grasp", temperature=1), grasp_by_hand(MLP.loss(), w, MLP), 1e-6)


@pytest.mark.parametrize("temperature", [0, -1.0, True, "hot"])
def test_temperature_is_a_positive_number(temperature: Any) -> None:
    with pytest.raises(OptionError, match="temperature must be a positive number"):
        tpi.score(MLP.model(keras), MLP.data, "grasp", temperature=temperature)


# Curvature.


@each_net
def test_hessian_is_the_exact_diagonal(K: Any, net: Net) -> None:
    model = net.model(K)
    w = weights_of(model)
    h = curvatures(net.loss(), w, net.kernels)
    assert_scores(tpi.score(model, net.data, "hessian"), {p: w[p] ** 2 * h[p] for p in net.kernels})


def test_hessian_over_batches_and_under_masks(keras64: Any) -> None:
    model = CNN.model(keras64)
    w = weights_of(model)
    masks = masks_for(CNN, w)
    h = averaged(CNN, [8, 4], lambda loss: curvatures(loss, masked(w, masks), CNN.kernels))
    found = tpi.score(model, CNN.batched(8), "hessian", estimator="exact", batches=2, masks=masks)
    assert_scores(found, {p: w[p] ** 2 * h[p] for p in CNN.kernels})


def test_hutchinson_is_unbiased_with_the_variance_of_random_signs(keras64: Any) -> None:
    model = MLP.model(keras64)
    w, loss, samples = weights_of(model), MLP.loss(), 600
    shapes = {p: w[p] for p in MLP.kernels}
    size = sum(v.size for v in shapes.values())
    columns = [hessian_times(loss, w, split(one, shapes)) for one in np.eye(size)]
    H = np.array([np.concatenate([v.ravel() for v in column.values()]) for column in columns])
    np.testing.assert_allclose(H, H.T, atol=1e-9)
    diagonal = np.diag(H)
    deviation = np.sqrt(((H - np.diag(diagonal)) ** 2).sum(1) / samples)
    assert np.median(deviation / abs(diagonal)) < 0.3  # so the bounds below say something

    def estimate(**options: Any) -> np.ndarray:
        found = tpi.score(model, MLP.data, "hessian", estimator="hutchinson", **options)
        return np.concatenate([(found[p] / w[p] ** 2).ravel() for p in MLP.kernels])

    many = estimate(samples=samples, seed=3)
    z = (many - diagonal) / deviation
    # 75 standard normals: one beyond 5 in 1 of 20,000 seeds.
    assert abs(z).max() < 5
    assert 0.6 < np.sqrt((z**2).mean()) < 1.4
    # One sample is far off, is the same for the same seed, and is v * Hv for signs v.
    one, again, other = estimate(seed=1), estimate(seed=1), estimate(seed=2)
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other, rtol=1e-2)
    assert abs((one - diagonal) / deviation).max() > 10


@pytest.mark.parametrize("method", ["hessian", "snip2"])
def test_options_of_the_diagonal(method: str) -> None:
    model, data = MLP.model(keras), (ROWS.astype("float32"), MLP.y)
    for estimator in ("exact", "auto"):
        with pytest.raises(OptionError, match="samples has no effect on the exact diagonal"):
            tpi.score(model, data, method, samples=4, estimator=estimator)
    with pytest.raises(OptionError, match="estimator must be"):
        tpi.score(model, data, method, estimator="hutchison")
    for samples in (0, 1.5, True):
        with pytest.raises(OptionError, match="samples must be a positive integer"):
            tpi.score(model, data, method, estimator="hutchinson", samples=samples)


def test_auto_is_exact_up_to_5000_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = MLP.model(keras), (ROWS.astype("float32"), MLP.y)
    size = find_prunable_variables(model).size
    scores = {name: tpi.score(model, data, "hessian", estimator=name) for name in ("auto", "exact", "hutchinson")}
    assert_masks(scores["auto"], scores["exact"])
    assert worst(scores["auto"], scores["hutchinson"]) > 0.1
    assert scoring_engine._AFFORDABLE == 5_000
    monkeypatch.setattr("tfprune_init.scoring.engine._AFFORDABLE", size - 1)
    assert_masks(tpi.score(model, data, "hessian"), scores["hutchinson"])
    assert_masks(tpi.score(model, data, "hessian", estimator="exact"), scores["exact"])


@each_net
def test_snip2_takes_both_derivatives_on_the_same_batches(keras64: Any, net: Net) -> None:
    model = net.model(keras64)
    w = weights_of(model)
    size = len(net.x) // 4
    g = averaged(net, [size, size], lambda loss: gradient(loss, w, net.kernels))
    h = averaged(net, [size, size], lambda loss: curvatures(loss, w, net.kernels))
    expected = {p: abs(g[p] * w[p] - h[p] * w[p] ** 2 / 2) for p in net.kernels}
    assert_scores(tpi.score(model, net.batched(size), "snip2", batches=2), expected)


# The loss itself.


def changes_by_hand(loss: Callable, w: Arrays, paths: tuple[str, ...]) -> Arrays:
    """Signed: L(w_j = 0) - L(w)."""
    whole = loss(w)
    found = {p: np.empty(w[p].shape) for p in paths}
    for path in paths:
        for i in range(w[path].size):
            without = w[path].copy()
            without.flat[i] = 0
            found[path].flat[i] = loss({**w, path: without}) - whole
    return found


def absolute(scores: Arrays) -> Arrays:
    return {p: abs(s) for p, s in scores.items()}


@each_net
def test_exact_tries_every_weight_in_inference(K: Any, net: Net) -> None:
    model = net.model(K)
    expected = absolute(changes_by_hand(net.loss(training=False), weights_of(model), net.kernels))
    assert_scores(tpi.score(model, net.data, "exact"), expected, 1e-11)


@nets_with_batchnorm
def test_exact_tries_every_weight_on_batch_statistics(K: Any, net: Net) -> None:
    model = net.model(K)
    expected = absolute(changes_by_hand(net.loss(), weights_of(model), net.kernels))
    assert_scores(tpi.score(model, net.data, "exact", training=True), expected, 1e-11)


@nets_with_batchnorm
def test_exact_over_two_batches_and_under_masks(keras64: Any, net: Net) -> None:
    model = net.model(keras64)
    w = weights_of(model)
    masks = masks_for(net, w)
    sizes = [2 * len(net.x) // 3, len(net.x) - 2 * len(net.x) // 3]
    expected = averaged(net, sizes, lambda loss: changes_by_hand(loss, masked(w, masks), net.kernels))
    found = tpi.score(model, net.batched(sizes[0]), "exact", batches=2, training=True, masks=masks)
    assert_scores(found, absolute(expected), 1e-11)
    # Nothing changes where nothing is left, but for the rounding of a loss.
    assert max(found[p][~masks[p]].max() for p in net.kernels) < 1e-14


@pytest.mark.parametrize("K", KERAS.values(), ids=KERAS)
def test_exact_with_a_loss_that_adds_examples_up(K: Any) -> None:
    """The mean over two batches is that over all examples, whether the loss takes the mean or the sum."""
    K.utils.set_random_seed(0)
    model = K.Sequential([K.Input((4,)), K.layers.Dense(3, "tanh", name="a"), K.layers.Dense(2, name="b")])
    x, y = np.random.default_rng(0).normal(size=(12, 4)).astype("float32"), np.arange(12) % 2
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)

    def scores(reduction: str) -> dict[str, np.ndarray]:
        loss = K.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
        return tpi.score(model, data, "exact", loss=loss, batches=2)

    mean = scores("sum_over_batch_size")
    for path, added_up in scores("sum").items():
        np.testing.assert_allclose(added_up, mean[path], rtol=1e-9)
        assert added_up.all()


@pytest.mark.parametrize("K", KERAS.values(), ids=KERAS)
@nets_with_batchnorm
def test_exact_is_exact_for_float32_models(K: Any, net: Net) -> None:
    model = net.model(K)
    assert {str(tf.as_dtype(v.dtype).name) for v in model.weights} == {"float32"}
    x = net.x.astype("float32")
    copy = Net(net.build, net.forward, x.astype("float64"), net.kernels)
    expected = absolute(changes_by_hand(copy.loss(training=False), weights_of(model), net.kernels))
    found = tpi.score(model, (x, net.y), "exact")
    assert {s.dtype for s in found.values()} == {np.dtype("float64")}
    for path in net.kernels:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-6, atol=1e-14)
    # What float32 would have given is off by far in the small differences.
    narrow = {p: v.astype("float32") for p, v in weights_of(model).items()}
    rough = absolute(changes_by_hand(Net(net.build, net.forward, x, net.kernels).loss(training=False), narrow,
                                     net.kernels))  # fmt: skip
    off = np.concatenate([abs(rough[p] / expected[p] - 1).ravel() for p in net.kernels])
    assert off.max() > 1e-4


def test_exact_on_a_sample(keras64: Any) -> None:
    model = CNN.model(keras64)
    size = find_prunable_variables(model).size
    every = tpi.score(model, CNN.data, "exact")
    places = []
    for count, seed in ((20, 3), (20, 3), (20, 4), (size, 0)):
        found = tpi.score(model, CNN.data, "exact", sample=count, seed=seed)
        tried = {p: ~np.isnan(s) for p, s in found.items()}
        assert sum(t.sum() for t in tried.values()) == count
        for path, where in tried.items():
            np.testing.assert_array_equal(found[path][where], every[path][where])
        places.append(np.concatenate([where.ravel() for where in tried.values()]))
    np.testing.assert_array_equal(places[0], places[1])
    assert not np.array_equal(places[0], places[2])
    for sample in (0, size + 1, 2.0, True):
        with pytest.raises(OptionError, match=r"sample must be a (number of weights|positive integer)"):
            tpi.score(model, CNN.data, "exact", sample=sample)
    with pytest.raises(OptionError, match="sample leaves weights without a score"):
        tpi.find_masks(model, CNN.data, sparsity=0.5, method="exact", sample=5)


def test_exact_masks_keep_the_largest_changes(keras64: Any) -> None:
    model = MLP.model(keras64)
    expected = absolute(changes_by_hand(MLP.loss(), weights_of(model), MLP.kernels))
    size = sum(v.size for v in expected.values())
    assert_masks(tpi.find_masks(model, MLP.data, sparsity=0.6, method="exact"), top(expected, size * 4 // 10))


@pytest.mark.parametrize("training", [False, True])
def test_exact_sees_the_same_dropout_for_every_weight(training: bool) -> None:
    """A weight that is zero already changes nothing, to the last bit."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((5,)), keras.layers.Dense(8, name="a"), keras.layers.Dropout(0.5), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kernel = model.get_layer("a").kernel
    zero = np.random.default_rng(0).random(kernel.shape) < 0.5
    kernel.assign(np.where(zero, 0, np.asarray(kernel)))
    found = tpi.score(model, (ROWS.astype("float32"), MLP.y), "exact", training=training)["a/kernel"]
    assert not found[zero].any()
    assert (found[~zero] > 0).all()


def test_exact_refuses_dropout_that_tf_keras_draws_anew() -> None:
    layers = [tf_keras.layers.Input((5,)), tf_keras.layers.Dropout(0.5, name="drop"), tf_keras.layers.Dense(3)]
    model = tf_keras.Sequential(layers)
    model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = (ROWS.astype("float32"), MLP.y)
    with pytest.raises(ModelError, match="drop"):
        tpi.score(model, data, "exact", training=True)
    assert all((s > 0).all() for s in tpi.score(model, data, "exact").values())


# First order, and magnitude.


@each_net
def test_grad_norm_and_grasp_it(K: Any, net: Net) -> None:
    model = net.model(K)
    w = weights_of(model)
    masks = masks_for(net, w)
    assert_scores(tpi.score(model, net.data, "grad_norm"), absolute(gradient(net.loss(), w, net.kernels)), 1e-11)
    squares = {p: g**2 for p, g in gradient(net.loss(), masked(w, masks), net.kernels).items()}
    found = tpi.score(model, net.data, "grasp_it", masks=masks)
    assert_scores(found, squares, 1e-11)
    assert all(found[p][~masks[p]].any() for p in net.kernels)


def test_magnitude_is_the_weight(K: Any) -> None:
    model = RESIDUAL.model(K)
    w = weights_of(model)
    expected = {p: abs(w[p]) for p in RESIDUAL.kernels}
    assert_masks(tpi.score(model, None, "magnitude"), expected)
    size = sum(v.size for v in expected.values())
    kept = tpi.find_masks(model, None, sparsity=0.75, method="magnitude")
    assert_masks(kept, top(expected, size // 4))


def test_grasp_it_runs_as_by_hand(keras64: Any) -> None:
    model = MLP.model(keras64)
    w, density, steps = weights_of(model), 0.3, 5
    masks: Arrays = {p: np.ones(w[p].shape, bool) for p in MLP.kernels}
    size = sum(m.size for m in masks.values())
    for t in range(1, steps + 1):
        rows = slice(10 * ((t - 1) % 4), 10 * ((t - 1) % 4) + 10)
        g = gradient(MLP.loss(rows), masked(w, masks), MLP.kernels)
        masks = top({p: v**2 for p, v in g.items()}, int(size * density ** (t / steps)), alive=masks)
    found = tpi.find_masks(model, MLP.batched(10), sparsity=1 - density, method="grasp_it", steps=steps)
    assert_masks(found, masks)


def halvings(sparsity: float) -> list[float]:
    """Half at once, then half of what is left to prune, five times, then the rest; never more than asked for."""
    reached = [0.5]
    for _ in range(5):
        reached.append(reached[-1] + (sparsity - reached[-1]) / 2)
    return [*np.minimum(reached, sparsity), sparsity]


@pytest.mark.parametrize(("net", "size"), [(MLP, 8), (CNN, 5)], ids=["mlp", "cnn"])
def test_snip_it_runs_as_by_hand(keras64: Any, net: Net, size: int) -> None:
    """Seven events of five batches each, the next ones each time, in inference mode; nothing grows back."""
    model = net.model(keras64)
    w, sparsity = weights_of(model), 0.7
    firsts = itertools.cycle(range(0, len(net.x), size))
    masks: Arrays = {p: np.ones(w[p].shape, bool) for p in net.kernels}
    total = sum(m.size for m in masks.values())
    kept, pruned = [], []
    for share in halvings(sparsity):
        thin = masked(w, masks)
        five = [slice(first, min(first + size, len(net.x))) for first in itertools.islice(firsts, 5)]
        examples = [rows.stop - rows.start for rows in five]
        slopes = [gradient(net.loss(rows, training=False), thin, net.kernels) for rows in five]
        g = {p: sum(n * s[p] for n, s in zip(examples, slopes, strict=True)) / sum(examples) for p in net.kernels}
        scores = {p: abs(w[p] * g[p]) for p in net.kernels}
        pruned.append(masks)
        masks = top(scores, int(total * (1 - share) + 1e-9), alive=masks)
        kept.append(sum(int(m.sum()) for m in masks.values()))
    free = top(scores, kept[-1])
    assert any((free[p] & ~pruned[-1][p]).any() for p in masks)  # what was pruned would have come back
    report = tpi.prune_at_init(model, net.batched(size), sparsity=sparsity, method="snip_it", verbose=0)
    np.testing.assert_allclose([1 - step.density for step in report.steps], halvings(sparsity), rtol=1e-12)
    assert [step.kept for step in report.steps] == kept
    assert_masks(report.masks, masks)


# Whole units.


def spread(units: Arrays, w: Arrays) -> Arrays:
    return {p: np.broadcast_to(s / (w[p].size / s.size), w[p].shape) for p, s in units.items()}


@each_net
def test_unit_scores_are_slopes_in_a_factor_on_the_output(K: Any, net: Net) -> None:
    model = net.model(K)
    w = weights_of(model)
    slopes = unit_slopes(net.loss(), w, net.kernels)
    both = np.concatenate(list(slopes.values()))
    assert both.min() < 0 < both.max()
    for method, units in (("skeletonization", {p: -s for p, s in slopes.items()}), ("snap_it", absolute(slopes))):
        given = {"batches": 2, "training": True} if method == "snap_it" else {}  # one batch, seen twice
        found = tpi.score(model, net.data, method, **given)
        assert_scores(found, spread(units, w), 1e-11)
        assert_scores({p: s.reshape(-1, s.shape[-1]).sum(0) for p, s in found.items()}, units, 1e-11)


def test_snap_it_looks_at_five_batches_in_inference_and_under_masks(keras64: Any) -> None:
    model = CNN.model(keras64)
    w = weights_of(model)
    masks = masks_for(CNN, w)
    slopes = averaged(
        Net(CNN.build, CNN.forward, CNN.x, CNN.kernels), [3, 3, 3, 3],
        lambda loss: unit_slopes(loss, masked(w, masks), CNN.kernels), training=False,
    )  # fmt: skip
    first = unit_slopes(CNN.loss(slice(0, 3), training=False), masked(w, masks), CNN.kernels)
    five = {p: abs(12 * slopes[p] + 3 * first[p]) / 15 for p in slopes}
    assert_scores(tpi.score(model, CNN.batched(3), "snap_it", masks=masks), spread(five, w), 1e-11)


def test_a_unit_of_a_linear_layer_is_the_sum_of_its_connections(K: Any) -> None:
    """Where the output is linear in kernel and bias, dL/dc is the sum of w dL/dw over both: also for other layouts."""
    K.utils.set_random_seed(0)
    inputs = K.Input((5, 5, 2))
    x = K.layers.Conv2DTranspose(3, 2, name="up")(inputs)
    x = K.layers.Activation("tanh")(x)
    x = K.layers.SeparableConv2D(4, 3, name="sep")(x)
    x = K.layers.Activation("tanh")(x)
    x = K.layers.DepthwiseConv2D(2, name="deep")(x)
    x = K.layers.Flatten()(x)
    model = K.Model(inputs, K.layers.Dense(3, name="head")(x))
    model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True))
    held = variables(model)
    tensors = {p: getattr(v, "value", None) if K is keras else v for p, v in held.items()}
    for path in ("up/bias", "sep/bias", "head/bias"):
        tensors[path].assign(np.random.default_rng(1).normal(size=tensors[path].shape))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(CNN.y, model(IMAGES)))
    slopes = {p: g.numpy() for p, g in zip(tensors, tape.gradient(loss, list(tensors.values())), strict=True)}
    flow = {p: slopes[p] * tensors[p].numpy() for p in tensors}
    units = {
        "up/kernel": flow["up/kernel"].sum((0, 1, 3)) + flow["up/bias"],
        "sep/pointwise_kernel": flow["sep/pointwise_kernel"].sum((0, 1, 2)) + flow["sep/bias"],
        "head/kernel": flow["head/kernel"].sum(0) + flow["head/bias"],
    }
    found = tpi.score(model, (IMAGES, CNN.y), "skeletonization")
    sums = {
        "up/kernel": found["up/kernel"].sum((0, 1, 3)),
        "sep/pointwise_kernel": found["sep/pointwise_kernel"].sum((0, 1, 2)),
        "head/kernel": found["head/kernel"].sum(0),
    }
    assert_scores(sums, {p: -s for p, s in units.items()}, 1e-10)
    assert np.ptp(found["up/kernel"], axis=(0, 1, 3)).max() < 1e-18  # equal parts
    assert not any(found[path].any() for path in ("sep/depthwise_kernel", "deep/kernel"))


def assert_whole(masks: Mapping[str, np.ndarray], kept: np.ndarray, incoming: list[str], outgoing: list[str]) -> None:
    """Variables whose last axis are the units, and those whose last but one takes them, are kept by unit."""
    for path in incoming:
        np.testing.assert_array_equal(masks[path], np.broadcast_to(kept, masks[path].shape), err_msg=path)
    for path in outgoing:
        reached = masks[path].any(axis=tuple(i for i in range(masks[path].ndim) if i != masks[path].ndim - 2))
        np.testing.assert_array_equal(reached, np.tile(kept, reached.size // kept.size), err_msg=path)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_snap_it_runs_as_by_hand(keras64: Any, sparsity: float) -> None:
    """Units of both hidden layers compete, each layer keeps one; bias and outgoing weights go with a unit."""
    model = MLP.model(keras64, seed=4)
    w = weights_of(model)
    firsts = itertools.cycle(range(0, 40, 8))
    kept = {"a": np.ones(6, bool), "b": np.ones(5, bool), "c": np.ones(3, bool)}

    def masks() -> Arrays:
        return {
            "a/kernel": np.broadcast_to(kept["a"], (5, 6)), "a/bias": kept["a"],
            "b/kernel": np.outer(kept["a"], kept["b"]), "b/bias": kept["b"],
            "c/kernel": np.outer(kept["b"], kept["c"]),
        }  # fmt: skip

    for share in halvings(sparsity):
        parts = [slice(first, first + 8) for first in itertools.islice(firsts, 5)]
        slopes = [unit_slopes(MLP.loss(rows), masked(w, masks()), MLP.kernels) for rows in parts]
        scores = {p[0]: abs(np.mean([s[p] for s in slopes], axis=0)) for p in MLP.kernels}
        for name in "ab":
            scores[name][~kept[name]] = -np.inf
        ranked = sorted(((scores[name][i], name, i) for name in "ab" for i in range(len(kept[name]))), reverse=True)
        first = [(name, int(np.argmax(scores[name]))) for name in "ab"]
        rest = [(name, i) for _, name, i in ranked if (name, i) not in first]
        keep = max(int(11 * (1 - share) + 1e-9), 2)
        for name in "ab":
            kept[name] = np.isin(np.arange(len(kept[name])), [i for n, i in [*first, *rest][:keep] if n == name])
    found = tpi.find_masks(model, MLP.batched(8), sparsity=sparsity, method="snap_it")
    assert_masks({p: m for p, m in found.items() if not p.startswith("c/b")}, masks())
    removed = sum(int((~found[p]).sum()) for p in ("a/bias", "b/bias"))
    assert removed == 11 - int(11 * (1 - sparsity) + 1e-9)


def test_each_layer_keeps_its_best_unit(keras64: Any) -> None:
    for method in ("snap_it", "skeletonization"):
        found = tpi.find_masks(MLP.model(keras64), MLP.data, sparsity=0.9, method=method)
        assert (int(found["a/bias"].sum()), int(found["b/bias"].sum())) == (1, 1)  # floor(11 * 0.1) would be one


@pytest.mark.parametrize("sparsity", [0.2, 0.5])
def test_units_that_meet_in_a_sum_are_one(K: Any, sparsity: float) -> None:
    """Stem: 4 units. What conv1 and the shortcut add up: 3 units with the sums of both scores. Heads stay."""
    model = RESIDUAL.model(K, seed=1)
    slopes = unit_slopes(RESIDUAL.loss(), weights_of(model), RESIDUAL.kernels)
    stem, joint = -slopes["stem/kernel"], -slopes["conv1/kernel"] - slopes["short/kernel"]
    found = tpi.find_masks(model, RESIDUAL.data, sparsity=sparsity, method="skeletonization")
    best = {int(np.argmax(stem)), 4 + int(np.argmax(joint))}
    both = np.concatenate([stem, joint])
    rest = [i for i in np.argsort(-both) if i not in best]
    count = int(7 * (1 - sparsity) + 1e-9)
    kept = np.isin(np.arange(7), [*best, *rest[: count - 2]])
    assert_whole(found, kept[:4], ["stem/kernel", "bn0/gamma", "bn0/beta"], ["conv1/kernel", "short/kernel"])
    joined = ["short/bias", "bn1/gamma", "bn1/beta"]
    assert_whole(found, kept[4:], joined, ["head/kernel"])
    for path in ("conv1/kernel", "short/kernel"):
        np.testing.assert_array_equal(found[path], np.broadcast_to(np.outer(kept[:4], kept[4:]), found[path].shape))
    gone = int((~found["bn0/gamma"]).sum() + (~found["bn1/gamma"]).sum())
    assert gone == 7 - count > 0


def test_units_behind_flatten_take_all_their_pixels_along(keras64: Any) -> None:
    found = tpi.find_masks(CNN.model(keras64), CNN.data, sparsity=0.5, method="snap_it")
    first, second = found["bn1/gamma"], found["conv2/bias"]
    assert int(first.sum() + second.sum()) == 3
    assert_whole(found, first, ["conv1/kernel", "bn1/beta"], ["conv2/kernel"])
    assert_whole(found, second, [], ["head/kernel"])
    np.testing.assert_array_equal(found["head/kernel"], np.outer(np.tile(second, 4), np.ones(3, bool)))


# A law of conservation.


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_signed_snip_is_conserved_through_layers_without_bias(keras64: Any, kind: str) -> None:
    """Through ReLU without biases, the sum of w dL/dw over a layer is the same for all layers."""
    layers, K = keras64.layers, keras64
    K.utils.set_random_seed(0)
    hidden = (
        [layers.Flatten()] + [layers.Dense(n, activation="relu", use_bias=False) for n in (9, 8, 7)]
        if kind == "dense"
        else [layers.Conv2D(n, 2, activation="relu", use_bias=False) for n in (4, 3)] + [layers.Flatten()]
    )
    model = K.Sequential([K.Input((5, 5, 2)), *hidden, layers.Dense(3, use_bias=False)])
    model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True))
    with ScoringEngine(model, find_prunable_variables(model).prunable, data=CNN.data) as engine:
        g = engine.gradients()
        sums = [float((engine.weights[p] * g[p]).sum()) for p in g]
    assert len(sums) == (4 if kind == "dense" else 3)
    # At the outputs it is the mean of sum over classes of z (p - y).
    z = np.asarray(model(IMAGES))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(sums, np.mean((z * (p - np.eye(3)[CNN.y])).sum(1)), rtol=1e-11)


# Normalization, shuffling, and options that have no effect.


@pytest.mark.parametrize("normalize", ["l2", "sum"])
@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_normalized_scores_compete_as_by_hand(keras64: Any, method: str, normalize: str) -> None:
    model = CNN.model(keras64)
    w = weights_of(model)
    g = gradient(CNN.loss(), w, CNN.kernels)
    scores = {p: abs(w[p] * g[p]) for p in CNN.kernels}
    if method == "grasp":
        scores = grasp_by_hand(CNN.loss(temperature=200.0), w, CNN)
    size = sum(s.size for s in scores.values())
    norms = {p: np.sqrt((s**2).sum()) if normalize == "l2" else abs(s).sum() for p, s in scores.items()}
    expected = top({p: s / norms[p] for p, s in scores.items()}, size // 4)
    found = tpi.find_masks(model, CNN.data, sparsity=0.75, method=method, normalize=normalize)
    assert found.kept == size // 4
    assert_masks(found, expected)
    plain = top(scores, size // 4)
    assert any((plain[p] != expected[p]).any() for p in plain)


def test_normalize_is_refused_where_layers_do_not_compete() -> None:
    model, data = MLP.model(keras), (ROWS.astype("float32"), MLP.y)
    for allocation in ("uniform", "erk"):
        with pytest.raises(OptionError, match="does not use normalize='l2'"):
            tpi.find_masks(model, data, sparsity=0.5, method="snip", allocation=allocation, normalize="l2")
    with pytest.raises(OptionError, match="normalize must be one of"):
        tpi.find_masks(model, data, sparsity=0.5, method="snip", normalize="max")
    with pytest.raises(OptionError, match="does not take normalize"):
        tpi.score(model, data, "snip", normalize="l2")


@pytest.mark.parametrize("method", ["snip", "magnitude"])
def test_shuffle_moves_what_is_kept_within_each_layer(method: str) -> None:
    model, data = CNN.model(keras), (IMAGES.astype("float32"), CNN.y)
    plain = tpi.find_masks(model, data, sparsity=0.6, method=method)
    found = tpi.find_masks(model, data, sparsity=0.6, method=method, shuffle=True, seed=5)
    assert found == plain.shuffled(5)
    assert found != plain
    assert found != tpi.find_masks(model, data, sparsity=0.6, method=method, shuffle=True, seed=6)
    assert {p: int(m.sum()) for p, m in found.items()} == {p: int(m.sum()) for p, m in plain.items()}


def test_options_without_effect_are_refused_by_name() -> None:
    model, data = MLP.model(keras), (ROWS.astype("float32"), MLP.y)

    def refused(words: str, method: str, **options: Any) -> None:
        with pytest.raises(OptionError, match=words):
            tpi.find_masks(model, data, sparsity=0.5, method=method, **options)

    refused("'snip' does not use temperature=5", "snip", temperature=5)
    refused("does not use block_size=\\(1, 4\\)", "snip", block_size=(1, 4))
    refused("does not use m=8", "magnitude", m=8)
    refused("does not use estimator='exact'", "grasp", estimator="exact")
    refused("does not use steps=3", "hessian", steps=3)
    refused("does not use seed=1", "magnitude", seed=1)
    refused("does not use batches=2", "synflow", batches=2)
    refused("no option 'temprature'. Did you mean 'temperature'", "grasp", temprature=5)
    refused("scores whole units, so its granularity is 'units'", "snap_it", granularity="weights")
    for granularity, options in (("block", {"block_size": (1, 2)}), ("channel", {}), ("units", {})):
        refused("does not use shuffle=True", "snip", granularity=granularity, shuffle=True, **options)
    refused("does not use shuffle=True", "snap_it", shuffle=True)
    refused("prune_bias has no effect with granularity='units'", "snap_it", prune_bias=True)
