"""The report of a comparison of methods."""

from __future__ import annotations

from tfprune_init import plots
from tfprune_init.errors import OptionError
from tfprune_init.experiments import Results, Run
from tfprune_init.experiments.results import SummaryRow
from tfprune_init.reports.html_report import (
    Column,
    FigureBlock,
    HtmlReport,
    ReportSection,
    TableBlock,
    format_accuracy,
    format_count,
    format_large,
    format_percent,
    format_seconds,
)

_METHODS = 8
"""Largest number of methods in one figure of masks."""


def comparison_page(results: Results, *, title: str = "Pruning at initialization, compared") -> HtmlReport:
    """Build the report of a comparison: accuracies, destroyed networks, layers, mask overlap, every run.

    Args:
        results: Results of `compare`, or of `Results.load(folder)`.
        title: The title of the page.

    Returns:
        The page; `page.save("report.html")` writes it.

    Raises:
        OptionError: If there are no runs.

    Example:
        >>> import tfprune_init as tpi
        >>> page = tpi.reports.comparison_page(tpi.Results.load("runs/"))  # doctest: +SKIP
        >>> page.save("report.html")  # doctest: +SKIP
    """
    if not len(results):
        raise OptionError(f"A page needs runs. Received: {results!r}.")
    destroyed = sum(bool(run.destroyed) for run in results)
    facts = [
        ("methods", str(len(results.labels))),
        ("sparsities", ", ".join(format_percent(sparsity) for sparsity in results.sparsities)),
        ("seeds", str(len({run.seed for run in results}))),
        ("epochs", ", ".join(sorted({str(run.epochs) for run in results}))),
        ("runs", str(len(results))),
        ("destroyed networks", str(destroyed)),
        ("guessing reaches", format_accuracy(results[0].guess)),
    ]
    sections = [
        _build_accuracy(results),
        *_build_cost(results),
        *_build_masks(results),
        *_build_searches(results),
        _build_runs(results),
    ]
    return HtmlReport(title, facts, sections=sections)


def _build_accuracy(results: Results) -> ReportSection:
    columns = [
        Column("method"),
        Column("sparsity", format_percent, number=True),
        Column("accuracy", format_accuracy, number=True),
        Column("±", format_accuracy, number=True),
        Column("runs", format_count, number=True),
        Column("destroyed", format_count, number=True),
    ]
    rows = [[r.label, _find_sparsity(r), r.mean, r.std, r.runs, r.destroyed] for r in results.summary()]
    parts: list[str | TableBlock | FigureBlock] = []
    if any(run.method != "dense" and run.status != "failed" for run in results):
        caption = "Test accuracy after training; points are means over seeds, bars go from the worst to the best."
        parts.append(FigureBlock(plots.accuracy_curve(results), caption))
    explanation = (
        "A network is destroyed if it is not clearly better (by 5 standard errors) than guessing the most frequent "
        "class, or if pruning cut its outputs off from its inputs. Those count as the guess in the mean, unless they "
        "were trained all the same. Below: means over seeds, and standard deviations (±)."
    )
    return ReportSection("Accuracy", [*parts, explanation, TableBlock(columns, rows)])


def _build_cost(results: Results) -> list[ReportSection]:
    """List what runs cost, and plot accuracy against it where some run trains more than another."""
    known = [row for row in results.summary() if row.training_steps is not None]
    if not known:
        return []
    columns = [
        Column("method"),
        Column("sparsity", format_percent, number=True),
        Column("training", format_large, number=True),
        Column("scoring", format_large, number=True),
        Column("multiply-adds", format_large, number=True),
    ]
    rows = [[r.label, _find_sparsity(r), r.training_steps, r.scoring_steps, r.multiply_adds] for r in known]
    explanation = (
        "Gradient steps of training and of scoring connections, and the multiply-adds of both, zeros not counted: "
        "means over seeds."
    )
    parts: list[str | TableBlock | FigureBlock] = [explanation, TableBlock(columns, rows)]
    if len({run.training_steps for run in results if run.multiply_adds}) > 1:
        able = [s for s in results.sparsities if any(run.sparsity == s and run.multiply_adds for run in results)]
        chosen = able[len(able) // 2] if able else None
        caption = "Test accuracy against the multiply-adds of search and training together, zeros not counted."
        parts.insert(0, FigureBlock(plots.cost_curve(results, sparsity=chosen), caption))
    return [ReportSection("Cost", parts)]


def _find_sparsity(one: SummaryRow | Run) -> float | None:
    """Return the sparsity asked for; what was reached where none was."""
    return 1 - one.density if one.sparsity is None and one.density is not None else one.sparsity


def _build_masks(results: Results) -> list[ReportSection]:
    """Show the masks of one seed, at the highest sparsity that most methods survive; collapsed ones are marked."""
    having = {
        sparsity: [run for run in results if run.sparsity == sparsity and run.seed == results[0].seed and run.layers]
        for sparsity in results.sparsities
    }
    alive = {sparsity: sum(run.status == "trained" for run in runs) for sparsity, runs in having.items() if runs}
    if not alive:
        return []
    sparsity = max(sparsity for sparsity, count in alive.items() if count == max(alive.values()))
    runs = having[sparsity][:_METHODS]
    masks = {run.label: results.masks(run) for run in runs}
    where = f"at {format_percent(sparsity)}, seed {runs[0].seed}"
    layers = FigureBlock(plots.layer_densities(masks), f"Density and number of weights kept by layer, {where}.")
    if len(masks) == 1:
        return [ReportSection("Layers", [layers])]
    overlap = FigureBlock(plots.overlap(masks), f"How far the masks of two methods agree, {where}.")
    return [ReportSection("Layers", [layers]), ReportSection("Agreement of the masks", [overlap])]


def _build_searches(results: Results) -> list[ReportSection]:
    """Plot the objective of iterative methods, at the highest sparsity of each."""
    found: dict[str, Run] = {}
    for run in sorted(results, key=lambda run: (run.sparsity or 0.0, -run.seed)):
        if any(step["objective"] is not None for step in run.steps):
            found[run.label] = run
    if not found:
        return []
    several = {f"{label}, {format_percent(run.sparsity or 0.0)}": run for label, run in list(found.items())[:_METHODS]}
    caption = "Saliency of the kept connections at each step of a search, and their number."
    return [ReportSection("Searches", [FigureBlock(plots.objective_curve(several), caption)])]


def _build_runs(results: Results) -> ReportSection:
    columns = [
        Column("method"),
        Column("sparsity", format_percent, number=True),
        Column("seed", format_count, number=True),
        Column("accuracy", format_accuracy, number=True),
        Column("pruned in", format_seconds, number=True),
        Column("outcome"),
    ]
    rows = [
        [run.label, _find_sparsity(run), run.seed, run.accuracy, run.prune_seconds, _describe_outcome(run)]
        for run in results
    ]
    reasons = dict.fromkeys(f"Failed: {run.label}: {run.error}" for run in results if run.status == "failed")
    return ReportSection("Every run", [TableBlock(columns, rows), *reasons])


def _describe_outcome(run: Run) -> str:
    return "trained, destroyed" if run.status == "trained" and run.destroyed else run.status
