"""Least squares for the next layer: a factor for each channel that stays, or its whole kernel anew."""

from __future__ import annotations

import numpy as np


def fit_scales(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the factors of columns with which they come nearest to y, without an intercept.

    Args:
        X: Columns of the channels that stay, of shape [rows, channels].
        y: What they should add up to, of shape [rows].

    Returns:
        Factors, float64, of shape [channels]; 1 for a channel that contributes nothing. Where columns depend on each
        other, the factors with the smallest norm.

    Example:
        >>> import numpy as np
        >>> fit_scales(np.array([[3.0], [3.0]]), np.array([3.0, 3.1])).round(6)
        array([1.016667])
    """
    scales = np.ones(X.shape[1])
    live = np.flatnonzero((X != 0).any(axis=0))
    scales[live] = np.linalg.lstsq(X[:, live].astype(np.float64), y.astype(np.float64), rcond=None)[0]
    return scales


def fit_weights(inputs: np.ndarray, outputs: np.ndarray, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights, and offsets, with which inputs come nearest to outputs.

    Args:
        inputs: Of shape [rows, inputs].
        outputs: Of shape [rows, filters].
        intercept: Whether there are offsets.

    Returns:
        Weights, float64, of shape [inputs, filters], and offsets of shape [filters], all 0 if there are none. Where
        inputs depend on each other, the weights with the smallest norm.

    Example:
        >>> import numpy as np
        >>> Z = np.array([[1.0], [-1.0], [1.0], [-1.0]])
        >>> fit_weights(Z, np.array([[2.5], [-1.5], [1.5], [-2.5]]), intercept=True)
        (array([[2.]]), array([0.]))
    """
    inputs, outputs = inputs.astype(np.float64), outputs.astype(np.float64)
    if not intercept:
        return np.linalg.lstsq(inputs, outputs, rcond=None)[0], np.zeros(outputs.shape[1])
    means = inputs.mean(axis=0), outputs.mean(axis=0)
    weights = np.linalg.lstsq(inputs - means[0], outputs - means[1], rcond=None)[0]
    return weights, means[1] - means[0] @ weights
