"""Repeatable initialization: one seed for a model, from which each layer derives its own."""

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
    return keras.initializers.HeNormal(_derive_seed(layer, seed))


def glorot_normal(layer: str, seed: int | None) -> keras.initializers.Initializer:
    """Return the Glorot initializer of one layer, its values normally distributed. Seeds are those of `he_normal`.

    Args:
        layer: Name of the layer, unique in its model.
        seed: Seed of the model, an integer; None draws other weights in every call.

    Returns:
        A Keras initializer.

    Example:
        >>> glorot_normal("dense1", seed=0)(shape=(8, 4)).shape
        TensorShape([8, 4])

    Reference:
        Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010,
        https://proceedings.mlr.press/v9/glorot10a.html
    """
    return keras.initializers.GlorotNormal(_derive_seed(layer, seed))


def _derive_seed(layer: str, seed: int | None) -> int | None:
    return None if seed is None else zlib.crc32(f"{seed}/{layer}".encode())
