"""Convert the forward pass to TFLite bytes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfprune_init.errors import ExportError
from tfprune_init.export.flatbuffer import make_zeros_positive
from tfprune_init.export.inference import InferenceFunction
from tfprune_init.export.subprocess_runner import Runner, run_script

QUANTIZE = ("float16", "dynamic", "int8", "int16x8")
"""Values of `quantize` besides None, which is float32."""

IO = {"int8": ("float32", "int8", "uint8"), "int16x8": ("float32", "int16")}
"""Values of `io`, by the values of `quantize` that compute in integers; with all others it is "float32"."""

TIMEOUT_SECONDS = 1800
"""Time limit of the converter; calibration of a large model takes minutes."""


@dataclass(frozen=True)
class Converted:
    """The output of the converter.

    Attributes:
        files: By `quantize`: the TFLite file, zeros stored.
        batch: Examples a run takes; None when any number.
        extra_error: Reason why the extra file is missing; None if it is there or wasn't asked for.
    """

    files: dict[str | None, bytes]
    batch: int | None
    extra_error: str | None = None


def convert(
    forward: InferenceFunction,
    quantize: Sequence[str | None],
    calibration: list[np.ndarray] | None,
    extra: str | None = None,
    run: Runner = run_script,
    io: str = "float32",
) -> Converted:
    """Convert the forward pass, with an open batch dimension where model and converter support it.

    The converter does not support it for recurrent layers: their files take one example a run. A model with a fixed
    batch size keeps it.

    Args:
        forward: The function to convert.
        quantize: The ways to quantize: None or one of `QUANTIZE` each.
        calibration: For ways that compute in integers: one array an input, [examples, ...], from which ranges are
            measured.
        extra: One more way, which may fail; its inputs and outputs are float32.
        run: Function that runs the converter's script.
        io: Type of float inputs and outputs in the files that compute in integers.

    Raises:
        ExportError: If the converter refuses the model, or crashes over it.
    """
    fixed = forward.signature.batch
    try:
        return _convert(forward, quantize, calibration, extra, fixed, run, io)
    except ExportError as error:
        refused = error
    if fixed is None:
        try:
            return _convert(forward, quantize, calibration, extra, 1, run, io)
        except ExportError as error:
            refused = error
    ways = " and ".join(_name(way) for way in quantize)
    raise ExportError(
        f"The TFLite converter cannot convert model {forward.model.name!r} to {ways}. Replace the layer or operation "
        f"it names, or choose another `quantize`. {refused}"
    ) from refused


def _convert(
    forward: InferenceFunction,
    quantize: Sequence[str | None],
    calibration: list[np.ndarray] | None,
    extra: str | None,
    batch: int | None,
    run: Runner,
    io: str,
) -> Converted:
    ways = [*quantize, *([extra] if extra else [])]
    names = [spec.name for spec in forward.signature.inputs]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save(forward, folder / "saved_model", batch)
        ends = {way: io if way in quantize else "float32" for way in ways if way in IO}
        request = {"quantize": [_name(way) for way in ways], "io": ends, "names": names, "batch": batch}
        (folder / "request.json").write_text(json.dumps(request))
        if calibration is not None:
            np.savez(folder / "calibration.npz", *calibration)
        failed = None
        try:
            run("_convert_script.py", folder, TIMEOUT_SECONDS)
        except ExportError as error:
            if not all((folder / f"{_name(way)}.tflite").exists() for way in quantize):
                raise
            failed = str(error)
        paths = {way: folder / f"{_name(way)}.tflite" for way in ways}
        files = {way: make_zeros_positive(path.read_bytes()) for way, path in paths.items() if path.exists()}
        return Converted(files, batch, failed)


def _name(quantize: str | None) -> str:
    return quantize or "float32"


def _save(forward: InferenceFunction, folder: Path, batch: int | None) -> None:
    """Write the forward pass as a SavedModel whose signature has our input and output names.

    A SavedModel, because the converter then keeps those names, and reads variables of any size.
    """
    import tensorflow as tf

    specs = [tf.TensorSpec((batch, *spec.shape), spec.dtype, name=spec.name) for spec in forward.signature.inputs]
    function = tf.function(forward, input_signature=specs, autograph=False).get_concrete_function()
    module = tf.Module()
    module.captured = list(function.graph.variables)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": function})
