"""Kept and pruned weights by their initial value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.errors import MaskMismatchError, OptionError
from tfprune_init.plots.inputs import choose_paths, get_masks, get_weights, mark_collapsed, shorten_paths
from tfprune_init.plots.style import LIGHT, TINY, draw_legend_below, label_log_axis, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 50
_KEPT, _PRUNED = "#0072b2", "#d55e00"


def weight_histograms(weights: Any, masks: Any, *, paths: str | Iterable[str] | None = None) -> Figure:
    """Plot histograms of the kept and of the pruned weights beside the initial distribution of all.

    Args:
        weights: A model that still has its initial weights, or a mapping from path to array of them. Take them
            before `prune_at_init`, which sets the pruned ones to zero, or use `find_masks`.
        masks: Masks, or a `PruningReport`.
        paths: Variables to draw besides the whole network, each with its own panel; none by default.

    Returns:
        A figure of numbers of weights (logarithmic) by value, and the share kept at each value for the
        whole network.

    Raises:
        OptionError: If the pruned weights are all zero already, or a path has no mask.
        MaskMismatchError: If there are no weights for a mask, or of another shape.

    Example:
        >>> import numpy as np
        >>> from tfprune_init import plots
        >>> weights = {"w": np.array([0.1, -0.2, 0.3])}
        >>> plots.weight_histograms(weights, {"w": [0, 0, 1]}).axes[0].get_ylabel()
        'number of weights'
    """
    masks = get_masks(masks)
    wanted = [] if paths is None else choose_paths(paths, masks)
    values = _get_initial_weights(weights, masks)
    rows = -(-len(wanted) // 3)
    figure = new_figure(4.8 + 1.75 * rows)
    heights = (4.4, 1.75 * rows)[: 1 + bool(rows)]
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    top, below = parts[0, 0].subplots(2, 1, sharex=True, height_ratios=(2, 1))
    everything = np.concatenate([values[path].ravel() for path in masks])
    kept = np.concatenate([masks[path].ravel() for path in masks])
    counts, edges = _draw_histogram(top, everything, kept)
    title = f"All {everything.size:,} prunable weights, {np.count_nonzero(kept):,} kept"
    style_axes(top, title=mark_collapsed(title, masks), y="number of weights")
    share = np.divide(100 * counts[1], counts[0], out=np.full(len(counts[0]), np.nan), where=counts[0] > 0)
    below.stairs(share, edges, color=_KEPT, linewidth=1.3)
    below.set_ylim(bottom=0)
    style_axes(below, x="initial value of the weight", y="kept of these (%)")
    if rows:
        grid = parts[1, 0].subplots(rows, 3, squeeze=False)
        names = shorten_paths(wanted, longest=28)
        for axes, path in zip(grid.flat, wanted, strict=False):
            _draw_histogram(axes, values[path].ravel(), masks[path].ravel())
            title = f"{names[path]}: {np.count_nonzero(masks[path]):,} kept"
            style_axes(axes, title=title, x="initial value", y="number", small=TINY)
            axes.title.set_fontsize(TINY)
            axes.locator_params(axis="x", nbins=4)
        for axes in grid.flat[len(wanted) :]:
            axes.set_axis_off()
    draw_legend_below(figure, top, columns=3)
    return figure


def _get_initial_weights(weights: Any, masks: Any) -> dict[str, np.ndarray]:
    values = get_weights(weights)
    for path, mask in masks.items():
        if path not in values or values[path].shape != mask.shape:
            found = f"shape {values[path].shape}" if path in values else "no weights of that path"
            raise MaskMismatchError(
                f"Mask {path!r} of shape {mask.shape} has no weights. Received: {found}. "
                "If only layer names differ, use masks.carried_to(model)."
            )
    pruned = sum(mask.size for mask in masks.values()) - sum(int(np.count_nonzero(mask)) for mask in masks.values())
    if pruned and not any(values[path][~mask].any() for path, mask in masks.items()):
        raise OptionError(
            "The initial values of the pruned weights are needed. Received: weights that are zero wherever the masks "
            "prune. Keep them before pruning, or find masks with tpi.find_masks, which leaves the model as it is."
        )
    return values


def _draw_histogram(
    axes: Any, values: np.ndarray, kept: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Draw all, kept and pruned over the same bins; return the counts of all and kept, and the edges."""
    values = values.astype(float)
    edges = np.histogram_bin_edges(values, _BINS)
    every, chosen_ones, others = (np.histogram(part, edges)[0] for part in (values, values[kept], values[~kept]))
    axes.stairs(every, edges, fill=True, color=LIGHT, label="all (initial distribution)")
    axes.stairs(others, edges, color=_PRUNED, linestyle=(0, (4, 2)), linewidth=1.1, label="pruned")
    axes.stairs(chosen_ones, edges, color=_KEPT, linewidth=1.4, label="kept")
    axes.set_yscale("log")
    axes.set_ylim(0.7, 2.0 * max(1, every.max()))
    label_log_axis(axes.yaxis, *axes.get_ylim())
    return (every, chosen_ones), edges
