"""Residual networks for small images: a 3x3 stem with stride 1, and no max pooling before the first stage."""

from __future__ import annotations

from collections.abc import Callable

import keras

from tfprune_init.models.initialization import he_normal


def resnet20(
    input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int | None = None
) -> keras.Model:
    """Build the ResNet-20 of CIFAR-10: three stages of three blocks of two 3x3 convolutions.

    Where the shape changes, the shortcut is a 1x1 convolution with BatchNorm, as in the pruning papers. The original
    pads with zeros there, which saves 2,752 parameters.

    Args:
        input_shape: (height, width, channels).
        classes: Number of logits.
        seed: Makes the initial weights repeatable; None draws other weights in every call.

    Returns:
        A functional model from images to logits; on 32x32x3 it holds 270,896 prunable weights.

    Example:
        >>> resnet20(input_shape=(8, 8, 1), seed=0).output_shape
        (None, 10)

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2016, https://arxiv.org/abs/1512.03385
    """
    stages = ((3, 16), (3, 32), (3, 64))
    return _build_resnet("resnet20", _add_basic_block, stages, input_shape, classes, seed)


def resnet50(
    input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int | None = None
) -> keras.Model:
    """Build ResNet-50 with the stem for small images that FORCE uses on CIFAR.

    Args:
        input_shape: (height, width, channels).
        classes: Number of logits.
        seed: Makes the initial weights repeatable; None draws other weights in every call.

    Returns:
        A functional model from images to logits; on 32x32x3 it holds 23,467,712 prunable weights.

    Example:
        >>> resnet50(classes=100, seed=0).output_shape
        (None, 100)

    References:
        He et al., "Deep Residual Learning for Image Recognition", 2016, https://arxiv.org/abs/1512.03385; in
        this form: de Jorge et al., "Progressive Skeletonization: Trimming more fat from a network at
        initialization", 2021, https://arxiv.org/abs/2006.09081
    """
    stages = ((3, 64), (4, 128), (6, 256), (3, 512))
    return _build_resnet("resnet50", _add_bottleneck_block, stages, input_shape, classes, seed)


def resnet56(
    input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int | None = None
) -> keras.Model:
    """Build the ResNet-56 of CIFAR-10: `resnet20` with stages of 9 blocks.

    Args:
        input_shape: (height, width, channels).
        classes: Number of logits.
        seed: Makes the initial weights repeatable; None draws other weights in every call.

    Returns:
        A functional model from images to logits; on 32x32x3 it holds 851,504 prunable weights.

    Example:
        >>> len([layer for layer in resnet56((8, 8, 1), seed=0).layers if layer.name.endswith("_add")])
        27

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2016, https://arxiv.org/abs/1512.03385
    """
    stages = ((9, 16), (9, 32), (9, 64))
    return _build_resnet("resnet56", _add_basic_block, stages, input_shape, classes, seed)


def resnet110(
    input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int | None = None
) -> keras.Model:
    """Build the ResNet-110 of CIFAR-10: `resnet20` with stages of 18 blocks.

    Args:
        input_shape: (height, width, channels).
        classes: Number of logits.
        seed: Makes the initial weights repeatable; None draws other weights in every call.

    Returns:
        A functional model from images to logits; on 32x32x3 it holds 1,722,416 prunable weights.

    Example:
        >>> len([layer for layer in resnet110((8, 8, 1), seed=0).layers if layer.name.endswith("_add")])
        54

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2016, https://arxiv.org/abs/1512.03385
    """
    stages = ((18, 16), (18, 32), (18, 64))
    return _build_resnet("resnet110", _add_basic_block, stages, input_shape, classes, seed)


def _build_resnet(
    name: str,
    block: Callable[..., keras.KerasTensor],
    stages: tuple[tuple[int, int], ...],
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int | None,
) -> keras.Model:
    inputs = keras.Input(input_shape, name="image")
    x = add_conv_bn(inputs, stages[0][1], 3, "stem", seed)
    x = keras.layers.ReLU(name="stem_relu")(x)
    for stage, (blocks, filters) in enumerate(stages, start=1):
        for index in range(1, blocks + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            x = block(x, filters, stride, f"stage{stage}_block{index}", seed)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(classes, kernel_initializer=he_normal("head", seed), name="head")(x)
    return keras.Model(inputs, outputs, name=name)


def _add_basic_block(x: keras.KerasTensor, filters: int, stride: int, name: str, seed: int | None) -> keras.KerasTensor:
    y = add_conv_bn(x, filters, 3, f"{name}_conv1", seed, stride)
    y = keras.layers.ReLU(name=f"{name}_conv1_relu")(y)
    y = add_conv_bn(y, filters, 3, f"{name}_conv2", seed)
    return add_shortcut(x, y, stride, name, seed)


def _add_bottleneck_block(
    x: keras.KerasTensor, filters: int, stride: int, name: str, seed: int | None
) -> keras.KerasTensor:
    y = add_conv_bn(x, filters, 1, f"{name}_conv1", seed)
    y = keras.layers.ReLU(name=f"{name}_conv1_relu")(y)
    y = add_conv_bn(y, filters, 3, f"{name}_conv2", seed, stride)
    y = keras.layers.ReLU(name=f"{name}_conv2_relu")(y)
    y = add_conv_bn(y, 4 * filters, 1, f"{name}_conv3", seed)
    return add_shortcut(x, y, stride, name, seed)


def add_shortcut(
    x: keras.KerasTensor, y: keras.KerasTensor, stride: int, name: str, seed: int | None
) -> keras.KerasTensor:
    """Add a block's input to its output; through a 1x1 convolution with BatchNorm where their shapes differ.

    Args:
        x: What goes into the block.
        y: What comes out of its last normalization.
        stride: Stride of the block.
        name: Name of the block.
        seed: Seed of the initial weights.
    """
    if stride > 1 or x.shape[-1] != y.shape[-1]:
        x = add_conv_bn(x, y.shape[-1], 1, f"{name}_shortcut", seed, stride)
    y = keras.layers.Add(name=f"{name}_add")([x, y])
    return keras.layers.ReLU(name=f"{name}_relu")(y)


def add_conv_bn(
    x: keras.KerasTensor, filters: int, kernel: int, name: str, seed: int | None, stride: int = 1
) -> keras.KerasTensor:
    """Apply a convolution without bias, and BatchNorm.

    Args:
        x: Images, shape (batch, height, width, channels).
        filters: Number of output channels.
        kernel: Height and width of the kernel.
        name: Name of the convolution, on which its initial weights depend.
        seed: Seed of the initial weights.
        stride: Stride in both directions.
    """
    x = keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer=he_normal(name, seed),
        name=name,
    )(x)
    # Statistics as fast as PyTorch's, where the papers' numbers come from: Keras's default of 0.99 lags
    # behind in short trainings.
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
