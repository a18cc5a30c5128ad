"""The report of one pruned network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from tfprune_init import plots
from tfprune_init.backend.protocols import Model
from tfprune_init.masks import Masks
from tfprune_init.reports.html_report import (
    Column,
    FigureBlock,
    HtmlReport,
    ReportSection,
    TableBlock,
    format_accuracy,
    format_count,
    format_percent,
    format_seconds,
)

_KERNELS = 6
"""Number of kernels that are drawn: those that keep the smallest share."""


def pruning_page(
    report: Mapping[str, Any],
    masks: Masks,
    *,
    model: Model | None = None,
    initial: Mapping[str, np.ndarray] | None = None,
    epochs: Sequence[Mapping[str, Any]] = (),
    data: str | None = None,
) -> HtmlReport:
    """Build the report of one pruning at initialization, and of the training that followed.

    Args:
        report: Result of `PruningReport.to_dict()`, or read from its file.
        masks: The masks.
        model: The model of the masks, needed to draw connections per neuron.
        initial: Weights that the masked variables had before they were pruned, by path.
        epochs: Metrics of each training epoch: dictionaries of loss, accuracy, val_accuracy.
        data: Data used to score and to train, in words.

    Returns:
        The page; `page.save("report.html")` writes it.

    Raises:
        MissingDependencyError: If matplotlib is not installed.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(3)], name="small")
        >>> report = tpi.prune_at_init(model, None, sparsity=0.5, method="magnitude")
        >>> tpi.reports.pruning_page(report.to_dict(), report.masks).title
        'small pruned by magnitude'
    """
    facts = [
        ("sparsity", format_percent(report["sparsity"])),
        ("weights kept", f"{format_count(report['kept'])} of {format_count(report['size'])}"),
        ("method", report["method"]),
        *([("judged by", report["loss"])] if report.get("loss") else []),
        ("steps", f"{len(report['steps'])} in {format_seconds(report['seconds'])}"),
        ("network", _describe_network(report)),
        ("empty layers", str(len(report["empty"]))),
    ]
    if epochs:
        facts += _list_accuracies(epochs)
    sections = [_build_layers(report, masks), _list_unpruned(report)]
    if epochs:
        sections.append(ReportSection("Training", [_build_epoch_table(epochs)]))
    if any(step["objective"] is not None for step in report["steps"]):
        sections.append(_build_search(report))
    if initial is not None:
        caption = "Weights by their value before pruning: all, and those that are kept; below, the share kept."
        drawn = plots.weight_histograms(initial, masks)
        sections.append(ReportSection("Which weights are kept", [FigureBlock(drawn, caption)]))
    sections += _build_kernels(report, masks, model)
    sections.append(_list_options(report))
    about = "" if data is None else f"Scored and trained on {data}."
    return HtmlReport(f"{report['model']} pruned by {report['method']}", facts, about, sections)


def _describe_network(report: Mapping[str, Any]) -> str:
    if report.get("collapse") is not None:  # reports of earlier versions do not know it
        return "collapsed"
    return {True: "connected", False: "not connected", None: "not measured"}[report["connected"]]


def _list_accuracies(epochs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    last = epochs[-1]
    named = {"test accuracy": "val_accuracy", "training accuracy": "accuracy"}
    shown = [(name, format_accuracy(last[key])) for name, key in named.items() if last.get(key) is not None]
    return [("epochs trained", str(len(epochs))), *shown]


def _build_layers(report: Mapping[str, Any], masks: Masks) -> ReportSection:
    columns = [
        Column("variable"),
        Column("kept", format_count, number=True),
        Column("of", format_count, number=True),
        Column("density", format_percent, number=True),
        Column("dead inputs", format_count, number=True),
        Column("dead outputs", format_count, number=True),
    ]
    keys = ("path", "kept", "size", "density", "dead_inputs", "dead_outputs")
    rows = [[row[key] for key in keys] for row in report["layers"]]
    caption = (
        "Density and number of weights kept, layer by layer from the input at the top; below, the layers with fewest."
    )
    drawn = plots.layer_densities({report["method"]: masks})
    dead = "Units that keep no weight are dead: their output is constant, and tpi.compact removes them."
    remarks = [] if report.get("collapse") is None else [report["collapse"]]
    remarks += [
        f"{lost} of {outputs} outputs of {path} keep no connection: they are the same for all inputs."
        for path, (lost, outputs) in report.get("unconnected_outputs", {}).items()
    ]
    return ReportSection("Layers", [*remarks, TableBlock(columns, rows), dead, FigureBlock(drawn, caption)])


def _list_unpruned(report: Mapping[str, Any]) -> ReportSection:
    columns = [Column("variable"), Column("weights", format_count, number=True), Column("why it is not pruned")]
    rows = [[row["path"], int(np.prod(row["shape"])), row["reason"]] for row in report["skipped"]]
    return ReportSection("Not pruned", [TableBlock(columns, rows)] if rows else ["Every variable was pruned."])


def _build_epoch_table(epochs: Sequence[Mapping[str, Any]]) -> TableBlock:
    names = {"loss": "loss", "accuracy": "accuracy", "val_loss": "test loss", "val_accuracy": "test accuracy"}
    keys = [key for key in names if any(key in epoch for epoch in epochs)]
    shown = [Column(names[key], format_accuracy if "accuracy" in key else "{:.4f}".format, number=True) for key in keys]
    rows = [[number, *(epoch.get(key) for key in keys)] for number, epoch in enumerate(epochs, start=1)]
    return TableBlock([Column("epoch", format_count, number=True), *shown], rows)


def _build_search(report: Mapping[str, Any]) -> ReportSection:
    steps = [SimpleNamespace(**step) for step in report["steps"]]
    drawn = plots.objective_curve({report["method"]: SimpleNamespace(steps=steps, collapse=report.get("collapse"))})
    caption = "Saliency of the kept connections at each step, measured in the pruned network, and their number."
    return ReportSection("Search", [FigureBlock(drawn, caption)])


def _build_kernels(report: Mapping[str, Any], masks: Masks, model: Model | None) -> list[ReportSection]:
    """Draw the kernels that keep the smallest share, and the connections of their units if the model is known."""
    if model is None:
        return []
    variables = masks.check(model)
    kernels = [path for path in masks if variables[path].units.inputs and variables[path].units.outputs]
    thinnest = sorted(kernels, key=lambda path: masks[path].mean())[:_KERNELS]
    if not thinnest:
        return []
    shown = [path for path in kernels if path in thinnest]
    which = "" if len(shown) == len(kernels) else f" Shown are the {len(shown)} that keep the smallest share."
    drawn = plots.connections_per_neuron(model, masks, paths=shown)
    caption = f"How many connections each unit keeps, into it and out of it; black: dead units.{which}"
    maps: list[str | TableBlock | FigureBlock] = [
        FigureBlock(plots.kernel_heat_map(masks, path, model=model), f"Where {path} keeps its weights.")
        for path in shown
    ]
    return [ReportSection("Connections per neuron", [FigureBlock(drawn, caption)]), ReportSection("Kernels", maps)]


def _list_options(report: Mapping[str, Any]) -> ReportSection:
    columns = [Column("setting"), Column("value")]
    settings = {**report["options"], **{f"{name} version": value for name, value in report["versions"].items()}}
    rows = [[name, str(value)] for name, value in settings.items()]
    return ReportSection(
        "Options and versions", [TableBlock(columns, [*rows, ["fingerprint of the masks", report["fingerprint"]]])]
    )
