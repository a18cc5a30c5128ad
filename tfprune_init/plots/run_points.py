"""Runs of an experiment as points of a curve: accuracy over seeds, dense baseline, destroyed networks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfprune_init.errors import OptionError
from tfprune_init.plots.style import SMALL, SeriesStyle, draw_legend_below

if TYPE_CHECKING:
    from tfprune_init.experiments import Run

DENSE = "dense"
_CROSS: Any = {"linestyle": "none", "marker": "x", "markersize": 8, "markeredgewidth": 1.3, "color": "black"}


@dataclass(frozen=True)
class Point:
    """The runs of one curve at one x position.

    Attributes:
        x: Position on the x axis.
        mean: Mean test accuracy in percent, over all runs that did not fail; a collapsed network answers every input
            alike, so it counts as the guess, unless it was trained.
        low: The worst of them, in percent.
        high: The best of them, in percent.
        runs: Number of runs.
        collapsed: For each collapsed network its accuracy, in percent: the guess, unless it was trained.
    """

    x: float
    mean: float
    low: float
    high: float
    runs: int
    collapsed: tuple[float, ...]


def check_runs(results: Sequence[Run]) -> list[Run]:
    """Get the runs of results, at least one of which must have an accuracy.

    Raises:
        OptionError: If there is no run, or all failed.
    """
    runs = list(results)
    if not any(run.status != "failed" for run in runs):
        failed = f"{len(runs)} runs, all failed" if runs else "no runs"
        raise OptionError(f"An accuracy curve needs runs that did not fail. Received: {failed}.")
    return runs


def choose_sparsity(sparsities: list[float], wanted: float | None) -> float:
    """Return the sparsity of a figure that shows one.

    Args:
        sparsities: Those of the runs, ascending.
        wanted: What the caller asks for; None for the only one.

    Raises:
        OptionError: If there are several to choose from, or none that was asked for.
    """
    shown = ", ".join(f"{sparsity:g}" for sparsity in sparsities)
    if wanted is None and len(sparsities) > 1:
        raise OptionError(f"Choose one sparsity: sparsity={sparsities[0]:g}. Received: none, and runs at {shown}.")
    if wanted is not None and wanted not in sparsities:
        raise OptionError(f"No such run has this sparsity. Received: sparsity={wanted!r}; runs at {shown}.")
    return sparsities[0] if wanted is None else wanted


def find_sparsity(run: Run, runs: Sequence[Run]) -> float:
    """Return the sparsity that a run stands at: what was asked for, or what the runs of its label reach on average."""
    if run.sparsity is not None:
        return run.sparsity
    reached = [one.density for one in runs if one.label == run.label and one.density is not None]
    return 1 - statistics.fmean(reached) if reached else 0.0


def make_points(runs: Sequence[Run], place: Callable[[Run], float]) -> list[Point]:
    """Make the points of one curve, from left to right."""
    groups: dict[float, list[Run]] = {}
    for run in runs:
        if run.status != "failed":
            groups.setdefault(place(run), []).append(run)
    return [_make_point(x, groups[x]) for x in sorted(groups)]


def _make_point(x: float, runs: list[Run]) -> Point:
    values = [100 * (run.guess if run.accuracy is None else run.accuracy) for run in runs]
    collapsed = tuple(value for run, value in zip(runs, values, strict=True) if run.status == "collapsed")
    return Point(x, statistics.fmean(values), min(values), max(values), len(values), collapsed)


def draw_curve(axes: Any, curve: list[Point], style: SeriesStyle, label: str, apart: float) -> None:
    """Draw the line of means, bars from the worst to the best seed, and a cross for each collapsed network.

    Args:
        axes: Axes to draw on.
        curve: The points.
        style: The style of the curve.
        label: Its name in the legend.
        apart: Factor on each x, which keeps the bars of different curves apart.
    """
    xs = [apart * point.x for point in curve]
    means = [point.mean for point in curve]
    below = [point.mean - point.low for point in curve]
    above = [point.high - point.mean for point in curve]
    axes.errorbar(xs, means, yerr=(below, above), fmt="none", ecolor=style.color, elinewidth=0.9, capsize=2.5)
    look = {"color": style.color, "marker": style.marker, "linestyle": style.line}
    axes.plot(xs, means, markersize=4, linewidth=1.3, label=label, **look)
    lost = [(x, reached) for x, point in zip(xs, curve, strict=True) for reached in point.collapsed]
    if lost:
        axes.plot(*zip(*lost, strict=True), **_CROSS)


def draw_baseline(axes: Any, runs: Sequence[Run]) -> None:
    """Draw the dense networks as a horizontal line with a band from the worst to the best seed."""
    baseline = [run for run in runs if run.method == DENSE]
    if baseline:
        axes.plot([], [], color="black", linewidth=1, label=label_curve("dense, not pruned", baseline))
    for point in make_points(baseline, lambda run: 0.0):
        axes.axhline(point.mean, color="black", linewidth=1)
        axes.axhspan(point.low, point.high, color="black", alpha=0.12, linewidth=0)


def draw_guess(axes: Any, runs: Sequence[Run]) -> None:
    """Draw the level of guessing, and explain the crosses of collapsed networks."""
    axes.axhline(100 * runs[0].guess, color="#999999", linewidth=0.8, linestyle=":", label="guessing one class")
    if any(run.status == "collapsed" for run in runs):
        axes.plot([], [], label="collapsed: pruning cut the network in two", **_CROSS)


def label_curve(label: str, runs: Sequence[Run]) -> str:
    """Label a curve with its name, and with the number of failed and destroyed networks if there are any."""
    destroyed = sum(bool(run.destroyed) for run in runs)
    failed = sum(run.status == "failed" for run in runs)
    notes = [f"{destroyed} of {len(runs)} destroyed"] if destroyed else []
    notes += [f"{failed} of {len(runs)} failed"] if failed else []
    return f"{label} ({', '.join(notes)})" if notes else label


def finish_figure(figure: Any, axes: Any, curves: Sequence[list[Point]], runs: Sequence[Run]) -> None:
    """Finish the figure: the accuracy axis, and the legend with the number of seeds behind each bar."""
    axes.set_ylabel("test accuracy (%)", fontsize=SMALL)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    counts = sorted({point.runs for curve in curves for point in curve})
    several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0]) if counts else "0"
    says = "one seed each" if counts == [1] else f"mean of {several} seeds; bars: worst to best seed"
    if any(run.destroyed for run in runs):
        says += "\ndestroyed: not clearly better than guessing after training"
    draw_legend_below(figure, axes, title=says)
