"""Conv-2, Conv-4 and Conv-6: small networks of the VGG kind, on which lottery tickets and supermasks are measured."""

from __future__ import annotations

import keras

from tfprune_init.models.initialization import glorot_normal

# Filters of the 3x3 convolutions of each block, of which a network has the first few.
_BLOCKS = ((64, 64), (128, 128), (256, 256))


def conv_2(input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int | None = None) -> keras.Model:
    """Build Conv-2: two 3x3 convolutions of 64 filters, max pooling, dense layers of 256, 256 and `classes` units.

    Convolutions are padded; ReLU follows every layer but the last. Kernels are drawn from Glorot's normal distribution,
    biases are 0.

    Args:
        input_shape: (height, width, channels).
        classes: Number of logits.
        seed: Makes the initial weights repeatable; None draws other weights in every call.

    Returns:
        A functional model from images to logits, 4,301,642 parameters on 32x32x3.

    Example:
        >>> conv_2(seed=0).count_params()
        4301642

    References:
        Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, https://arxiv.org/abs/1803.03635; Zhou et al.,
        "Deconstructing Lottery Tickets", 2019, https://arxiv.org/abs/1905.01067
    """
    return _build("conv_2", 1, input_shape, classes, seed)


def conv_4(input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int | None = None) -> keras.Model:
    """Build Conv-4: `conv_2` with two more convolutions, of 128 filters, and max pooling, before the dense layers.

    Args:
        input_shape: (height, width, channels).
        classes: Number of logits.
        seed: As in `conv_2`.

    Returns:
        A functional model from images to logits, 2,425,930 parameters on 32x32x3.

    Example:
        >>> conv_4(seed=0).count_params()
        2425930
    """
    return _build("conv_4", 2, input_shape, classes, seed)


def conv_6(input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int | None = None) -> keras.Model:
    """Build Conv-6: `conv_4` with two more convolutions, of 256 filters, and max pooling, before the dense layers.

    Summaries of the lottery ticket paper give it 1.7 million weights, 1.1 million of them in convolutions. With dense
    layers of 256 units, as in the two others, there are 2.3 million.

    Args:
        input_shape: (height, width, channels).
        classes: Number of logits.
        seed: As in `conv_2`.

    Returns:
        A functional model from images to logits, 2,262,602 parameters on 32x32x3.

    Example:
        >>> conv_6(seed=0).count_params()
        2262602
    """
    return _build("conv_6", 3, input_shape, classes, seed)


def _build(name: str, blocks: int, input_shape: tuple[int, int, int], classes: int, seed: int | None) -> keras.Model:
    x = inputs = keras.Input(input_shape, name="image")
    for block, widths in enumerate(_BLOCKS[:blocks], start=1):
        for conv, filters in enumerate(widths, start=1):
            layer = f"block{block}_conv{conv}"
            initializer = glorot_normal(layer, seed)
            x = keras.layers.Conv2D(
                filters, 3, padding="same", activation="relu", kernel_initializer=initializer, name=layer
            )(x)
        # Padded pooling is the same on even sizes, and never leaves an empty image on small ones.
        x = keras.layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for layer in ("dense1", "dense2"):
        x = keras.layers.Dense(256, activation="relu", kernel_initializer=glorot_normal(layer, seed), name=layer)(x)
    outputs = keras.layers.Dense(classes, kernel_initializer=glorot_normal("head", seed), name="head")(x)
    return keras.Model(inputs, outputs, name=name)
