"""`export_tflite`: convert, verify, and only then write the file."""

from __future__ import annotations

import difflib
import os
import time
from pathlib import Path
from typing import Any

from tfprune_init.errors import OptionError
from tfprune_init.export.convert import QUANTIZE, convert
from tfprune_init.export.edge_report import EdgeReport
from tfprune_init.export.flatbuffer import densified, gzip_size, sparsity
from tfprune_init.export.forward import Forward
from tfprune_init.export.inputs import collect, signature_of, stack
from tfprune_init.export.verify import TOLERANCES
from tfprune_init.export.verify import verify as verify_file

VERIFY_EXAMPLES = 64
"""Examples the file is compared on: enough for every unit to speak, few enough for seconds."""

CALIBRATION_EXAMPLES = 256
"""Examples whose ranges set the integer scales; TensorFlow's guide asks for a few hundred."""


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    representative_data: Any = None,
    verify: Any = None,
) -> EdgeReport:
    """Write a model as a TFLite file that is known to compute what the model computes.

    The stripped, plain model is converted, run in a subprocess by every TFLite interpreter installed, and
    compared with the Keras model; the file appears at `path`, whole, only when they agree. The model is left
    as it was. The file takes any batch size where the converter allows it, else (recurrent layers) one
    example a run. A model in mixed precision is exported, and compared, computing in float32.

    Args:
        model: a built Keras model, with or without masks on it.
        path: file to write, usually `.tflite`; its folder must exist. A file already there is replaced.
        quantize: None keeps float32 weights; "float16" stores them in half the bytes; "dynamic" stores the
            large ones as int8 and quantizes activations as it runs; "int8" computes in integers throughout,
            with float inputs and outputs.
        representative_data: typical inputs, needed for "int8" and for nothing else: a batched tf.data.Dataset
            of x or (x, y), or arrays. The first 256 examples are used.
        verify: inputs to compare on, real ones by preference: a batched tf.data.Dataset of x, (x, y) or
            (x, y, sample_weight); an array, or a dict or list of arrays, one an input; or a tuple (x, y). The
            first 64 examples are used. By default `representative_data`, else synthetic inputs uniform in
            0..1 (the report says so).

    Returns:
        The account: sizes raw and gzipped in bytes beside the dense model's, differences, interpreters.

    Raises:
        OptionError: unknown `quantize`, an option without effect, or a `path` that can't be written.
        ModelError: not a Keras model, or not built.
        DataError: the data is empty, unbatched, doesn't fit the model, or holds NaN or Inf.
        ExportError: the converter refuses the model, or the file fails or disagrees with it; nothing is
            written.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> export_tflite(model, "dense.tflite").relative_difference < 1e-4  # doctest: +SKIP
        True
    """
    started = time.perf_counter()
    target = _checked_path(path)
    _check_quantize(quantize, representative_data)

    from tfprune_init.kerases import check_model
    from tfprune_init.layers import plain

    check_model(model)

    calibration_batches = None
    if representative_data is not None:
        calibration_batches = collect(representative_data, CALIBRATION_EXAMPLES, "representative_data")
    verify_batches = None if verify is None else collect(verify, VERIFY_EXAMPLES, "verify")
    known = verify_batches or calibration_batches
    stripped = plain(model)
    signature = signature_of(stripped, known[0] if known else None)
    calibration = None
    if calibration_batches is not None:
        calibration = stack(signature, calibration_batches, "representative_data")
    if verify_batches is not None:
        examples = stack(signature, verify_batches, "verify")
    elif calibration is not None:
        examples = [array[:VERIFY_EXAMPLES] for array in calibration]
    else:
        examples = signature.synthetic(VERIFY_EXAMPLES)

    forward = Forward(stripped, signature)
    reference = forward.reference(examples)
    converted = convert(forward, quantize, calibration)
    inputs = dict(zip((spec.name for spec in signature.inputs), examples, strict=True))
    agreement = verify_file(converted.file, inputs, reference, quantize)
    _write(target, converted.file)

    tolerance = TOLERANCES[quantize]
    return EdgeReport(
        path=str(target),
        quantize=quantize,
        raw_bytes=len(converted.file),
        gzip_bytes=gzip_size(converted.file),
        dense_raw_bytes=len(converted.float32),
        dense_gzip_bytes=gzip_size(densified(converted.float32)),
        sparsity=sparsity(converted.file),
        batch=converted.batch,
        largest_difference=agreement.largest_difference,
        relative_difference=agreement.relative_difference,
        rms_difference=agreement.rms_difference,
        judged_by=tolerance.measure,
        tolerance=tolerance.limit,
        top1_agreement=agreement.top1_agreement,
        examples=len(examples[0]),
        synthetic_inputs=known is None,
        interpreters=agreement.interpreters,
        seconds=time.perf_counter() - started,
    )


def _checked_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.is_dir():
        raise OptionError(f"`path` is a folder; name a file in it, such as {target / 'model.tflite'}.")
    if not target.parent.is_dir():
        raise OptionError(f"The folder of `path` doesn't exist; create it first. Received: {target}")
    return target


def _check_quantize(quantize: str | None, representative_data: Any) -> None:
    if quantize is not None and quantize not in QUANTIZE:
        near = difflib.get_close_matches(str(quantize), QUANTIZE, cutoff=0.4)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise OptionError(
            f"`quantize` must be None (float32) or one of {', '.join(map(repr, QUANTIZE))}. {hint}"
            f"Received: {quantize!r}"
        )
    if quantize == "int8" and representative_data is None:
        raise OptionError(
            "quantize='int8' measures the range of every activation on typical inputs: pass some hundred as "
            "`representative_data`, a batched tf.data.Dataset or arrays. Received: None"
        )
    if quantize != "int8" and representative_data is not None:
        raise OptionError(
            f"`representative_data` has no effect with quantize={quantize!r}; pass it as `verify` to compare "
            "on it, or set quantize='int8'."
        )


def _write(target: Path, file: bytes) -> None:
    """All or nothing: readers of `target` see the old file or the whole new one."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(file)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
