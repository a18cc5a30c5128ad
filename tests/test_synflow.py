"""SynFlow against products of absolute weights in NumPy, its law of conservation, and layers that must not die."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from by_hand import batchnorm, conv, variables
from model_kinds import KERAS

import tfprune_init as tpi
from tfprune_init.errors import NetworkCollapseError, OptionError
from tfprune_init.graph.variables import find_prunable_variables

Arrays = dict[str, np.ndarray]
either_keras = pytest.mark.parametrize("K", KERAS.values(), ids=KERAS)


def drawn(model: Any, seed: int = 0) -> Any:
    """The model with random weights, scales, offsets and statistics of both signs, so that nothing is trivial."""
    rng = np.random.default_rng(seed)
    for path, variable in variables(model).items():
        positive = path.endswith("moving_variance")
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) if positive else rng.normal(0, 0.5, variable.shape))
    return model


def absolute(model: Any, masks: Any = None) -> Arrays:
    held = {path: abs(np.asarray(v).astype("float64")) for path, v in variables(model).items()}
    return held if masks is None else {p: v * masks[p] if p in masks else v for p, v in held.items()}


def shares(flow: Callable[[Arrays], float], w: Arrays, paths: list[str]) -> Arrays:
    """|w| dR/d|w|; R is linear in each weight, so the derivative is what R gains with the weight one larger."""
    whole = flow(w)
    found = {p: np.empty(w[p].shape) for p in paths}
    for path in paths:
        for i in range(w[path].size):
            more = w[path].copy()
            more.flat[i] += 1
            found[path].flat[i] = w[path].flat[i] * (flow({**w, path: more}) - whole)
    return found


def assert_scores(found: Arrays, expected: Arrays, rtol: float = 1e-12) -> None:
    assert list(found) == list(expected)
    for path, score in found.items():
        assert score.dtype == np.float64
        assert score.any(), path
        np.testing.assert_allclose(score, expected[path], rtol=rtol, atol=1e-13 * expected[path].max(), err_msg=path)


# What R is.


def stack(K: Any, activations: list[Any], bias: bool = True) -> Any:
    """Dense layers of 7, 6 and 3 units; an activation is a name, a layer, or None."""
    layers = [K.layers.Input((5,))]
    for i, (units, activation) in enumerate(zip((7, 6, 3), activations, strict=True)):
        inside = activation if isinstance(activation, str) else None
        layers.append(K.layers.Dense(units, activation=inside, use_bias=bias, name=f"d{i}"))
        if activation is not None and inside is None:
            layers.append(activation)
    return drawn(K.Sequential(layers))


def by_products(w: Arrays) -> Arrays:
    """Of the stack: |w_ij| times all that flows into i times all that flows out of j."""
    into = [np.ones(5)]
    for i in range(3):
        into.append(into[-1] @ w[f"d{i}/kernel"] + w.get(f"d{i}/bias", 0))
    out = [np.ones(3)]
    for i in (2, 1):
        out.insert(0, w[f"d{i}/kernel"] @ out[0])
    return {f"d{i}/kernel": into[i][:, None] * w[f"d{i}/kernel"] * out[i] for i in range(3)}


@either_keras
@pytest.mark.parametrize("bias", [True, False])
def test_an_mlp_by_products_of_matrices(K: Any, bias: bool) -> None:
    model = stack(K, ["relu", "relu", None], bias)
    assert_scores(tpi.score(model, None, "synflow"), by_products(absolute(model)))
    rng = np.random.default_rng(1)
    masks = tpi.Masks({p: rng.random(s.shape) < 0.6 for p, s in by_products(absolute(model)).items()})
    found = tpi.score(model, None, "synflow", masks=masks)
    assert_scores(found, by_products(absolute(model, masks)))
    assert not any(found[p][~masks[p]].any() for p in masks)


def convolutional(K: Any) -> Any:
    inputs = K.Input((5, 5, 2))
    x = K.layers.Conv2D(4, 3, use_bias=False, name="stem")(inputs)
    x = K.layers.BatchNormalization(name="bn0")(x)
    x = K.layers.ReLU(name="relu0")(x)
    y = K.layers.Conv2D(3, 3, padding="same", use_bias=False, name="conv1")(x)
    y = K.layers.BatchNormalization(name="bn1")(y)
    y = K.layers.Add(name="add")([y, K.layers.Conv2D(3, 1, activation="relu", name="short")(x)])
    y = K.layers.ReLU(name="relu1")(y)
    y = K.layers.GlobalAveragePooling2D(name="pool")(y)
    return drawn(K.Model(inputs, K.layers.Dense(3, name="head")(y)))


def convolutional_flow(w: Arrays) -> float:
    x = batchnorm(conv(np.ones((1, 5, 5, 2)), w["stem/kernel"]), w, "bn0", training=False)
    y = batchnorm(conv(x, w["conv1/kernel"], same=True), w, "bn1", training=False)
    y = y + conv(x, w["short/kernel"]) + w["short/bias"]
    return float((y.mean((1, 2)) @ w["head/kernel"] + w["head/bias"]).sum())


KERNELS = ["stem/kernel", "conv1/kernel", "short/kernel", "head/kernel"]


@either_keras
def test_a_residual_network_with_batchnorm(K: Any) -> None:
    """Scale, offset and statistics are absolute too; what is negative in them changes nothing."""
    model = convolutional(K)
    assert all((np.asarray(v) < 0).any() for p, v in variables(model).items() if p.startswith("bn0/m") and "mean" in p)
    found = tpi.score(model, None, "synflow")
    assert_scores(found, shares(convolutional_flow, absolute(model), KERNELS), 1e-11)
    for variable in variables(model).values():
        variable.assign(-np.asarray(variable) if len(variable.shape) > 1 else abs(np.asarray(variable)))
    again = tpi.score(model, None, "synflow")
    for path in KERNELS:
        np.testing.assert_array_equal(again[path], found[path])


def test_both_keras_versions_agree() -> None:
    scores = [tpi.score(convolutional(K), None, "synflow") for K in KERAS.values()]
    assert list(scores[0]) == KERNELS
    for path in KERNELS:
        np.testing.assert_allclose(scores[0][path], scores[1][path], rtol=1e-12)


@either_keras
def test_the_flow_through_every_layer_is_the_same(K: Any) -> None:
    """Without biases all of R passes through each layer of a chain."""
    layers: list[Any] = [K.layers.Input((6, 6, 2))]
    layers += [K.layers.Conv2D(n, 3, activation="relu", use_bias=False, name=f"conv{n}") for n in (5, 4)]
    layers += [K.layers.Flatten(), K.layers.Dense(6, "relu", use_bias=False), K.layers.Dense(3, use_bias=False)]
    model = drawn(K.Sequential(layers))
    w = list(absolute(model).values())
    x = conv(conv(np.ones((1, 6, 6, 2)), w[0]), w[1]).reshape(1, -1)
    flow = float((x @ w[2] @ w[3]).sum())
    found = tpi.score(model, None, "synflow")
    sums = [score.sum() for score in found.values()]
    assert len(sums) == 4
    np.testing.assert_allclose(sums, flow, rtol=1e-12)
    # Also of each hidden unit: what flows in flows out.
    hidden, head = list(found.values())[2:]
    np.testing.assert_allclose(hidden.sum(0), head.sum(1), rtol=1e-12)
    # And after pruning.
    masks = tpi.find_masks(model, None, sparsity=0.8, method="synflow", steps=5)
    left = [float(score.sum()) for score in tpi.score(model, None, "synflow", masks=masks).values()]
    np.testing.assert_allclose(left, left[0], rtol=1e-12)
    assert 0 < left[0] < flow


# Activation functions.

ENDINGS: dict[str, Callable[[Any], Any]] = {
    "in the layer": lambda K: "softmax",
    "Softmax": lambda K: K.layers.Softmax(name="end"),
    "Activation": lambda K: K.layers.Activation("softmax", name="end"),
}


@either_keras
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_ends_in_a_softmax_flows_all_the_same(K: Any, ending: str) -> None:
    model = stack(K, ["relu", "relu", ENDINGS[ending](K)])
    found = tpi.score(model, None, "synflow")
    assert_scores(found, by_products(absolute(model)))
    assert_scores(found, tpi.score(stack(K, ["relu", "relu", None]), None, "synflow"))


SATURATING: dict[str, Callable[[Any], Any]] = {
    "tanh": lambda K: "tanh",
    "relu6": lambda K: "relu6" if K is keras else K.layers.ReLU(6.0, name="bounded"),
    "ReLU(6)": lambda K: K.layers.ReLU(6.0, name="bounded"),
    "sigmoid": lambda K: K.layers.Activation("sigmoid", name="bounded"),
    "PReLU": lambda K: K.layers.PReLU(name="bounded"),
}


@either_keras
@pytest.mark.parametrize("activation", SATURATING)
def test_activations_are_left_out(K: Any, activation: str) -> None:
    """Behind saturated activations nothing would flow: here as if there were none."""
    model = stack(K, [SATURATING[activation](K), "tanh", None])
    kernel = variables(model)["d0/kernel"]
    kernel.assign(40 * np.asarray(kernel))
    ones = np.asarray(model(np.ones((1, 5), "float32"), training=False))
    assert np.isfinite(ones).all()
    found = tpi.score(model, None, "synflow")
    assert_scores(found, by_products(absolute(model)))
    # And the model has its activations back.
    np.testing.assert_array_equal(np.asarray(model(np.ones((1, 5), "float32"), training=False)), ones)


# Data.


@either_keras
def test_scores_do_not_depend_on_the_data(K: Any) -> None:
    rng = np.random.default_rng(0)
    model = convolutional(K)
    none = tpi.score(model, None, "synflow")
    for scale, dtype in ((1.0, "float32"), (1e3, "float64")):
        data = (scale * rng.normal(size=(7, 5, 5, 2)).astype(dtype), np.arange(7) % 3)
        found = tpi.score(model, data, "synflow")
        for path in KERNELS:
            np.testing.assert_array_equal(found[path], none[path])
    masks = [tpi.find_masks(model, d, sparsity=0.7, method="synflow", steps=3) for d in (None, data)]
    assert masks[0] == masks[1]


@functools.cache
def subclass(K: Any) -> type:
    class Own(K.Model):
        """The stack, written as a call."""

        def __init__(self) -> None:
            super().__init__()
            self.d0 = K.layers.Dense(7, activation="tanh", name="d0")
            self.d1 = K.layers.Dense(6, activation="relu", name="d1")
            self.d2 = K.layers.Dense(3, name="d2")

        def call(self, x: Any) -> Any:
            return self.d2(self.d1(self.d0(x)))

    return Own


@either_keras
def test_a_subclassed_model_needs_data_for_its_shape_alone(K: Any) -> None:
    model = subclass(K)()
    model(np.zeros((1, 5), "float32"))
    drawn(model)
    with pytest.raises(OptionError, match="pass data, of which only the shape"):
        tpi.score(model, None, "synflow")
    with pytest.raises(OptionError, match="pass data, of which only the shape"):
        tpi.find_masks(model, None, sparsity=0.5, method="synflow")
    data = (np.random.default_rng(0).normal(size=(4, 5)).astype("float32"), np.zeros(4, int))
    assert_scores(tpi.score(model, data, "synflow"), by_products(absolute(model)))


# The range of numbers.


@either_keras
@pytest.mark.parametrize(("scale", "lost"), [(0.12, np.inf), (0.0025, 0.0)], ids=["overflow", "underflow"])
def test_deep_networks_leave_the_range_of_float32_and_are_scored_all_the_same(K: Any, scale: float, lost: Any) -> None:
    layers: list[Any] = [K.layers.Input((64,))]
    layers += [K.layers.Dense(64, activation="relu", use_bias=False, name=f"d{i}") for i in range(60)]
    model = K.Sequential(layers)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(0, scale, (64, 64)))
        assert "float32" in str(variable.dtype)
    w = [abs(np.asarray(v)) for v in model.weights]
    with np.errstate(over="ignore", under="ignore"):
        narrow = functools.reduce(np.matmul, w, np.ones((1, 64), "float32"))
    assert narrow.dtype == np.float32
    assert (narrow == lost).all()
    wide = [v.astype("float64") for v in w]
    into = [np.ones(64)]
    for v in wide:
        into.append(into[-1] @ v)
    out = [np.ones(64)]
    for v in reversed(wide):
        out.append(v @ out[-1])
    found = tpi.score(model, None, "synflow")
    assert len(found) == 60
    for i, score in enumerate(found.values()):
        assert np.isfinite(score).all()
        assert (score > 0).all()
        np.testing.assert_allclose(score, into[i][:, None] * wide[i] * out[59 - i], rtol=1e-11)
        assert score.sum() == pytest.approx(into[-1].sum(), rel=1e-12)


# Layers that must not die.


@either_keras
@pytest.mark.parametrize("activation", ["linear", "tanh"])
@pytest.mark.parametrize("steps", [1, 100])
def test_at_the_highest_sparsity_one_path_is_left(K: Any, activation: str, steps: int) -> None:
    """One weight a layer for L layers, and they are one path: more cannot be asked for."""
    layers: list[Any] = [K.layers.Input((8, 8, 2))]
    layers += [K.layers.Conv2D(n, 3, activation=activation, use_bias=False, name=f"c{i}") for i, n in enumerate((6, 3))]
    layers += [K.layers.Conv2D(4, 2, activation=activation, name="c2"), K.layers.GlobalAveragePooling2D(name="pool")]
    model = drawn(K.Sequential([*layers, K.layers.Dense(3, use_bias=False, name="c3")]))
    variables(model)["c2/bias"].assign(np.zeros(4))
    size = find_prunable_variables(model).size
    masks = tpi.find_masks(model, None, sparsity=1 - 4 / size, method="synflow", steps=steps)
    assert [int(mask.sum()) for mask in masks.values()] == [1, 1, 1, 1]
    w = absolute(model, masks)
    x = np.ones((1, 8, 8, 2))
    for name in ("c0", "c1", "c2"):
        x = conv(x, w[f"{name}/kernel"])
    assert (x.mean((1, 2)) @ w["c3/kernel"]).sum() > 0
    with pytest.raises(NetworkCollapseError):
        tpi.find_masks(model, None, sparsity=1 - 3 / size, method="synflow", steps=steps)


# The code's own loop, without sparing.


def by_the_code(w: Arrays, density: float, steps: int) -> tuple[Arrays, list[int]]:
    """Masks of the code's loop for the stack, in float64, and how many weights each step keeps.

    Each step multiplies the weights by the masks, scores them, and zeroes the masks of what scores no more than the
    k-th smallest, where k is int((1 - density) N) for the density of the step.
    """
    masks = {f"d{i}/kernel": np.ones(w[f"d{i}/kernel"].shape) for i in range(3)}
    kept = []
    for step in range(steps):
        share = density ** ((step + 1) / steps)
        scores = by_products(w | {path: w[path] * mask for path, mask in masks.items()})
        ranked = np.sort(np.concatenate([score.ravel() for score in scores.values()]))
        k = int((1.0 - share) * ranked.size)
        if k >= 1:
            masks = {path: (score > ranked[k - 1]).astype(float) for path, score in scores.items()}
        kept.append(int(sum(mask.sum() for mask in masks.values())))
    return masks, kept


@pytest.mark.parametrize("steps", [1, 7, 100])
@pytest.mark.parametrize("kept", [38, 9])
def test_without_sparing_masks_are_those_of_the_code(steps: int, kept: int) -> None:
    model = stack(keras, ["tanh", "tanh", None])
    expected, counts = by_the_code(absolute(model), kept / 95, steps)
    asked = {"sparsity": 1 - kept / 95, "method": "synflow", "steps": steps, "avoid_layer_collapse": False}
    report = tpi.prune_at_init(model, None, **asked)
    # Before its last step the code rounds up and we down, which a schedule of its counts undoes.
    assert [step.kept for step in report.steps] == pytest.approx(counts, abs=1)
    assert report.masks.kept == counts[-1] == kept
    assert report.options["avoid_layer_collapse"] is False
    model = stack(keras, ["tanh", "tanh", None])
    masks = tpi.find_masks(model, None, **asked, schedule=lambda density, _: [*(np.array(counts[:-1]) / 95), density])
    assert masks == expected
    assert tpi.find_masks(stack(tf_keras, ["tanh", "tanh", None]), None, **asked) == report.masks


def test_without_sparing_a_layer_that_scores_least_goes() -> None:
    """In one step the masks are the largest scores, though that empties a layer: here the widest."""
    layers = [keras.layers.Dense(n, use_bias=False, name=f"d{i}") for i, n in enumerate((40, 40, 2))]
    model = drawn(keras.Sequential([keras.layers.Input((2,)), *layers]))
    scores = tpi.score(model, None, "synflow")
    asked = {"sparsity": 1 - 10 / 1760, "method": "synflow", "steps": 1}
    spared = tpi.find_masks(model, None, **asked)
    assert min(int(mask.sum()) for mask in spared.values()) >= 1
    with pytest.raises(NetworkCollapseError, match="Emptied: d1/kernel") as caught:
        tpi.find_masks(model, None, **asked, avoid_layer_collapse=False)
    threshold = np.sort(np.concatenate([score.ravel() for score in scores.values()]))[-10]
    assert caught.value.masks == {path: score >= threshold for path, score in scores.items()}
    assert caught.value.report.options["avoid_layer_collapse"] is False


@pytest.mark.parametrize("given", [True, False])
def test_other_methods_have_nothing_to_spare(given: bool) -> None:
    with pytest.raises(OptionError, match="'magnitude' does not use avoid_layer_collapse"):
        tpi.find_masks(stack(keras, [None] * 3), None, sparsity=0.5, method="magnitude", avoid_layer_collapse=given)


@pytest.mark.slow
def test_no_layer_of_a_resnet_is_emptied() -> None:
    model = tpi.models.resnet20((8, 8, 3), seed=0)
    masks = tpi.find_masks(model, None, sparsity=0.999, method="synflow", steps=20)
    assert masks.kept == find_prunable_variables(model).size // 1000
    assert min(int(mask.sum()) for mask in masks.values()) >= 1
    assert all(score.any() for score in tpi.score(model, None, "synflow", masks=masks).values())
    # Without looking again after each step layers would die.
    scores = tpi.score(model, None, "synflow")
    threshold = np.sort(np.concatenate([s.ravel() for s in scores.values()]))[-masks.kept]
    assert not all((score >= threshold).any() for score in scores.values())


@pytest.mark.slow
def test_vgg19_and_resnet50_stay_within_range() -> None:
    """In float32 the flow of ResNet50 would be infinite; here every weight that carries flow has a share of it."""
    chain = tpi.score(tpi.models.vgg19(seed=0), None, "synflow")
    sums = [float(score.sum()) for score in chain.values()]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-12)
    deep = tpi.score(tpi.models.resnet50(seed=0), None, "synflow")
    assert max(float(score.sum()) for score in deep.values()) > float(np.finfo(np.float32).max)
    for scores in (chain, deep):
        assert all(np.isfinite(score).all() for score in scores.values())
        assert sum(int((score == 0).sum()) for score in scores.values()) < 10  # weights that are 0 themselves


@pytest.mark.slow
def test_every_layer_of_vgg19_is_kept_at_99_9_percent_even_in_few_steps() -> None:
    masks = tpi.find_masks(tpi.models.vgg19(seed=0), None, sparsity=0.999, method="synflow", steps=8, verbose=0)
    assert all(mask.any() for mask in masks.values())


def test_steps_without_a_loss_have_no_objective() -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(3, name="b")])
    report = tpi.prune_at_init(model, None, sparsity=0.5, method="synflow", steps=3, verbose=0)
    assert [step.objective for step in report.steps] == [None] * 3
