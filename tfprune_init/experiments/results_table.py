"""The table of a comparison, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from tfprune_init.experiments.results import Results, SummaryRow


def print_summary(results: Results, console: Console) -> None:
    """Print accuracies by method and sparsity, gradient steps of training and scoring, and what was lost."""
    rows = {(row.label, row.sparsity): row for row in results.summary()}
    console.print("test accuracy in %, mean and standard deviation over seeds", style="italic")
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("method", overflow="fold")
    columns = sorted({sparsity for _, sparsity in rows if sparsity is not None})
    decided = any(sparsity is None for _, sparsity in rows)
    for sparsity in columns:
        name = "dense" if sparsity == 0 else f"{100 * sparsity:.10g}%"
        table.add_column(name, justify="right", overflow="fold")
    if decided:
        table.add_column("its own\nsparsity", justify="right", overflow="fold")
    if any(row.training_steps is not None for row in rows.values()):
        table.add_column("gradient\nsteps", justify="right", overflow="fold")
    for label in results.labels:
        mine = [rows.get((label, sparsity)) for sparsity in [*columns, *([None] if decided else [])]]
        steps = {
            round(row.training_steps + (row.scoring_steps or 0))
            for row in mine
            if row is not None and row.training_steps is not None
        }
        shown = [f"{min(steps):,}" + (f" to {max(steps):,}" if len(steps) > 1 else "")] if steps else []
        table.add_row(label, *["" if row is None else _format_cell(row) for row in mine], *shown)
    console.print(table)
    destroyed = sum(row.destroyed for row in rows.values())
    collapsed = sum(row.collapsed for row in rows.values())
    failed = sum(row.failed for row in rows.values())
    console.print(
        f"{len(results)} runs; {destroyed} networks lost (destroyed: not clearly better than guessing); {collapsed} "
        f"cut in two by pruning; {failed} failed.",
        highlight=False,
    )
    for reason in dict.fromkeys(run.error for run in results if run.status == "failed"):
        console.print(f"Failed: {reason}", highlight=False, markup=False)


def _format_cell(row: SummaryRow) -> str:
    if row.mean is None:
        return "failed"
    spread = "" if row.std is None else f"±{100 * row.std:.1f}"
    lost = f"\n{row.destroyed} lost" if row.destroyed else ""
    failed = f"\n{row.failed} failed" if row.failed else ""
    reached = f"\nat {1 - row.density:.2%}" if row.sparsity is None and row.density is not None else ""
    return f"{100 * row.mean:.1f}{spread}{reached}{lost}{failed}"
