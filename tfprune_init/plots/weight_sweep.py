"""Accuracy of masked networks against the one weight that all their connections share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfprune_init.errors import OptionError
from tfprune_init.plots.style import draw_legend_below, get_look, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shared_weight(results: Any, *, title: str | None = None) -> Figure:
    """Plot accuracy against the value of the weight that all connections share.

    Args:
        results: What `tpi.shared_weight` returned, or a mapping from label to that.
        title: Title of the figure; "One weight for all connections" by default.

    Returns:
        A figure with a line for each network, broken at 0, where there is no network. A dotted line of the same color
        is the vote of all its values, and a star the value that was tuned.

    Raises:
        OptionError: If there is no result, or one has no accuracies.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> from tfprune_init import plots
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="head")])
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> data = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([0, 1])
        >>> found = tpi.shared_weight(model, data, tpi.Masks({"head/kernel": np.eye(2, dtype=bool)}))
        >>> plots.shared_weight({"straight": found}).axes[0].get_xlabel()
        'shared weight'
    """
    several = dict(results) if isinstance(results, Mapping) else {"each value": results}
    if not several:
        raise OptionError("There is nothing to draw. Received: a mapping without results.")
    figure = new_figure(3.6)
    axes = figure.subplots()
    for number, (label, result) in enumerate(several.items()):
        if result.ensemble_accuracy is None:
            raise OptionError(
                f"{label!r} has no accuracies: its model does not tell classes apart. Read result.to_csv() instead."
            )
        color, marker, _ = get_look(number)
        points = sorted([(0.0, math.nan), *zip(result.values, result.accuracies, strict=True)])
        axes.plot(
            [value for value, _ in points],
            [100 * accuracy for _, accuracy in points],
            label=label,
            color=color,
            marker=marker,
            markersize=4,
            linewidth=1.2,
        )
        vote = 100 * result.ensemble_accuracy
        axes.axhline(vote, color=color, linestyle=(0, (1, 2)), linewidth=1, label=f"{label}: vote of all")
        if result.tuned is not None:
            place = result.tuned.value, 100 * result.tuned.measured.accuracy
            axes.plot(*place, color=color, marker="*", markersize=10, linestyle="none", label=f"{label}: tuned")
    axes.grid(axis="y", color="#eeeeee")
    style_axes(axes, title=title or "One weight for all connections", x="shared weight", y="accuracy (%)")
    draw_legend_below(figure, axes, columns=3)
    return figure
