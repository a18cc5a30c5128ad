"""The objective of iterative methods, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfprune_init.errors import OptionError
from tfprune_init.plots.inputs import get_rows, mark_collapsed
from tfprune_init.plots.style import draw_legend_below, get_look, label_log_axis, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def objective_curve(reports: Any) -> Figure:
    """Plot the saliency of the kept connections at each step of a search, and their number.

    Args:
        reports: A `PruningReport` (or a run of an experiment), or a mapping from label to these, of methods with
            an objective: FORCE and the other iterative methods that look at data.

    Returns:
        A figure of two panels over the steps: the objective, which is the sum of the scores of the kept
        connections, judged at the pruned network (for FORCE sum |w dL/dw|, as a change of the loss); and
        the density, the share of the prunable weights kept.

    Raises:
        OptionError: If a report has no objective.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> from tfprune_init import plots
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> data = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 3
        >>> figure = plots.objective_curve(tpi.prune_at_init(model, data, sparsity=0.8, method="force", steps=5))
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['objective', 'weights kept (%)']

    Reference:
        de Jorge et al., Progressive Skeletonization (FORCE), ICLR 2021, equation 5.
    """
    several = reports if isinstance(reports, Mapping) else {reports.method: reports}
    figure = new_figure(4.6)
    top, bottom = figure.subplots(2, 1, sharex=True)
    for number, (label, report) in enumerate(several.items()):
        steps = get_rows(report, "steps")
        judged = [step for step in steps if step.objective is not None]
        if not judged:
            raise OptionError(
                f"The search of {label!r} has no objective to draw: its method takes one step, or uses no data. "
                'Draw iterative methods with data, such as method="force".'
            )
        color, marker, line = get_look(number)
        style = {"color": color, "marker": marker, "linestyle": line, "markersize": 3.5, "linewidth": 1.2}
        top.plot(
            [step.number for step in judged],
            [step.objective for step in judged],
            label=mark_collapsed(label, report),
            **style,
        )
        bottom.plot([step.number for step in steps], [100 * step.density for step in steps], **style)
    style_axes(top, title="Objective: the sum of the kept connections' scores", y="objective")
    style_axes(bottom, x="step", y="weights kept (%)")
    for axes in (top, bottom):
        axes.set_yscale("log")
        label_log_axis(axes.yaxis, *axes.get_ylim())
        axes.grid(axis="y", color="#eeeeee")
    bottom.xaxis.get_major_locator().set_params(integer=True)
    draw_legend_below(figure, top, columns=4)
    return figure
