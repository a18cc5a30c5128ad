"""Masks hold what layers compute with: LoRA's sum, weights behind a property, quantized ones; or they are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import data, dense, fit_watched, held, loss, random_masks, weights

import tfprune_init as tpi
from tfprune_init.errors import EnforcementError, ModelError
from tfprune_init.export.warm_exporter import Exporter
from tfprune_init.masking.attachment import get_attached_masks
from tfprune_init.plots.inputs import get_weights

L = keras.layers


def with_lora(model: Any, rank: int = 2, alpha: float | None = 3) -> Any:
    for layer in model._flatten_layers():
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(rank, lora_alpha=alpha)
    return model


def attached(masks: tpi.Masks, **compile_options: Any) -> Any:
    model = with_lora(dense())
    model.compile(keras.optimizers.Adam(0.05), loss(), **compile_options)
    tpi.attach(model, masks)
    return model


def trained(masks: tpi.Masks, **compile_options: Any) -> Any:
    model = attached(masks, **compile_options)
    model.fit(*data(), batch_size=8, epochs=2, verbose=0)
    return model


def merged(model: Any, masks: tpi.Masks) -> dict[str, np.ndarray]:
    """Kernel plus masked product, in float64, from the bare variables; both factors must have been trained."""
    sums = {}
    for layer in model.layers:
        mask = masks[f"{layer.name}/kernel"]
        factors = [np.array(one, "float64") for one in (layer.lora_kernel_a, layer.lora_kernel_b)]
        assert all(factor.any() for factor in factors)
        product = np.where(mask, 3 / 2 * factors[0] @ factors[1], 0.0)
        sums[f"{layer.name}/kernel"] = np.array(layer._kernel, "float64") + product
    return sums


def forward(kernels: dict[str, np.ndarray], model: Any, x: np.ndarray) -> np.ndarray:
    for layer, function in zip(model.layers, (np.tanh, np.tanh, lambda value: value), strict=True):
        x = function(x @ kernels[f"{layer.name}/kernel"] + np.array(layer.bias))
    return x


@pytest.fixture(scope="module")
def masks() -> tpi.Masks:
    return random_masks(dense(), sparsity=0.7)


# LoRA


@pytest.mark.parametrize(
    "options", [pytest.param({}, id="graph"), pytest.param({"jit_compile": True}, id="xla", marks=pytest.mark.slow)]
)
def test_the_sum_is_zero_where_pruned_after_every_batch(masks: tpi.Masks, options: Any) -> None:
    model, counts = attached(masks, **options), []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            kernels = {f"{layer.name}/kernel": np.array(layer.kernel.numpy()) for layer in model.layers}
            counts.append(sum(np.count_nonzero(kernels[path][~mask]) for path, mask in masks.items()))

    x, y = data()
    model.predict(x, verbose=0)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[Watch()])
    assert counts == [0] * 6
    expected = merged(model, masks)
    for layer in model.layers:
        np.testing.assert_allclose(layer.kernel.numpy(), expected[f"{layer.name}/kernel"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(model.predict(x, verbose=0), forward(expected, model, x), rtol=1e-4, atol=1e-5)


def test_a_step_against_gradients_by_hand() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), L.Dense(4, use_bias=False, name="head")])
    with_lora(model)
    layer, rng = model.layers[0], np.random.default_rng(0)
    mask = rng.random((6, 4)) < 0.5
    layer.lora_kernel_b.assign(rng.normal(size=(2, 4)))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    tpi.attach(model, tpi.Masks({"head/kernel": mask}))
    x, y = rng.normal(size=(8, 6)), rng.normal(size=(8, 4))
    a, b, kernel = (np.array(one, "float64") for one in (layer.lora_kernel_a, layer.lora_kernel_b, layer._kernel))
    error = x @ (kernel + np.where(mask, 1.5 * a @ b, 0)) - y
    slope = np.where(mask, x.T @ error * 2 / error.size, 0) * 1.5
    model.train_on_batch(x.astype("float32"), y.astype("float32"))
    np.testing.assert_allclose(np.array(layer.lora_kernel_a), a - 0.1 * slope @ b.T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.array(layer.lora_kernel_b), b - 0.1 * a.T @ slope, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(np.array(layer._kernel), kernel.astype("float32"))


def test_every_layer_that_has_lora_in_mixed_precision() -> None:
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((4,), dtype="int32")
        x = L.Embedding(9, 6, name="embedding")(inputs)
        x = L.Conv1D(6, 3, padding="same", name="conv")(x)
        x = L.MultiHeadAttention(2, 3, name="attention")(x, x)
        x = L.Dense(3, name="head")(L.Flatten()(L.EinsumDense("abc,cd->abd", (4, 5), name="einsum")(x)))
        model = keras.Model(inputs, x)
    finally:
        keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(0)
    table = {"embedding/embeddings": rng.random((9, 6)) < 0.5}
    kept = tpi.Masks({**random_masks(model, sparsity=0.5, allocation="uniform"), **table})
    with_lora(model)
    model.compile(keras.optimizers.Adam(0.05, clipnorm=1.0), loss(), jit_compile=False)
    tpi.attach(model, kept)
    model.fit(rng.integers(0, 9, (24, 4)), np.arange(24) % 3, batch_size=8, verbose=0)
    assert len(kept) == 8
    for path, target in kept.check(model).items():
        computed = np.array(target.effective, "float32")
        assert not computed[~kept[path]].any(), path
        assert (computed != np.array(target.tensor))[kept[path]].any(), path
    tpi.strip(model)
    assert held(model, kept)


def test_a_diverged_factor_leaves_pruned_weights_at_zero(masks: tpi.Masks) -> None:
    model = attached(masks)
    model.layers[0].lora_kernel_b.assign(np.full((2, 16), np.nan))
    kernel, mask = model.layers[0].kernel.numpy(), masks["a/kernel"]
    assert (kernel[~mask] == 0).all()
    assert np.isnan(kernel[mask]).all()


def test_strip_merges_and_lora_goes_on(masks: tpi.Masks) -> None:
    model, (x, _) = trained(masks), data()
    before, factor = model.predict(x, verbose=0), np.array(model.layers[0].lora_kernel_a)
    expected = merged(model, masks)
    assert tpi.strip(model) is model
    assert held(model, masks)
    for path, values in weights(model, masks).items():
        np.testing.assert_allclose(values, expected[path], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    layer = model.layers[0]
    assert layer.lora_alpha == 3
    assert not np.array(layer.lora_kernel_b).any()
    np.testing.assert_array_equal(np.array(layer.lora_kernel_a), factor)
    hooks = {"get_config", "enable_lora", "_check_quantize_args", "compile"}
    assert not any(hooks & set(vars(one)) for one in (model, *model.layers))

    tpi.attach(model, masks)
    model.fit(*data(), verbose=0)
    assert not np.array_equal(model.predict(x, verbose=0), before)
    assert held(tpi.strip(model), masks)


def test_attached_again_with_other_masks(masks: tpi.Masks) -> None:
    model, other = trained(masks), random_masks(dense(), sparsity=0.5, seed=1)
    tpi.attach(model, other)
    expected = merged(model, other)
    for layer in model.layers:
        np.testing.assert_allclose(layer.kernel.numpy(), expected[f"{layer.name}/kernel"], rtol=1e-5, atol=1e-7)


def test_what_is_saved_is_the_masked_sum(masks: tpi.Masks, tmp_path: Path) -> None:
    model, (x, _) = trained(masks), data()
    before = model.predict(x, verbose=0)
    with pytest.raises(
        EnforcementError, match=r"Layer 'a'.*cannot save the masks.*both LoRA and a constraint.*save_weights"
    ):
        model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "merged.weights.h5")
    plain, again = dense(), with_lora(dense())
    tpi.attach(again, masks)
    for copy in (plain, again):
        copy.load_weights(tmp_path / "merged.weights.h5")
        np.testing.assert_allclose(copy.predict(x, verbose=0), before, rtol=1e-5, atol=1e-6)
        assert held(copy, masks)
    # Keras itself leaves both factors at zero.
    factor = again.layers[0].lora_kernel_a
    assert not np.array(factor).any()
    factor.assign(np.ones(factor.shape))
    again.compile("sgd", loss())
    again.fit(*data(), verbose=0)
    assert np.array(again.layers[0].lora_kernel_b).any()
    assert held(tpi.strip(again), masks)

    tpi.strip(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), before, rtol=1e-5, atol=1e-6)
    assert held(loaded, masks)


def test_reports_and_files_have_the_zeros(masks: tpi.Masks, export: Any, tmp_path: Path) -> None:
    model = trained(masks)
    expected = merged(model, masks)
    shown = get_weights(model)
    for path in masks:
        np.testing.assert_allclose(shown[path], expected[path], rtol=1e-5, atol=1e-7)
    report = Exporter(export.run)(model, tmp_path / "model.tflite", verify=data()[0])
    assert report.sparsity == pytest.approx(masks.sparsity, rel=1e-6)


def test_wrap_and_compact_say_what_to_do_first(masks: tpi.Masks) -> None:
    model, (x, _) = trained(masks), data()
    factors = [np.array(layer.lora_kernel_b) for layer in model.layers]
    with pytest.raises(ModelError, match="layer 'a' with LoRA"):
        tpi.wrap(model, masks)
    with pytest.raises(ModelError, match=r"LoRA on a/kernel, b/kernel, c/kernel.*tpi\.strip"):
        tpi.compact(model)
    assert all(np.array_equal(f, layer.lora_kernel_b) for f, layer in zip(factors, model.layers, strict=True))
    assert get_attached_masks(model) == masks
    tpi.strip(model)
    smaller = tpi.compact(model)
    np.testing.assert_allclose(smaller.model.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


# What would put other weights in place of those held


REPLACING: dict[str, Callable[[Any], Any]] = {
    "quantize the model": lambda model: model.quantize("int8"),
    "quantize a layer": lambda model: model.layers[1].quantize("int8"),
    "enable_lora": lambda model: model.layers[1].enable_lora(2),
}


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method")
@pytest.mark.parametrize("name", REPLACING)
def test_other_weights_are_refused_until_strip(masks: tpi.Masks, name: str) -> None:
    model, (x, y) = dense(), data()
    model.compile("sgd", loss())
    tpi.attach(model, masks)
    with pytest.raises(EnforcementError, match=r"has masks attached.*Received: .*tpi\.strip"):
        REPLACING[name](model)
    fit_watched(model, masks, x, y)
    REPLACING[name](tpi.strip(model))
    for path, target in masks.check(model).items():
        assert not np.count_nonzero(np.asarray(target.effective)[~masks[path]])


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method")
def test_other_weights_in_a_wrapped_layer(masks: tpi.Masks) -> None:
    wrapped, (x, y) = tpi.wrap(dense(), masks), data()
    inner = wrapped.layers[0].layer
    with pytest.raises(EnforcementError, match="has masks attached"):
        wrapped.quantize("int8")
    with pytest.raises(EnforcementError, match="has masks attached"):
        inner.enable_lora(2)
    type(inner).enable_lora(inner, 2)  # past the refusal
    with pytest.raises(EnforcementError, match="LoRA inside a wrapper"):
        tpi.attach(wrapped, masks)
    wrapped.compile("sgd", loss())
    wrapped.fit(x, y, verbose=0)
    with pytest.raises(EnforcementError, match=r"came back: \d+ of a/kernel"):
        tpi.strip(wrapped)


def test_masks_on_quantized_weights(masks: tpi.Masks) -> None:
    model = dense()
    for layer in model.layers:
        layer.quantize("int8")
    tpi.attach(model, masks)
    assert all(layer.kernel.dtype == "int8" for layer in model.layers)
    assert held(tpi.strip(model), masks)

    model.layers[1].enable_lora(2)
    before = [np.array(variable) for variable in model.variables]
    with pytest.raises(EnforcementError, match=r"b/kernel would not hold.*mode 'int8', LoRA True.*Leave it out"):
        tpi.attach(model, masks)
    assert get_attached_masks(model) is None
    assert all(np.array_equal(a, b) for a, b in zip(before, model.variables, strict=True))


def test_a_masked_embedding_refuses_lora_and_is_saved(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,), dtype="int32"), L.Embedding(9, 6, name="embedding")])
    mask = np.random.default_rng(0).random((9, 6)) < 0.5
    tpi.attach(model, tpi.Masks({"embedding/embeddings": mask}))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert get_attached_masks(loaded) == {"embedding/embeddings": mask}
    with pytest.raises(ValueError, match="incompatible with embedding constraints"):
        loaded.layers[0].enable_lora(2)
    tpi.attach(loaded)
    with pytest.raises(EnforcementError, match="has masks attached"):
        loaded.quantize("int8")


# Weights behind a property


class Standardized(L.Dense):
    @property
    def kernel(self) -> Any:
        return self._kernel - keras.ops.mean(self._kernel, axis=0, keepdims=True)


class Scaled(L.Dense):
    @property
    def kernel(self) -> Any:
        return self._kernel * (1.0 + keras.ops.max(keras.ops.abs(self._kernel)))


class Tied(L.Dense):
    other: Any = None

    @property
    def kernel(self) -> Any:
        return keras.ops.transpose(self.other.kernel)


def behind_a_property(kind: type) -> tuple[Any, tpi.Masks]:
    first, second = L.Dense(6, name="first"), kind(6, name="second")
    second.other = first
    model = keras.Sequential([keras.Input((6,)), first, second])
    model.compile("sgd", loss())
    return model, random_masks(model, sparsity=0.5)


@pytest.mark.parametrize("kind", [Standardized, Tied])
def test_a_weight_whose_zeros_do_not_stay_is_refused(kind: type) -> None:
    model, kept = behind_a_property(kind)
    before = model.get_weights()
    with pytest.raises(EnforcementError, match=rf"second/kernel would not hold.*{kind.__name__}\.kernel"):
        tpi.attach(model, kept)
    with pytest.raises(EnforcementError, match="second/kernel would not hold"):
        tpi.wrap(model, kept)
    assert get_attached_masks(model) is None
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_derived_weight_of_tf_keras() -> None:
    K = pytest.importorskip("tf_keras")

    class Derived(K.layers.Layer):  # type: ignore[misc, name-defined]
        def __init__(self, shift: float, **kwargs: Any):
            super().__init__(**kwargs)
            self.shift = shift

        def build(self, shape: Any) -> None:
            self.stored = self.add_weight("kernel", shape=(6, 3))

        @property
        def kernel(self) -> Any:
            return 2.0 * self.stored + self.shift

        def call(self, x: Any) -> Any:
            return x @ self.kernel

    mask = tpi.Masks({"derived/kernel": np.random.default_rng(0).random((6, 3)) < 0.5})
    shifted = K.Sequential([K.Input((6,)), Derived(1.0, name="derived")])
    with pytest.raises(EnforcementError, match=r"derived/kernel would not hold.*Derived\.kernel"):
        tpi.attach(shifted, mask)
    model = K.Sequential([K.Input((6,)), Derived(0.0, name="derived")])
    tpi.attach(model, mask)
    assert not np.count_nonzero(model.layers[0].kernel.numpy()[~mask["derived/kernel"]])
    assert held(tpi.strip(model), mask)


def test_a_scaled_weight_is_held() -> None:
    (model, kept), (x, y) = behind_a_property(Scaled), data()
    tpi.attach(model, kept)
    fit_watched(model, kept, x, y)
    assert not np.count_nonzero(model.layers[1].kernel.numpy()[~kept["second/kernel"]])
    tpi.strip(model)


def test_a_weight_named_like_a_property_of_all_layers() -> None:
    class Own(L.Layer):
        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(name="output", shape=(6,), initializer="ones")

        def call(self, x: Any) -> Any:
            return x * self.scale

    model, mask = keras.Sequential([keras.Input((6,)), Own(name="own")]), np.arange(6) % 2 == 0
    tpi.attach(model, tpi.Masks({"own/output": mask}))
    assert model.predict(np.ones((1, 6)), verbose=0).tolist() == [mask.tolist()]
    tpi.strip(model)


def test_spectral_normalization_keeps_zeros() -> None:
    layers = [L.SpectralNormalization(L.Dense(8, name="dense"), name="spectral"), L.Dense(3, name="head")]
    model, (x, y) = keras.Sequential([keras.Input((6,)), *layers]), data()
    kept = random_masks(model, sparsity=0.5)
    model.compile("sgd", loss())
    tpi.attach(model, kept)
    fit_watched(model, kept, x, y)
    assert held(tpi.strip(model), kept)
    assert isinstance(model.layers[0].layer.kernel.value, tf.Variable)
