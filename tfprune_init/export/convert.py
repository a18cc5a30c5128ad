"""From the forward pass to TFLite bytes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
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
        files: by `quantize`: the TFLite file, zeros stored.
        batch: examples a run takes; None when any number.
        extra_error: why the extra file is missing; None if it is there or wasn't asked for.
    """

    files: dict[str | None, bytes]
    batch: int | None
    extra_error: str | None = None


def convert(
    forward: Forward,
    quantize: Sequence[str | None],
    calibration: list[np.ndarray] | None,
    extra: str | None = None,
) -> Converted:
    """Convert the forward pass, with an open batch dimension wherever the model and the converter can.

    The converter can't for recurrent layers: then the files take one example a run. A model of a fixed batch keeps it.

    Args:
        forward: the function to convert.
        quantize: the ways to quantize: None or one of `QUANTIZE` each.
        calibration: for "int8": one array an input, [examples, ...], from which ranges are measured.
        extra: one more way, which may fail.

    Raises:
        ExportError: the converter refuses the model, or crashes over it.
    """
    fixed = forward.signature.batch
    try:
        return _convert(forward, quantize, calibration, extra, fixed)
    except ExportError as error:
        refused = error
    if fixed is None:
        try:
            return _convert(forward, quantize, calibration, extra, batch=1)
        except ExportError as error:
            refused = error
    ways = " and ".join(_name(way) for way in quantize)
    raise ExportError(
        f"The TFLite converter can't do model {forward.model.name!r} as {ways}. Replace the layer or operation it "
        f"names, or choose another `quantize`. {refused}"
    ) from refused


def _convert(
    forward: Forward,
    quantize: Sequence[str | None],
    calibration: list[np.ndarray] | None,
    extra: str | None,
    batch: int | None,
) -> Converted:
    ways = [*quantize, *([extra] if extra else [])]
    names = [spec.name for spec in forward.signature.inputs]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save(forward, folder / "saved_model", batch)
        request = {"quantize": [_name(way) for way in ways], "names": names, "batch": batch}
        (folder / "request.json").write_text(json.dumps(request))
        if calibration is not None:
            np.savez(folder / "calibration.npz", *calibration)
        failed = None
        try:
            run_script("_converter.py", folder, TIMEOUT_SECONDS)
        except ExportError as error:
            if not all((folder / f"{_name(way)}.tflite").exists() for way in quantize):
                raise
            failed = str(error)
        paths = {way: folder / f"{_name(way)}.tflite" for way in ways}
        files = {way: positive_zeros(path.read_bytes()) for way, path in paths.items() if path.exists()}
        return Converted(files, batch, failed)


def _name(quantize: str | None) -> str:
    return quantize or "float32"


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
