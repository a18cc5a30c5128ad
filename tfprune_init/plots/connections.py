"""The number of connections that each neuron keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.errors import OptionError
from tfprune_init.plots.inputs import choose_paths, get_masks, is_collapsed, shorten_paths
from tfprune_init.plots.style import TINY, draw_legend_below, label_log_axis, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 30
_FAN_IN = ("#0072b2", "", "into an output unit (fan-in)", "weights into a unit")
_FAN_OUT = ("#e69f00", "////", "out of an input unit (fan-out)", "weights out of a unit")


def connections_per_neuron(model: Model, masks: Any = None, *, paths: str | Iterable[str] | None = None) -> Figure:
    r"""Plot histograms of the connections that each unit keeps, incoming and outgoing, layer by layer.

    Args:
        model: The model of the masks: it knows which axes of a variable are its input units and which its
            output units.
        masks: Masks, or a `PruningReport`; by default the nonzero weights of `model`.
        paths: Variables to draw, one or several; by default all with inputs and outputs, so not the biases.
            The figure grows with them.

    Returns:
        A figure with two panels for each variable: the weights kept by each output unit (fan-in), and by each input
        unit (fan-out), by number of units (logarithmic). Units that keep none are a black bar at 0, counted
        above the panel.

    Raises:
        OptionError: If a path has no mask, or no inputs and outputs.
        MaskMismatchError: If the masks do not fit the model.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> from tfprune_init import plots
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
        >>> figure = plots.connections_per_neuron(model, tpi.Masks({"head/kernel": [[1, 0], [1, 0], [1, 0]]}))
        >>> [axes.get_title() for axes in figure.axes]
        ['head, fan-in\ndead: 1 of 2', 'head, fan-out\ndead: 0 of 3']
    """
    masks = get_masks(model if masks is None else masks)
    variables = masks.check(model)
    whole = [path for path in masks if variables[path].units.inputs and variables[path].units.outputs]
    wanted = whole if paths is None else choose_paths(paths, masks)
    odd = [path for path in wanted if path not in whole]
    if odd or not wanted:
        raise OptionError(f"Only kernels connect inputs with outputs. Received: {', '.join(odd) or 'no kernel'}.")
    columns = 2 if len(wanted) > 1 else 1
    rows = -(-len(wanted) // columns)
    figure = new_figure(0.7 + 1.6 * max(rows, 1.4))
    panels = figure.subplots(rows, 2 * columns, squeeze=False).reshape(-1, 2)
    names = shorten_paths(wanted, longest=18)
    for (left, right), path in zip(panels, wanted, strict=False):
        units = variables[path].units
        _draw_panel(left, f"{names[path]}, fan-in", count_kept(masks[path], units.outputs), _FAN_IN)
        _draw_panel(right, f"{names[path]}, fan-out", count_kept(masks[path], units.inputs), _FAN_OUT)
        left.set_ylabel("number of units", fontsize=TINY)
    for axes in panels[len(wanted) :].flat:
        axes.set_axis_off()
    title = "of a collapsed network" if is_collapsed(masks) else ""
    draw_legend_below(figure, *panels[: len(wanted)].flat, columns=3, title=title)
    return figure


def count_kept(mask: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Count the kept weights of each unit along `axes`."""
    others = tuple(axis for axis in range(mask.ndim) if axis not in axes)
    return np.asarray(mask.sum(axis=others, dtype=np.int64)).ravel()


def _draw_panel(axes: Any, name: str, kept: np.ndarray, style: tuple[str, str, str, str]) -> None:
    """Draw the number of units by the weights they keep; units that keep none are a separate bar."""
    color, hatch, label, quantity = style
    dead = int(np.count_nonzero(kept == 0))
    width = max(1, -(-int(kept.max()) // _BINS))
    edges = np.arange(0.5, kept.max() + 0.5 + width, width)
    numbers = np.histogram(kept[kept > 0], edges)[0] if len(edges) > 1 else np.array([])
    axes.bar(
        edges[: len(numbers)], numbers, width, align="edge", color=color, hatch=hatch, edgecolor="white", linewidth=0.3,
        label=label,
    )  # fmt: skip
    axes.bar(0.5 - width, dead, width, align="edge", color="black", label="dead: keeps no weight")
    axes.set_yscale("log")
    axes.set_ylim(0.7, 1.8 * max(dead, *numbers, 2))
    label_log_axis(axes.yaxis, *axes.get_ylim())
    axes.set_xlim(0.5 - 1.6 * width, max(edges[-1], 1.5) + 0.6 * width)
    axes.locator_params(axis="x", nbins=4, integer=True)
    style_axes(axes, title=f"{name}\ndead: {dead:,} of {kept.size:,}", x=quantity, small=TINY)
    axes.title.set_fontsize(TINY)
