"""LeNet-300-100 and LeNet-5, the networks on which SNIP was first measured."""

from __future__ import annotations

import keras

from tfprune_init.errors import OptionError
from tfprune_init.models.initialization import he_normal


def lenet_300_100(
    input_shape: tuple[int, ...] = (28, 28, 1), classes: int = 10, seed: int | None = None
) -> keras.Model:
    """Build LeNet-300-100: dense layers of 300, 100 and `classes` units.

    Args:
        input_shape: Shape of one example; it is flattened.
        classes: Number of logits.
        seed: Makes the initial weights repeatable; None draws other weights in every call.

    Returns:
        A functional model from examples to logits, 266,610 parameters on 28x28x1.

    Example:
        >>> lenet_300_100(seed=0).count_params()
        266610

    Reference:
        LeCun et al., "Gradient-based learning applied to document recognition", 1998,
        https://doi.org/10.1109/5.726791
    """
    inputs = keras.Input(input_shape, name="image")
    x = keras.layers.Flatten(name="flatten")(inputs)
    x = _dense("dense1", 300, seed, activation="relu")(x)
    x = _dense("dense2", 100, seed, activation="relu")(x)
    outputs = _dense("head", classes, seed)(x)
    return keras.Model(inputs, outputs, name="lenet_300_100")


def lenet_5(input_shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10, seed: int | None = None) -> keras.Model:
    """Build LeNet-5 in the sizes of Caffe and SNIP: two 5x5 convolutions with max pooling, two dense layers.

    ReLU follows each convolution; SNIP's own code leaves it out.

    The convolutions are unpadded, as in Caffe. On images smaller than 16 pixels (the 8x8 digits) nothing would be left
    after the second one, so there both are padded. If only the second were padded, a single pixel would reach the dense
    layers.

    Args:
        input_shape: (height, width, channels), at least 4 pixels high and wide.
        classes: Number of logits.
        seed: Makes the initial weights repeatable; None draws other weights in every call.

    Returns:
        A functional model from images to logits, 431,080 parameters on 28x28x1.

    Raises:
        OptionError: If the images are smaller than 4 pixels.

    Example:
        >>> lenet_5(seed=0).count_params()
        431080
        >>> lenet_5(input_shape=(8, 8, 1)).output_shape
        (None, 10)

    Reference:
        Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", 2019,
        https://arxiv.org/abs/1810.02340
    """
    shortest_side = min(input_shape[:2])
    if shortest_side < 4:
        raise OptionError(
            "lenet_5 halves the image twice, so it must be at least 4 pixels high and wide. "
            f"Received: input_shape={input_shape}. Try lenet_300_100."
        )
    padding = "valid" if shortest_side >= 16 else "same"
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for block, filters in enumerate((20, 50), start=1):
        x = keras.layers.Conv2D(
            filters,
            5,
            padding=padding,
            activation="relu",
            kernel_initializer=he_normal(f"conv{block}", seed),
            name=f"conv{block}",
        )(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool{block}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = _dense("dense", 500, seed, activation="relu")(x)
    outputs = _dense("head", classes, seed)(x)
    return keras.Model(inputs, outputs, name="lenet_5")


def _dense(name: str, units: int, seed: int | None, activation: str | None = None) -> keras.layers.Dense:
    return keras.layers.Dense(units, activation=activation, kernel_initializer=he_normal(name, seed), name=name)
