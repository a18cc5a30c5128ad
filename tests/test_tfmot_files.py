from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras
from test_tfmot import Block, Gated, Scaled, legacy_dense, made
from training import data, fit_watched, fresh_process, held, leaks, loss, random_masks

import tfprune_init as tpi
from tfprune_init import tfmot
from tfprune_init.tfmot.imports import sparsity

K2 = tf_keras.optimizers
OWN = {"Block": Block, "Gated": Gated, "Scaled": Scaled}
FORMATS = {"keras": ".keras", "h5": ".h5", "tf": ".saved"}


def save(model: Any, path: Path, **options: Any) -> None:
    with warnings.catch_warnings():  # tf_keras advises against .h5
        warnings.simplefilter("ignore", UserWarning)
        model.save(path, **options)


def trained(name: str, optimizer: Any = None) -> tuple[Any, tpi.Masks, Any]:
    model, masks, x = made(name)
    wrapped = tfmot.wrap(model, masks)
    wrapped.compile(optimizer or K2.Adam(0.01, use_ema=True, ema_momentum=0.5), loss(tf_keras))
    wrapped.fit(x, data()[1], batch_size=8, verbose=0)
    return wrapped, masks, x


@cache
def trained_once(name: str) -> tuple[Any, tpi.Masks, Any]:
    """The same model for all tests that only save it."""
    return trained(name)


LOAD = """
import json, sys
from pathlib import Path
import numpy as np, tf_keras
import tfprune_init as tpi
from tfprune_init import tfmot
from tfprune_init.tfmot.imports import sparsity

result = {}
for file in sorted(Path(sys.argv[1]).iterdir()):
    if file.suffix in (".npz", ".npy"):
        continue
    masks = tpi.Masks.load(file.with_suffix(".npz"))
    inputs = np.load(file.with_suffix(".inputs.npz"))
    x = [inputs[key] for key in inputs]
    x = x[0] if len(x) == 1 else x
    if "scope" in file.stem:
        with sparsity.prune_scope():
            model = tf_keras.models.load_model(file)
    else:
        model = tf_keras.models.load_model(file)
    one = {"masks": tfmot.get_masks(model) == masks}
    one["same"] = bool(np.abs(model.predict(x, verbose=0) - np.load(file.with_suffix(".npy"))).max() < 1e-6)
    if model.optimizer is None:
        model.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    targets = masks.check(model)
    start, found = {p: t.tensor.numpy() for p, t in targets.items()}, []
    def look(*args):
        found.append(sum(int(np.count_nonzero(t.tensor.numpy()[~masks[p]] != 0)) for p, t in targets.items()))
    watch = tf_keras.callbacks.LambdaCallback(on_train_batch_end=look)
    look()
    model.fit(x, np.arange(24) % 3, batch_size=8, epochs=2, verbose=0, callbacks=[watch])
    look()
    one.update(leaks=sum(found), looks=len(found))
    one["moved"] = all((t.tensor.numpy() != start[p]).any() for p, t in targets.items())
    one["plain"] = type(tfmot.strip(model)).__name__
    result[file.name] = one
print(json.dumps(result))
"""


@pytest.mark.process
@pytest.mark.slow
def test_loaded_in_a_new_process_with_no_custom_objects(tmp_path: Path) -> None:
    names = ["text", "functional", "nested"]
    for name in names:
        wrapped, masks, x = trained_once(name)
        predicted = wrapped.predict(x, verbose=0)
        for form, suffix in FORMATS.items():
            file = tmp_path / f"{name} {form}{' scope' if name == 'functional' else ''}{suffix}"
            # tf_keras cannot save the optimizer of the nested model to .h5, wrapped or plain: layers share a name.
            without = {"include_optimizer": False} if (name, form) == ("nested", "h5") else {}
            save(wrapped, file, save_format=form, **without)
            masks.save(file.with_suffix(".npz"))
            np.savez(file.with_suffix(".inputs.npz"), *(x if isinstance(x, list) else [x]))
            np.save(file.with_suffix(".npy"), predicted)
    result = fresh_process(LOAD, str(tmp_path))
    assert len(result) == len(names) * len(FORMATS)
    for file, one in result.items():
        assert one == {"masks": True, "same": True, "leaks": 0, "looks": 8, "moved": True, "plain": "Functional"}, file


def product(names: list[str], others: list[str], usual: set[tuple[str, str]]) -> list[Any]:
    """All pairs, of which the default run takes the usual ones."""
    pairs = [(name, other) for name in names for other in others]
    return [pytest.param(*pair, marks=[pytest.mark.exhaustive] * (pair not in usual)) for pair in pairs]


@pytest.mark.parametrize(
    ("name", "form"),
    product(
        ["own layers", "beyond TF-MOT"],
        [*FORMATS],
        {("own layers", "keras"), ("own layers", "tf"), ("beyond TF-MOT", "h5")},
    ),
)
def test_own_layers_are_saved_too(name: str, form: str, tmp_path: Path) -> None:
    wrapped, masks, x = trained_once(name)
    file = tmp_path / f"model{FORMATS[form]}"
    save(wrapped, file, save_format=form)
    loaded = tf_keras.models.load_model(file, custom_objects=OWN)
    read = tfmot.get_masks(loaded)  # layers without a name have been named anew
    assert all(np.array_equal(a, b) for a, b in zip(read.values(), masks.values(), strict=True))
    assert np.allclose(loaded.predict(x, verbose=0), wrapped.predict(x, verbose=0), atol=1e-6)
    fit_watched(loaded, read, x, data()[1], callbacks=[sparsity.UpdatePruningStep()], K=tf_keras)


@pytest.mark.parametrize(
    ("name", "file"),
    product(
        ["own layers", "nested"],
        ["model.weights.h5", "model.h5", "checkpoint"],
        {("own layers", "model.h5"), ("own layers", "checkpoint"), ("nested", "model.weights.h5")},
    ),
)
def test_weights_only(name: str, file: str, tmp_path: Path) -> None:
    wrapped, masks, x = trained_once(name)
    wrapped.save_weights(tmp_path / file)
    predicted = wrapped.predict(x, verbose=0)
    model, _, _ = made(name)
    everything = tpi.Masks({p: np.ones_like(m) for p, m in zip(names_of(model), masks.values(), strict=True)})
    twin = tfmot.wrap(model, everything)
    twin.load_weights(tmp_path / file)
    assert all(np.array_equal(a, b) for a, b in zip(tfmot.get_masks(twin).values(), masks.values(), strict=True))
    assert np.allclose(twin.predict(x, verbose=0), predicted, atol=1e-6)
    assert held(twin, tfmot.get_masks(twin))


def names_of(model: Any) -> list[str]:
    return list(random_masks(model, 0.6, allocation="uniform"))


@pytest.mark.parametrize("first", [True, False])
def test_checkpoints_and_early_stopping_in_any_order(first: bool, tmp_path: Path) -> None:
    model, masks, x = made("dense")
    wrapped = tfmot.wrap(model, masks)
    wrapped.compile(K2.Adam(0.05, use_ema=True, ema_momentum=0.5), loss(tf_keras))
    callbacks = [
        tf_keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras")),
        tf_keras.callbacks.ModelCheckpoint(
            str(tmp_path / "{epoch}-{batch}.weights.h5"), save_weights_only=True, save_freq=1
        ),
        # The loss grows in the eyes of this callback, so it stops after two epochs and restores the first.
        tf_keras.callbacks.EarlyStopping("loss", patience=1, mode="max", restore_best_weights=True),
    ]
    theirs = [sparsity.UpdatePruningStep()]
    order = [*callbacks, *theirs] if first else [*theirs, *callbacks]
    fit_watched(wrapped, masks, x, data()[1], callbacks=order, epochs=4, K=tf_keras)
    files = sorted(tmp_path.glob("*.keras"))
    assert [file.name for file in files] == ["1.keras", "2.keras"]
    for file in files:
        loaded = tf_keras.models.load_model(file)
        assert tfmot.get_masks(loaded) == masks
        assert held(loaded, masks)
    best = tf_keras.models.load_model(files[0]).predict(x, verbose=0)
    assert np.allclose(wrapped.predict(x, verbose=0), best, atol=0.1)
    for file in sorted(tmp_path.glob("*.h5")):
        plain = tfmot.strip(tfmot.wrap(legacy_dense(), tpi.Masks({p: np.ones_like(m) for p, m in masks.items()})))
        twin = tfmot.wrap(plain, masks)
        twin.load_weights(file)
        assert held(twin, masks)


@pytest.mark.process
@pytest.mark.slow
def test_stripped_models_load_without_the_package(tmp_path: Path) -> None:
    zeros = 0
    for strip in (tfmot.strip, sparsity.strip_pruning):
        wrapped, masks, x = trained("functional")
        zeros = sum(int((~mask).sum()) for mask in masks.values())
        expected = wrapped.predict(x, verbose=0)
        plain = strip(wrapped)
        for form, suffix in FORMATS.items():
            file = tmp_path / f"{strip.__name__} {form}{suffix}"
            save(plain, file, save_format=form)
            np.save(file.with_suffix(".npy"), expected)
    np.save(tmp_path / "x.npy", x)
    result = fresh_process(PLAIN, str(tmp_path))
    assert len(result) == 2 * len(FORMATS)
    assert all(one == {"near": True, "zeros": zeros, "ours": False} for one in result.values()), result


PLAIN = """
import json, sys
from pathlib import Path
import numpy as np, tf_keras

folder, result = Path(sys.argv[1]), {}
x = np.load(folder / "x.npy")
for file in folder.iterdir():
    if file.suffix != ".npy":
        model = tf_keras.models.load_model(file, compile=False)
        near = np.allclose(model.predict(x, verbose=0), np.load(file.with_suffix(".npy")), atol=1e-6)
        zeros = sum(int((w == 0).sum()) for w in model.get_weights() if w.ndim > 1)
        result[file.name] = {"near": bool(near), "zeros": zeros, "ours": "tfprune_init" in sys.modules}
print(json.dumps(result))
"""


def test_a_loaded_model_with_clipnorm_gets_masked_gradients_back(tmp_path: Path) -> None:
    wrapped, masks, x = trained("dense", K2.SGD(0.5, clipnorm=0.05))
    save(wrapped, tmp_path / "model.keras")
    wrapped.fit(x, data()[1], batch_size=24, epochs=3, verbose=0)
    again = {}
    for name, callbacks in {"callback": tfmot.callbacks(), "attach": [], "nothing": []}.items():
        loaded = tf_keras.models.load_model(tmp_path / "model.keras")
        if name == "attach":
            tpi.attach(loaded)
        fit_watched(loaded, masks, x, data()[1], callbacks=callbacks, epochs=1, K=tf_keras)
        loaded = tf_keras.models.load_model(tmp_path / "model.keras")
        if name == "attach":
            tpi.attach(loaded)
        loaded.fit(x, data()[1], batch_size=24, epochs=3, verbose=0, callbacks=callbacks)
        assert not leaks(loaded, masks)
        pairs = zip(loaded.trainable_variables, wrapped.trainable_variables, strict=True)
        again[name] = [np.array_equal(a, b) for a, b in pairs]
    assert all(again["callback"])
    assert all(again["attach"])
    assert not all(again["nothing"])  # its norm counts the gradients of pruned connections


@pytest.mark.parametrize("form", FORMATS)
def test_fixed_masks_of_tfmots_own_wrapper_are_saved(form: str, tmp_path: Path) -> None:
    wrapped = sparsity.prune_low_magnitude(legacy_dense(), pruning_schedule=tfmot.FixedMasks())
    mask = np.arange(96).reshape(6, 16) % 3 == 0
    wrapped.layers[0].pruning_vars[0][1].assign(mask.astype("float32"))
    file = tmp_path / f"model{FORMATS[form]}"
    save(wrapped, file, save_format=form)
    with sparsity.prune_scope():
        loaded = tf_keras.models.load_model(file)
    assert isinstance(loaded.layers[0].pruning_schedule, tfmot.FixedMasks)
    loaded.compile("adam", loss(tf_keras))
    loaded.fit(*data(), verbose=0, callbacks=[*tfmot.callbacks(), sparsity.UpdatePruningStep()])
    assert np.array_equal(tfmot.get_masks(loaded)["a/kernel"], mask)
    assert not loaded.layers[0].layer.kernel.numpy()[~mask].any()
