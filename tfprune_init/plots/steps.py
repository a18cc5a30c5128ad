"""Accuracy after training, against the number of steps of the search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfprune_init.errors import OptionError
from tfprune_init.methods.registry import method_named
from tfprune_init.plots.runs import checked, draw_baseline, draw_curve, draw_guess, fate, finish, points
from tfprune_init.plots.style import dress, label_places, look, new_figure, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tfprune_init.experiments import Run


def steps_curve(results: Sequence[Run], *, sparsity: float | None = None) -> Figure:
    """Test accuracy against the number of steps, a line for each method and schedule.

    Args:
        results: The `Results` of a comparison in which some method was run with several `steps`. All its runs
            are drawn, also those with the steps or the schedule that the method has by itself; methods that were
            never given `steps` are not.
        sparsity: Which sparsity to draw; needed if there are several.

    Returns:
        A figure whose x axis is logarithmic; marks, bars, crosses and baseline as in `accuracy_curve`.

    Raises:
        OptionError: If no run was given `steps`, all failed, or the sparsity is missing or not there.

    Example:
        >>> from tfprune_init import plots
        >>> plots.steps_curve(results, sparsity=0.99).savefig("steps.png", dpi=150)  # doctest: +SKIP
    """
    runs = checked(results)
    stepped = {run.method for run in runs if "steps" in run.options}
    mine = [run for run in runs if run.method in stepped]
    if not mine:
        raise OptionError('No run was given steps. Compare methods such as {"method": "force", "steps": 10}.')
    sparsity = _one(sorted({run.sparsity for run in mine}), sparsity)
    mine = checked([run for run in mine if run.sparsity == sparsity])
    lines: dict[str, list[Run]] = {}
    for run in mine:
        lines.setdefault(_line(run, len(stepped) > 1), []).append(run)
    curves = {label: points(group, _steps) for label, group in lines.items()}
    ticks = sorted({int(point.x) for curve in curves.values() for point in curve})
    figure = new_figure(4.2)
    axes = figure.subplots()
    margin = 1.15 * (ticks[-1] / ticks[0]) ** 0.04
    axes.set_xscale("log", base=2)
    axes.set_xlim(ticks[0] / margin, ticks[-1] * margin)
    draw_baseline(axes, runs)
    for number, (label, curve) in enumerate(curves.items()):
        apart = 1.0 + 0.03 * (number - (len(lines) - 1) / 2)
        draw_curve(axes, curve, look(number), fate(label, lines[label]), apart)
    draw_guess(axes, mine)
    label_places(axes.xaxis, {tick: str(tick) for tick in ticks})
    methods = " and ".join(sorted(stepped))
    dress(axes, title=f"Steps of {methods} at {percent(sparsity)} sparsity", x="steps (logarithmic)")
    finish(figure, axes, list(curves.values()), mine)
    return figure


def _one(sparsities: list[float], wanted: float | None) -> float:
    shown = ", ".join(f"{sparsity:g}" for sparsity in sparsities)
    if wanted is None and len(sparsities) > 1:
        raise OptionError(f"Choose one sparsity: sparsity={sparsities[0]:g}. Received: none, and runs at {shown}.")
    if wanted is not None and wanted not in sparsities:
        raise OptionError(f"No run with steps has this sparsity. Received: sparsity={wanted!r}; runs at {shown}.")
    return sparsities[0] if wanted is None else wanted


def _steps(run: Run) -> int:
    return int(run.options.get("steps", method_named(run.method).steps))


def _line(run: Run, several_methods: bool) -> str:
    own = method_named(run.method).schedule
    schedule = run.options.get("schedule", own if isinstance(own, str) else own.__name__)
    others = [f"{key}={value}" for key, value in run.options.items() if key not in ("steps", "schedule")]
    return ", ".join([*([run.method] if several_methods else []), f"{schedule} schedule", *others])
