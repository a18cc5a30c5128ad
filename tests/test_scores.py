"""Scores and masks against computations that share no code with the engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune_init as tpi
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.scoring import ScoringEngine

RNG = np.random.default_rng(7)
X = RNG.normal(size=(40, 5))
Y = RNG.integers(0, 3, 40)


@pytest.fixture
def float64() -> Iterator[None]:
    for dtype in ("float64", "float32"):
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        if dtype == "float64":
            yield


def mlp(optimizer: str = "sgd", **loss_options: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(7, activation="tanh", name="a", bias_initializer="normal"),
            keras.layers.Dense(6, activation="relu", name="b", bias_initializer="normal"),
            keras.layers.Dense(3, name="c", bias_initializer="normal"),
        ]
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True, **loss_options))
    return model


def by_hand(weights: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, example_weights: Any = 1.0) -> dict:
    """Gradients of the mean cross-entropy of the MLP above, derived by hand; float64 NumPy."""
    h1 = np.tanh(x @ weights["a/kernel"] + weights["a/bias"])
    z2 = h1 @ weights["b/kernel"] + weights["b/bias"]
    h2 = np.maximum(z2, 0)
    z3 = h2 @ weights["c/kernel"] + weights["c/bias"]
    p = np.exp(z3 - z3.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    d3 = (p - np.eye(3)[y]) * np.broadcast_to(example_weights, len(y))[:, None] / len(y)
    d2 = (d3 @ weights["c/kernel"].T) * (z2 > 0)
    d1 = (d2 @ weights["b/kernel"].T) * (1 - h1**2)
    return {
        "a/kernel": x.T @ d1, "a/bias": d1.sum(0),
        "b/kernel": h1.T @ d2, "b/bias": d2.sum(0),
        "c/kernel": h2.T @ d3, "c/bias": d3.sum(0),
    }  # fmt: skip


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path.split("/", 1)[1]: np.array(v) for v in model.variables}


KERNELS = ("a/kernel", "b/kernel", "c/kernel")


def exact_top(scores: dict[str, np.ndarray], keep: int, alive: dict[str, np.ndarray] | None = None) -> dict:
    """The `keep` best by sorting everything, ties to the lower position."""
    flat = np.concatenate([scores[k].ravel() for k in scores])
    if alive is not None:
        flat[~np.concatenate([alive[k].ravel() for k in scores])] = -1.0
    order = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:keep]
    chosen = np.zeros(len(flat), bool)
    chosen[order] = True
    ends = np.cumsum([scores[k].size for k in scores])
    parts = np.split(chosen, ends[:-1])
    return {k: part.reshape(scores[k].shape) for k, part in zip(scores, parts, strict=True)}


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], rtol: float) -> None:
    assert list(found) == [path for path in expected if path in found]
    for path, value in found.items():
        np.testing.assert_allclose(value, expected[path], rtol=rtol, atol=rtol * 1e-3, err_msg=path)


@pytest.mark.usefixtures("float64")
class TestFloat64:
    def test_snip(self) -> None:
        model = mlp()
        w = weights_of(model)
        g = by_hand(w, X, Y)
        found = tpi.score(model, (X, Y), "snip", prune_bias=True)
        assert {value.dtype for value in found.values()} == {np.dtype("float64")}
        assert set(found) == set(w)
        assert_close(found, {k: abs(w[k] * g[k]) for k in found}, 1e-10)

    def test_force_scores_use_dense_weights_and_the_gradient_of_the_masked_network(self) -> None:
        model = mlp()
        w = weights_of(model)
        masks = tpi.Masks({k: RNG.random(w[k].shape) < 0.5 for k in KERNELS})
        g = by_hand({k: v * masks.get(k, True) for k, v in w.items()}, X, Y)
        found = tpi.score(model, (X, Y), "force", masks=masks)
        assert_close(found, {k: abs(w[k] * g[k]) for k in KERNELS}, 1e-10)
        assert all((found[k][~masks[k]] > 0).any() for k in KERNELS)

    def test_several_batches_are_averaged_by_examples_before_the_absolute_value(self) -> None:
        model = mlp()
        w = weights_of(model)
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)  # 16, 16, 8
        found = tpi.score(model, data, "snip", batches=3)
        assert_close(found, {k: abs(w[k] * by_hand(w, X, Y)[k]) for k in KERNELS}, 1e-10)
        one_by_one = [by_hand(w, X[i : i + 16], Y[i : i + 16]) for i in (0, 16, 32)]
        by_batches = {k: abs(w[k] * np.mean([g[k] for g in one_by_one], 0)) for k in KERNELS}
        assert not np.allclose(found["a/kernel"], by_batches["a/kernel"], rtol=1e-3)

    def test_summed_loss_gives_the_same_scores_as_the_mean(self) -> None:
        w = weights_of(mlp())
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
        found = tpi.score(mlp(reduction="sum"), data, "snip", batches=3)
        assert_close(found, {k: abs(w[k] * by_hand(w, X, Y)[k]) for k in KERNELS}, 1e-10)

    def test_sample_weights(self) -> None:
        model = mlp()
        w = weights_of(model)
        importance = RNG.uniform(0, 3, len(Y))
        g = by_hand(w, X, Y, importance)
        found = tpi.score(model, (X, Y, importance), "snip")
        assert_close(found, {k: abs(w[k] * g[k]) for k in KERNELS}, 1e-10)

    @pytest.mark.parametrize("method", ["force", "iter_snip"])
    @pytest.mark.parametrize("schedule", ["exponential", "linear"])
    def test_whole_runs_equal_a_numpy_implementation(self, method: str, schedule: str) -> None:
        model = mlp()
        w = weights_of(model)
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
        steps, density = 7, 0.25
        size = sum(w[k].size for k in KERNELS)
        masks = {k: np.ones(w[k].shape, bool) for k in KERNELS}
        for t in range(1, steps + 1):
            rows = slice(10 * ((t - 1) % 4), 10 * ((t - 1) % 4) + 10)
            g = by_hand({k: v * masks.get(k, True) for k, v in w.items()}, X[rows], Y[rows])
            share = density ** (t / steps) if schedule == "exponential" else 1 - (1 - density) * t / steps
            keep = int(np.floor(size * share + 1e-9))
            scores = {k: abs(w[k] * g[k]) for k in KERNELS}
            masks = exact_top(scores, keep, alive=None if method == "force" else masks)
        found = tpi.find_masks(model, data, sparsity=1 - density, method=method, schedule=schedule, steps=steps)
        for k in KERNELS:
            np.testing.assert_array_equal(found[k], masks[k], err_msg=k)

    def test_snip_is_one_step_of_force(self) -> None:
        snip = tpi.find_masks(mlp(), (X, Y), sparsity=0.6, method="snip")
        force = tpi.find_masks(mlp(), (X, Y), sparsity=0.6, method="force", steps=1)
        assert snip == force

    def test_force_regrows_and_iter_snip_does_not(self) -> None:
        model = mlp()
        seen: dict[str, list[tpi.Masks]] = {"force": [], "iter_snip": []}
        for method, found in seen.items():
            for steps in range(1, 7):
                # The first `steps` densities of one long schedule, so that runs share their beginnings.
                plan = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4][:steps]
                found.append(
                    tpi.find_masks(
                        model, (X, Y), sparsity=1 - plan[-1], method=method, steps=steps,
                        schedule=lambda d, n, plan=plan: [*plan[:-1], d],
                    )
                )  # fmt: skip
        returned = {
            method: sum(int((b[k] & ~a[k]).sum()) for a, b in itertools.pairwise(found) for k in KERNELS)
            for method, found in seen.items()
        }
        assert returned["force"] > 0
        assert returned["iter_snip"] == 0

    def test_objective_is_the_sensitivity_of_what_is_kept(self) -> None:
        model = mlp()
        w = weights_of(model)
        report = tpi.prune_at_init(model, (X, Y), sparsity=0.6, method="force", steps=4, verbose=0)
        g = by_hand({k: v * report.masks.get(k, True) for k, v in w.items()}, X, Y)
        expected = sum(float(abs(w[k] * g[k])[report.masks[k]].sum()) for k in KERNELS)
        assert report.steps[-1].objective == pytest.approx(expected, rel=1e-9)

    def test_regularizers_are_left_out_and_added_losses_are_not(self) -> None:
        def build(**options: Any) -> keras.Model:
            keras.utils.set_random_seed(0)
            model = keras.Sequential(
                [keras.Input((5,)), keras.layers.Dense(4, name="a", **options), keras.layers.Dense(3, name="b")]
            )
            model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            return model

        plain = tpi.score(build(), (X, Y), "snip")
        assert_close(tpi.score(build(kernel_regularizer=keras.regularizers.L2(5.0)), (X, Y), "snip"), plain, 1e-12)
        active = build(activity_regularizer=keras.regularizers.L2(5.0))
        assert not np.allclose(tpi.score(active, (X, Y), "snip")["a/kernel"], plain["a/kernel"], rtol=1e-2)

    @pytest.mark.parametrize("name", ["batchnorm", "inference", "two_inputs", "subclassed", "added_loss"])
    def test_finite_differences(self, name: str) -> None:
        model, data, loss, options = FINITE_DIFFERENCE_CASES[name]()
        found = tpi.score(model, data, "snip", **options)
        for target in find_prunable_variables(model).prunable:
            value = target.tensor.numpy()
            for index in RNG.choice(value.size, size=min(6, value.size), replace=False):
                slopes = []
                for sign in (1, -1):
                    moved = value.copy()
                    moved.reshape(-1)[index] += sign * 1e-6
                    target.tensor.assign(moved)
                    slopes.append(sign * loss(model))
                target.tensor.assign(value)
                expected = abs(value.reshape(-1)[index] * sum(slopes) / 2e-6)
                assert found[target.path].reshape(-1)[index] == pytest.approx(expected, rel=2e-5, abs=1e-9)


IMAGES = RNG.normal(size=(12, 6, 6, 2))
LABELS = np.arange(12) % 3


def cross_entropy(logits: Any, labels: np.ndarray = LABELS) -> float:
    z = np.asarray(logits)
    z = z - z.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(labels)), labels]))


def convolutional() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.activations.softplus(x)
    x = keras.layers.Add()([x, keras.layers.SeparableConv2D(4, 3, padding="same")(x)])
    x = keras.layers.DepthwiseConv2D(3, strides=2)(x)
    x = keras.layers.Conv2DTranspose(3, 2)(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def batchnorm_case(training: bool) -> tuple[keras.Model, Any, Callable[[keras.Model], float], dict[str, Any]]:
    def loss(model: keras.Model) -> float:
        return cross_entropy(model(IMAGES, training=training))

    return convolutional(), (IMAGES, LABELS), loss, {"training": training}


def two_inputs_case() -> tuple[keras.Model, Any, Callable[[keras.Model], float], dict[str, Any]]:
    keras.utils.set_random_seed(2)
    left, right = keras.Input((5,), name="left"), keras.Input((4,), name="right")
    x = keras.layers.Concatenate()([keras.layers.Dense(4, "tanh")(left), keras.layers.Dense(4, "tanh")(right)])
    outputs = {"klass": keras.layers.Dense(3, name="klass")(x), "value": keras.layers.Dense(1, name="value")(x)}
    model = keras.Model({"left": left, "right": right}, outputs)
    model.compile(
        "sgd",
        {"klass": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "value": "mse"},
        loss_weights={"klass": 1.0, "value": 0.3},
    )
    x_data = {"left": RNG.normal(size=(12, 5)), "right": RNG.normal(size=(12, 4))}
    y_data = {"klass": LABELS, "value": RNG.normal(size=(12, 1))}

    def loss(model: keras.Model) -> float:
        out = model(x_data)
        return cross_entropy(out["klass"]) + 0.3 * float(np.mean((np.asarray(out["value"]) - y_data["value"]) ** 2))

    return model, (x_data, y_data), loss, {}


class Attentive(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.attention = keras.layers.MultiHeadAttention(2, 3)
        self.recurrent = keras.layers.LSTM(4)
        self.head = keras.layers.Dense(3)

    def call(self, x: Any) -> Any:
        x = keras.ops.reshape(x, (-1, 6, 12))
        return self.head(self.recurrent(self.attention(x, x)))


def subclassed_case() -> tuple[keras.Model, Any, Callable[[keras.Model], float], dict[str, Any]]:
    keras.utils.set_random_seed(4)
    model = Attentive()
    model(IMAGES)
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return model, (IMAGES, LABELS), lambda model: cross_entropy(model(IMAGES)), {"loss": loss_function}


class Penalized(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * keras.ops.mean(x**4))
        return x


def added_loss_case() -> tuple[keras.Model, Any, Callable[[keras.Model], float], dict[str, Any]]:
    keras.utils.set_random_seed(5)
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(4, "tanh", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(Penalized()(hidden)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def loss(model: keras.Model) -> float:
        hidden = np.asarray(model.get_layer("hidden")(X[:12]))
        return cross_entropy(model(X[:12])) + 0.1 * float(np.mean(hidden**4))

    return model, (X[:12], LABELS), loss, {}


FINITE_DIFFERENCE_CASES: dict[str, Callable[[], Any]] = {
    "batchnorm": lambda: batchnorm_case(training=True),
    "inference": lambda: batchnorm_case(training=False),
    "two_inputs": two_inputs_case,
    "subclassed": subclassed_case,
    "added_loss": added_loss_case,
}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_scores_are_float32_and_close(policy: str) -> None:
    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((5,)),
                keras.layers.Dense(16, "tanh", name="a"),
                keras.layers.Dense(3, name="b", dtype="float32"),
            ]
        )
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    full = tpi.score(build(), (X, Y), "snip")
    keras.mixed_precision.set_global_policy(policy)
    try:
        mixed = tpi.score(build(), (X, Y), "snip")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    for path, value in mixed.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, full[path], rtol=0.15, atol=0.02 * full[path].max())


def test_float16_gradients_do_not_underflow() -> None:
    """A loss of 1e-9 has gradients that float16 cannot hold without scaling; float32 scores can."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
        model.compile("sgd", lambda y, out: 1e-7 * keras.ops.mean(keras.ops.cast(out, "float32") ** 2))
        scores = tpi.score(model, (X, Y), "snip")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert all(np.count_nonzero(value) > value.size // 2 for value in scores.values())


def test_compiled_with_xla_the_scores_are_the_same() -> None:
    plain = tpi.score(convolutional(), (IMAGES.astype("float32"), LABELS), "snip")
    compiled = tpi.score(convolutional(), (IMAGES.astype("float32"), LABELS), "snip", jit_compile=True)
    for value, expected in zip(compiled.values(), plain.values(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_sixty_steps_of_force_trace_once() -> None:
    model = mlp()
    targets = find_prunable_variables(model).prunable
    with ScoringEngine(model, targets, data=(X.astype("float32"), Y)) as engine:
        for t in range(60):
            engine.mask({target.path: np.full(target.shape, t % 2 == 0) for target in targets})
            engine.gradients()
        assert engine.traces == 1


def test_dropout_is_active_in_batch_mode_and_drawn_from_the_seed() -> None:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((5,)), keras.layers.Dense(30, name="a"), keras.layers.Dropout(0.5), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = (X.astype("float32"), Y)
    first, again, other = (tpi.score(model, data, "snip", seed=seed)["a/kernel"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, rtol=1e-2)
    calm = [tpi.score(model, data, "snip", seed=seed, training=False)["a/kernel"] for seed in (1, 2)]
    np.testing.assert_array_equal(*calm)


@pytest.mark.slow
def test_random_is_uniform_and_magnitude_keeps_the_largest() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(50, name="a"), keras.layers.Dense(50, name="b")])
    counts = np.zeros((40, 50))
    for seed in range(200):
        counts += tpi.find_masks(model, None, sparsity=0.5, method="random", seed=seed)["a/kernel"]
    # Binomial(200, 1/2) has standard deviation 7.07; of 2,000 entries none strays by six of them.
    assert abs(counts.mean() - 100) < 1.0
    assert abs(counts - 100).max() < 43
    assert counts.std() == pytest.approx(7.07, rel=0.1)

    w = {t.path: t.tensor.numpy() for t in find_prunable_variables(model).prunable}
    kept = tpi.find_masks(model, None, sparsity=0.9, method="magnitude")
    every = np.concatenate([abs(v).ravel() for v in w.values()])
    threshold = np.sort(every)[-kept.kept]
    for path, mask in kept.items():
        np.testing.assert_array_equal(mask, abs(w[path]) >= threshold)
