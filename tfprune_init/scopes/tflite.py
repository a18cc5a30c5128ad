"""The scope for TFLite: Dense kernels in the blocks that its sparse kernel reads, single weights elsewhere."""

from __future__ import annotations

import numpy as np

from tfprune_init.scopes.layout import Layout, Layouts
from tfprune_init.scopes.registry import scope
from tfprune_init.scopes.selection import Arrays
from tfprune_init.scopes.structured import block
from tfprune_init.scopes.unstructured import everywhere

_INPUTS = 4


@scope(
    "tflite",
    summary="blocks of 4 inputs in Dense kernels, where TFLite runs them faster; single weights elsewhere",
    compares_layers=True,
)
def tflite(scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts) -> dict[str, np.ndarray]:
    """In Dense kernels blocks of 4 consecutive inputs of one output compete, elsewhere single weights.

    Of the B blocks floor(B * density) are kept, of the N other weights floor(N * density). TFLite has a sparse kernel
    for such blocks in Dense layers of float32. A kernel whose inputs don't divide by 4 is not read by it, so its
    weights compete with the others; so do those of convolutions, whose sparse kernels (XNNPACK's, on ARM) read single
    weights. Blocks compete by the sum of their scores, over all Dense kernels, as in scope "block".

    Example:
        >>> import numpy as np
        >>> from tfprune_init.scopes import Layout
        >>> from tfprune_init.units import UnitAxes
        >>> scores = {"kernel": np.array([[9.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 8.0]])}
        >>> tflite(scores, 0.5, None, {"kernel": Layout((4, 2), UnitAxes((0,), (1,)))})["kernel"].astype(int)
        array([[0, 1],
               [0, 1],
               [0, 1],
               [0, 1]])
    """
    blocked = {path for path in scores if _reads_blocks(layouts[path])}
    masks: dict[str, np.ndarray] = {}
    for chosen, choose in ((blocked, _in_blocks), (scores.keys() - blocked, everywhere)):
        part = {path: score for path, score in scores.items() if path in chosen}
        if part:
            left = None if alive is None else {path: alive[path] for path in part}
            masks |= choose(part, density, left, {path: layouts[path] for path in part})
    return {path: masks[path] for path in scores}


def _in_blocks(scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts) -> dict[str, np.ndarray]:
    return block(scores, density, alive, layouts, block_size=(_INPUTS, 1))


def _reads_blocks(layout: Layout) -> bool:
    """Whether it is a matrix of inputs by outputs whose inputs divide into blocks."""
    return len(layout.shape) == 2 and bool(layout.axes.inputs) and layout.rows % _INPUTS == 0
