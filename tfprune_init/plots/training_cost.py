"""Accuracy against what it cost to get there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfprune_init.errors import OptionError
from tfprune_init.plots.run_points import (
    DENSE,
    check_runs,
    choose_sparsity,
    draw_baseline,
    draw_curve,
    draw_guess,
    finish_figure,
    label_curve,
    make_points,
)
from tfprune_init.plots.style import SeriesStyle, format_percent, get_look, label_log_axis, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tfprune_init.experiments import Run

_ROWS, _ROW = 4, 0.17
"""Rows of the legend that the usual height has room for, and the height of another, in inches."""

_DENSE_LOOK = SeriesStyle("black", "o", "none")


def cost_curve(results: Sequence[Run], *, sparsity: float | None = None) -> Figure:
    """Plot test accuracy against the multiply-adds of everything that led there, one mark per method.

    Searching and training count, and zeros do not: what a network would need that skips them. A method that trains
    once stands at the left, one that trains ten times at the right.

    Args:
        results: The `Results` of a comparison.
        sparsity: Which sparsity to show; needed if there are several. A procedure that finds itself how much stays is
            shown beside, with the sparsity that it reached.

    Returns:
        A figure whose x axis is logarithmic. The cost of training the dense network once is 1 where that was run;
        without it, x is in multiply-adds. Bars, crosses and baseline are as in `accuracy_curve`. The level of guessing
        is drawn where a network comes near it.

    Raises:
        OptionError: If no run has a cost, all failed, or the sparsity is missing or not there.

    Example:
        >>> from tfprune_init import plots
        >>> plots.cost_curve(results, sparsity=0.98).savefig("cost.png", dpi=150)  # doctest: +SKIP
    """
    runs = check_runs(results)
    counted = [run for run in runs if run.multiply_adds]
    pruned = [run for run in counted if run.method != DENSE]
    if not pruned:
        raise OptionError(
            "No run says what it cost in multiply-adds: compare again with this version, and a model whose "
            f"multiply-adds are known. Received: {len(runs)} runs without."
        )
    sparsities = sorted({run.sparsity for run in pruned if run.sparsity is not None})
    chosen = choose_sparsity(sparsities, sparsity) if sparsities or sparsity is not None else None
    shown = check_runs([run for run in pruned if run.sparsity in (chosen, None)])
    dense = [run for run in counted if run.method == DENSE and run.status != "failed"]
    unit = statistics.fmean([run.multiply_adds or 0 for run in dense]) if dense else 1.0
    groups: dict[str, list[Run]] = {}
    for run in shown:
        groups.setdefault(run.label, []).append(run)
    figure = new_figure(4.4 + _ROW * max(0, math.ceil(len(groups) / 2) - _ROWS))
    axes = figure.subplots()
    axes.set_xscale("log")
    draw_baseline(axes, runs)
    curves = []
    for number, (label, mine) in enumerate(groups.items()):
        cost = statistics.fmean([run.multiply_adds or 0 for run in mine if run.status != "failed"] or [0]) / unit
        curve = make_points(mine, lambda run, cost=cost: cost)  # type: ignore[misc]  # bound at once
        look = get_look(number)
        draw_curve(axes, curve, SeriesStyle(look.color, look.marker, "none"), label_curve(_name(label, mine), mine), 1)
        curves.append(curve)
    if dense:
        draw_curve(axes, make_points(dense, lambda run: 1.0), _DENSE_LOOK, "dense, trained once", 1)
    points = [point for curve in curves for point in curve]
    worst, best = min(point.low for point in points), max(point.high for point in points)
    if worst < (100 * shown[0].guess + best) / 2:  # else it would leave the methods no room
        draw_guess(axes, shown)
    costs = [point.x for curve in curves for point in curve] + ([1.0] if dense else [])
    low, high = min(costs) / 1.5, max(costs) * 1.5
    axes.set_xlim(low, high)
    label_log_axis(axes.xaxis, low, high)
    where = "" if chosen is None else f" at {format_percent(chosen)} sparsity"
    x = "training the dense network once = 1" if dense else "in multiply-adds"
    style_axes(
        axes, title=f"Test accuracy against its cost{where}", x=f"cost of search and training, {x} (logarithmic)"
    )
    finish_figure(figure, axes, curves, shown)
    return figure


def _name(label: str, runs: list[Run]) -> str:
    reached = [run.density for run in runs if run.sparsity is None and run.density is not None]
    return f"{label}, {format_percent(round(1 - statistics.fmean(reached), 3))} reached" if reached else label
