"""What constants that enter a layer with a kernel add to its output."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfprune_init.graph.layer_rules import SignalContext
from tfprune_init.graph.layer_run import run_layer

# Examples that run together when constants are looked at one by one.
_AT_ONCE = 16


def compute_added(use: SignalContext, constants: np.ndarray, absolute: bool = False) -> np.ndarray:
    """Return what constants add to the output before bias and activation.

    Args:
        use: The call of the layer.
        constants: Examples of its input, float64, of shape [batch, ...].
        absolute: Take the absolute values of constants and weights instead.

    Returns:
        The sums, float64, of shape [batch, ...].
    """
    weights = {name: np.zeros_like(value) if name == "bias" else value for name, value in use.values.items()}
    if absolute:
        constants, weights = np.abs(constants), {name: np.abs(value) for name, value in weights.items()}
    return np.asarray(run_layer(use.layer, constants, weights, linear=True))


def compute_added_by_each(
    use: SignalContext, constants: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the same for the constants of each label by itself, with the label."""
    distinct = np.unique(labels[constants != 0])
    for start in range(0, len(distinct), _AT_ONCE):
        some = distinct[start : start + _AT_ONCE]
        alone = np.stack([np.where(labels == label, constants, 0.0) for label in some])
        yield from zip(some.tolist(), compute_added(use, alone), strict=True)
