"""Copies keep all that their layers keep: every layer of both Kerases, and layers of one's own."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_samples import CANNOT_BE_BUILT, LEFT_OUT, SAMPLES
from model_kinds import KERAS, state

import tfprune_init as tpi
from tfprune_init.backend.layer_copy import copy_layer, copy_state
from tfprune_init.backend.model_state import find_layer_variables, restore_state
from tfprune_init.compaction import compact
from tfprune_init.errors import DataError, ExportError, ModelError, OptionError
from tfprune_init.training.inputs import model_fingerprint


def classes(package: str) -> dict[str, type]:
    """Every layer class of a package, once, by its own name."""
    layers = KERAS[package].layers
    found = [one for one in vars(layers).values() if inspect.isclass(one) and issubclass(one, layers.Layer)]
    return {one.__name__: one for one in found}


def call(layer: Any, inputs: Any, training: bool) -> Any:
    """What a layer gives, for a tuple of arguments."""
    told = {"training": training} if "training" in inspect.signature(layer.call).parameters else {}
    return layer(*(inputs if isinstance(inputs, tuple) else (inputs,)), **told)


def outputs(layer: Any, inputs: Any, training: bool) -> list[np.ndarray]:
    with restore_state(layer):
        given = call(layer, inputs, training)
    return [
        np.asarray(tf.sparse.to_dense(one) if isinstance(one, tf.SparseTensor) else one)
        for one in tf.nest.flatten(given)
    ]


def test_there_is_a_sample_of_every_class() -> None:
    assert {name for package in KERAS for name in classes(package)} == set(SAMPLES) | set(LEFT_OUT)
    assert not set(SAMPLES) & set(LEFT_OUT)


CASES = [
    pytest.param(package, *one, id=f"{name}-{i}-{package}")
    for package in KERAS
    for name, samples in SAMPLES.items()
    for i, one in enumerate(samples if isinstance(samples, list) else [samples])
    if name in classes(package) and (name, package) not in CANNOT_BE_BUILT
]


@pytest.mark.parametrize(("package", "make", "data"), CASES)
def test_the_copy_of_every_layer_computes_the_same(package: str, make: Any, data: Any) -> None:
    K, rng = KERAS[package], np.random.default_rng(1)
    inputs = tf.nest.map_structure(tf.constant, data)
    layer = make(K.layers)
    call(layer, inputs, True)
    for variable in find_layer_variables(layer):
        if variable.dtype.is_floating and variable.shape.is_fully_defined() and "adapt" not in variable.name:
            variable.assign(tf.abs(variable + tf.constant(rng.normal(size=variable.shape), variable.dtype)) + 0.1)
    before = outputs(layer, inputs, False)

    copy = copy_layer(layer)
    symbols = tf.nest.map_structure(
        lambda one: K.Input(one.shape[1:], batch_size=one.shape[0], dtype=one.dtype), inputs
    )
    call(copy, symbols, False)
    copy_state(layer, copy)
    for one, other in zip(before, outputs(copy, inputs, False), strict=True):
        np.testing.assert_array_equal(other, one)
    drawn = [outputs(one, inputs, True) for one in (layer, layer, copy)]
    if package == "keras" and all(map(np.array_equal, drawn[0], drawn[1])):  # random numbers from a state of its own
        assert all(map(np.array_equal, drawn[0], drawn[2]))
    assert not {id(one) for one in find_layer_variables(layer)} & {id(one) for one in find_layer_variables(copy)}


def on_top(K: Any, layer: Any, symbol: Any) -> Any:
    """A functional model of a layer and three that may shrink."""
    x = layer(symbol)
    x = K.layers.Flatten(name="flat")(x) if len(x.shape) > 2 else x
    for name, units in (("a", 24), ("b", 12), ("head", 2)):
        x = K.layers.Dense(units, name=name)(x)
    return K.Model(symbol, x)


def normalizing(K: Any) -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(50, 9, (64, 6)).astype("float32")
    layer = K.layers.Normalization(name="normalize")
    layer.adapt(x)
    return on_top(K, layer, K.Input((6,))), x


def normalizing_inside(K: Any) -> tuple[Any, Any]:
    model, x = normalizing(K)
    inputs = K.Input((6,))
    return K.Model(inputs, K.layers.Dense(2, name="last")(model(inputs))), x


def binning(K: Any) -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(50, 9, (64, 1)).astype("float32")
    layer = K.layers.Discretization(num_bins=4, output_mode="one_hot", name="bins")
    layer.adapt(x)
    return on_top(K, layer, K.Input((1,))), x


def reading(K: Any, **options: Any) -> tuple[Any, Any]:
    layer = K.layers.TextVectorization(output_mode="tf_idf", name="read", **options)
    if not options:
        layer.adapt(["a b b c", "b c"])
    return on_top(K, layer, K.Input((1,), dtype="string")), np.array([["a b"], ["c z"], ["b b"]], object)


def looking_up(K: Any, kind: str, known: list[Any], given: bool) -> tuple[Any, Any]:
    dtype = "string" if kind == "StringLookup" else "int64"
    layer = getattr(K.layers, kind)(output_mode="multi_hot", name="look_up", vocabulary=known if given else None)
    if not given:
        layer.adapt(np.array(known))
    return on_top(K, layer, K.Input((2,), dtype=dtype)), np.array([known[:2], known[1:]])


MODELS = {
    "Normalization": normalizing,
    "Normalization in a nested model": normalizing_inside,
    "Discretization": binning,
    "TextVectorization, adapted": reading,
    "TextVectorization": lambda K: reading(K, vocabulary=["b", "a"], idf_weights=[0.3, 0.7]),
    "StringLookup, adapted": lambda K: looking_up(K, "StringLookup", ["a", "b", "c"], given=False),
    "StringLookup": lambda K: looking_up(K, "StringLookup", ["a", "b", "c"], given=True),
    "IntegerLookup, adapted": lambda K: looking_up(K, "IntegerLookup", [7, 11, 13], given=False),
    "IntegerLookup": lambda K: looking_up(K, "IntegerLookup", [7, 11, 13], given=True),
}


def difference(model: Any, expected: np.ndarray, x: Any) -> float:
    return float(np.abs(np.asarray(model(tf.constant(x))) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("package", KERAS)
@pytest.mark.parametrize("name", MODELS)
def test_models_with_state_outside_of_variables(name: str, package: str, tmp_path: Any) -> None:
    model, x = MODELS[name](KERAS[package])
    masks = tpi.find_masks(model, None, sparsity=0.5, method="magnitude")
    tpi.attach(model, masks)
    expected = np.asarray(model(tf.constant(x)))
    assert np.ptp(expected) > 0
    assert difference(compact(model).model, expected, x) < 1e-5
    if package == "keras":
        wrapped = tpi.wrap(model, masks)
        wrapped.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        for one in (wrapped, tpi.strip(wrapped), loaded, tpi.strip(loaded), compact(loaded).model):
            assert difference(one, expected, x) < 1e-5


@functools.cache
def keeping(K: Any) -> type:
    class Keeping(K.layers.Layer):
        """Keeps a number, a file, an array and a variable that Keras does not count."""

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.number = {"value": [1.0]}
            self.own = Box()
            self.array = np.ones(6, "float32")
            self.hidden = [tf.Variable(1.0, trainable=False)]

        def call(self, x: Any) -> Any:
            return (
                x * (self.number["value"][0] * len(str(self.own.text)) * self.array * self.own.scale) + self.hidden[0]
            )

        def save_own_variables(self, store: Any) -> None:
            store["scale"] = np.array(self.own.scale)

        def load_own_variables(self, store: Any) -> None:
            self.own.scale = float(store["scale"])

        def save_assets(self, folder: str) -> None:
            (Path(folder) / "text.txt").write_text(self.own.text)

        def load_assets(self, folder: str) -> None:
            self.own.text = (Path(folder) / "text.txt").read_text()

    return Keeping


class Box:
    """What no one can look into."""

    def __init__(self) -> None:
        self.scale, self.text = 1.0, ""


@pytest.mark.parametrize("package", KERAS)
def test_a_layer_of_ones_own_keeps_what_it_saves_and_plain_data(package: str) -> None:
    K = KERAS[package]
    layer = keeping(K)(name="keeping")
    layer.number["value"][0], layer.own.scale, layer.own.text = 3.0, 0.5, "seven"
    layer.array = np.arange(6, dtype="float32")
    layer.hidden[0].assign(5.0)
    model = on_top(K, layer, K.Input((6,)))
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    masks = tpi.find_masks(model, None, sparsity=0.5, method="magnitude")
    tpi.attach(model, masks)
    expected = np.asarray(model(x))
    copies = [compact(model).model, *([tpi.wrap(model, masks)] if package == "keras" else [])]
    for copy in copies:
        assert difference(copy, expected, x) < 1e-5
        copied = next(one for one in copy.layers if one.name == "keeping")
        copied.array[0], copied.number["value"][0] = 9.0, 9.0  # nothing is shared
        copied.hidden[0].assign(9.0)
    assert difference(model, expected, x) == 0


class Forgetting(keras.layers.Layer):
    """Keeps a number where no copy can find it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.own = Box()

    def call(self, x: Any) -> Any:
        return x * self.own.scale


def test_a_copy_that_lost_something_is_an_error_that_names_the_layer() -> None:
    layer = Forgetting(name="forgetful")
    layer.own.scale = 1.01
    model = on_top(keras, layer, keras.Input((6,)))
    model.compile("sgd")
    masks = tpi.find_masks(model, None, sparsity=0.5, method="magnitude")
    before = state(model)
    for copied in (lambda: tpi.wrap(model, masks), lambda: compact(model, masks)):
        with pytest.raises(ModelError, match="layer 'forgetful' \\(Forgetting\\) differs"):
            copied()
    assert state(model) == before
    wrapped = tpi.wrap(on_top(keras, Forgetting(name="forgetful"), keras.Input((6,))), masks)
    wrapped.get_layer("forgetful").own.scale = 1.01
    with pytest.raises(ModelError, match="layer 'forgetful' \\(Forgetting\\) differs"):
        tpi.strip(wrapped)


def test_an_export_is_compared_with_the_model_that_was_given(export: Any, tmp_path: Any) -> None:
    model, x = normalizing(keras)
    masks = tpi.find_masks(model, None, sparsity=0.5, method="magnitude")
    tpi.wrap(model, masks).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    report = export(loaded, tmp_path / "model.tflite", verify=x, measure=False)
    assert report.relative_difference < 1e-4
    wrapped = tpi.wrap(on_top(keras, Forgetting(name="forgetful"), keras.Input((6,))), masks)
    wrapped.get_layer("forgetful").own.scale = 1.5
    with pytest.raises(ExportError):
        export(wrapped, tmp_path / "other.tflite", measure=False)
    assert not (tmp_path / "other.tflite").exists()


@pytest.mark.parametrize("package", KERAS)
def test_a_subclass_with_hooks_of_its_own_is_left_whole(package: str) -> None:
    K = KERAS[package]

    class Saving(K.layers.Dense):
        """Has a say in how it is saved."""

        def save_own_variables(self, store: Any) -> None:
            super().save_own_variables(store)

    model = K.Sequential([K.Input((6,)), Saving(8, name="a"), K.layers.Dense(2, name="head")])
    done = compact(model, tpi.Masks({"a/kernel": np.zeros((6, 8), bool)}))
    assert done.left_whole == {"a": "Saving saves what it keeps in its own way"}
    assert done.model.layers[0].units == 8


def test_parts_that_do_not_train_do_not_in_the_copy() -> None:
    attention = keras.layers.MultiHeadAttention(2, 3, name="attention")
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(attention(inputs, inputs)))
    attention.query_dense.trainable = False
    wrapped = tpi.wrap(model, tpi.find_masks(model, None, sparsity=0.5, method="magnitude"))
    assert not wrapped.layers[1].layer.query_dense.trainable
    assert len(wrapped.trainable_variables) == len(model.trainable_variables) == 8


def test_an_example_is_asked_for_where_none_can_be_made_up() -> None:
    class Strict(keras.layers.Layer):
        """Takes sequences of 11 steps."""

        def call(self, x: Any) -> Any:
            if x.shape[1] not in (11, None):
                raise ValueError("11 steps are needed.")
            return x[:, 0]

    x = np.ones((2, 11, 6), "float32")
    model = on_top(keras, Strict(name="strict"), keras.Input((None, 6)))
    masks = tpi.Masks({"a/kernel": np.ones((6, 24), bool)})
    with pytest.raises(ModelError, match=r"(?s)11 steps are needed.*example="):
        tpi.wrap(model, masks)
    wrapped = tpi.wrap(model, masks, example=x)
    tpi.strip(wrapped, example=x)
    with pytest.raises(DataError, match="cannot run on the example"):
        tpi.strip(wrapped, example=x[:, :5])
    tpi.attach(model, masks)
    with pytest.raises(OptionError, match="example"):
        tpi.strip(model, example=x)


@pytest.mark.parametrize("package", KERAS)
def test_runs_of_models_that_read_other_words_are_told_apart(package: str) -> None:
    K = KERAS[package]

    def fingerprint(*known: str) -> str:
        K.utils.set_random_seed(0)
        layer = K.layers.StringLookup(output_mode="multi_hot", name="look_up")
        layer.adapt(np.array(known))
        return model_fingerprint(on_top(K, layer, K.Input((2,), dtype="string", name="words")))

    assert fingerprint("a", "b") == fingerprint("a", "b") != fingerprint("a", "c")
