"""Tables of an EdgeReport for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tfprune_init.export.inspection_tables import format_scale

if TYPE_CHECKING:
    from tfprune_init.export.edge_report import EdgeFile, EdgeReport

WIDTH = 100
"""Columns that the tables need at most."""


def show(report: EdgeReport, console: Console) -> None:
    """Print a report: costs, weights, verification, and notes on the numbers.

    Args:
        report: The report.
        console: Where to print.
    """
    console.width = min(console.width, WIDTH)
    console.print(_build_costs(report))
    if report.tensors:
        console.print(_build_weights(report))
        for reason, names in _group_reasons(report).items():
            console.print(f"{names}: {reason}", highlight=False, markup=False)
    console.print(_build_verification(report))
    for note in ([f"Zeros are stored: {report.fallback}."] if report.fallback else []) + list(report.notes):
        console.print(note, highlight=False, markup=False)
    if report.advice is not None:
        console.print(str(report.advice), highlight=False, markup=False)


def _build_costs(report: EdgeReport) -> Table:
    measured = any(file.latency or file.footprint for _, file in report.files())
    table = Table(title=report.title, title_justify="left")
    table.add_column("file", no_wrap=True)
    for heading in ("bytes", "gzipped", *(("load", "memory", "a run", "10% to 90%") if measured else ())):
        table.add_column(heading, justify="right")
    for name, file in report.files():
        table.add_row(name, f"{file.raw_bytes:,}", f"{file.gzip_bytes:,}", *(_format_times(file) if measured else ()))
    return table


def _format_times(file: EdgeFile) -> list[str]:
    cells = ["failed"] * 2 if file.footprint is None else [
        f"{1e3 * file.footprint.load_seconds:,.1f} ms",
        f"{file.footprint.peak_bytes / 1e6:,.1f} MB",
    ]  # fmt: skip
    if file.latency is None:
        return [*cells, "failed", ""]
    low, high = format_microseconds(file.latency.low_seconds), format_microseconds(file.latency.high_seconds)
    return [*cells, f"{format_microseconds(file.latency.median_seconds)} us", f"{low} to {high}"]


def format_microseconds(seconds: float) -> str:
    """Format a time in microseconds, with one decimal below 10."""
    value = 1e6 * seconds
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _build_weights(report: EdgeReport) -> Table:
    table = Table(title="Weights in the file", title_justify="left")
    table.add_column("", justify="right")
    table.add_column("weight", overflow="fold")
    for heading in ("shape", "zeros", "bytes"):
        table.add_column(heading, justify="right")
    table.add_column("stored as")
    table.add_column("kernel")
    for number, tensor in enumerate(report.tensors, 1):
        table.add_row(
            str(number),
            tensor.name.split(";")[0],
            "x".join(map(str, tensor.shape)),
            "?" if tensor.sparsity is None else f"{tensor.sparsity:.1%}",
            f"{tensor.bytes:,}",
            f"{tensor.encoding}, {tensor.dtype}",
            tensor.kernel,
        )
    return table


def _group_reasons(report: EdgeReport) -> dict[str, str]:
    """Group the weights by reason: each reason with the numbers of its weights."""
    numbers: dict[str, list[int]] = {}
    for number, tensor in enumerate(report.tensors, 1):
        numbers.setdefault(tensor.reason, []).append(number)
    return {reason: ", ".join(map(str, found)) for reason, found in numbers.items() if reason}


def _build_verification(report: EdgeReport) -> Table:
    table = Table(title="Verified against the Keras model", title_justify="left", show_header=False)
    inputs = "synthetic inputs, uniform in 0..1" if report.synthetic_inputs else "real inputs"
    limits = {report.judged_by: f" (allowed {report.tolerance:g})"}
    table.add_row("examples", f"{report.examples}, {inputs}")
    table.add_row("largest difference", f"{report.largest_difference:.3g}")
    scale = f"{report.relative_difference:.3g}{limits.get('relative_difference', '')}"
    table.add_row("over the output's scale", scale)
    table.add_row("root mean square", f"{report.rms_difference:.3g}{limits.get('rms_difference', '')}")
    if report.top1_agreement is not None:
        table.add_row("same largest class", f"{report.top1_agreement:.1%}")
    table.add_row("interpreters", ", ".join(f"{name} {version}" for name, version in report.interpreters.items()))
    table.add_row("batch", "any" if report.batch is None else str(report.batch))
    if report.io != "float32":
        for side, ports in (("inputs", report.inputs), ("outputs", report.outputs)):
            table.add_row(side, "\n".join(f"{port.name} {port.dtype}{format_scale(port)}" for port in ports))
    table.add_row("seconds", f"{report.seconds:.1f}")
    return table
