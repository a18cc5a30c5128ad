"""Layers in plain NumPy, which the tests of criteria compute whole networks with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def variables(model: Any) -> dict[str, Any]:
    return {f"{layer.name}/{v.name.split('/')[-1].split(':')[0]}": v for layer in model.layers for v in layer.variables}


def conv(x: np.ndarray, kernel: np.ndarray, same: bool = False) -> np.ndarray:
    size = kernel.shape[0]
    if same:
        x = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.tensordot(windows, kernel, axes=((3, 4, 5), (2, 0, 1)))


def batchnorm(x: np.ndarray, w: Mapping[str, np.ndarray], name: str, training: bool) -> np.ndarray:
    mean, variance = w[f"{name}/moving_mean"], w[f"{name}/moving_variance"]
    if training:
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes)
        variance = ((x - mean) ** 2).mean(axes)
    return (x - mean) / np.sqrt(variance + 1e-3) * w[f"{name}/gamma"] + w[f"{name}/beta"]
