"""Style of all figures: sizes, axes, and colors that color-blind readers and gray printers can tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfprune_init.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 6.5  # inches: the text width of a page
SMALL, TINY = 8, 7  # points
_LINE, _HANDLE = 112, 8  # widths of a page, and of what stands before a label in a legend, in small characters
GRAY = "#777777"
LIGHT = "#dddddd"

# The Okabe-Ito colors, without the yellow that white paper swallows. Counts of colors, markers and lines differ,
# so more series than colors still differ in something.
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "<", "p", ">")
_LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (3, 1)))
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")


class SeriesStyle(NamedTuple):
    """Color, marker and line of one series."""

    color: str
    marker: str
    line: Any


def get_look(number: int) -> SeriesStyle:
    """Get the style of the series with this number, counted from 0."""
    return SeriesStyle(*(kind[number % len(kind)] for kind in (_COLORS, _MARKERS, _LINES)))


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Make an empty figure that belongs to no global state.

    Args:
        height: Height in inches.
        width: Width in inches.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("A figure", "matplotlib", "viz") from error
    return Figure(figsize=(width, height), layout="constrained")


def style_axes(axes: Any, *, title: str = "", x: str = "", y: str = "", small: float = SMALL) -> None:
    """Name the axes, set the sizes of their text, and remove lines that show nothing."""
    axes.set_title(title, fontsize=small + 1)
    axes.set_xlabel(x, fontsize=small)
    axes.set_ylabel(y, fontsize=small)
    axes.tick_params(labelsize=small)
    axes.spines[["top", "right"]].set_visible(False)


def draw_legend_below(figure: Any, *axes: Any, title: str = "", columns: int = 2) -> None:
    """Draw a legend of all labels in `axes` below the whole figure, where it covers no data.

    It has at most so many `columns`, fewer where labels are long.
    """
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=_fit_columns(list(found), columns),
        fontsize=SMALL,
        title=title or None,
        title_fontsize=SMALL,
        alignment="left",
        frameon=False,
    )


def _fit_columns(labels: list[str], most: int) -> int:
    """Return how many columns of a legend fit into a figure of full width, each as wide as its longest label."""
    for columns in range(min(most, len(labels)), 1, -1):
        parts = np.array_split(np.array([len(label) for label in labels]), columns)
        if sum(int(part.max()) + _HANDLE for part in parts) <= _LINE:
            return columns
    return 1


def label_log_axis(axis: Any, low: float, high: float, zero_at: float | None = None) -> None:
    """Label a logarithmic axis with plain numbers: 1, 2, 5, 10 if it is short, else 1, 10, 100.

    Args:
        axis: The axis.
        low: Lower end of the axis.
        high: Upper end of the axis.
        zero_at: Position of the label 0, which has none on a logarithmic axis.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    leading = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    ticks = [first * 10.0**power for power in powers for first in leading]
    shown = [tick for tick in ticks if low <= tick * (1 + 1e-9) and tick <= high * (1 + 1e-9)]
    zero = [] if zero_at is None else [zero_at]
    axis.set_ticks(zero + shown, ["0"] * len(zero) + [format_number(tick) for tick in shown])
    axis.set_ticks([], minor=True)


def label_positions(axis: Any, labels: Mapping[float, str]) -> None:
    """Set a tick at each given position of a logarithmic axis, and its label where there is room."""
    places = sorted(labels)
    room = 0.085 * math.log(places[-1] / places[0])
    shown = [places[0]]
    for place in places[1:]:
        if math.log(place / shown[-1]) >= room:
            shown.append(place)
    if shown[-1] != places[-1] and len(shown) > 1:
        shown[-1] = places[-1]
    axis.set_ticks(shown, [labels[place] for place in shown])
    axis.set_ticks([place for place in places if place not in shown], minor=True)
    axis.set_tick_params(which="minor", labelbottom=False)


def format_number(value: float) -> str:
    """Format a number in few characters: 20000 is "20k"."""
    if value < 1e4:
        return f"{value:g}"
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k"


def format_percent(share: float) -> str:
    """Format a share as a percentage with the digits it needs: 0.995 is "99.5%"."""
    return f"{100 * share:.6g}%"
