from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_kinds import build
from model_kinds import data as images
from tiers import rows
from training import CLASSES, data, dense, fit_watched, fresh_process, held, leaks, loss, random_masks, weights

import tfprune_init as tpi
from tfprune_init.errors import EnforcementError
from tfprune_init.masking.attachment import get_attached_masks

L = keras.layers


@keras.saving.register_keras_serializable(package="tests")
class Scaled(keras.layers.Dense):
    """A Dense layer of one's own whose config carries what Dense's does."""


def convolutions() -> keras.Model:
    inputs = keras.Input((6,))
    x = L.Reshape((3, 2, 1))(inputs)
    x = L.Conv2D(4, 2, padding="same", activation="relu", name="conv")(x)
    y = L.SeparableConv2D(4, 2, padding="same", name="separable")(x)
    z = L.DepthwiseConv2D(2, padding="same", name="depthwise", depthwise_constraint="max_norm")(x)
    x = L.Flatten()(L.Concatenate()([y, z]))
    return keras.Model(inputs, L.Dense(CLASSES, name="head")(x))


def recurrent() -> keras.Model:
    inner = keras.Sequential([keras.Input((3, 4)), L.GRU(4, name="gru"), L.Dense(4, name="dense")], name="inner")
    return keras.Sequential(
        [keras.Input((6,)), L.Reshape((3, 2)), L.LSTM(4, return_sequences=True, name="lstm"), inner, L.Dense(CLASSES)]
    )


# What loads in a new process, and how it is trained there. The optimizer that is saved with it comes first.
SAVED: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "dense": (dense, lambda: keras.optimizers.SGD(0.1, momentum=0.9)),
    "ema": (dense, lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.5)),
    "convolutions": (convolutions, lambda: keras.optimizers.Adam(0.01)),
    "recurrent": (recurrent, lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=2)),
    "clipnorm": (dense, lambda: keras.optimizers.SGD(0.5, clipnorm=0.05)),
}

LOAD_AND_TRAIN = """
import json, sys
from pathlib import Path
import numpy as np
import keras
import tfprune_init as tpi
from tfprune_init.masking.attachment import get_attached_masks

x = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
y = np.arange(24) % 3
result = {}
for file in sorted(Path(sys.argv[1]).glob("*.keras")):
    masks = tpi.Masks.load(file.with_suffix(".npz"))
    model = keras.saving.load_model(file)
    carried = get_attached_masks(model) == masks
    if file.stem == "clipnorm":
        tpi.attach(model)
    targets = masks.check(model)
    def leaks():
        return sum(int(np.count_nonzero(t.tensor.numpy()[~masks[p]] != 0)) for p, t in targets.items())
    found, start = [leaks()], {p: t.tensor.numpy() for p, t in targets.items()}
    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found.append(leaks())
    model.fit(x, y, batch_size=24 if file.stem == "clipnorm" else 8, epochs=3, verbose=0, callbacks=[Watch()])
    found.append(leaks())
    model.set_weights([np.ones_like(value) for value in model.get_weights()] if file.stem != "clipnorm" else
                      model.get_weights())
    found.append(leaks())
    moved = all((t.tensor.numpy() != start[p]).any() for p, t in targets.items())
    np.save(file.with_suffix(".npy"), model.get_weights()[0])
    tpi.strip(model)
    result[file.stem] = {"carried": carried, "leaks": sum(found), "looks": len(found), "moved": moved}
print(json.dumps(result))
"""

LOAD_WITHOUT_US = """
import json, sys
import keras

try:
    keras.saving.load_model(sys.argv[1])
    result = "loaded"
except Exception as error:
    result = f"{type(error).__name__}: {error}"
print(json.dumps({"result": result, "imported": "tfprune_init" in sys.modules}))
"""


def attached(build_model: Callable[[], Any], optimizer: Any, sparsity: float = 0.6) -> tuple[Any, tpi.Masks]:
    keras.utils.set_random_seed(0)
    model = build_model()
    masks = random_masks(model, sparsity)
    model.compile(optimizer, loss(), jit_compile=False)
    tpi.attach(model, masks)
    return model, masks


@pytest.mark.process
def test_loaded_in_a_new_process_it_trains_on_with_its_zeros(tmp_path: Path) -> None:
    x, y = data()
    for name, (build_model, optimizer) in SAVED.items():
        model, masks = attached(build_model, optimizer())
        model.fit(x, y, batch_size=24, verbose=0)
        model.save(tmp_path / f"{name}.keras")
        masks.save(tmp_path / f"{name}.npz")
    result = fresh_process(LOAD_AND_TRAIN, str(tmp_path))
    for name in SAVED:
        batches = 3 if name == "clipnorm" else 9
        assert result[name] == {"carried": True, "leaks": 0, "looks": batches + 3, "moved": True}, name
    # Once attach() renewed the hold on the loaded optimizer, clipping goes on as if never interrupted.
    straight, _ = attached(*[part() if part is SAVED["clipnorm"][1] else part for part in SAVED["clipnorm"]])
    straight.fit(x, y, batch_size=24, epochs=4, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "clipnorm.npy"), straight.get_weights()[0], rtol=1e-4, atol=1e-6)


@pytest.mark.process
def test_without_the_package_nothing_loads_that_could_leak(tmp_path: Path) -> None:
    model, _ = attached(dense, "sgd")
    model.save(tmp_path / "model.keras")
    found = fresh_process(LOAD_WITHOUT_US, str(tmp_path / "model.keras"))
    assert "MaskConstraint" in found["result"]
    assert not found["imported"]


def test_what_a_saved_file_holds_is_small_and_the_constraint_beneath_comes_back(tmp_path: Path) -> None:
    model, masks = attached(convolutions, "sgd")
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        config = json.loads(file.read("config.json"))
    (layer,) = [one for one in config["config"]["layers"] if one["name"] == "depthwise"]
    saved = layer["config"]["depthwise_constraint"]
    assert saved["registered_name"] == "tfprune_init>MaskConstraint"
    assert saved["config"]["then"]["class_name"] == "MaxNorm"
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert get_attached_masks(loaded) == masks
    plain = tpi.strip(loaded).get_layer("depthwise")
    assert isinstance(plain.depthwise_constraint, keras.constraints.MaxNorm)
    assert plain.kernel.constraint is plain.depthwise_constraint
    assert "MaskConstraint" not in json.dumps(loaded.get_config())


def test_config_json_and_own_dense_layer() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), Scaled(8, name="own"), L.EinsumDense("ab,bc->ac", CLASSES, name="e")])
    masks = random_masks(model)
    tpi.attach(model, masks)
    for copy in (keras.Sequential.from_config(model.get_config()), keras.models.model_from_json(model.to_json())):
        assert get_attached_masks(copy) == masks
        copy.compile(keras.optimizers.Adam(0.01, use_ema=True), loss())
        fit_watched(copy, masks, *data())


def test_weights_only_and_other_formats(tmp_path: Path) -> None:
    model, masks = attached(dense, "adam")
    x, y = data()
    model.fit(x, y, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    twin, _ = attached(dense, "adam")
    twin.optimizer.build(twin.trainable_variables)
    twin.load_weights(tmp_path / "model.weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), twin.get_weights(), strict=True))
    assert tpi.Masks.from_zeros(model) == masks
    model.export(tmp_path / "exported", format="tf_saved_model", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(x), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert get_attached_masks(loaded) == masks
    loaded.compile("adam", loss())  # Keras cannot train on with the optimizer of an .h5 file, pruned or not
    fit_watched(loaded, masks, x, y)


# What cannot carry masks is not saved


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = L.Dense(8, name="hidden"), L.Dense(CLASSES, name="head")

    def call(self, x: Any) -> Any:
        return self.head(self.hidden(x))


class OwnConstructor(keras.Model):
    """A functional model that is saved by the arguments of its own constructor, as backbones are."""

    def __init__(self, width: int = 8, **kwargs: Any):
        inputs = keras.Input((6,))
        super().__init__(inputs, L.Dense(CLASSES, name="head")(L.Dense(width, name="hidden")(inputs)), **kwargs)
        self.width = width

    def get_config(self) -> dict[str, Any]:
        return {"width": self.width, "name": self.name}


class Affine(keras.layers.Layer):
    """A layer that can be rebuilt but would forget the constraint."""

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, x: Any) -> Any:
        return x @ self.kernel

    def get_prunable_weights(self) -> list[Any]:
        return [self.kernel]


class Unsavable(Affine):
    """A layer that Keras cannot save at all."""

    def __init__(self, activation: Any):
        super().__init__(CLASSES)
        self.kernel_constraint = None
        self.activation = activation


def around(layer: Any, *shape: int) -> keras.Model:
    inputs = keras.Input((6,))
    return keras.Model(inputs, L.Dense(CLASSES, name="head")(L.Flatten()(layer(L.Reshape(shape)(inputs)))))


def attention() -> keras.Model:
    heads = L.MultiHeadAttention(2, 3, name="attention")
    return around(lambda x: heads(x, x), 3, 2)


def subclassed() -> keras.Model:
    model = Subclassed()
    model(data()[0])
    return model


def nested_own_constructor() -> keras.Model:
    inputs = keras.Input((6,))
    return keras.Model(inputs, OwnConstructor(name="inner")(inputs))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "attention": (attention, "'attention'"),
    "bidirectional": (lambda: around(L.Bidirectional(L.LSTM(3), name="both"), 3, 2), "'both'"),
    "time distributed": (lambda: around(L.TimeDistributed(L.Dense(3), name="timed"), 3, 2), "'timed'"),
    "RNN of a cell": (lambda: around(L.RNN(L.LSTMCell(3), name="rnn"), 3, 2), "'rnn'"),
    "subclassed": (subclassed, "Subclassed"),
    "own constructor": (OwnConstructor, "OwnConstructor"),
    "own constructor, nested": (nested_own_constructor, "'inner'"),
    "own layer": (lambda: around(Affine(4, name="affine"), 3, 2), "'affine'"),
    "unsavable layer": (lambda: around(Unsavable(lambda x: x), 3, 2), "Unsavable"),
}


@pytest.mark.parametrize(
    "name", rows(REFUSED, ["attention", "subclassed", "own constructor, nested", "own layer", "unsavable layer"])
)
def test_saving_is_refused_where_the_masks_would_be_lost(name: str, tmp_path: Path) -> None:
    build_model, culprit = REFUSED[name]
    model, masks = attached(build_model, "sgd")
    for file in ("model.keras", "model.h5"):
        with pytest.raises(EnforcementError, match=f"{culprit}.*cannot save the masks") as refusal:
            model.save(tmp_path / file)
        for way_out in ("save_weights", "tpi.wrap", "tpi.strip"):
            assert way_out in str(refusal.value)
    with pytest.raises(EnforcementError):
        model.to_json()
    model.save_weights(tmp_path / "model.weights.h5")
    twin, _ = attached(build_model, "sgd")
    twin.load_weights(tmp_path / "model.weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), twin.get_weights(), strict=True))
    assert held(twin, random_masks(twin, 0.6))
    tpi.strip(model)
    if name not in ("unsavable layer", "subclassed"):
        model.save(tmp_path / "plain.keras")
        loaded = keras.models.load_model(
            tmp_path / "plain.keras", custom_objects={"OwnConstructor": OwnConstructor, "Affine": Affine}
        )
        restored = tpi.Masks.from_zeros(loaded)
        assert all(np.array_equal(restored[path], masks[path]) for path in masks)
        tpi.attach(loaded, restored)
        assert get_attached_masks(loaded) == restored


@pytest.mark.slow
def test_checkpoints_of_whole_models_work_where_saving_does(tmp_path: Path) -> None:
    x, y = data()

    def checkpoint(name: str, **options: Any) -> Any:
        return keras.callbacks.ModelCheckpoint(tmp_path / name, **options)

    model, masks = attached(dense, keras.optimizers.Adam(0.01, use_ema=True))
    both = [checkpoint("d{epoch}.keras"), checkpoint("d{epoch}.weights.h5", save_weights_only=True)]
    fit_watched(model, masks, x, y, callbacks=both)
    for epoch in (1, 2):
        loaded = keras.saving.load_model(tmp_path / f"d{epoch}.keras")
        assert get_attached_masks(loaded) == masks
        assert held(loaded, masks)
        model.load_weights(tmp_path / f"d{epoch}.weights.h5")
        assert all(np.array_equal(w, weights(loaded, masks)[path]) for path, w in weights(model, masks).items())
    fit_watched(loaded, masks, x, y)

    model, masks = attached(attention, "adam")
    with pytest.raises(EnforcementError, match="'attention'"):
        model.fit(x, y, verbose=0, callbacks=[checkpoint("a.keras")])
    with pytest.raises(zipfile.BadZipFile):  # Keras opens the file before it asks the layers
        zipfile.ZipFile(tmp_path / "a.keras")
    fit_watched(model, masks, x, y, callbacks=[checkpoint("a.weights.h5", save_weights_only=True)])
    assert (tmp_path / "a.weights.h5").exists()


@pytest.mark.parametrize("kind", rows(["sequential", "functional", "subclassed"], ["functional"]))
def test_tf_keras_models_are_not_saved(kind: str, tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    model = build(kind, "tf_keras")
    model.fit(*images(), verbose=0)
    masks = random_masks(model, 0.6)
    tpi.attach(model, masks)
    for file in ("model.keras", "saved_model"):
        with pytest.raises(EnforcementError, match="cannot save the masks"):
            model.save(tmp_path / file)
    with pytest.raises(EnforcementError, match="cannot save the masks"):
        model.to_json()
    for file in ("model.weights.h5", "checkpoint"):
        model.save_weights(tmp_path / file)
        model.fit(*images(), verbose=0)
        model.load_weights(tmp_path / file)
        assert held(model, masks)
    tpi.strip(model)
    if kind == "functional":
        model.save(tmp_path / "plain.keras")
        assert not leaks(tf_keras.models.load_model(tmp_path / "plain.keras"), masks)


def test_tf_keras_functional_models_with_their_own_constructor_are_not_saved(tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")

    class Backbone(tf_keras.Model):
        def __init__(self, width: int = 8, **kwargs: Any):
            inputs = tf_keras.Input((6,))
            super().__init__(inputs, tf_keras.layers.Dense(width, name="hidden")(inputs), **kwargs)
            self.width = width

        def get_config(self) -> dict[str, Any]:
            return {"width": self.width}

    model = Backbone()
    tpi.attach(model, random_masks(model))
    with pytest.raises(EnforcementError, match="Backbone"):
        model.save(tmp_path / "model.keras")
