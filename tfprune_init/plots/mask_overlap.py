"""Overlap of the masks of several methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.masks import Masks
from tfprune_init.plots.inputs import check_same_paths, get_masks, name_sources
from tfprune_init.plots.style import SMALL, TINY, WIDTH, new_figure, style_axes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure


def iou(a: Any, b: Any) -> float:
    """Compute the intersection over union: weights kept in both, over weights kept in at least one.

    Args:
        a: `Masks` or a like mapping, a `PruningReport`, or a model whose pruned weights are zero.
        b: The same for the same variables.

    Returns:
        A number in [0, 1]; 1.0 for equal masks, also where both keep nothing.

    Raises:
        MaskMismatchError: If paths or shapes differ.

    Example:
        >>> from tfprune_init import Masks, plots
        >>> plots.iou(Masks({"w": [1, 1, 0, 0]}), Masks({"w": [1, 0, 1, 0]}))
        0.3333333333333333
    """
    a, b = get_masks(a), get_masks(b)
    check_same_paths(a, b)
    both = sum(int(np.count_nonzero(a[path] & b[path])) for path in a)
    either = a.kept + b.kept - both
    return both / either if either else 1.0


def chance_iou(a: Masks, b: Masks) -> float:
    """Compute the IoU expected of masks of the same densities as `a` and `b` at random positions.

    With densities p and q, a share p q of the weights is expected in both, so the result is p q / (p + q - p q). This
    is the ratio of the expectations. It equals the expected ratio up to a term that shrinks with the number of weights.
    """
    p, q = a.density, b.density
    return p * q / (p + q - p * q) if p + q else 1.0


def overlap(sources: Mapping[str, Any]) -> Figure:
    r"""Plot how far methods agree: the IoU of each pair of masks, and the IoU of chance.

    Args:
        sources: Mapping from label to masks, report, or model whose pruned weights are zero; of one network.

    Returns:
        A figure with one cell for each pair: the IoU, and in brackets the IoU that as many kept weights have at
        random places of the network.

    Raises:
        MaskMismatchError: If they are not masks of the same variables.

    Example:
        >>> from tfprune_init import Masks, plots
        >>> figure = plots.overlap({"snip": Masks({"w": [1, 1, 0, 0]}), "force": Masks({"w": [1, 0, 1, 0]})})
        >>> [text.get_text() for text in figure.axes[0].texts][:2]
        ['1.000', '0.333\n(0.33)']
    """
    masks = {label: get_masks(source) for label, source in name_sources(sources).items()}
    labels = list(masks)
    values = np.array([[iou(masks[row], masks[column]) for column in labels] for row in labels])
    side = min(WIDTH - 1.9, 1.2 + 0.62 * len(labels))
    figure = new_figure(side + 1.2, side + 1.9)
    axes = figure.subplots()
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(labels):
        for j, column in enumerate(labels):
            text = f"{values[i, j]:.3f}"
            if i != j:
                text += f"\n({chance_iou(masks[row], masks[column]):.2g})"
            color = "white" if values[i, j] > 0.6 else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=TINY, color=color)
    sizes = [f"{label}\n{100 * masks[label].density:.3g}% kept" for label in labels]
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), sizes)
    style_axes(axes, title="Which weights are kept by both")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("IoU: kept in both / kept in either", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    figure.supxlabel("in brackets: the IoU of as many weights at random places", fontsize=SMALL)
    return figure
