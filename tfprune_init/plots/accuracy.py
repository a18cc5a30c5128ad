"""Accuracy after training, against how much was pruned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfprune_init.errors import OptionError
from tfprune_init.plots.runs import DENSE, checked, draw_baseline, draw_curve, draw_guess, fate, finish, points
from tfprune_init.plots.style import GRAY, Look, dress, label_places, look, new_figure, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tfprune_init.experiments import Run

_RANDOM = Look(GRAY, "*", (0, (4, 3)))


def accuracy_curve(results: Sequence[Run], *, title: str | None = None) -> Figure:
    """Test accuracy against sparsity, a line for each method.

    Args:
        results: The `Results` of a comparison.
        title: What to write above; by default that it is test accuracy.

    Returns:
        A figure whose x axis is logarithmic in density, and labelled by sparsity. Points are means over seeds, bars
        go from the worst to the best seed. A collapsed network answers every input alike: it counts as the guess
        (the share of the most frequent class) and is marked by a cross there. The legend counts destroyed networks
        and failed runs; failed runs have no accuracy. The dense baseline is a horizontal line with a band from its
        worst to its best seed; random pruning is gray and dashed.

    Raises:
        OptionError: If no pruned network was run, or all runs failed.

    Example:
        >>> from tfprune_init import plots
        >>> plots.accuracy_curve(results).savefig("accuracy.png", dpi=150)  # doctest: +SKIP
    """
    runs = checked(results)
    labels = list(dict.fromkeys(run.label for run in runs if run.method != DENSE))
    if not labels:
        raise OptionError("Accuracy against sparsity needs pruned networks. Received: only the dense baseline.")
    figure = new_figure(4.4)
    axes = figure.subplots()
    sparsities = sorted({run.sparsity for run in runs if run.method != DENSE})
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
        curve = points(mine, lambda run: 1 - run.sparsity)
        apart = math.exp(-0.008 * (place - (len(labels) - 1) / 2) * span)
        style = _RANDOM if plain_random else look(number)
        draw_curve(axes, curve, style, fate(label, mine), apart)
        number += not plain_random
        curves.append(curve)
    draw_guess(axes, runs)
    dress(axes, title=title or "Test accuracy after training", x="sparsity: share of the prunable weights removed")
    label_places(axes.xaxis, {1 - sparsity: percent(sparsity) for sparsity in sparsities})
    finish(figure, axes, curves, runs)
    return figure
