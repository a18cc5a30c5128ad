"""`export_tflite`: convert, leave out zeros, verify, and only then write the file."""

from __future__ import annotations

import difflib
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tfprune_init.errors import ModelError, OptionError
from tfprune_init.export.account import account
from tfprune_init.export.choose import check_sparse, choose
from tfprune_init.export.convert import QUANTIZE, convert
from tfprune_init.export.edge_report import TARGETS, EdgeReport
from tfprune_init.export.forward import Forward
from tfprune_init.export.inputs import collect, signature_of, stack
from tfprune_init.export.latency import interleaved_times
from tfprune_init.export.verify import verify as verify_file
from tfprune_init.files import whole

VERIFY_EXAMPLES = 64
"""Examples the file is compared on: enough for every unit to speak, few enough for seconds."""

CALIBRATION_EXAMPLES = 256
"""Examples whose ranges set the integer scales; TensorFlow's guide asks for a few hundred."""


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    sparse: bool | str = "auto",
    representative_data: Any = None,
    verify: Any = None,
    target: str = "cpu",
    measure: bool = True,
) -> EdgeReport:
    """Write a model as a TFLite file that is known to compute what the model computes.

    The stripped, plain model is converted, run in a subprocess by every TFLite interpreter installed, and
    compared with the Keras model; the file appears at `path`, whole, only when they agree. The model is left
    as it was. The file takes any batch size where the model and the converter allow it, else the model's own, or
    (recurrent layers) one example a run. A model in mixed precision is exported, and compared, computing in float32.

    Args:
        model: a built Keras model, with or without masks on it.
        path: file to write, usually `.tflite`; its folder must exist. A file already there is replaced.
        quantize: None keeps float32 weights; "float16" stores them in half the bytes; "dynamic" stores the
            large ones as int8 and quantizes activations as it runs; "int8" computes in integers throughout,
            with float inputs and outputs.
        sparse: whether to leave zeros out of the file. "auto" does so if the file gets smaller, agrees with the
            model, and takes at most 1.1 times as long to run (the last only with `measure`); else the report says
            in `fallback` why not. True does so or raises, however long it takes to run. False stores every zero.
        representative_data: typical inputs, needed for "int8" and for nothing else: a batched tf.data.Dataset
            of x or (x, y), or arrays. The first 256 examples are used.
        verify: inputs to compare on, real ones by preference: a batched tf.data.Dataset of x, (x, y) or
            (x, y, sample_weight); an array, or a dict or list of arrays, one an input; or a tuple (x, y). The
            first 64 examples are used. By default `representative_data`, else synthetic inputs uniform in
            0..1 (the report says so).
        target: "cpu", or "arm", which adds to the report which 1x1 convolutions XNNPACK runs sparse there, and
            marks times taken on another machine as such. The file is the same.
        measure: also make the dense int8 file to compare with, and load and time the files on this machine, side
            by side: some seconds.

    Returns:
        The account: bytes, times and memory beside those of the dense model, tensors, differences, interpreters.

    Raises:
        OptionError: an unknown option, one without effect, or a `path` that can't be written.
        ModelError: not a Keras model, not built, or inside the wrappers of TF-MOT.
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
    destination = _checked_path(path)
    _check_quantize(quantize, representative_data)
    check_sparse(sparse)
    _check_target(target)

    from tfprune_init.kerases import check_model
    from tfprune_init.layers import plain

    check_model(model)
    _check_unwrapped(model)

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
    ways = [None] if quantize is None else [None, quantize]
    extra = "int8" if measure and quantize != "int8" else None
    converted = convert(forward, ways, calibration or examples, extra)
    inputs = dict(zip((spec.name for spec in signature.inputs), examples, strict=True))

    chosen = choose(
        converted.files[quantize],
        quantize,
        sparse,
        check=lambda file: verify_file(file, inputs, reference, quantize),
        time=partial(interleaved_times, inputs=inputs) if measure else None,
    )
    with whole(destination) as part:
        part.write_bytes(chosen.file)
    report = account(
        destination,
        chosen,
        converted,
        inputs,
        quantize=quantize,
        target=target,
        calibrated_on=_calibrated_on(len((calibration or examples)[0]), calibration is not None, known is None),
        synthetic=known is None,
        measure=measure,
    )
    return replace(report, seconds=time.perf_counter() - started)


def _calibrated_on(examples: int, representative: bool, synthetic: bool) -> str:
    if representative:
        return f"{examples} examples of `representative_data`"
    return f"{examples} {'synthetic examples, for want of real ones' if synthetic else 'examples of `verify`'}"


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


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise OptionError(f"`target` must be one of {', '.join(map(repr, TARGETS))}. Received: {target!r}")


def _check_unwrapped(model: Any) -> None:
    """Refuse models in the wrappers of TF-MOT, ours or its own, whose masks and counters would go into the file."""
    from tfprune_init.kerases import layers_below

    for layer in layers_below(model):
        if any(base.__name__ == "PruneLowMagnitude" for base in type(layer).__mro__):
            raise ModelError(
                f"Model {model.name!r} is in the wrappers of TF-MOT: export tfprune_init.tfmot.strip(model). "
                f"Received: layer {layer.name!r}, a {type(layer).__name__}."
            )
