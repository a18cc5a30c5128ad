"""What a trained network loses when one layer alone is pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tfprune_init.checks import suggest
from tfprune_init.errors import OptionError
from tfprune_init.plots.style import GRAY, LIGHT, draw_legend_below, get_look, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tfprune_init.training.sensitivity import SensitivityScan

_HIGHLIGHTED = 8


def sensitivity(scan: SensitivityScan, *, metric: str | None = None) -> Figure:
    """Plot a metric of a trained network against the sparsity of one layer, with one line a layer.

    Args:
        scan: What `tpi.scan_sensitivity` found.
        metric: The metric to draw; the first that is not the loss by default, and the loss where there is no other.

    Returns:
        A figure. Each line begins at the network as it is, a gray dashed line. Of more than eight layers the eight that
        change the metric most on average have a label, and the others are gray.

    Raises:
        OptionError: If the scan has no such metric.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> data = np.random.default_rng(0).normal(size=(64, 8)), np.ones((64, 1))
        >>> figure = tpi.plots.sensitivity(tpi.scan_sensitivity(model, data, sparsities=[0.5, 0.9], verbose=0))
        >>> figure.axes[0].get_ylabel()
        'loss'

    Reference:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, figure 6.
    """
    names = list(scan.baseline)
    shown = next((name for name in names if name != "loss"), "loss") if metric is None else metric
    if shown not in names:
        raise OptionError(f"The scan has no metric {metric!r}. {suggest(metric, names, list_all=True)}")
    percent = "acc" in shown
    unit = 100.0 if percent else 1.0
    start = unit * scan.baseline[shown]
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in scan.points:
        lines.setdefault(point.path, []).append((100 * point.sparsity, unit * point.metrics[shown]))
    change = {path: np.mean([abs(value - start) for _, value in line]) for path, line in lines.items()}
    labelled = sorted(lines, key=lambda path: -change[path])[:_HIGHLIGHTED]
    figure = new_figure(4.4)
    axes = figure.subplots()
    axes.axhline(start, color=GRAY, linestyle=(0, (4, 3)), linewidth=1, label="the network as it is", zorder=1)
    others = [path for path in lines if path not in labelled]
    for path in others:
        x, y = zip((0.0, start), *lines[path], strict=True)
        label = f"{len(others)} more, which change less" if path == others[0] else None
        axes.plot(x, y, color=LIGHT, linewidth=1, label=label, zorder=1.5)
    for number, path in enumerate(path for path in lines if path in labelled):
        x, y = zip((0.0, start), *lines[path], strict=True)
        color, marker, line = get_look(number)
        axes.plot(x, y, color=color, marker=marker, linestyle=line, markersize=3.5, linewidth=1.2, label=path, zorder=2)
    style_axes(
        axes,
        title="One layer pruned by magnitude, without training after it",
        x="weights of the layer removed (%)",
        y=f"{shown} (%)" if percent else shown,
    )
    axes.grid(axis="y", color="#eeeeee")
    draw_legend_below(figure, axes, columns=3)
    return figure
