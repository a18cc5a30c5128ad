"""Accuracy after training against the number of steps of the search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfprune_init.errors import OptionError
from tfprune_init.methods.method import find_method
from tfprune_init.plots.run_points import (
    check_runs,
    choose_sparsity,
    draw_baseline,
    draw_curve,
    draw_guess,
    finish_figure,
    label_curve,
    make_points,
)
from tfprune_init.plots.style import format_percent, get_look, label_positions, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tfprune_init.experiments import Run


def steps_curve(results: Sequence[Run], *, sparsity: float | None = None) -> Figure:
    """Plot test accuracy against the number of steps, with one line per method and schedule.

    Args:
        results: The `Results` of a comparison in which some method was run with several `steps`. All its runs
            are drawn, also those with the steps or the schedule that the method has by itself; methods that were
            never given `steps` are not.
        sparsity: Sparsity to draw; needed if there are several.

    Returns:
        A figure whose x axis is logarithmic; marks, bars, crosses and baseline as in `accuracy_curve`.

    Raises:
        OptionError: If no run was given `steps`, all failed, or the sparsity is missing or not there.

    Example:
        >>> from tfprune_init import plots
        >>> plots.steps_curve(results, sparsity=0.99).savefig("steps.png", dpi=150)  # doctest: +SKIP
    """
    runs = check_runs(results)
    stepped = {run.method for run in runs if "steps" in run.options}
    mine = [run for run in runs if run.method in stepped]
    if not mine:
        raise OptionError('No run was given steps. Compare methods such as {"method": "force", "steps": 10}.')
    sparsity = choose_sparsity(sorted({run.sparsity for run in mine if run.sparsity is not None}), sparsity)
    mine = check_runs([run for run in mine if run.sparsity == sparsity])
    lines: dict[str, list[Run]] = {}
    for run in mine:
        lines.setdefault(_name_line(run, len(stepped) > 1), []).append(run)
    curves = {label: make_points(group, _get_steps) for label, group in lines.items()}
    ticks = sorted({int(point.x) for curve in curves.values() for point in curve})
    figure = new_figure(4.2)
    axes = figure.subplots()
    margin = 1.15 * (ticks[-1] / ticks[0]) ** 0.04
    axes.set_xscale("log", base=2)
    axes.set_xlim(ticks[0] / margin, ticks[-1] * margin)
    draw_baseline(axes, runs)
    for number, (label, curve) in enumerate(curves.items()):
        apart = 1.0 + 0.03 * (number - (len(lines) - 1) / 2)
        draw_curve(axes, curve, get_look(number), label_curve(label, lines[label]), apart)
    draw_guess(axes, mine)
    label_positions(axes.xaxis, {tick: str(tick) for tick in ticks})
    methods = " and ".join(sorted(stepped))
    style_axes(axes, title=f"Steps of {methods} at {format_percent(sparsity)} sparsity", x="steps (logarithmic)")
    finish_figure(figure, axes, list(curves.values()), mine)
    return figure


def _get_steps(run: Run) -> int:
    return int(run.options.get("steps", find_method(run.method).steps))


def _name_line(run: Run, several_methods: bool) -> str:
    own = find_method(run.method).schedule
    schedule = run.options.get("schedule", own if isinstance(own, str) else own.__name__)
    others = [f"{key}={value}" for key, value in run.options.items() if key not in ("steps", "schedule")]
    return ", ".join([*([run.method] if several_methods else []), f"{schedule} schedule", *others])
