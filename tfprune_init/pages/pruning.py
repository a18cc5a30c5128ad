"""The page of one pruned network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from tfprune_init import plots
from tfprune_init.masks import Masks
from tfprune_init.pages.page import Column, Page, Picture, Section, Table, accuracy, count, percent, seconds

_KERNELS = 6
"""How many kernels are shown one by one: those that keep the smallest share, whose pictures tell most."""


def pruning_page(
    report: Mapping[str, Any],
    masks: Masks,
    *,
    model: Any = None,
    initial: Mapping[str, np.ndarray] | None = None,
    epochs: Sequence[Mapping[str, Any]] = (),
    data: str | None = None,
) -> Page:
    """Tell of one pruning at initialization, and of the training that followed.

    Args:
        report: What `PruningReport.to_dict()` gives, or its file.
        masks: The masks.
        model: The model of the masks, for what only it knows: connections per neuron.
        initial: Weights that the masked variables had before they were pruned, by path.
        epochs: What each epoch of training measured: dictionaries of loss, accuracy, val_accuracy.
        data: What it was judged by and trained on, in words.

    Returns:
        The page; `page.save("report.html")` writes it.

    Raises:
        PlotError: If matplotlib is not installed.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(3)], name="small")
        >>> report = tpi.prune_at_init(model, None, sparsity=0.5, method="magnitude")
        >>> tpi.pages.pruning_page(report.to_dict(), report.masks).title
        'small pruned by magnitude'
    """
    facts = [
        ("sparsity", percent(report["sparsity"])),
        ("weights kept", f"{count(report['kept'])} of {count(report['size'])}"),
        ("method", report["method"]),
        ("steps", f"{len(report['steps'])} in {seconds(report['seconds'])}"),
        ("network", {True: "connected", False: "not connected", None: "not measured"}[report["connected"]]),
        ("empty layers", str(len(report["empty"]))),
    ]
    if epochs:
        facts += _accuracies(epochs)
    sections = [_layers(report, masks), _left_alone(report)]
    if epochs:
        sections.append(Section("Training", [_epochs(epochs)]))
    if any(step["objective"] is not None for step in report["steps"]):
        sections.append(_search(report))
    if initial is not None:
        caption = "Weights by their value before pruning: all, and those that are kept; below, the share kept."
        drawn = plots.weight_histograms(initial, masks)
        sections.append(Section("Which weights are kept", [Picture(drawn, caption)]))
    sections += _kernels(report, masks, model)
    sections.append(_made_with(report))
    about = "" if data is None else f"Judged by and trained on {data}."
    return Page(f"{report['model']} pruned by {report['method']}", facts, about, sections)


def _accuracies(epochs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    last = epochs[-1]
    named = {"test accuracy": "val_accuracy", "training accuracy": "accuracy"}
    shown = [(name, accuracy(last[key])) for name, key in named.items() if last.get(key) is not None]
    return [("epochs trained", str(len(epochs))), *shown]


def _layers(report: Mapping[str, Any], masks: Masks) -> Section:
    columns = [
        Column("variable"),
        Column("kept", count, number=True),
        Column("of", count, number=True),
        Column("density", percent, number=True),
        Column("dead inputs", count, number=True),
        Column("dead outputs", count, number=True),
    ]
    keys = ("path", "kept", "size", "density", "dead_inputs", "dead_outputs")
    rows = [[row[key] for key in keys] for row in report["layers"]]
    caption = (
        "Density and number of weights kept, layer by layer from the input at the top; below, the layers with fewest."
    )
    drawn = plots.layer_densities({report["method"]: masks})
    dead = "Units that keep no weight are dead: they compute nothing, and tpi.compact removes them."
    return Section("Layers", [Table(columns, rows), dead, Picture(drawn, caption)])


def _left_alone(report: Mapping[str, Any]) -> Section:
    columns = [Column("variable"), Column("weights", count, number=True), Column("why it is not pruned")]
    rows = [[row["path"], int(np.prod(row["shape"])), row["reason"]] for row in report["skipped"]]
    return Section("Not pruned", [Table(columns, rows)] if rows else ["Every variable was pruned."])


def _epochs(epochs: Sequence[Mapping[str, Any]]) -> Table:
    names = {"loss": "loss", "accuracy": "accuracy", "val_loss": "test loss", "val_accuracy": "test accuracy"}
    keys = [key for key in names if any(key in epoch for epoch in epochs)]
    shown = [Column(names[key], accuracy if "accuracy" in key else "{:.4f}".format, number=True) for key in keys]
    rows = [[number, *(epoch.get(key) for key in keys)] for number, epoch in enumerate(epochs, start=1)]
    return Table([Column("epoch", count, number=True), *shown], rows)


def _search(report: Mapping[str, Any]) -> Section:
    steps = [SimpleNamespace(**step) for step in report["steps"]]
    drawn = plots.objective_curve({report["method"]: SimpleNamespace(steps=steps)})
    caption = "What the kept connections are worth at each step, judged at the pruned network, and how many are kept."
    return Section("Search", [Picture(drawn, caption)])


def _kernels(report: Mapping[str, Any], masks: Masks, model: Any) -> list[Section]:
    """The kernels that keep the smallest share, and every kernel's connections where the model knows its units."""
    if model is None:
        return []
    targets = masks.check(model)
    kernels = [path for path in masks if targets[path].units.inputs and targets[path].units.outputs]
    thinnest = sorted(kernels, key=lambda path: masks[path].mean())[:_KERNELS]
    if not thinnest:
        return []
    shown = [path for path in kernels if path in thinnest]
    which = "" if len(shown) == len(kernels) else f" Shown are the {len(shown)} that keep the smallest share."
    drawn = plots.connections_per_neuron(model, masks, paths=shown)
    caption = f"How many connections each unit keeps, into it and out of it; black: dead units.{which}"
    maps: list[str | Table | Picture] = [
        Picture(plots.kernel_heat_map(masks, path, model=model), f"Where {path} keeps its weights.") for path in shown
    ]
    return [Section("Connections per neuron", [Picture(drawn, caption)]), Section("Kernels", maps)]


def _made_with(report: Mapping[str, Any]) -> Section:
    columns = [Column("setting"), Column("value")]
    settings = {**report["options"], **{f"{name} version": value for name, value in report["versions"].items()}}
    rows = [[name, str(value)] for name, value in settings.items()]
    return Section("How it was made", [Table(columns, [*rows, ["fingerprint of the masks", report["fingerprint"]]])])
