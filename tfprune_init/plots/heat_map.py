"""One kernel drawn as an image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.backend.compat import is_model
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import OptionError
from tfprune_init.graph.kernel_axes import KernelAxes, find_kernel_axes
from tfprune_init.plots.inputs import choose_paths, get_masks, get_weights, mark_collapsed
from tfprune_init.plots.style import SMALL, WIDTH, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELLS = 128  # an image has at most so many rows and columns, so that one kept weight can be seen


def kernel_heat_map(source: Any, path: str, *, model: Model | None = None, weights: Any = None) -> Figure:
    """Draw where one kernel keeps its weights: output units to the right, input units downwards.

    Args:
        source: `Masks`, a `PruningReport`, or a model whose pruned weights are zero.
        path: The kernel, e.g. "conv1/kernel".
        model: The model of the masks. It knows which axes of the kernel are units; without one they are
            taken to be (..., inputs, outputs), Keras's usual layout, which transposed convolutions and
            EinsumDense do not have.
        weights: A model or a mapping from path to array, to show the sum of |weight| over the kept weights; by default
            their number is shown.

    Returns:
        A figure. Convolutions are summed over the places of their kernels. A kernel of more than 128 units is
        drawn with several units to a cell, as the axes say. Cells that keep nothing are white.

    Raises:
        OptionError: If there is no mask for `path`, or it is not a kernel with inputs and outputs.
        MaskMismatchError: If the masks do not fit `model`.

    Example:
        >>> import numpy as np
        >>> from tfprune_init import Masks, plots
        >>> figure = plots.kernel_heat_map(Masks({"dense/kernel": np.eye(4, 3)}), "dense/kernel")
        >>> figure.axes[0].images[0].get_array().filled(0.0)[1]
        array([0., 1., 0.])
    """
    masks = get_masks(source)
    (path,) = choose_paths(path, masks)
    mask = masks[path]
    units = _find_units(masks, path, model if model is not None or not is_model(source) else source)
    if weights is None:
        values, quantity = mask.astype(float), "weights kept"
    else:
        values, quantity = _compute_kept_magnitudes(mask, weights, path), "sum of |weight| kept"
    matrix = sum_by_units(values, units)
    image, steps = _coarsen(matrix)
    rows, columns = image.shape
    figure = new_figure(min(7.0, max(3.0, (WIDTH - 1.6) * rows / columns + 1.2)))
    axes = figure.subplots()
    drawn = axes.imshow(
        np.ma.masked_equal(image, 0),
        norm=_make_norm(image, whole=weights is None),
        cmap=_make_color_map(),
        extent=(0, matrix.shape[1], matrix.shape[0], 0),
        aspect="auto",
        interpolation="nearest",
    )
    name, kept = mark_collapsed(path, masks), np.count_nonzero(mask)
    style_axes(
        axes,
        title=f"{name}\n{kept:,} of {mask.size:,} weights kept ({100 * kept / mask.size:.3g}%); white: none",
        x=_label_axis("output", steps[1]),
        y=_label_axis("input", steps[0]),
    )
    axes.spines[:].set_visible(True)
    axes.locator_params(integer=True)
    bar = figure.colorbar(drawn, ax=axes)
    bar.locator = _make_integer_locator() if weights is None else bar.locator
    room = mask.size // matrix.size * math.prod(steps)
    bar.set_label(f"{quantity} in a cell" + (f" (of {room:,})" if weights is None else ""), fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.minorticks_off()
    return figure


def _find_units(masks: Any, path: str, model: Model | None) -> KernelAxes:
    mask = masks[path]
    name = path.rsplit("/", 1)[-1]
    units = find_kernel_axes(frozenset(), name, mask.ndim) if model is None else masks.check(model)[path].units
    if mask.ndim < 2 or not units.inputs or not units.outputs:
        raise OptionError(
            f"Only a kernel with inputs and outputs can be drawn as an image. Received: {path!r} of shape {mask.shape}."
        )
    return units


def _compute_kept_magnitudes(mask: np.ndarray, weights: Any, path: str) -> np.ndarray:
    values = get_weights(weights).get(path)
    if values is None or values.shape != mask.shape:
        found = "none" if values is None else f"shape {values.shape}"
        raise OptionError(f"weights= must hold {path!r} of shape {mask.shape}. Received: {found}.")
    return np.where(mask, np.abs(values), 0.0).astype(float)


def sum_by_units(values: np.ndarray, units: KernelAxes) -> np.ndarray:
    """Sum an array over all axes but those of input and output units: a matrix (inputs, outputs)."""
    outputs = tuple(axis for axis in units.outputs if axis not in units.inputs)
    order = (*units.inputs, *outputs)
    rest = tuple(axis for axis in range(values.ndim) if axis not in order)
    rows = math.prod(values.shape[axis] for axis in units.inputs)
    sums = values.transpose(*order, *rest).sum(axis=tuple(range(len(order), values.ndim)))
    return np.asarray(sums).reshape(rows, -1)


def _coarsen(matrix: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Sum neighboring rows and columns until at most `_CELLS` of each are left."""
    steps = tuple(-(-count // _CELLS) for count in matrix.shape)
    for axis, step in enumerate(steps):
        matrix = np.add.reduceat(matrix, np.arange(0, matrix.shape[axis], step), axis=axis)
    return matrix, (steps[0], steps[1])


def _label_axis(unit: str, step: int) -> str:
    return f"{unit} unit" + (f" ({step} to a cell)" if step > 1 else "")


def _make_color_map() -> Any:
    """Make a color map from medium to black, so that white can mean "nothing", on gray paper too."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["magma_r"](np.linspace(0.25, 1.0, 256)))


def _make_norm(image: np.ndarray, *, whole: bool) -> Any:
    """Make a color scale: discrete for a few whole numbers, else continuous."""
    from matplotlib.colors import BoundaryNorm, Normalize

    most = float(image.max())
    if whole and most <= 12:
        return BoundaryNorm(np.arange(0.5, max(most, 1) + 1), 256)
    return Normalize(1 if whole else 0, most if most > 0 else 1)


def _make_integer_locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=13, integer=True, steps=[1, 2, 5, 10])
