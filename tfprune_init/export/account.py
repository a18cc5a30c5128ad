"""The account of an export: everything the report says about the file and those it is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tfprune_init.errors import ExportError
from tfprune_init.export.choose import Chosen
from tfprune_init.export.convert import Converted
from tfprune_init.export.edge_report import EdgeFile, EdgeReport
from tfprune_init.export.flatbuffer import densified, gzip_size, sparsity
from tfprune_init.export.inspection import TensorFacts, inspect_file
from tfprune_init.export.latency import Times, footprint, interleaved_times, is_arm, this_cpu
from tfprune_init.export.verify import TOLERANCES
from tfprune_init.export.xnnpack import xnnpack_advice

FLOAT32, INT8, OURS = "dense float32", "dense int8", "this file"


def account(
    path: Path,
    chosen: Chosen,
    converted: Converted,
    inputs: dict[str, np.ndarray],
    *,
    quantize: str | None,
    target: str,
    calibrated_on: str,
    synthetic: bool,
    measure: bool,
) -> EdgeReport:
    """Measure a verified file beside the dense ones.

    Args:
        path: where the file is.
        chosen: the file.
        converted: what came out of the converter.
        inputs: what the file was compared on, by signature name, [examples, ...].
        quantize: how its weights are stored.
        target: what it is for.
        calibrated_on: what the integer scales of the dense int8 file come from, in words.
        synthetic: whether the inputs were made up.
        measure: whether to load and time the files.

    Returns:
        The report, with the time it took left at zero.
    """
    files = {FLOAT32: densified(converted.files[None])}
    if "int8" in converted.files:
        files[INT8] = densified(converted.files["int8"])
    files[OURS] = chosen.file
    times, failed = _times(files, inputs) if measure else (None, None)
    agreement, tolerance = chosen.agreement, TOLERANCES[quantize]
    costs = {
        name: EdgeFile(
            raw_bytes=len(file),
            gzip_bytes=gzip_size(file),
            latency=times.latencies.get(name) if times is not None else None,
            footprint=footprint(file, inputs) if measure else None,
        )
        for name, file in files.items()
    }
    notes = [] if times is None else [f"Measured on {this_cpu()}; {times.interpreter}, 1 thread, the files in turns."]
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
        sparse=chosen.sparse,
        fallback=chosen.fallback,
        target=target,
        file=costs[OURS],
        dense_float32=costs[FLOAT32],
        dense_int8=costs.get(INT8),
        tensors=_in_order(inspect_file(chosen.file).tensors),
        advice=xnnpack_advice(chosen.file) if target == "arm" else None,
        notes=tuple(notes),
        sparsity=sparsity(converted.files[quantize]),
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


def _times(files: dict[str, bytes], inputs: dict[str, np.ndarray]) -> tuple[Times | None, str | None]:
    """Times of all files, or why there are none: the file itself is verified, so none the worse for that."""
    try:
        return interleaved_times(files, inputs), None
    except ExportError as error:
        return None, str(error)


def _in_order(tensors: Iterable[TensorFacts]) -> tuple[TensorFacts, ...]:
    """The weights as the file computes with them."""
    return tuple(sorted(tensors, key=lambda tensor: (tensor.subgraph, tensor.op_index)))
