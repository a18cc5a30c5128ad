"""VGG-16 and VGG-19 for small images, with batch normalization, as papers on pruning have them."""

from __future__ import annotations

import keras

from tfprune_init.models.initialization import he_normal
from tfprune_init.models.resnet import add_conv_bn

# Filters of the 3x3 convolutions of each block.
_VGG16 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
_VGG19 = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)


def vgg16(input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int | None = None) -> keras.Model:
    """Build VGG-16 with BatchNorm: 13 convolutions without bias, then one dense layer.

    Args:
        input_shape: (height, width, channels).
        classes: Number of logits.
        seed: Makes the initial weights repeatable; None draws other weights in every call.

    Returns:
        A functional model from images to logits; on 32x32x3 it holds 14,715,584 prunable weights.

    Example:
        >>> vgg16(input_shape=(8, 8, 1), seed=0).output_shape
        (None, 10)

    References:
        Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015,
        https://arxiv.org/abs/1409.1556; in this form: Liu et al., "Rethinking the Value of Network Pruning", 2019,
        https://arxiv.org/abs/1810.05270
    """
    return _build("vgg16", _VGG16, input_shape, classes, seed)


def vgg19(input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int | None = None) -> keras.Model:
    """Build VGG-19 with BatchNorm: 16 convolutions without bias, then one dense layer.

    Args:
        input_shape: (height, width, channels).
        classes: Number of logits.
        seed: Makes the initial weights repeatable; None draws other weights in every call.

    Returns:
        A functional model from images to logits; on 32x32x3 it holds 20,024,000 prunable weights.

    Example:
        >>> vgg19(input_shape=(32, 32, 3), classes=100).output_shape
        (None, 100)

    References:
        Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015,
        https://arxiv.org/abs/1409.1556; in this form: de Jorge et al., "Progressive Skeletonization:
        Trimming more fat from a network at initialization", 2021, https://arxiv.org/abs/2006.09081
    """
    return _build("vgg19", _VGG19, input_shape, classes, seed)


def _build(
    model: str,
    blocks: tuple[tuple[int, ...], ...],
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int | None,
) -> keras.Model:
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for block, widths in enumerate(blocks, start=1):
        if block > 1:
            # Padded pooling is the same on even sizes, and never leaves an empty image on small ones.
            x = keras.layers.MaxPooling2D(2, padding="same", name=f"block{block - 1}_pool")(x)
        for conv, filters in enumerate(widths, start=1):
            name = f"block{block}_conv{conv}"
            x = add_conv_bn(x, filters, 3, name, seed)
            x = keras.layers.ReLU(name=f"{name}_relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(classes, kernel_initializer=he_normal("head", seed), name="head")(x)
    return keras.Model(inputs, outputs, name=model)
