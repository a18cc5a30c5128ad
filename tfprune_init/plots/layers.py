"""Density of each layer, for several methods side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.errors import MaskMismatchError, OptionError
from tfprune_init.plots.inputs import get_masks, get_rows, name_sources, shorten_paths
from tfprune_init.plots.style import (
    LIGHT,
    SMALL,
    TINY,
    draw_legend_below,
    get_look,
    label_log_axis,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EMPTIEST = 8
_ROW = 0.145  # inches a layer


@dataclass(frozen=True)
class _Counts:
    """Size of each variable, and how many of its weights each method keeps; NaN where a method has no mask."""

    paths: list[str]
    labels: list[str]
    sizes: np.ndarray
    kept: np.ndarray


def layer_densities(sources: Mapping[str, Any]) -> Figure:
    """Plot density and number of kept weights of each layer, for several methods.

    The layers that keep fewest weights are enlarged.

    Args:
        sources: Mapping from label to masks, a `PruningReport`, a run of an experiment, or a model whose pruned
            weights are zero; of one network.

    Returns:
        A figure. Left the density, right the number of kept weights, both logarithmic, layers from the
        first (top) to the last; a layer that keeps nothing is a hollow mark in the gray strip at the left. Below, the
        numbers of weights kept in the up to 8 layers in which some method keeps fewest; empty ones are black.

    Raises:
        MaskMismatchError: If a variable has different sizes in two sources.
        OptionError: If there is nothing to draw.

    Example:
        >>> from tfprune_init import Masks, plots
        >>> masks = {"snip": Masks({"a/kernel": [1, 1, 0, 0], "b/kernel": [0, 0, 0]})}
        >>> figure = plots.layer_densities(masks)
        >>> [text.get_text() for text in figure.axes[2].texts]
        ['0', '2']
    """
    counts = _count_weights(name_sources(sources))
    layers, methods = len(counts.paths), len(counts.labels)
    emptiest = _find_emptiest(counts)
    top, bottom = 0.7 + _ROW * max(layers, 6), 0.75 + 0.2 * len(emptiest)
    figure = new_figure(top + bottom + 0.25 * -(-methods // 4) + 0.2)
    parts: Any = figure.subfigures(2, 1, height_ratios=(top, bottom))
    upper, lower = parts
    left, right = upper.subplots(1, 2, sharey=True)
    names = shorten_paths(counts.paths)
    _draw_curves(left, counts, 100 * counts.kept / counts.sizes[:, None])
    _draw_curves(right, counts, counts.kept)
    style_axes(left, title="Density", x="weights kept in the layer (%)")
    style_axes(right, title="Weights kept", x="number of weights kept")
    left.set_yticks(range(layers), [names[path] for path in counts.paths], fontsize=TINY if layers > 30 else SMALL)
    left.set_ylim(layers - 0.4, -0.6)
    _draw_numbers(lower.subplots(), counts, emptiest, names)
    draw_legend_below(figure, left, columns=4)
    return figure


def _count_weights(sources: dict[str, Any]) -> _Counts:
    rows = {label: _read_counts(source) for label, source in sources.items()}
    paths = list(dict.fromkeys(path for counts in rows.values() for path in counts))
    sizes: dict[str, int] = {}
    kept = np.full((len(paths), len(rows)), np.nan)
    for column, (label, counts) in enumerate(rows.items()):
        for path, (count, size) in counts.items():
            if sizes.setdefault(path, size) != size:
                raise MaskMismatchError(
                    f"Only masks of one network can be drawn side by side. Received: {path!r} with {sizes[path]:,} "
                    f"weights, and with {size:,} in {label!r}."
                )
            kept[paths.index(path), column] = count
    return _Counts(paths, list(rows), np.array([sizes[path] for path in paths], float), kept)


def _read_counts(source: Any) -> dict[str, tuple[int, int]]:
    """Get the numbers of kept and of all weights of each variable."""
    if hasattr(source, "prune_seconds"):  # a run has counts, and its masks are on disk
        counts = {row.path: (row.kept, row.size) for row in get_rows(source, "layers")}
        if not counts:
            raise OptionError(f"A run without masks has no layers to draw. Received: {source.label}, {source.status}.")
        return counts
    masks = get_masks(source)
    return {path: (int(np.count_nonzero(mask)), mask.size) for path, mask in masks.items()}


def _find_emptiest(counts: _Counts) -> list[int]:
    """Find the layers in which some method keeps fewest; of equal ones, those in which all methods together do."""
    order = np.lexsort((np.nansum(counts.kept, axis=1), np.nanmin(counts.kept, axis=1)))
    return [int(i) for i in order[:_EMPTIEST]]


def _draw_curves(axes: Any, counts: _Counts, values: np.ndarray) -> None:
    """Draw a curve down the layers for each method; hollow marks in a strip at the left where a layer is empty."""
    positive = values[np.nan_to_num(values) > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    margin = 1.3 * (high / low) ** 0.04
    strip = (high / low) ** 0.03 * 1.3
    with_empty = np.flatnonzero((values == 0).any(axis=0)).tolist()
    edge = low / margin
    left = edge / strip ** len(with_empty)
    axes.set_xscale("log")
    axes.set_xlim(left, high * margin)
    layers = np.arange(len(counts.paths))
    for column, label in enumerate(counts.labels):
        color, marker, line = get_look(column)
        mine = values[:, column]
        empty = np.flatnonzero(mine == 0)
        name = f"{label} ({len(empty)} empty)" if len(empty) else label
        kept = np.where(mine > 0, mine, np.nan)
        axes.plot(kept, layers, color=color, marker=marker, linestyle=line, markersize=3.5, linewidth=0.8, label=name)
        style = {"marker": marker, "markersize": 4, "markerfacecolor": "white", "markeredgecolor": color}
        if len(empty):
            place = left * strip ** (with_empty.index(column) + 0.5)
            axes.plot([place] * len(empty), empty, linestyle="none", **style)
    if with_empty:
        axes.axvspan(left, edge, color=LIGHT, linewidth=0, zorder=0, label="hollow: keeps no weight")
    label_log_axis(axes.xaxis, edge, high * margin, zero_at=math.sqrt(left * edge) if with_empty else None)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_numbers(axes: Any, counts: _Counts, emptiest: list[int], names: dict[str, str]) -> None:
    """Write the numbers of kept weights into cells: layers downwards, methods to the right."""
    kept = counts.kept[emptiest]
    axes.set_xlim(-0.5, kept.shape[1] - 0.5)
    axes.set_ylim(len(emptiest) - 0.5, -0.5)
    for row, column in np.ndindex(*kept.shape):
        count = kept[row, column]
        empty = count == 0
        text = "no mask" if np.isnan(count) else f"{int(count):,}"
        axes.fill_between(
            [column - 0.48, column + 0.48], row - 0.46, row + 0.46, color="black" if empty else "#f2f2f2", linewidth=0
        )
        axes.text(
            column, row, text, ha="center", va="center", fontsize=SMALL, color="white" if empty else "black",
            fontweight="bold" if empty else "normal",
        )  # fmt: skip
    axes.set_yticks(range(len(emptiest)), [f"{names[counts.paths[i]]} (of {int(counts.sizes[i]):,})" for i in emptiest])
    axes.set_xticks(range(kept.shape[1]), [label.replace(" (", "\n(") for label in counts.labels])
    axes.xaxis.tick_top()
    which = f"the {len(emptiest)} emptiest layers" if len(emptiest) < len(counts.paths) else "each layer"
    style_axes(axes, title=f"Weights kept in {which}", small=TINY)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
