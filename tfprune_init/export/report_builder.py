"""Build the report of an export: the file beside the dense files it is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tfprune_init.errors import ExportError
from tfprune_init.export.conversion import Converted
from tfprune_init.export.edge_report import EdgeFile, EdgeReport
from tfprune_init.export.encoding_choice import SelectedFile
from tfprune_init.export.flatbuffer import compute_gzip_size, densify, measure_sparsity
from tfprune_init.export.inspection import TensorFacts, inspect_file
from tfprune_init.export.latency import Times, describe_cpu, is_arm, measure_footprint, measure_latencies
from tfprune_init.export.subprocess_runner import Runner, run_script
from tfprune_init.export.verification import TOLERANCES
from tfprune_init.export.xnnpack import xnnpack_advice

FLOAT32, INT8, OURS = "dense float32", "dense int8", "this file"


def build_edge_report(
    path: Path,
    selected: SelectedFile,
    converted: Converted,
    inputs: dict[str, np.ndarray],
    *,
    quantize: str | None,
    io: str,
    target: str,
    calibrated_on: str,
    synthetic: bool,
    measure: bool,
    run: Runner = run_script,
) -> EdgeReport:
    """Measure a verified file beside the dense ones.

    Args:
        path: Path that the file will have.
        selected: The file.
        converted: Output of the converter.
        inputs: Inputs on which the file was compared, by signature name, [examples, ...].
        quantize: Type in which it stores its weights.
        io: Type of its inputs and outputs.
        target: Device the file is for.
        calibrated_on: Source of the integer scales of the dense int8 file, in words.
        synthetic: Whether the inputs are synthetic.
        measure: Whether to load and time the files.
        run: Function that runs the scripts for that.

    Returns:
        The report, with the time it took left at zero.
    """
    files = {FLOAT32: densify(converted.files[None])}
    if "int8" in converted.files:
        files[INT8] = densify(converted.files["int8"])
    files[OURS] = selected.file
    times, failed = _measure_times(files, inputs, run) if measure else (None, None)
    agreement, tolerance = selected.agreement, TOLERANCES[quantize]
    inspection = inspect_file(selected.file)
    (signature,) = inspection.signatures
    costs = {
        name: EdgeFile(
            raw_bytes=len(file),
            gzip_bytes=compute_gzip_size(file),
            latency=times.latencies.get(name) if times is not None else None,
            footprint=measure_footprint(file, inputs, run) if measure else None,
        )
        for name, file in files.items()
    }
    notes = (
        [] if times is None else [f"Measured on {describe_cpu()}; {times.interpreter}, 1 thread, the files in turns."]
    )
    if failed is not None:
        notes.append(f"Times are missing: {failed}")
    if measure and target == "arm" and not is_arm():
        notes.append("Times and memory were not measured on the target: this machine is no ARM one.")
    if INT8 in files:
        notes.append(f"The dense int8 file is for bytes and times only; its scales come from {calibrated_on}.")
    elif measure:
        notes.append(f"There is no dense int8 file to compare with: {converted.extra_error}")
    return EdgeReport(
        path=str(path),
        quantize=quantize,
        io=io,
        inputs=signature.inputs,
        outputs=signature.outputs,
        sparse=selected.sparse,
        fallback=selected.fallback,
        target=target,
        file=costs[OURS],
        dense_float32=costs[FLOAT32],
        dense_int8=costs.get(INT8),
        tensors=_sort_by_execution(inspection.tensors),
        advice=xnnpack_advice(selected.file) if target == "arm" else None,
        notes=tuple(notes),
        sparsity=measure_sparsity(converted.files[quantize]),
        batch=converted.batch,
        largest_difference=agreement.largest_difference,
        relative_difference=agreement.relative_difference,
        rms_difference=agreement.rms_difference,
        judged_by=tolerance.measure,
        tolerance=tolerance.limit,
        top1_agreement=agreement.top1_agreement,
        examples=len(next(iter(inputs.values()))),
        synthetic_inputs=synthetic,
        interpreters=agreement.interpreters,
        seconds=0.0,
    )


def _measure_times(
    files: dict[str, bytes], inputs: dict[str, np.ndarray], run: Runner
) -> tuple[Times | None, str | None]:
    """Time all files, or explain why that failed. The exported file is verified already, so this is no error."""
    try:
        return measure_latencies(files, inputs, run), None
    except ExportError as error:
        return None, str(error)


def _sort_by_execution(tensors: Iterable[TensorFacts]) -> tuple[TensorFacts, ...]:
    """Sort the weights in the order of execution."""
    return tuple(sorted(tensors, key=lambda tensor: (tensor.subgraph, tensor.op_index)))
