"""TFLite files for tests: converted, or taken apart and changed in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from tfprune_init.errors import ExportError
from tfprune_init.export.subprocess_runner import Runner

DEFAULT = tf.lite.Optimize.DEFAULT
SPARSE = tf.lite.Optimize.EXPERIMENTAL_SPARSITY


def converted(model: Any, *optimizations: Any, float16: bool = False, integers: bool = False) -> bytes:
    """What TensorFlow's converter makes of a model, its own sparse encodings included."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = list(optimizations)
    if float16:
        converter.target_spec.supported_types = [tf.float16]
    if integers:
        shape = model.inputs[0].shape[1:]
        random = np.random.default_rng(0)
        converter.representative_dataset = lambda: ([random.random((1, *shape), "float32")] for _ in range(4))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def dense_model(kernels: Sequence[np.ndarray], bias: bool = True) -> Any:
    """Dense layers with these kernels, one behind the other."""
    model = keras.Sequential(
        [keras.Input((len(kernels[0]),)), *(keras.layers.Dense(kernel.shape[1], use_bias=bias) for kernel in kernels)]
    )
    random = np.random.default_rng(1)
    for layer, kernel in zip(model.layers, kernels, strict=True):
        layer.set_weights([kernel, random.normal(size=kernel.shape[1])] if bias else [kernel])
    return model


def sparse_kernel(inputs: int, outputs: int, share: float, block: int = 1, seed: int = 0) -> np.ndarray:
    """A random kernel with a share of its blocks along the inputs zero."""
    random = np.random.default_rng(seed)
    kept = np.repeat(random.random((-(-inputs // block), outputs)) >= share, block, axis=0)[:inputs]
    return (random.normal(size=(inputs, outputs)) * kept).astype("float32")


def changed(file: bytes, change: Callable[[Any], None]) -> bytes:
    """The file after `change` was applied to its contents, a schema.ModelT."""
    model = schema.ModelT.InitFromPackedBuf(file, 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def operators(model: Any, name: str) -> list[Any]:
    """All operators of one kind in the main graph of a schema.ModelT."""
    code = getattr(schema.BuiltinOperator, name)
    codes = [max(one.builtinCode, one.deprecatedBuiltinCode) for one in model.operatorCodes]
    return [operator for operator in model.subgraphs[0].operators if codes[operator.opcodeIndex] == code]


_RUN = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
folder = sys.argv[1]
interpreter = Interpreter(model_path=folder + "/model.tflite", num_threads=1)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.load(folder + "/inputs.npy"))
interpreter.invoke()
np.save(folder + "/outputs.npy", interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
"""


def run_in_litert(file: bytes, inputs: np.ndarray, folder: Path, run: Runner) -> np.ndarray | None:
    """The output of a file with one input and output; None if it doesn't load or crashes."""
    pytest.importorskip("ai_edge_litert")
    (folder / "model.tflite").write_bytes(file)
    np.save(folder / "inputs.npy", inputs)
    (folder / "run.py").write_text(_RUN)
    try:
        run(str(folder / "run.py"), folder, 120)
    except ExportError:
        return None
    return np.load(folder / "outputs.npy")
