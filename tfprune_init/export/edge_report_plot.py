"""Figure of an EdgeReport. Matplotlib is imported when the figure is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfprune_init.errors import MissingDependencyError
from tfprune_init.export.edge_report_tables import format_microseconds

if TYPE_CHECKING:
    from tfprune_init.export.edge_report import EdgeReport

STORED, GZIPPED, ZEROS = "#4477aa", "#99bbdd", "#cc6677"


def draw(report: EdgeReport) -> Any:
    """Draw bytes and times of the files side by side, and below them the share of zeros in each weight.

    Args:
        report: The report.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("A plot", "matplotlib", "viz") from error
    weights = max(1, len(report.tensors))
    figure = Figure(figsize=(10, 3.6 + 0.24 * weights), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.8, 0.8 + 0.24 * weights))
    top, bottom = parts
    figure.suptitle(report.title)
    sizes, times = top.subplots(1, 2)
    _draw_sizes(report, sizes)
    _draw_times(report, times)
    _draw_zeros(report, bottom.subplots())
    if report.notes:
        figure.supxlabel(report.notes[0], fontsize=8)
    return figure


def _draw_sizes(report: EdgeReport, axes: Any) -> None:
    names, files = zip(*report.files(), strict=True)
    places = range(len(files))
    for shift, color, label, values in (
        (-0.2, STORED, "raw", [file.raw_bytes for file in files]),
        (0.2, GZIPPED, "gzipped", [file.gzip_bytes for file in files]),
    ):
        bars = axes.barh([place + shift for place in places], values, 0.38, color=color, label=label)
        axes.bar_label(bars, [f" {value:,}" for value in values], fontsize=8)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(file.raw_bytes for file in files))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("bytes")
    axes.legend(fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_times(report: EdgeReport, axes: Any) -> None:
    timed = [(name, file.latency) for name, file in report.files() if file.latency is not None]
    if not timed:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "times were not measured", ha="center", transform=axes.transAxes)
        return
    middle = [1e6 * latency.median_seconds for _, latency in timed]
    low = [1e6 * (latency.median_seconds - latency.low_seconds) for _, latency in timed]
    high = [1e6 * (latency.high_seconds - latency.median_seconds) for _, latency in timed]
    places = range(len(timed))
    axes.barh(places, middle, 0.6, color=STORED, xerr=(low, high), error_kw={"elinewidth": 1, "capsize": 3})
    furthest = max(value + more for value, more in zip(middle, high, strict=True))
    for place, value, more in zip(places, middle, high, strict=True):
        axes.text(value + more + 0.02 * furthest, place, format_microseconds(value / 1e6), va="center", fontsize=8)
    axes.set_yticks(places, [name for name, _ in timed])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * furthest)
    axes.set_xlabel("microseconds a run (median, 10% to 90%)")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_zeros(report: EdgeReport, axes: Any) -> None:
    names = [tensor.name.split(";")[0][-44:] for tensor in report.tensors]
    shares = [100 * (tensor.sparsity or 0.0) for tensor in report.tensors]
    places = range(len(names))
    bars = axes.barh(places, shares, 0.7, color=ZEROS)
    labels = [f" {share:.1f}%, {tensor.encoding}" for share, tensor in zip(shares, report.tensors, strict=True)]
    axes.bar_label(bars, labels, fontsize=7)
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 130)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("zeros, % of the weights, and how they are stored")
    axes.spines[["top", "right"]].set_visible(False)
