"""Export a model to TFLite: convert, leave out zeros, verify, and only then write the file."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tfprune_init.backend.protocols import Model
from tfprune_init.checks import suggest
from tfprune_init.errors import ExportError, ModelError, OptionError
from tfprune_init.export.conversion import IO, QUANTIZE, convert
from tfprune_init.export.edge_report import TARGETS, EdgeReport
from tfprune_init.export.encoding_choice import check_sparse, select_file
from tfprune_init.export.inference import InferenceFunction
from tfprune_init.export.inputs import collect, find_signature, stack
from tfprune_init.export.inspection import inspect_file
from tfprune_init.export.latency import measure_latencies
from tfprune_init.export.report_builder import build_edge_report
from tfprune_init.export.string_inputs import cut_if_asked, run_front
from tfprune_init.export.subprocess_runner import Runner, run_script
from tfprune_init.export.verification import verify as verify_file
from tfprune_init.files import atomic_write

VERIFY_EXAMPLES = 64
"""Examples the file is compared on: enough to exercise every unit, few enough to take seconds."""

CALIBRATION_EXAMPLES = 256
"""Examples whose ranges set the integer scales; TensorFlow's guide asks for a few hundred."""


def export_tflite(
    model: Model,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    io: str = "float32",
    sparse: bool | str = "auto",
    representative_data: Any = None,
    verify: Any = None,
    cut_string_inputs: bool = False,
    target: str = "cpu",
    measure: bool = True,
) -> EdgeReport:
    """Write a model as a TFLite file that is verified to compute what the model computes.

    The stripped, plain model is converted, run in a subprocess by every installed TFLite interpreter, and compared with
    the Keras model. The file appears at `path`, whole, only if they agree. The model is left as it was. The file takes
    any batch size where model and converter allow it. Otherwise it takes the model's own, or for recurrent layers one
    example a run. A model in mixed precision is exported, and compared, in float32.

    Args:
        model: A built Keras model, with or without masks on it.
        path: File to write, usually `.tflite`; its folder must exist. A file already there is replaced.
        quantize: None keeps float32 weights; "float16" stores them in half the bytes; "dynamic" stores the
            large ones as int8 and quantizes activations as it runs; "int8" computes in integers throughout;
            "int16x8" does, too, with weights of 8 bits and activations of 16.
        io: Type of the file's inputs and outputs where the model has floats. Besides "float32", "int8" and "uint8"
            suit quantize="int8", and "int16" suits "int16x8". The report has their scales and zero points: the
            integer q stands for (q - zero_point) * scale. What the model takes as integers, such as the words of
            an embedding, stays as it is.
        sparse: Whether to leave zeros out of the file. "auto" does so if the file gets smaller, agrees with the
            model, and takes at most 1.1 times as long to run (the last only with `measure`); else the report says
            in `fallback` why not. True does so or raises, however long it takes to run. False stores every zero.
        representative_data: Typical inputs, needed for "int8" and "int16x8" and for nothing else: a batched
            tf.data.Dataset of x or (x, y), arrays, or what gives batches in Python, such as the generator function that
            tf.lite.TFLiteConverter takes: it yields a list, one array an input. The first 256 examples are used.
        verify: Inputs to compare on, real ones by preference: a batched tf.data.Dataset of x, (x, y) or
            (x, y, sample_weight); an array, or a dict or list of arrays, one an input; or a tuple (x, y); or batches
            from Python, as for `representative_data`. The first 64 examples are used. By default
            `representative_data`, else synthetic inputs uniform in 0..1 (the report says so).
        cut_string_inputs: Whether a model that takes strings is cut behind the layers that turn them into numbers,
            for which TFLite has no kernels. The file then takes these numbers, as `tpi.cut_string_inputs(model)` does;
            the data is still that of the whole model.
        target: "cpu", or "arm", which adds to the report which 1x1 convolutions XNNPACK runs sparse there, and
            marks times taken on another machine as such. The file is the same.
        measure: Also make the dense int8 file to compare with, and load and time the files on this machine, side
            by side: some seconds.

    Returns:
        The report: bytes, times and memory beside those of the dense model, tensors, differences, interpreters.

    Raises:
        OptionError: If an option is unknown or has no effect, or `path` can't be written.
        ModelError: If it is not a Keras model, not built, inside TF-MOT wrappers, or takes strings.
        DataError: If the data is empty, unbatched, doesn't fit the model, or holds NaN or Inf.
        ExportError: If the converter refuses the model, or the file fails or disagrees with it; nothing is
            written.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> export_tflite(model, "dense.tflite").relative_difference < 1e-4  # doctest: +SKIP
        True
    """
    return export_with(
        run_script,
        model,
        path,
        quantize=quantize,
        io=io,
        sparse=sparse,
        representative_data=representative_data,
        verify=verify,
        cut_string_inputs=cut_string_inputs,
        target=target,
        measure=measure,
    )


def export_with(
    run: Runner,
    model: Model,
    path: str | os.PathLike[str],
    *,
    quantize: str | None,
    io: str,
    sparse: bool | str,
    representative_data: Any,
    verify: Any,
    cut_string_inputs: bool,
    target: str,
    measure: bool,
) -> EdgeReport:
    """Export like `export_tflite`, with another function to run the scripts.

    Args:
        run: Function that runs the scripts of converter, interpreters and timing.
        model: As for `export_tflite`, like all that follow.
        path: File to write.
        quantize: Type in which to store weights.
        io: Type of inputs and outputs.
        sparse: Whether to leave out zeros.
        representative_data: Typical inputs.
        verify: Inputs to compare on.
        cut_string_inputs: Whether to cut a model that takes strings.
        target: Device the file is for.
        measure: Whether to load and time the files.

    Raises:
        OptionError: As `export_tflite`.
        ModelError: As `export_tflite`.
        DataError: As `export_tflite`.
        ExportError: As `export_tflite`.
    """
    started = time.perf_counter()
    destination = _check_path(path)
    _check_quantize(quantize, io, representative_data)
    check_sparse(sparse)
    _check_target(target)

    from tfprune_init.backend.compat import check_model
    from tfprune_init.graph.string_inputs import split_at_strings
    from tfprune_init.masking.wrapper import to_plain_model

    check_model(model)
    _check_unwrapped(model)

    stripped = to_plain_model(model)
    # The given model reads the data and says what is right: what a copy lost must not pass for what it computes.
    cut = cut_if_asked(model, cut_string_inputs)
    given = model if cut is None else cut.rest
    if cut is not None:
        stripped = given if stripped is model else split_at_strings(stripped).rest

    def read(data: Any, examples: int, origin: str) -> list[Any] | None:
        batches = None if data is None else collect(data, examples, origin)
        return batches if cut is None or batches is None else run_front(cut, batches, origin)

    calibration_batches = read(representative_data, CALIBRATION_EXAMPLES, "representative_data")
    verify_batches = read(verify, VERIFY_EXAMPLES, "verify")
    known = verify_batches or calibration_batches
    signature = find_signature(stripped, known[0] if known else None)
    calibration = None
    if calibration_batches is not None:
        calibration = stack(signature, calibration_batches, "representative_data")
    if verify_batches is not None:
        examples = stack(signature, verify_batches, "verify")
    elif calibration is not None:
        examples = [array[:VERIFY_EXAMPLES] for array in calibration]
    else:
        examples = signature.synthetic(VERIFY_EXAMPLES)

    forward = InferenceFunction(stripped, signature)
    reference = InferenceFunction(given, signature).reference(examples)
    ways = [None] if quantize is None else [None, quantize]
    extra = "int8" if measure and quantize != "int8" else None
    converted = convert(forward, ways, calibration or examples, extra, run, io)
    _check_ends(converted.files[quantize], io)
    inputs = dict(zip((spec.name for spec in signature.inputs), examples, strict=True))

    selected = select_file(
        converted.files[quantize],
        quantize,
        sparse,
        check=lambda file: verify_file(file, inputs, reference, quantize, run=run),
        time=partial(measure_latencies, inputs=inputs, run=run) if measure else None,
    )
    report = build_edge_report(
        destination,
        selected,
        converted,
        inputs,
        quantize=quantize,
        io=io,
        target=target,
        calibrated_on=_describe_calibration(len((calibration or examples)[0]), calibration is not None, known is None),
        synthetic=known is None,
        measure=measure,
        run=run,
    )
    with atomic_write(destination) as part:
        part.write_bytes(selected.file)
    return replace(report, seconds=time.perf_counter() - started)


def _describe_calibration(examples: int, representative: bool, synthetic: bool) -> str:
    if representative:
        return f"{examples} examples of `representative_data`"
    return (
        f"{examples} {'synthetic examples, because no real ones were given' if synthetic else 'examples of `verify`'}"
    )


def _check_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.is_dir():
        raise OptionError(f"`path` is a folder; name a file in it, such as {target / 'model.tflite'}.")
    if not target.parent.is_dir():
        raise OptionError(f"The folder of `path` doesn't exist; create it first. Received: {target}")
    return target


def _check_quantize(quantize: str | None, io: str, representative_data: Any) -> None:
    if quantize is not None and quantize not in QUANTIZE:
        raise OptionError(
            f"`quantize` must be None (float32) or one of {', '.join(map(repr, QUANTIZE))}. Received: {quantize!r}. "
            f"{suggest(quantize, QUANTIZE)}"
        )
    _check_io(io, quantize)
    if quantize in IO and representative_data is None:
        raise OptionError(
            f"quantize={quantize!r} measures the range of every activation on typical inputs: pass some hundred "
            "examples as `representative_data`, a batched tf.data.Dataset or arrays. Received: None"
        )
    if quantize not in IO and representative_data is not None:
        raise OptionError(
            f"`representative_data` has no effect with quantize={quantize!r}; pass it as `verify` to compare "
            "on it, or set quantize='int8'."
        )


def _check_io(io: str, quantize: str | None) -> None:
    """Refuse a type of inputs and outputs that a file cannot have, with what it could have."""
    known = list(dict.fromkeys(name for names in IO.values() for name in names))
    if io not in known:
        raise OptionError(f"`io` must be one of {', '.join(map(repr, known))}. Received: {io!r}. {suggest(io, known)}")
    fitting = IO.get(quantize or "", ("float32",))
    if io in fitting:
        return
    ways = " or ".join(f"quantize={way!r}" for way, names in IO.items() if io in names)
    computes = f"computes in integers whose ends are {' or '.join(fitting)}" if quantize in IO else "computes in floats"
    raise OptionError(f"io={io!r} needs {ways}: with quantize={quantize!r} the file {computes}. Received: io={io!r}")


def _check_ends(file: bytes, io: str) -> None:
    """Refuse a file in which nothing that is float32 in the model became `io`, or only a part."""
    if io == "float32":
        return
    (signature,) = inspect_file(file).signatures
    ends = [*signature.inputs, *signature.outputs]
    if not any(port.dtype == io and port.scale is not None for port in ends):
        raise OptionError(
            f"`io` has no effect: inputs and outputs of this model are integers as they are. Received: io={io!r}"
        )
    left = [port.name for port in ends if port.dtype == "float32"]
    if left:
        raise ExportError(f"The converter left {', '.join(left)} in float32 and not in {io}. Try io='float32'.")


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise OptionError(f"`target` must be one of {', '.join(map(repr, TARGETS))}. Received: {target!r}")


def _check_unwrapped(model: Model) -> None:
    """Refuse models in TF-MOT wrappers, ours or its own: their masks and counters would go into the file."""
    from tfprune_init.backend.compat import walk_layers

    for layer in walk_layers(model):
        if any(base.__name__ == "PruneLowMagnitude" for base in type(layer).__mro__):
            raise ModelError(
                f"Model {model.name!r} is in the wrappers of TF-MOT: export tfprune_init.tfmot.strip(model). "
                f"Received: layer {layer.name!r}, a {type(layer).__name__}."
            )
