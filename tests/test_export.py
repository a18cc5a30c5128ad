"""Export to TFLite: real conversions, run by real interpreters."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune_init.errors import DataError, ExportError, ModelError, OptionError
from tfprune_init.export import tflite_export, verification
from tfprune_init.export.conversion import IO, Converted
from tfprune_init.export.flatbuffer import densify, measure_sparsity
from tfprune_init.export.inference import InferenceFunction
from tfprune_init.export.inputs import find_signature
from tfprune_init.masking.wrapper import wrap
from tfprune_init.masks import Masks

layers = keras.layers


def random_inputs(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype="float32")


def prune(model: Any, share: float) -> None:
    """Zero kernels by multiplying with a mask, as many codes do: half of these zeros are -0.0."""
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(variable.numpy() * (random.random(variable.shape) >= share))


def all_values(model: Any) -> dict[str, bytes]:
    variables = [*model.variables, *model.optimizer.variables]
    return {f"{index} {variable.path}": variable.numpy().tobytes() for index, variable in enumerate(variables)}


@pytest.fixture(scope="module")
def model() -> Any:
    """A big Dense model, trained a little, 95% of its kernels zero."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((256,)),
            layers.Dense(1024),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.1),
            layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = random_inputs(256, 256)
    model.fit(inputs, (10 * inputs[:, 0]).astype("int32"), verbose=0)
    prune(model, 0.95)
    return model


@pytest.fixture(scope="module", params=[None, "float16", "dynamic", "int8", "int16x8"], ids=str)
def exported(request: pytest.FixtureRequest, model: Any, export: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One export a way to quantize, zeros stored: the report, and the model's variables before and after."""
    path = tmp_path_factory.mktemp("export") / "model.tflite"
    data = tf.data.Dataset.from_tensor_slices((random_inputs(100, 256), np.zeros(100))).batch(30)
    before = all_values(model)
    given = {"representative_data": data} if request.param in IO else {"verify": data}
    report = export(model, path, quantize=request.param, sparse=False, measure=False, **given)
    return report, before, all_values(model)


def test_every_quantization_is_verified_and_leaves_no_trace(exported: Any) -> None:
    report, before, after = exported
    assert before == after
    assert report.examples == 64
    assert not report.synthetic_inputs
    assert report.batch is None
    assert "tf.lite" in report.interpreters
    assert getattr(report, report.judged_by) <= report.tolerance / 3
    assert report.top1_agreement > 0.9


def test_sizes(exported: Any) -> None:
    report, _, _ = exported
    file = Path(report.path).read_bytes()
    assert report.raw_bytes == len(file)
    assert report.sparsity == pytest.approx(0.95, abs=0.01)
    dense = report.dense_float32
    assert 4 * report.gzip_bytes < dense.gzip_bytes
    assert dense.gzip_bytes > 0.9 * dense.raw_bytes
    share = {None: 1.0, "float16": 0.5, "dynamic": 0.25, "int8": 0.25, "int16x8": 0.25}[report.quantize]
    assert report.raw_bytes / dense.raw_bytes == pytest.approx(share, abs=0.06)
    assert b"\x00\x00\x00\x80" * 2 not in file  # no zero is stored as -0.0, which would cost gzip


def test_report_is_shown_and_saved(exported: Any, tmp_path: Path) -> None:
    report, _, _ = exported
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_dict()
    shown = io.StringIO()
    report.print(file=shown)
    assert f"{report.raw_bytes:,}" in shown.getvalue()
    assert "real inputs" in shown.getvalue()


def test_model_trains_after_export(model: Any, exported: Any) -> None:
    values = [variable.numpy() for variable in model.trainable_variables]
    losses = model.fit(random_inputs(64, 256), np.zeros(64), epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)


class Subclassed(keras.Model):
    """Takes a dict, and no `training` argument."""

    def __init__(self) -> None:
        super().__init__()
        self.left = layers.Dense(5)
        self.right = layers.Dense(5)

    def call(self, inputs: dict[str, Any]) -> Any:
        return self.left(inputs["b"]) - self.right(inputs["a"])


def subclassed() -> Any:
    model = Subclassed()
    model({"b": random_inputs(2, 3), "a": random_inputs(2, 4)})
    return model


def functional(policy: str = "float32") -> Any:
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, dtype=policy)(inputs)
    x = layers.ReLU(dtype=policy)(layers.BatchNormalization(dtype=policy)(x))
    model = keras.Model(inputs, layers.Dense(3, dtype=policy)(layers.Flatten(dtype=policy)(x)))
    model.layers[2].moving_mean.assign([0.5, -0.5, 1.0, 0.0])
    return model


def wrapped() -> Any:
    """Functional, with BatchNorm, its masks in wrappers."""
    model = functional()
    prune(model, 0.7)
    return wrap(model, Masks.from_zeros(model))


def nested() -> Any:
    inputs = keras.Input((8, 8, 1), name="image")
    inner = keras.Sequential([functional("mixed_float16"), layers.Dense(4, activation="relu")])
    return keras.Model(inputs, layers.Dense(2)(inner(inputs)))


def two_inputs_two_outputs() -> Any:
    """Names whose alphabetic order is neither the order of the inputs nor that of the outputs."""
    inputs = {"z-in": keras.Input((3,), name="z-in"), "a": keras.Input((3,), name="a")}
    z, a = layers.Dense(4)(inputs["z-in"]), layers.Dense(4)(inputs["a"])
    return keras.Model(inputs, {"y": z - a, "b": a})


def recurrent() -> Any:
    return keras.Sequential([keras.Input((5, 3)), layers.GRU(4), layers.Dense(2)])


@pytest.mark.parametrize(
    ("build", "verify"),
    [
        (wrapped, random_inputs(5, 8, 8, 1)),
        (nested, None),
        (subclassed, {"b": random_inputs(5, 3), "a": random_inputs(5, 4)}),
        (two_inputs_two_outputs, None),
        (recurrent, None),
    ],
)
def test_every_kind_of_model(
    build: Any, verify: Any, export: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build()
    policies = [layer.dtype_policy.name for layer in model._flatten_layers()]
    capfd.readouterr()
    report = export(model, tmp_path / "model.tflite", verify=verify, measure=False)
    assert report.relative_difference < 1e-5
    kernels = [variable.numpy() for variable in model.trainable_variables if "kernel" in variable.path]
    zeros = sum(np.sum(kernel == 0) for kernel in kernels) / sum(kernel.size for kernel in kernels)
    assert report.sparsity == pytest.approx(zeros, abs=0.05)
    assert report.synthetic_inputs == (verify is None)
    assert report.batch == (1 if build is recurrent else None)
    assert [layer.dtype_policy.name for layer in model._flatten_layers()] == policies
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def good(model: Any, export: Any) -> Any:
    """A file that agrees with the model, the inputs to compare on, the expected outputs."""
    inputs = random_inputs(8, 256)
    forward = InferenceFunction(model, find_signature(model))
    return export.convert(forward, [None], None).files[None], {"input_0": inputs}, forward.reference([inputs])


def test_truncated_file_is_caught(good: Any, export: Any) -> None:
    file, inputs, reference = good
    with pytest.raises(ExportError, match="loading it in"):
        verification.verify(file[: len(file) // 2], inputs, reference, None, run=export.run)


@pytest.mark.parametrize(
    ("value", "quantize", "message"),
    [(0.01, None, "relative_difference .* allowed 0.0001"), (np.nan, "int8", "NaN or Inf in 80 of 80")],
)
def test_altered_weights_are_caught(
    model: Any, good: Any, value: float, quantize: str | None, message: str, export: Any
) -> None:
    file, inputs, reference = good
    stored = (model.layers[-1].kernel.numpy().T + np.float32(0)).tobytes()  # adding 0 makes -0.0 positive
    assert file.count(stored) == 1
    changed = np.frombuffer(stored, "float32").copy()
    changed[::512] = value
    with pytest.raises(ExportError, match=message):
        verification.verify(file.replace(stored, changed.tobytes()), inputs, reference, quantize, run=export.run)


def test_other_outputs_and_slow_files_are_caught(good: Any, export: Any) -> None:
    file, inputs, reference = good
    run = verification.InterpreterRun("an interpreter", "1.0", 1, {"output_0": reference["output_0"][:, :3]})
    with pytest.raises(ExportError, match=r"shape \(8, 3\), the Keras model \(8, 10\)"):
        verification.compare([run], reference, None)
    with pytest.raises(ExportError, match="no output 'logits'"):
        verification.compare([run], {"logits": reference["output_0"]}, None)
    with pytest.raises(ExportError, match=r"Timed out after 0.01 s"):
        verification.verify(file, inputs, reference, None, timeout=0.01, run=export.run)


def test_bad_file_leaves_nothing_behind(
    model: Any, good: Any, export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Converted({None: good[0][:-1000]}, None)
    monkeypatch.setattr(tflite_export, "convert", lambda *_: broken)
    path = tmp_path / "model.tflite"
    path.write_bytes(b"an older file")
    with pytest.raises(ExportError, match="doesn't run, so it was not written"):
        export(model, path, sparse=False)
    assert path.read_bytes() == b"an older file"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_dense_twin_has_the_size_and_no_zeros(good: Any) -> None:
    file, _, _ = good
    dense = densify(file)
    assert len(dense) == len(file)
    assert measure_sparsity(file) > 0.94
    assert measure_sparsity(dense) == 0.0
    assert dense == densify(file)


def test_synthetic_inputs_are_the_same_every_time() -> None:
    model = keras.Sequential([keras.Input((6,), dtype="int32"), layers.Embedding(2, 3)])
    first, second = (find_signature(model).synthetic(10)[0] for _ in range(2))
    assert first.dtype == np.int32
    assert set(first.flat) == {0, 1}
    assert (first == second).all()


def unbuilt() -> Any:
    return keras.Sequential([layers.Dense(2)])


def not_a_number() -> Any:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model.layers[0].bias.assign([np.nan, 0.0])
    return model


def small() -> Any:
    return keras.Sequential([keras.Input((4,)), layers.Dense(2)])


def open_ended() -> Any:
    return keras.Sequential([keras.Input((None, 4)), layers.Dense(2)])


rows = random_inputs(3, 4)


@pytest.mark.parametrize(
    ("build", "options", "error", "message"),
    [
        (object, {}, ModelError, "Received: builtins.object"),
        (unbuilt, {}, ModelError, "not built"),
        (not_a_number, {}, ExportError, "model itself gives NaN"),
        (open_ended, {}, DataError, "open dimensions"),
        (small, {"quantize": "float61"}, OptionError, "Did you mean 'float16'"),
        (small, {"quantize": "int8"}, OptionError, "representative_data"),
        (small, {"quantize": "dynamic", "representative_data": rows}, OptionError, "no effect"),
        (small, {"representative_data": rows}, OptionError, "no effect"),
        (small, {"sparse": "yes"}, OptionError, "'auto', True or False. Received: 'yes'"),
        (small, {"sparse": True, "measure": False}, ExportError, "no weight gets smaller"),
        (small, {"target": "tpu"}, OptionError, "'cpu', 'arm'. Received: 'tpu'"),
        (small, {"verify": rows[:0]}, DataError, "empty"),
        (small, {"verify": tf.data.Dataset.from_tensor_slices(rows).batch(2).take(0)}, DataError, "empty"),
        (small, {"verify": tf.data.Dataset.from_tensor_slices(rows)}, DataError, "batched"),
        (small, {"verify": rows[:, :3]}, DataError, r"shape \(3, 3\)"),
        (small, {"verify": rows * np.nan}, DataError, "NaN or Inf"),
        (small, {"verify": [rows, rows]}, DataError, r"1 input\(s\)"),
        (small, {"verify": "data.npz"}, DataError, "Received: str"),
        (two_inputs_two_outputs, {"verify": {"a": rows[:, :3]}}, DataError, r"lacks inputs \['z-in'\]"),
        (two_inputs_two_outputs, {"verify": rows[:, :3]}, DataError, "takes a dict"),
    ],
)
def test_refusals_write_nothing(
    build: Any, options: dict[str, Any], error: type[Exception], message: str, export: Any, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export(build(), tmp_path / "model.tflite", **options)
    assert not os.listdir(tmp_path)


def test_path_must_be_writable(export: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="doesn't exist"):
        export(small(), tmp_path / "missing" / "model.tflite")
    with pytest.raises(OptionError, match="is a folder"):
        export(small(), tmp_path)


def test_int8_of_outputs_near_0_blames_their_size(tmp_path: Path, export: Any) -> None:
    small = keras.initializers.RandomNormal(stddev=1e-12, seed=0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer=small)])
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    with pytest.raises(ExportError, match="scale the outputs up"):
        export(model, tmp_path / "m.tflite", quantize="int8", representative_data=x, measure=False)
