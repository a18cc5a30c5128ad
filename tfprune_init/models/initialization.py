"""Repeatable He initialization: one seed for a model, from which each layer derives its own."""

from __future__ import annotations

import zlib

import keras


def he_normal(layer: str, seed: int | None) -> keras.initializers.Initializer:
    """Return the He initializer of one layer.

    The layer's seed is derived from the model's seed and the layer's name, because two layers of one shape
    that share a seed would start with identical weights.

    Args:
        layer: Name of the layer, unique in its model.
        seed: Seed of the model, an integer; None draws other weights in every call.

    Returns:
        A Keras initializer.

    Example:
        >>> he_normal("conv1", seed=0)(shape=(3, 3, 1, 8)).shape
        TensorShape([3, 3, 1, 8])

    Reference:
        He et al., "Delving Deep into Rectifiers", 2015, https://arxiv.org/abs/1502.01852
    """
    if seed is None:
        return keras.initializers.HeNormal()
    return keras.initializers.HeNormal(seed=zlib.crc32(f"{seed}/{layer}".encode()))
