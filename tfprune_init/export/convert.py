"""From the forward pass to TFLite bytes."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfprune_init.errors import ExportError
from tfprune_init.export.child import run_script
from tfprune_init.export.flatbuffer import positive_zeros
from tfprune_init.export.forward import Forward

QUANTIZE = ("float16", "dynamic", "int8")
"""What `quantize` may name; None is float32."""

TIMEOUT_SECONDS = 1800
"""How long the converter may take; integers calibrate for minutes on a large model."""


@dataclass(frozen=True)
class Converted:
    """What came out of the converter.

    Attributes:
        file: the TFLite file as asked for.
        float32: the same model unquantized; the very same bytes when nothing was to be quantized.
        batch: examples a run takes; None when any number.
    """

    file: bytes
    float32: bytes
    batch: int | None


def convert(forward: Forward, quantize: str | None, calibration: list[np.ndarray] | None) -> Converted:
    """Convert the forward pass, with an open batch dimension wherever the converter can.

    It can't for recurrent layers: then the file takes one example a run.

    Args:
        forward: the function to convert.
        quantize: None or one of `QUANTIZE`.
        calibration: for "int8": one array an input, [examples, ...], from which ranges are measured.

    Raises:
        ExportError: the converter refuses the model, or crashes over it.
    """
    try:
        return _convert(forward, quantize, calibration, batch=None)
    except ExportError:
        pass
    try:
        return _convert(forward, quantize, calibration, batch=1)
    except ExportError as error:
        raise ExportError(
            f"The TFLite converter can't do model {forward.model.name!r} as {quantize or 'float32'}. Replace the "
            f"layer or operation it names, or choose another `quantize`. {error}"
        ) from error


def _convert(
    forward: Forward, quantize: str | None, calibration: list[np.ndarray] | None, batch: int | None
) -> Converted:
    names = [spec.name for spec in forward.signature.inputs]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save(forward, folder / "saved_model", batch)
        (folder / "request.json").write_text(json.dumps({"quantize": quantize, "names": names}))
        if calibration is not None:
            np.savez(folder / "calibration.npz", *calibration)
        run_script("_converter.py", folder, TIMEOUT_SECONDS)
        float32 = positive_zeros((folder / "float32.tflite").read_bytes())
        if quantize is None:
            return Converted(float32, float32, batch)
        return Converted(positive_zeros((folder / "quantized.tflite").read_bytes()), float32, batch)


def _save(forward: Forward, folder: Path, batch: int | None) -> None:
    """Write the forward pass as a SavedModel whose signature has our input and output names.

    Through a SavedModel because the converter then keeps those names, and reads variables of any size.
    """
    import tensorflow as tf

    specs = [tf.TensorSpec((batch, *spec.shape), spec.dtype, name=spec.name) for spec in forward.signature.inputs]
    function = tf.function(forward, input_signature=specs, autograph=False).get_concrete_function()
    module = tf.Module()
    module.captured = list(function.graph.variables)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": function})
