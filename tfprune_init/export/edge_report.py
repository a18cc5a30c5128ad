"""The report of an export: bytes, times and memory beside the dense model's, and the differences to the model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tfprune_init.export.inspection import Port, TensorFacts
from tfprune_init.export.latency import Footprint, Latency
from tfprune_init.export.xnnpack import XnnpackAdvice
from tfprune_init.files import write_json

TARGETS = ("cpu", "arm")
"""Values of `target`."""


@dataclass(frozen=True)
class EdgeFile:
    """Size and speed of one TFLite file.

    Attributes:
        raw_bytes: Its size, bytes.
        gzip_bytes: Its size gzipped, bytes: what travels to the device.
        latency: Seconds of a run on this machine; None if not measured.
        footprint: Time and memory that loading takes on this machine; None if not measured.
    """

    raw_bytes: int
    gzip_bytes: int
    latency: Latency | None = None
    footprint: Footprint | None = None


@dataclass(frozen=True)
class EdgeReport:
    """The report on one TFLite file.

    The dense models have the same architecture, with no weight at zero. Differences are the worst over outputs,
    interpreters and batch sizes.

    Attributes:
        path: Path of the file.
        quantize: None (float32), "float16", "dynamic", "int8" or "int16x8".
        io: Type of the inputs and outputs that are floats in the model: "float32", "int8", "uint8" or "int16".
        inputs: What the file takes: names, shapes, types; for integers also scale and zero point.
        outputs: What it gives.
        sparse: Whether zeros are left out of the file.
        fallback: Reason why `sparse="auto"` stored the zeros; None otherwise.
        target: "cpu" or "arm".
        file: Size and speed of this file.
        dense_float32: Size and speed of the dense model's float32 file.
        dense_int8: The same in int8; None if it wasn't made, see `notes`.
        tensors: One row for each weight in the file: how sparse it is, how it is stored, which kernel reads it.
        advice: For the target "arm": which 1x1 convolutions XNNPACK runs sparse there, and what stops the others.
        notes: Remarks on these numbers, such as the CPU on which times were measured.
        sparsity: Share of zeros among the weights (kernels and embeddings), in [0, 1].
        batch: Examples a run of the file takes; None when any number.
        largest_difference: Largest absolute difference to the Keras model, in the unit of its outputs.
        relative_difference: The same over the largest absolute value of the output.
        rms_difference: Root mean square of the differences over that of the output.
        judged_by: Which of the two must stay within `tolerance`.
        tolerance: Its limit.
        top1_agreement: Share of examples with the same largest class; None without outputs [batch, classes].
        examples: Number of examples compared.
        synthetic_inputs: Whether the inputs were synthetic, because no real ones were given.
        interpreters: Version by name of each interpreter that ran the file.
        seconds: Time the export took, verification and measurements included.

    Example:
        >>> report = export_tflite(model, "model.tflite")  # doctest: +SKIP
        >>> report.print()  # doctest: +SKIP
        >>> report.plot().savefig("model.png")  # doctest: +SKIP
    """

    path: str
    quantize: str | None
    io: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sparse: bool
    fallback: str | None
    target: str
    file: EdgeFile
    dense_float32: EdgeFile
    dense_int8: EdgeFile | None
    tensors: tuple[TensorFacts, ...]
    advice: XnnpackAdvice | None
    notes: tuple[str, ...]
    sparsity: float
    batch: int | None
    largest_difference: float
    relative_difference: float
    rms_difference: float
    judged_by: str
    tolerance: float
    top1_agreement: float | None
    examples: int
    synthetic_inputs: bool
    interpreters: dict[str, str]
    seconds: float

    @property
    def raw_bytes(self) -> int:
        """Size of the file, bytes."""
        return self.file.raw_bytes

    @property
    def gzip_bytes(self) -> int:
        """Size of the file gzipped, bytes."""
        return self.file.gzip_bytes

    @property
    def title(self) -> str:
        """File, precision and encoding in one line."""
        stored = "zeros left out" if self.sparse else "zeros stored"
        ends = "" if self.io == "float32" else f", {self.io} in and out"
        return f"{Path(self.path).name}: {self.quantize or 'float32'}{ends}, {self.sparsity:.1%} zeros, {stored}"

    def files(self) -> Iterator[tuple[str, EdgeFile]]:
        """Yield the compared files with their names."""
        yield "dense float32", self.dense_float32
        if self.dense_int8 is not None:
            yield "dense int8", self.dense_int8
        yield "this file", self.file

    def to_dict(self) -> dict[str, Any]:
        """Convert every field, by name, to types that JSON knows."""
        # Through JSON, so that it equals what is read back from a file: tuples become lists.
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON.

        Args:
            path: File to write; its folder must exist.
        """
        write_json(path, self.to_dict())

    def print(self, file: IO[str] | None = None) -> None:
        """Show the report as tables.

        Args:
            file: Where to print; standard output by default.
        """
        from rich.console import Console

        from tfprune_init.export.edge_report_tables import show

        show(self, Console(file=file))

    def plot(self) -> Any:
        """Draw bytes and times of the files, and the zeros of each weight.

        Returns:
            A matplotlib Figure, which no window shows; `figure.savefig("edge.png")` writes it.

        Raises:
            MissingDependencyError: If matplotlib is not installed.
        """
        from tfprune_init.export.edge_report_plot import draw

        return draw(self)
