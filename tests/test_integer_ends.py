"""Files that take and give integers: run by hand, with the scales that the file itself says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tflite_files import changed, operators

from tfprune_init.errors import ExportError, OptionError
from tfprune_init.export import inspection, verification
from tfprune_init.export._interpret_script import to_real, to_stored
from tfprune_init.export.conversion import IO

layers = keras.layers
rng = np.random.default_rng(0)
IMAGES = rng.random((96, 8, 8, 3), dtype="float32")
CASES = [(way, end) for way, ends in IO.items() for end in ends]


@pytest.fixture(scope="module")
def model() -> Any:
    """A convolution and a Dense layer, 90% of their weights zero."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(48, 3, activation="relu"), layers.Flatten(), layers.Dense(5)]
    )
    for layer in (model.layers[0], model.layers[2]):
        layer.kernel.assign(layer.kernel.numpy() * (rng.random(layer.kernel.shape) >= 0.9))
    return model


def by_hand(model: Any) -> np.ndarray:
    """The outputs in float64, without Keras."""
    (kernel, bias), (weights, shift) = ([v.numpy().astype("float64") for v in model.layers[i].weights] for i in (0, 2))
    patches = np.lib.stride_tricks.sliding_window_view(IMAGES.astype("float64"), (3, 3), axis=(1, 2))
    hidden = np.maximum(np.einsum("nxycij,ijco->nxyo", patches, kernel) + bias, 0)
    return hidden.reshape(len(IMAGES), -1) @ weights + shift


class Exported(dict):
    """By way, type and encoding: report and bytes, exported when they are asked for first."""

    def __init__(self, model: Any, export: Any, folder: Path) -> None:
        self.model, self.export, self.path = model, export, folder / "model.tflite"

    def __missing__(self, case: tuple[str, str, bool]) -> tuple[Any, bytes]:
        way, end, sparse = case
        options = {"quantize": way, "io": end, "sparse": sparse, "representative_data": IMAGES}
        report = self.export(self.model, self.path, **options, measure=False)
        self[case] = report, self.path.read_bytes()
        return self[case]


@pytest.fixture(scope="module")
def exported(model: Any, export: Any, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(model, export, tmp_path_factory.mktemp("ends"))


def run(file: bytes) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Details of input and output, and what the output stands for, all images at once."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_content=file)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(taken["index"], IMAGES.shape)
    interpreter.allocate_tensors()
    values = IMAGES
    if taken["dtype"] != np.float32:
        scale, zero = taken["quantization"]
        limits = np.iinfo(taken["dtype"])
        values = np.clip(np.round(IMAGES.astype("float64") / scale + zero), limits.min, limits.max)
    interpreter.set_tensor(taken["index"], values.astype(taken["dtype"]))
    interpreter.invoke()
    stored = interpreter.get_tensor(given["index"])
    assert stored.dtype == given["dtype"]
    scale, zero = given["quantization"]
    return taken, given, (stored.astype("float64") - zero) * scale if scale else stored


@pytest.mark.parametrize("sparse", [False, True], ids=["zeros stored", "zeros left out"])
@pytest.mark.parametrize(("way", "end"), CASES)
def test_integers_stand_for_what_the_model_computes(
    model: Any, exported: Exported, way: str, end: str, sparse: bool
) -> None:
    report, file = exported[way, end, sparse]
    taken, given, got = run(file)
    assert (np.dtype(taken["dtype"]).name, np.dtype(given["dtype"]).name) == (end, end)
    expected = by_hand(model)
    off = np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2))
    assert off < 0.02
    first = np.sqrt(np.mean((got[:64] - expected[:64]) ** 2) / np.mean(expected[:64] ** 2))
    assert report.rms_difference == pytest.approx(first, rel=0.01)
    assert report.rms_difference <= report.tolerance / 3
    # What becomes an integer at the ends is what the file with float ends computes inside.
    step = 0 if end == "float32" else given["quantization"][0]
    assert np.abs(got - run(exported[way, "float32", sparse][1])[2]).max() <= 1.001 * step + 1e-7


@pytest.mark.parametrize(("way", "end"), CASES)
def test_zeros_are_left_out_of_integer_files_too(exported: Exported, way: str, end: str) -> None:
    (stored, _), (left_out, file) = (exported[way, end, sparse] for sparse in (False, True))
    kernels = {tensor.operator: tensor.kernel for tensor in left_out.tensors}
    assert kernels == {"CONV_2D": "densify", "FULLY_CONNECTED": "densify" if way == "int16x8" else "dense"}
    assert left_out.raw_bytes < (0.6 if way == "int16x8" else 0.96) * stored.raw_bytes
    assert "LiteRT 2.3.0 refuses" not in str([tensor.reason for tensor in left_out.tensors])
    assert stored.sparsity == left_out.sparsity > 0.85
    assert inspection.inspect_file(file).sparsity == pytest.approx(left_out.sparsity)


@pytest.mark.parametrize(("way", "end"), CASES)
def test_report_says_what_the_integers_stand_for(exported: Exported, way: str, end: str, tmp_path: Path) -> None:
    report, file = exported[way, end, False]
    details = run(file)[:2]
    shown = io.StringIO()
    report.print(shown)
    assert (report.quantize, report.io) == (way, end)
    assert f"{way}, {end} in and out" in report.title if end != "float32" else "in and out" not in report.title
    for (port,), detail, name in zip((report.inputs, report.outputs), details, ("input_0", "output_0"), strict=True):
        assert (port.name, port.dtype) == (name, end)
        if end == "float32":
            assert (port.scale, port.zero_point) == (None, None)
            assert f"{name} float32" not in shown.getvalue()
        else:
            assert (port.scale, port.zero_point) == detail["quantization"]
            sign = "+" if port.zero_point < 0 else "-"
            line = f"{name} {end} = (q {sign} {abs(port.zero_point)}) * {port.scale:.9g}"
            assert line in shown.getvalue()
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert (saved["io"], saved["inputs"][0]["dtype"], saved["outputs"][0]["dtype"]) == (end, end, end)
    printed = io.StringIO()
    inspected = inspection.inspect_file(file)
    inspected.print(printed)
    assert (inspected.signatures[0].inputs, inspected.signatures[0].outputs) == (report.inputs, report.outputs)


def test_integers_that_stand_for_something_else_are_caught(exported: Exported, model: Any, export: Any) -> None:
    _, file = exported["int8", "uint8", False]

    def double_the_weights(contents: Any) -> None:
        (dense,) = operators(contents, "FULLY_CONNECTED")
        weights = contents.subgraphs[0].tensors[dense.inputs[1]].quantization
        weights.scale = 2 * weights.scale

    inputs, expected = {"input_0": IMAGES[:8]}, {"output_0": by_hand(model)[:8].astype("float32")}
    verification.verify(changed(file, lambda _: None), inputs, expected, "int8", run=export.run)
    with pytest.raises(ExportError, match="disagrees with the Keras model in 'output_0'"):
        verification.verify(changed(file, double_the_weights), inputs, expected, "int8", run=export.run)


def test_floats_and_integers_by_hand() -> None:
    detail = {"quantization": (0.5, -3), "dtype": np.int8}
    # 0.2 / 0.5 - 3 = -2.6; what an int8 can't hold is cut off, not wrapped around.
    stored = to_stored(np.array([0.0, 0.2, 10.0, 1000.0, -1000.0], "float32"), detail)
    assert stored.dtype == np.int8
    assert stored.tolist() == [-3, -3, 17, 127, -128]
    assert to_real(stored, detail).tolist() == [0.0, 0.0, 10.0, 65.0, -62.5]
    words = np.array([3, 70000], np.int32)
    plain = {"quantization": (0.0, 0), "dtype": np.int32}
    assert to_stored(words, plain) is words
    assert to_real(words, plain) is words


def test_integers_of_the_model_stay_as_they_are(export: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(50, 8), layers.Flatten(), layers.Dense(4)]
    )
    words = rng.integers(0, 50, (64, 6)).astype("int32")
    options = {"quantize": "int8", "representative_data": words, "measure": False}
    report = export(model, tmp_path / "model.tflite", io="int8", **options)
    assert [(port.dtype, port.scale is None) for port in (*report.inputs, *report.outputs)] == [
        ("int32", True),
        ("int8", False),
    ]


class Word(keras.Model):
    """Takes integers and gives integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.dense = layers.Embedding(50, 8), layers.Dense(4)

    def call(self, inputs: Any) -> Any:
        return tf.argmax(self.dense(tf.reduce_mean(self.embedding(inputs), 1)), -1, tf.int32)


def test_io_without_effect_is_refused(export: Any, tmp_path: Path) -> None:
    words = rng.integers(0, 50, (64, 6)).astype("int32")
    model = Word()
    model(words)
    options = {"quantize": "int8", "representative_data": words, "measure": False}
    with pytest.raises(OptionError, match=r"`io` has no effect: .* are integers as they are. Received: io='uint8'"):
        export(model, tmp_path / "model.tflite", io="uint8", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("quantize", "end", "message"),
    [
        (None, "int8", "io='int8' needs quantize='int8': with quantize=None the file computes in floats"),
        ("float16", "uint8", "needs quantize='int8': with quantize='float16' the file computes in floats"),
        ("dynamic", "int16", "needs quantize='int16x8': with quantize='dynamic' the file computes in floats"),
        ("int8", "int16", "needs quantize='int16x8': .* integers whose ends are float32 or int8 or uint8"),
        ("int16x8", "uint8", "needs quantize='int8': .* integers whose ends are float32 or int16"),
        ("int8", "unit8", "Received: 'unit8'. Did you mean 'uint8'"),
        ("int8", None, "Received: None"),
        ("int16x8", "int16", "quantize='int16x8' measures the range .*`representative_data`"),
    ],
)
def test_combinations_without_sense_are_refused(
    model: Any, export: Any, quantize: str | None, end: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        export(model, tmp_path / "model.tflite", quantize=quantize, io=end)
    assert not list(tmp_path.iterdir())


def test_operators_without_16_bits_are_named(export: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 3)), layers.LayerNormalization(), layers.Dense(4)])
    options = {"quantize": "int16x8", "representative_data": IMAGES[:, :4, 0, :], "measure": False}
    with pytest.raises(ExportError, match=r"to float32 and int16x8. .*not yet supported for op: 'NEG'"):
        export(model, tmp_path / "model.tflite", **options)
    assert not list(tmp_path.iterdir())
