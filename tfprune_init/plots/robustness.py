"""Layers that are robust, and layers that are critical: errors and distances as heat maps, layers x checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.checks import suggest
from tfprune_init.errors import OptionError
from tfprune_init.experiments import LayerRobustness, RobustnessRow
from tfprune_init.plots.style import GRAY, SMALL, TINY, WIDTH, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What each is called, and how its numbers are written, the longest way first.
_QUANTITIES = {
    "error": ("test error (%)", ("{:.1f}", "{:.0f}")),
    "normalized_l2": ("L2 / sqrt(parameters)", ("{:#.3g}", "{:#.2g}")),
    "linf": ("largest change", ("{:#.3g}", "{:#.2g}")),
}
_CHARACTER = 0.062  # inches: width of a character of the smallest text
_LINE = 0.13  # inches: height of a line of it
_LONGEST = 32  # characters of a name


def layer_robustness(results: LayerRobustness | Mapping[str, LayerRobustness], *, quantity: str = "error") -> Figure:
    """Draw what a trained network makes of layers with other weights: layers downwards, the input on top.

    Args:
        results: What `tpi.measure_layer_robustness` gave, or a mapping from label to such results, which are drawn side
            by side in the same colors.
        quantity: "error", "normalized_l2" or "linf".

    Returns:
        A figure with one heat map for each result: a cell for each layer and column, with its number where there is
        room. Gray cells have no value.

    Raises:
        OptionError: If the quantity is unknown, there are no results, results side by side differ in layers or columns,
            or no layer has the quantity.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="head")])
        >>> start = tpi.copy_variables(model)
        >>> result = tpi.measure_layer_robustness(model, (np.eye(2), np.arange(2)), {"start": start})
        >>> figure = tpi.plots.layer_robustness({"dense": result})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['head']
    """
    if quantity not in _QUANTITIES:
        raise OptionError(f"There is no quantity {quantity!r}. {suggest(quantity, _QUANTITIES, list_all=True)}")
    named = dict(results) if isinstance(results, Mapping) else {"": results}
    first = _check_results(named)
    columns = [name for name in first.columns if quantity == "error" or name != "random"]
    images = {label: _make_image(result, columns, quantity) for label, result in named.items()}
    known = np.concatenate([image[~np.isnan(image)] for image in images.values()])
    if not known.size:
        raise OptionError(
            f"No layer has a {quantity}: none has parameters. Received: layers {', '.join(first.layers)}."
        )
    most = float(known.max())
    below = _CHARACTER * max(len(shorten(name)) for name in columns)
    height = min(max(0.17 * len(first.layers), 1.2), 7.0)
    width = (WIDTH - _CHARACTER * max(len(shorten(name)) for name in first.layers) - 1.2) / len(images)
    form = _choose_format(known, quantity, width / len(columns), height / len(first.layers))
    figure = new_figure(height + below + 0.8)
    panels = figure.subplots(1, len(images), sharey=True, squeeze=False)[0]
    for axes, (label, image) in zip(panels, images.items(), strict=True):
        drawn = axes.imshow(np.ma.masked_invalid(image), cmap=_make_color_map(), vmin=0, vmax=most or 1, aspect="auto")
        style_axes(axes, title=_make_title(label, named[label], quantity, columns[0]), small=TINY)
        _label_axis(axes.xaxis, columns, width, rotation=90)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if form is not None:
            _write_numbers(axes, image, most, form)
    _label_axis(panels[0].yaxis, first.layers, height)
    bar = figure.colorbar(drawn, ax=list(panels), fraction=0.05, pad=0.02)
    bar.set_label(_QUANTITIES[quantity][0], fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return figure


def _check_results(named: Mapping[str, Any]) -> LayerRobustness:
    for label, result in named.items():
        if not isinstance(result, LayerRobustness):
            raise OptionError(
                "A result of tpi.measure_layer_robustness is needed, or a mapping from label to such results. "
                f"Received: {type(result).__name__}{f' at {label!r}' if label else ''}."
            )
    if not named:
        raise OptionError("There are no results to draw. Received: an empty mapping.")
    first: LayerRobustness
    first, *others = named.values()
    for other in others:
        if (other.layers, other.columns) != (first.layers, first.columns):
            raise OptionError(
                "Results side by side need the same layers and checkpoints. "
                f"Received: {', '.join(named)}, of which some differ."
            )
    return first


def _make_image(result: LayerRobustness, columns: list[str], quantity: str) -> np.ndarray:
    """Return the numbers to draw, layers x columns; NaN where there is none."""
    cells = {(row.layer, row.checkpoint): _read_number(row, quantity) for row in result.rows}
    return np.array([[cells[layer, column] for column in columns] for layer in result.layers])


def _read_number(row: RobustnessRow, quantity: str) -> float:
    value = getattr(row, quantity)
    return np.nan if value is None else 100 * value if quantity == "error" else value


def _make_title(label: str, result: LayerRobustness, quantity: str, first: str) -> str:
    trained = f"trained: {100 * result.error:.2f}% error" if quantity == "error" else f"distance from {first}"
    return "\n".join(part for part in (label, trained) if part)


def _choose_format(numbers: np.ndarray, quantity: str, width: float, height: float) -> str | None:
    """Return how to write the numbers so that each fits into a cell of so many inches; None if none would do."""
    for form in _QUANTITIES[quantity][1] if height >= _LINE else ():
        if max(len(_format(number, form)) for number in numbers) * _CHARACTER < 0.95 * width:
            return form
    return None


def _format(number: float, form: str) -> str:
    return form.format(number).rstrip(".")


def _write_numbers(axes: Any, image: np.ndarray, most: float, form: str) -> None:
    """Write each number into its cell, dark on light and light on dark."""
    for (row, column), number in np.ndenumerate(image):
        color = "white" if number > 0.45 * most else "black"
        text = "" if np.isnan(number) else _format(number, form)
        axes.text(column, row, text, ha="center", va="center", fontsize=TINY, color=color)


def _label_axis(axis: Any, labels: Any, room: float, rotation: float = 0) -> None:
    """Label as many cells of an axis as there is room for, the first and the last among them.

    Args:
        axis: The axis of an image.
        labels: A label for each cell.
        room: Length of the axis, in inches.
        rotation: Degrees by which the labels are turned.
    """
    last = len(labels) - 1
    step = -(-len(labels) * _LINE // room)
    shown = [place for place in range(last) if place % step == 0 and last - place >= step] + [last]
    axis.set_ticks(shown, [shorten(labels[place]) for place in shown], rotation=rotation)


def shorten(name: str) -> str:
    """Leave out the middle of a long name.

    Example:
        >>> from tfprune_init.plots.robustness import shorten
        >>> shorten("encoder/layer_11/attention/self_attention/query")
        'encoder/layer_1...ttention/query'
    """
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2 - 1]}...{name[1 - _LONGEST // 2 - 1 :]}"


def _make_color_map() -> Any:
    """Make a color map from nearly white to black; gray, which is none of its colors, is for what has no value."""
    from matplotlib import colormaps

    return colormaps["magma_r"].with_extremes(bad=GRAY)
