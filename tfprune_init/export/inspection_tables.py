"""Tables of an inspection for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from tfprune_init.export.inspection import Inspection, Port, TensorFacts

_ARM = {
    "sparse": "sparse; not measured on the target",
    "dense": "dense",
    "unsafe": "unsafe: outputs may be wrong where XNNPACK's sparse kernels are on; store zeros, or see "
    "xnnpack_advice for what to change",
}


def show(inspection: Inspection, console: Console) -> None:
    """Print weights, reasons and bytes.

    Args:
        inspection: The report.
        console: Where to print.
    """
    console.print(_build_weight_table(inspection))
    console.print(_build_reason_table(inspection))
    console.print(_build_file_table(inspection))


def _build_weight_table(inspection: Inspection) -> Table:
    title = f"{inspection.path or 'TFLite file'}: {inspection.weights:,} weights, {inspection.sparsity:.1%} zeros"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("weight", overflow="fold")
    for name in ("shape", "type"):
        table.add_column(name)
    for name in ("bytes", "zeros"):
        table.add_column(name, justify="right")
    for name in ("encoding", "kernel", "operator"):
        table.add_column(name, overflow="fold")
    shown: set[int] = set()
    for row in inspection.tensors:
        table.add_row(
            escape(_shorten(row.name)),
            "x".join(map(str, row.shape)),
            row.dtype,
            "shared" if row.buffer in shown else f"{row.bytes:,}",
            "?" if row.sparsity is None else f"{row.sparsity:.1%}",
            row.encoding,
            row.kernel,
            _name_place(row, inspection.subgraphs > 1),
        )
        shown.add(row.buffer)
    return table


def _shorten(name: str) -> str:
    """Shorten a name to the part that tells weights apart.

    The converter joins the names of all operators that it fuses, the one with the weight last.
    """
    return "/".join(name.split(";")[-1].split("/")[-2:])


def _name_place(row: TensorFacts, several: bool) -> str:
    if not row.operator:
        return ""
    return f"{row.operator} {row.subgraph}.{row.op_index}" if several else f"{row.operator} {row.op_index}"


def _build_reason_table(inspection: Inspection) -> Table:
    """Build the table of reasons, each once: most weights share theirs with others."""
    reasons: dict[tuple[str, str], int] = {}
    for row in inspection.tensors:
        reasons[row.kernel, row.reason] = reasons.get((row.kernel, row.reason), 0) + 1
    table = Table(title="Which kernels run, and why", title_justify="left")
    table.add_column("kernel")
    table.add_column("weights", justify="right")
    table.add_column("reason")
    for (kernel, reason), count in sorted(reasons.items()):
        table.add_row(kernel, str(count), reason)
    return table


def _build_file_table(inspection: Inspection) -> Table:
    table = Table(title="The file", title_justify="left", show_header=False)
    for name, text in _list_facts(inspection):
        table.add_row(name, escape(text))
    return table


def _list_facts(inspection: Inspection) -> list[tuple[str, str]]:
    facts = [
        ("bytes", f"{inspection.bytes:,}; gzipped {inspection.gzip_bytes:,}"),
        (
            "of them",
            f"values of weights {inspection.value_bytes:,}, their indices {inspection.index_bytes:,}, other "
            f"constants {inspection.other_bytes:,}, the rest {inspection.structure_bytes:,}",
        ),
        ("operators", ", ".join(f"{name} {count}" for name, count in sorted(inspection.operators.items()))),
    ]
    if "CONV_2D" in inspection.operators:
        facts.append(("1x1 convolutions on ARM", _ARM[inspection.arm]))
    for signature in inspection.signatures:
        for side, ports in (("inputs", signature.inputs), ("outputs", signature.outputs)):
            key = f" of {signature.key}" if len(inspection.signatures) > 1 else ""
            facts.append((side + key, ", ".join(map(_format_port, ports))))
    return facts


def _format_port(port: Port) -> str:
    sizes = ", ".join("?" if size is None else str(size) for size in port.shape)
    return f"{port.name} {port.dtype} [{sizes}]{format_scale(port)}"


def format_scale(port: Port) -> str:
    """Format what the integers of an input or output stand for; nothing where they stand for themselves."""
    return "" if port.scale is None else f" = (q - {port.zero_point}) * {port.scale:.9g}".replace("- -", "+ ")
