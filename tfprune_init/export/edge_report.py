"""What an export did: the file's size beside the dense model's, and how closely it follows the model."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True)
class EdgeReport:
    """The account of one TFLite file.

    The dense model is the same architecture with no weight at zero, in float32. Differences are the worst
    over outputs, interpreters and batch sizes.

    Attributes:
        path: where the file is.
        quantize: None (float32), "float16", "dynamic" or "int8".
        raw_bytes: size of the file, bytes.
        gzip_bytes: size of the file gzipped, bytes: what travels to the device.
        dense_raw_bytes: size of the dense model's float32 file, bytes.
        dense_gzip_bytes: the same gzipped, bytes.
        sparsity: share of zeros among the weights in the file (kernels and embeddings), in [0, 1].
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
        seconds: time the export took, verification included.

    Example:
        >>> report = export_tflite(model, "model.tflite")  # doctest: +SKIP
        >>> report.print()  # doctest: +SKIP
    """

    path: str
    quantize: str | None
    raw_bytes: int
    gzip_bytes: int
    dense_raw_bytes: int
    dense_gzip_bytes: int
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

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON."""
        return asdict(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON.

        Args:
            path: file to write; its folder must exist.
        """
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def print(self, file: TextIO | None = None) -> None:
        """Show the report as a table.

        Args:
            file: where to; the standard output by default.
        """
        from rich.console import Console
        from rich.table import Table

        console = Console(file=file)
        sizes = Table(title=f"{Path(self.path).name}: {self.quantize or 'float32'}, {self.sparsity:.1%} zeros")
        for heading in ("bytes", "this file", "dense float32", "times smaller"):
            sizes.add_column(heading, justify="left" if heading == "bytes" else "right")
        for name, ours, dense in (
            ("raw", self.raw_bytes, self.dense_raw_bytes),
            ("gzip", self.gzip_bytes, self.dense_gzip_bytes),
        ):
            sizes.add_row(name, f"{ours:,}", f"{dense:,}", f"{dense / ours:.1f}")
        console.print(sizes)

        facts = Table(title="Verified against the Keras model", show_header=False)
        for name, text in self._facts():
            facts.add_row(name, text)
        console.print(facts)

    def _facts(self) -> list[tuple[str, str]]:
        inputs = "synthetic inputs, uniform in 0..1" if self.synthetic_inputs else "real inputs"
        limits = {self.judged_by: f" (allowed {self.tolerance:g})"}
        facts = [
            ("examples", f"{self.examples}, {inputs}"),
            ("largest difference", f"{self.largest_difference:.3g}"),
            (
                "over the output's scale",
                f"{self.relative_difference:.3g}{limits.get('relative_difference', '')}",
            ),
            ("root mean square", f"{self.rms_difference:.3g}{limits.get('rms_difference', '')}"),
        ]
        if self.top1_agreement is not None:
            facts.append(("same largest class", f"{self.top1_agreement:.1%}"))
        facts.append(("interpreters", ", ".join(f"{name} {version}" for name, version in self.interpreters.items())))
        facts.append(("batch", "any" if self.batch is None else str(self.batch)))
        facts.append(("seconds", f"{self.seconds:.1f}"))
        return facts
