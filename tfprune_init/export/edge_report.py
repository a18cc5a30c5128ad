"""What an export did: bytes, times and memory beside the dense model's, and how closely it follows the model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tfprune_init.export.inspection import TensorFacts
from tfprune_init.export.latency import Footprint, Latency
from tfprune_init.export.xnnpack import XnnpackAdvice

TARGETS = ("cpu", "arm")
"""What `target` may name."""


@dataclass(frozen=True)
class EdgeFile:
    """What one TFLite file costs.

    Attributes:
        raw_bytes: its size, bytes.
        gzip_bytes: its size gzipped, bytes: what travels to the device.
        latency: seconds of a run on this machine; None if not measured.
        footprint: time and memory that loading takes on this machine; None if not measured.
    """

    raw_bytes: int
    gzip_bytes: int
    latency: Latency | None = None
    footprint: Footprint | None = None


@dataclass(frozen=True)
class EdgeReport:
    """The account of one TFLite file.

    The dense models are of the same architecture, with no weight at zero. Differences are the worst over outputs,
    interpreters and batch sizes.

    Attributes:
        path: where the file is.
        quantize: None (float32), "float16", "dynamic" or "int8".
        sparse: whether zeros are left out of the file.
        fallback: why they are stored although `sparse="auto"` tried to leave them out; None otherwise.
        target: "cpu" or "arm".
        file: what this file costs.
        dense_float32: what the dense model's float32 file costs.
        dense_int8: the same in int8; None if it wasn't made, see `notes`.
        tensors: one row for each weight in the file: how sparse it is, how it is stored, which kernel reads it.
        advice: for the target "arm": which 1x1 convolutions XNNPACK runs sparse there, and what stops the others.
        notes: what a reader of these numbers must know, such as the CPU that the times are of.
        sparsity: share of zeros among the weights (kernels and embeddings), in [0, 1].
        batch: examples a run of the file takes; None when any number.
        largest_difference: largest absolute difference to the Keras model, in the unit of its outputs.
        relative_difference: the same over the largest absolute value of the output.
        rms_difference: root mean square of the differences over that of the output.
        judged_by: which of the two had to stay within `tolerance`.
        tolerance: its limit.
        top1_agreement: share of examples with the same largest class; None without outputs [batch, classes].
        examples: how many were compared.
        synthetic_inputs: whether they were made up, for want of real ones.
        interpreters: version by name of each interpreter that ran the file.
        seconds: time the export took, verification and measurements included.

    Example:
        >>> report = export_tflite(model, "model.tflite")  # doctest: +SKIP
        >>> report.print()  # doctest: +SKIP
        >>> report.plot().savefig("model.png")  # doctest: +SKIP
    """

    path: str
    quantize: str | None
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
        """File, precision and encoding in a line."""
        stored = "zeros left out" if self.sparse else "zeros stored"
        return f"{Path(self.path).name}: {self.quantize or 'float32'}, {self.sparsity:.1%} zeros, {stored}"

    def files(self) -> Iterator[tuple[str, EdgeFile]]:
        """The files that are compared, by name."""
        yield "dense float32", self.dense_float32
        if self.dense_int8 is not None:
            yield "dense int8", self.dense_int8
        yield "this file", self.file

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON."""
        # Through JSON, so that it equals what is read back from a file: tuples become lists.
        return json.loads(json.dumps(asdict(self)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON.

        Args:
            path: file to write; its folder must exist.
        """
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def print(self, file: IO[str] | None = None) -> None:
        """Show the report as tables.

        Args:
            file: where to; the standard output by default.
        """
        from rich.console import Console

        from tfprune_init.export.edge_tables import show

        show(self, Console(file=file))

    def plot(self) -> Any:
        """Draw bytes and times of the files, and the zeros of each weight.

        Returns:
            A matplotlib Figure, which no window shows; `figure.savefig("edge.png")` writes it.

        Raises:
            ExportError: matplotlib is not installed.
        """
        from tfprune_init.export.edge_plot import draw

        return draw(self)
