"""No optimizer turns weights into NaN where pruning leaves rows, columns or whole layers without a gradient."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from tiers import rows
from training import CLASSES, data, held, leaks, loss

import tfprune_init as tpi
from tfprune_init.backend.instance_methods import is_guarded
from tfprune_init.errors import EnforcementError


def network(K: Any = keras, policy: str | None = None) -> Any:
    K.utils.set_random_seed(0)
    layers = [
        K.layers.Dense(16, activation="relu", name="a", dtype=policy),
        K.layers.Dense(12, activation="relu", name="b", dtype=policy),
        K.layers.Dense(CLASSES, name="c", dtype=policy),
    ]
    return K.Sequential([K.Input((6,)), *layers])


def disconnecting_masks(whole_layer: bool = False) -> tpi.Masks:
    """Cut two inputs off, five units of `a`, and some of `b`; or all of `b`."""
    rng = np.random.default_rng(1)
    kept = {"a": rng.random((6, 16)) < 0.6, "b": rng.random((16, 12)) < 0.6, "c": rng.random((12, CLASSES)) < 0.8}
    kept["a"][:2] = kept["a"][:, :5] = kept["b"][:5] = kept["b"][:, 3:5] = kept["c"][3:7] = False
    kept["b"] &= not whole_layer
    return tpi.Masks({f"{name}/kernel": mask for name, mask in kept.items()})


def package(name: str) -> Any:
    return keras if name == "keras" else pytest.importorskip("tf_keras")


OPTIMIZERS = [
    *("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lion", "Nadam", "RMSprop", "SGD"),
    *("Lamb", "Muon", "ScheduleFreeAdamW"),
]
CLIPPED: list[dict[str, float]] = [{}, {"clipnorm": 0.1}, {"global_clipnorm": 0.1}]
CASES = [
    (K, name, tuple(clip.items()), whole)
    for K in ("keras", "tf_keras")
    for name in (OPTIMIZERS if K == "keras" else OPTIMIZERS[:-3])
    for clip in CLIPPED
    for whole in (False, True)
]
# Of what divides by statistics of a whole array: Adafactor by those of rows and columns, the others by norms.
USUAL = [
    *((K, "Adafactor", (), whole) for K in ("keras", "tf_keras") for whole in (False, True)),
    ("keras", "Adafactor", (("global_clipnorm", 0.1),), False),
    ("keras", "Lamb", (), True),
    ("keras", "Muon", (), True),
]


@pytest.mark.parametrize(("library", "name", "clip", "whole"), rows(CASES, USUAL))
def test_weights_stay_finite(library: str, name: str, clip: Any, whole: bool) -> None:
    K = package(library)
    model, masks, (x, y) = network(K), disconnecting_masks(whole), data()
    model.compile(getattr(K.optimizers, name)(0.01, **dict(clip)), loss(K), jit_compile=False)
    tpi.attach(model, masks)
    before = [np.array(variable) for variable in model.weights]
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    assert all(np.isfinite(np.array(variable)).all() for variable in model.weights)
    assert any((a != np.array(b)).any() for a, b in zip(before, model.weights, strict=True))
    # Ftrl and ScheduleFreeAdamW take weights that never get a gradient to zero, masks or not.
    assert not leaks(model, masks)


def test_optimizers_of_keras_are_all_in_the_table() -> None:
    known = {n for n, kind in vars(keras.optimizers).items() if isinstance(kind, type) and hasattr(kind, "update_step")}
    assert known - {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"} == set(OPTIMIZERS)


@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "bfloat16", "float64"])
def test_adafactor_in_other_precisions(policy: str) -> None:
    model, masks, (x, y) = network(policy=policy), disconnecting_masks(), data()
    tpi.attach(model, masks)  # before compile, and built by fit
    optimizer = keras.optimizers.Adafactor(0.01)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if policy == "mixed_float16" else optimizer, loss())
    model.fit(x, y, batch_size=8, verbose=0)
    assert all(np.isfinite(np.array(variable, "float64")).all() for variable in model.weights)
    assert held(model, masks)


def adafactor(gradients: list[np.ndarray], weights: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """Shazeer and Stern, algorithm 4, in float64, where 1e-30 squared is a number."""
    row = column = np.float64(0.0)
    for step, gradient in enumerate(gradients, 1):
        decay, square = 1 - step**-0.8, gradient.astype("float64") ** 2 + 1e-30
        row = decay * row + (1 - decay) * square.mean(axis=1)
        column = decay * column + (1 - decay) * square.mean(axis=0)
        update = gradient / np.sqrt(np.outer(row, column) / row.mean())
        update /= max(1.0, np.sqrt((update**2).mean()))
        scale = max(1e-3, np.sqrt((weights**2).mean())) * min(rate, 1 / np.sqrt(step))
        weights = np.where(mask, weights - scale * update, 0.0)
    return weights


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_adafactor_takes_the_steps_of_exact_arithmetic(library: str) -> None:
    K, rng = package(library), np.random.default_rng(0)
    model = K.Sequential([K.Input((6,)), K.layers.Dense(5, use_bias=False, name="head")])
    mask = rng.random((6, 5)) < 0.7
    gradients = [rng.normal(size=(6, 5)).astype("float32") for _ in range(4)]
    for gradient in gradients:
        gradient[[1, 4]] = gradient[:, 2] = 0.0
    optimizer = K.optimizers.Adafactor(0.05)
    model.compile(optimizer, "mse")
    tpi.attach(model, tpi.Masks({"head/kernel": mask}))
    kernel = model.layers[0].kernel
    expected = adafactor(gradients, np.array(kernel, "float64"), mask, 0.05)
    start = np.array(kernel)
    for gradient in gradients:
        optimizer.apply_gradients([(K.ops.array(gradient) if K is keras else gradient, kernel)])
    np.testing.assert_allclose(np.array(kernel), expected, rtol=1e-4, atol=1e-7)
    dead = mask & (gradients[0] == 0)
    assert dead.any()
    np.testing.assert_array_equal(np.array(kernel)[dead], start[dead])


def test_strip_takes_the_guard_off() -> None:
    model, masks, (x, y) = network(), disconnecting_masks(), data()
    model.compile(keras.optimizers.Adafactor(0.01), loss())
    tpi.attach(model, masks)
    model.fit(x, y, verbose=0)
    moments = [moment.value for moment in model.optimizer._v]
    assert all(is_guarded(moment) for moment in moments)
    tpi.strip(model)
    assert not any(is_guarded(moment) for moment in moments)
    assert "build" not in vars(model.optimizer)


def refused(name: str = "Adam", **zero: float) -> Any:
    return getattr(keras.optimizers, name)(0.01, **(zero or {"epsilon": 0.0}))


DIVIDING = {
    "Adam": lambda: refused(),
    "subnormal": lambda: refused(epsilon=1e-40),
    "Ftrl": lambda: refused("Ftrl", initial_accumulator_value=0.0),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(refused("RMSprop")),
    "multi": lambda: keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1), {".*/b/kernel": refused("Lamb")})
    ),
}


@pytest.mark.parametrize("name", DIVIDING)
def test_an_optimizer_that_divides_by_zero_is_refused(name: str) -> None:
    model, masks = network(), disconnecting_masks()
    model.compile(DIVIDING[name](), loss())
    before = model.get_weights()
    with pytest.raises(EnforcementError, match=r"into NaN.*Received: (epsilon|initial_accumulator_value)=.*Try"):
        tpi.attach(model, masks)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert "compile" not in vars(model)
    assert "apply" not in vars(model.optimizer)

    usual = keras.optimizers.SGD(0.1)
    model.compile(usual, loss())
    tpi.attach(model, masks)
    with pytest.raises(EnforcementError, match="into NaN"):
        model.compile(optimizer=DIVIDING[name](), loss=loss())
    assert model.optimizer is usual


def test_zero_is_fine_where_something_else_is_added() -> None:
    model, masks, (x, y) = network(), disconnecting_masks(), data()
    tpi.attach(model, masks)
    for optimizer in (refused("Adagrad", epsilon=0.0), refused("Adagrad", initial_accumulator_value=0.0)):
        model.compile(optimizer, loss())
        model.fit(x, y, verbose=0)
        assert held(model, masks)
