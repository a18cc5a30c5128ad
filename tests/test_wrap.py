from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from model_kinds import build
from model_kinds import data as images
from tiers import rows
from training import (
    CLASSES,
    Policy,
    Training,
    data,
    dense,
    fit_watched,
    fresh_process,
    held,
    leaks,
    loss,
    random_masks,
    two_inputs,
)

import tfprune_init as tpi
from tfprune_init.errors import EnforcementError, MaskMismatchError, ModelError
from tfprune_init.masking.attachment import get_attached_masks

L, K3 = keras.layers, keras.optimizers


def tokens() -> np.ndarray:
    """Sentences of different lengths, padded with 0."""
    x = np.random.default_rng(2).integers(1, 9, (24, 5))
    x[np.arange(5) >= 2 + np.arange(24)[:, None] % 4] = 0
    return x


def text() -> keras.Model:
    """Layers with several masked variables each, time steps masked throughout."""
    inputs = keras.Input((5,), dtype="int32")
    x = L.Embedding(9, 6, mask_zero=True, name="embedding")(inputs)
    x = L.MultiHeadAttention(2, 3, name="attention")(query=x, value=x)
    x = L.LSTM(4, return_sequences=True, dropout=0.2, name="lstm")(x)
    x = L.Bidirectional(L.GRU(3), name="both")(x)
    return keras.Model(inputs, L.Dense(CLASSES, name="head")(x))


class Block(keras.layers.Layer):
    """A layer of one's own with layers inside, a regularizer and a random state."""

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units
        self.first = L.Dense(units, name="first", kernel_regularizer="l2", kernel_constraint="max_norm")
        self.second, self.drop = L.Dense(units, name="second"), L.Dropout(0.3, name="drop")

    def call(self, x: Any) -> Any:
        return self.second(self.drop(self.first(x)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def own_layer() -> keras.Model:
    inputs = keras.Input((6,))
    return keras.Model(inputs, L.Dense(CLASSES, name="head")(Block(8, name="block")(inputs)))


# Each kind of model with an input for it.
MODELS: dict[str, tuple[Callable[[], keras.Model], Callable[[], Any]]] = {
    "dense": (dense, lambda: data()[0]),
    "text": (text, tokens),
    "two inputs": (two_inputs, lambda: [data()[0], data()[0][::-1]]),
    "own layer": (own_layer, lambda: data()[0]),
    "functional": (lambda: build("functional", "keras"), lambda: images()[0]),
    "nested": (lambda: build("nested", "keras"), lambda: images()[0]),
}


def made(name: str, sparsity: float = 0.6) -> tuple[keras.Model, tpi.Masks, Any]:
    keras.utils.set_random_seed(0)
    model = MODELS[name][0]()
    return model, random_masks(model, sparsity, allocation="uniform"), MODELS[name][1]()


def layers(model: Any) -> list[Any]:
    return [layer for layer in model.layers if not isinstance(layer, L.InputLayer)]


@pytest.mark.parametrize("name", rows(MODELS, ["dense", "own layer"]))
def test_wrapped_trained_saved_stripped(name: str, tmp_path: Path) -> None:
    model, masks, x = made(name)
    before = model.get_weights()
    wrapped = tpi.wrap(model, masks)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert get_attached_masks(model) is None
    assert get_attached_masks(wrapped) == masks
    tpi.attach(model, masks)
    assert np.array_equal(wrapped.predict(x, verbose=0), model.predict(x, verbose=0))

    wrapped.compile(K3.AdamW(0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.5), loss(), jit_compile=False)
    fit_watched(wrapped, masks, x, data()[1])
    predicted = wrapped.predict(x, verbose=0)

    wrapped.save_weights(tmp_path / "w.weights.h5")
    empty = tpi.Masks({path: np.ones_like(mask) for path, mask in masks.items()})
    twin = tpi.wrap(tpi.strip(model), empty)
    twin.load_weights(tmp_path / "w.weights.h5")
    assert get_attached_masks(twin) == masks
    assert np.array_equal(twin.predict(x, verbose=0), predicted)

    plain = tpi.strip(wrapped)
    assert plain is not wrapped
    assert get_attached_masks(plain) is None
    assert not any(isinstance(layer, tpi.PrunableLayer) for layer in layers(plain))
    assert [layer.name for layer in layers(plain)] == [layer.name for layer in layers(model)]
    assert not leaks(plain, masks)
    assert np.array_equal(plain.predict(x, verbose=0), predicted)
    assert len(plain.losses) == len(model.losses)
    plain.compile(K3.Adam(0.01), loss())
    plain.fit(x, data()[1], verbose=0)
    assert leaks(plain, masks)
    assert held(wrapped, masks)


TRAININGS = {
    "nesterov": Training(lambda o: o.SGD(0.1, momentum=0.9, nesterov=True)),
    "ema_overwrite_frequency": Training(lambda o: o.Adam(0.01, use_ema=True, ema_overwrite_frequency=2)),
    "lamb": Training(lambda o: o.Lamb(0.1)),
    "accumulation": Training(lambda o: o.SGD(0.1, gradient_accumulation_steps=2, clipnorm=0.1)),
    "steps_per_execution": Training(lambda o: o.Adam(0.01, use_ema=True), {"steps_per_execution": 2}),
    "jit_compile": Training(lambda o: o.Adam(0.01, global_clipnorm=0.1), {"jit_compile": True}),
    "mixed_float16": Training(lambda o: o.Adam(0.01, use_ema=True), policy="mixed_float16"),
    "mixed_bfloat16": Training(lambda o: o.SGD(0.1, momentum=0.9), policy="mixed_bfloat16"),
    "SwapEMAWeights": Training(
        lambda o: o.SGD(0.1, use_ema=True, ema_momentum=0.9),
        callbacks=lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
    ),
    "EarlyStopping": Training(
        lambda o: o.Adam(0.05),
        callbacks=lambda: [keras.callbacks.EarlyStopping("loss", patience=1, mode="max", restore_best_weights=True)],
    ),
}


@pytest.mark.parametrize(
    "name", rows(TRAININGS, ["lamb", "accumulation", "mixed_float16", "SwapEMAWeights", "EarlyStopping"])
)
def test_ways_to_train(name: str) -> None:
    training = TRAININGS[name]
    with Policy(training.policy):
        model = dense()
    masks, (x, y) = random_masks(model), data()
    wrapped = tpi.wrap(model, masks)  # under the default policy: a wrapper has that of the layer inside
    assert {layer.dtype_policy.name for layer in wrapped.layers} == {training.policy}
    tpi.attach(model, masks)
    assert np.array_equal(wrapped.predict(x, verbose=0), model.predict(x, verbose=0))
    wrapped.compile(training.optimizer(K3), loss(), **{"jit_compile": False, **training.compile})
    fit_watched(wrapped, masks, x, y, callbacks=training.callbacks(), epochs=3)
    wrapped.set_weights([w if w.dtype == bool else np.ones_like(w) for w in wrapped.get_weights()])
    assert held(tpi.strip(wrapped), masks)


@pytest.mark.parametrize("optimizer", [lambda: K3.SGD(0.5, clipnorm=0.05), lambda: K3.Adam(0.01)])
def test_trained_wrapped_or_attached_is_the_same(optimizer: Any) -> None:
    model, masks, x = made("dense")
    wrapped = tpi.wrap(model, masks)
    tpi.attach(model, masks)
    for one in (model, wrapped):
        one.compile(optimizer(), loss(), jit_compile=False)
        for _ in range(4):
            one.train_on_batch(x, data()[1])
    assert ("apply" in vars(wrapped.optimizer)) == (wrapped.optimizer.clipnorm is not None)
    trained = tpi.strip(wrapped).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), trained, strict=True))


LOAD = """
import json, sys
from pathlib import Path
import keras, numpy as np
import tfprune_init as tpi
from tfprune_init.masking.attachment import get_attached_masks

result = {}
for file in sorted(Path(sys.argv[1]).glob("*.keras")):
    masks = tpi.Masks.load(file.with_suffix(".npz"))
    inputs = np.load(file.with_suffix(".inputs.npz"))
    x = [inputs[key] for key in inputs]
    x = x[0] if len(x) == 1 else x
    model = keras.saving.load_model(file)
    result[file.stem] = one = {"masks": get_attached_masks(model) == masks}
    one["same"] = bool(np.abs(model.predict(x, verbose=0) - np.load(file.with_suffix(".npy"))).max() < 1e-6)
    targets = masks.check(model)
    start, found = {p: t.tensor.numpy() for p, t in targets.items()}, []
    def look():
        found.append(sum(int(np.count_nonzero(t.tensor.numpy()[~masks[p]] != 0)) for p, t in targets.items()))
    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            look()
    look()
    model.fit(x, np.arange(24) % 3, batch_size=8, epochs=2, verbose=0, callbacks=[Watch()])
    look()
    model.set_weights([w if w.dtype == bool else np.ones_like(w) for w in model.get_weights()])
    look()
    one.update(leaks=sum(found), looks=len(found))
    one["moved"] = all((t.tensor.numpy() != start[p]).any() for p, t in targets.items())
    tpi.strip(model)
print(json.dumps(result))
"""


@pytest.mark.process
def test_loaded_in_a_new_process_with_no_custom_objects(tmp_path: Path) -> None:
    names = ["dense", "text", "two inputs"]
    for name in names:
        model, masks, x = made(name)
        wrapped = tpi.wrap(model, masks)
        wrapped.compile(K3.Adam(0.01, use_ema=True, ema_momentum=0.5), loss(), jit_compile=False)
        wrapped.fit(x, data()[1], batch_size=8, verbose=0)
        wrapped.save(tmp_path / f"{name}.keras")
        masks.save(tmp_path / f"{name}.npz")
        np.savez(tmp_path / f"{name}.inputs.npz", *(x if isinstance(x, list) else [x]))
        np.save(tmp_path / f"{name}.npy", wrapped.predict(x, verbose=0))
    result = fresh_process(LOAD, str(tmp_path))
    for name in names:
        assert result[name] == {"masks": True, "same": True, "leaks": 0, "looks": 2 * 3 + 3, "moved": True}, name


WITHOUT = """
import json, sys
import keras

try:
    keras.saving.load_model(sys.argv[1])
    print(json.dumps({"result": "loaded"}))
except Exception as error:
    print(json.dumps({"result": f"{type(error).__name__}: {error}"}))
"""


# Keras itself says so of every layer without a build() that it loads.
@pytest.mark.process
@pytest.mark.filterwarnings("ignore:`build..` was called on layer 'block':UserWarning")
def test_own_layers_are_saved_too_and_nothing_loads_without_the_package(tmp_path: Path) -> None:
    model, masks, x = made("own layer")
    wrapped = tpi.wrap(model, masks)
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"Block": Block})
    assert get_attached_masks(loaded) == masks
    assert np.array_equal(loaded.predict(x, verbose=0), wrapped.predict(x, verbose=0))
    loaded.compile(K3.SGD(0.1, momentum=0.9, use_ema=True), loss())
    fit_watched(loaded, masks, x, data()[1])
    tpi.wrap(dense(), random_masks(dense())).save(tmp_path / "dense.keras")
    assert "PrunableLayer" in fresh_process(WITHOUT, str(tmp_path / "dense.keras"))["result"]


def test_wrap_leaves_an_attached_model_attached() -> None:
    model, masks, x = made("dense")
    other = random_masks(model, seed=5)
    model.compile(K3.Adam(0.01, clipnorm=0.1), loss())
    tpi.attach(model, masks)
    wrapped = tpi.wrap(model, other)
    assert get_attached_masks(model) == masks
    assert all(isinstance(layer.kernel_constraint, keras.constraints.Constraint) for layer in model.layers)
    assert "apply" in vars(model.optimizer)
    fit_watched(model, masks, x, data()[1])
    assert get_attached_masks(wrapped) == other
    assert all(layer.layer.kernel_constraint is None for layer in wrapped.layers)
    # What both masks prune is 0, what only the other keeps was pruned before and starts from 0.
    both = {path: np.asarray(target.tensor) for path, target in other.check(wrapped).items()}
    assert all(not both[path][~(masks[path] & other[path])].any() for path in masks)


def test_attach_changes_the_masks_of_a_wrapped_model(tmp_path: Path) -> None:
    model, masks, x = made("dense")
    other = random_masks(model, sparsity=0.7, seed=5)
    wrapped = tpi.wrap(model, masks)
    wrapped.compile("adam", loss())
    fit_watched(wrapped, masks, x, data()[1])
    tpi.attach(wrapped, other)
    fit_watched(wrapped, other, x, data()[1])
    wrapped.save(tmp_path / "model.keras")
    assert get_attached_masks(keras.saving.load_model(tmp_path / "model.keras")) == other
    # A mask that no wrapper holds cannot be saved.
    tpi.attach(wrapped, tpi.Masks({"a/bias": np.arange(16) % 2 == 0}))
    with pytest.raises(EnforcementError, match="prunable_a"):
        wrapped.save(tmp_path / "model.keras")


def test_a_loaded_model_with_clipnorm_is_taken_up_again_by_attach(tmp_path: Path) -> None:
    model, masks, x = made("dense")
    wrapped = tpi.wrap(model, masks)
    wrapped.compile(K3.SGD(0.5, clipnorm=0.05), loss(), jit_compile=False)
    wrapped.train_on_batch(x, data()[1])
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    tpi.attach(loaded)
    for one in (wrapped, loaded):
        for _ in range(3):
            one.train_on_batch(x, data()[1])
    assert all(np.array_equal(a, b) for a, b in zip(wrapped.get_weights(), loaded.get_weights(), strict=True))


def test_a_layer_wrapped_by_hand() -> None:
    keras.utils.set_random_seed(0)
    layer = tpi.PrunableLayer(L.Dense(4, kernel_constraint="non_neg"), masked=["kernel", "bias"])
    model = keras.Sequential([keras.Input((6,)), layer, L.Dense(CLASSES)])
    mask = {"kernel": np.arange(24).reshape(6, 4) % 3 == 0, "bias": np.array([True, False, True, False])}
    layer.set_masks(mask)
    assert [w.path.rsplit("/", 1)[-1] for w in layer.get_prunable_weights()] == ["kernel", "bias"]
    assert len(layer.trainable_weights) == 2
    assert [w.dtype for w in layer.non_trainable_weights] == ["bool", "bool"]
    model.compile(K3.SGD(0.5), loss())
    model.train_on_batch(*data())
    kernel, bias = layer.layer.kernel.numpy(), layer.layer.bias.numpy()
    assert not kernel[~mask["kernel"]].any()
    assert not bias[[1, 3]].any()
    assert bias[[0, 2]].any()
    assert (kernel >= 0).all()
    assert json.dumps(layer.get_config()["masked"]) == '["kernel", "bias"]'
    with pytest.raises(ModelError, match=r"has no variable nothing\. It has: kernel, bias"):
        tpi.PrunableLayer(L.Dense(4), masked=["nothing"]).build((None, 6))


@pytest.mark.parametrize("criterion", [lambda y, p: keras.ops.mean(p**2), "mse"])
def test_a_compiled_model_is_copied_uncompiled_and_stays_compiled(criterion: Any) -> None:
    model, masks, x = made("dense")
    model.compile("sgd", criterion)
    wrapped = tpi.wrap(model, masks)
    assert model.compiled
    assert not wrapped.compiled
    wrapped.compile("sgd", criterion)
    wrapped.fit(x, np.zeros((24, CLASSES)), verbose=0)
    assert not tpi.strip(wrapped).compiled
    assert wrapped.compiled


class Doubled(keras.Model):
    def __init__(self, units: int):
        inputs = keras.Input((6,))
        super().__init__(inputs, L.Dense(units, name="d")(inputs))

    def call(self, x: Any) -> Any:
        return 2 * super().call(x)


class OwnStep(keras.Model):
    def train_step(self, batch: Any) -> dict[str, Any]:
        return super().train_step(batch)


class Nameless(keras.layers.Layer):
    """Its layers are named anew in every copy, so paths of masks would not fit."""

    def __init__(self) -> None:
        super().__init__(name="nameless")
        self.inner = L.Dense(CLASSES)

    def call(self, x: Any) -> Any:
        return self.inner(x)

    def get_config(self) -> dict[str, Any]:
        return {}


def test_refusals() -> None:
    legacy, subclassed = build("sequential", "tf_keras"), build("subclassed", "keras")
    with pytest.raises(ModelError, match="a tf_keras model"):
        tpi.wrap(legacy, random_masks(legacy))
    with pytest.raises(ModelError, match="a subclassed model; use tpi"):
        tpi.wrap(subclassed, random_masks(subclassed))
    with pytest.raises(ModelError, match="would lack call of its class Doubled"):
        tpi.wrap(Doubled(8), random_masks(Doubled(8)))
    wrapped = tpi.wrap(dense(), random_masks(dense()))
    with pytest.raises(ModelError, match="Received: a wrapped one"):
        tpi.wrap(wrapped, random_masks(dense()))
    with pytest.raises(MaskMismatchError, match="nowhere"):
        tpi.wrap(dense(), tpi.Masks({"nowhere": [True]}))
    inputs = keras.Input((6,))
    model = keras.Model(inputs, Nameless()(inputs))
    with pytest.raises(ModelError, match="need names that stay"):
        tpi.wrap(model, random_masks(model))
    # A class that is built like keras.Model keeps its methods.
    own = OwnStep(inputs, L.Dense(CLASSES, name="head")(inputs))
    assert type(tpi.wrap(own, random_masks(own))) is OwnStep


def test_strip_refuses_a_wrapped_model_that_leaked() -> None:
    model, masks, _ = made("dense")
    wrapped = tpi.wrap(model, masks)
    wrapped.layers[0].layer.kernel.value.assign_add(np.ones((6, 16), "float32"))
    with pytest.raises(EnforcementError, match=f"{int((~masks['a/kernel']).sum())} of a/kernel"):
        tpi.strip(wrapped)
