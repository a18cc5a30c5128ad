"""Accuracy after training against sparsity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfprune_init.errors import OptionError
from tfprune_init.plots.run_points import (
    DENSE,
    check_runs,
    draw_baseline,
    draw_curve,
    draw_guess,
    find_sparsity,
    finish_figure,
    label_curve,
    make_points,
)
from tfprune_init.plots.style import (
    GRAY,
    SeriesStyle,
    format_percent,
    get_look,
    label_positions,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tfprune_init.experiments import Run

_RANDOM = SeriesStyle(GRAY, "*", (0, (4, 3)))


def accuracy_curve(results: Sequence[Run], *, title: str | None = None) -> Figure:
    """Plot test accuracy against sparsity, with one line per method.

    Args:
        results: The `Results` of a comparison.
        title: Title of the figure; "Test accuracy after training" by default.

    Returns:
        A figure whose x axis is logarithmic in density, and labelled by sparsity. Points are means over seeds, bars
        go from the worst to the best seed. A collapsed network answers every input alike: it counts as the guess
        (the share of the most frequent class) unless it was trained, and is marked by a cross. The legend counts
        destroyed networks and failed runs; failed runs have no accuracy. A procedure that finds itself how much stays
        is a point at what it reached. The dense baseline is a horizontal line with
        a band from its worst to its best seed; random pruning is gray and dashed.

    Raises:
        OptionError: If no pruned network was run, or all runs failed.

    Example:
        >>> from tfprune_init import plots
        >>> plots.accuracy_curve(results).savefig("accuracy.png", dpi=150)  # doctest: +SKIP
    """
    runs = check_runs(results)
    labels = list(dict.fromkeys(run.label for run in runs if run.method != DENSE))
    if not labels:
        raise OptionError("Accuracy against sparsity needs pruned networks. Received: only the dense baseline.")
    figure = new_figure(4.4)
    axes = figure.subplots()
    sparsities = sorted({find_sparsity(run, runs) for run in runs if run.method != DENSE})
    span = math.log((1 - sparsities[0]) / (1 - sparsities[-1])) or 1.0
    margin = math.exp((0.04 + 0.004 * len(labels)) * span)
    axes.set_xscale("log")
    axes.set_xlim((1 - sparsities[0]) * margin, (1 - sparsities[-1]) / margin)
    draw_baseline(axes, runs)
    curves = []
    number = 0
    for place, label in enumerate(labels):
        mine = [run for run in runs if run.label == label]
        plain_random = mine[0].method == "random"
        curve = make_points(mine, lambda run: 1 - find_sparsity(run, runs))
        apart = math.exp(-0.008 * (place - (len(labels) - 1) / 2) * span)
        style = _RANDOM if plain_random else get_look(number)
        draw_curve(axes, curve, style, label_curve(label, mine), apart)
        number += not plain_random
        curves.append(curve)
    draw_guess(axes, runs)
    style_axes(axes, title=title or "Test accuracy after training", x="sparsity: share of the prunable weights removed")
    label_positions(axes.xaxis, {1 - sparsity: format_percent(round(sparsity, 4)) for sparsity in sparsities})
    finish_figure(figure, axes, curves, runs)
    return figure
