"""A ResNet and a VGG small enough to train many of on two cores. Used by the other examples."""

from __future__ import annotations

import keras


def small_resnet(
    input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int | None = None
) -> keras.Model:
    """ResNet-8: one block of two 3x3 convolutions in each of three stages of 16, 32 and 64 filters."""
    draw = _Weights(seed)
    inputs = keras.Input(input_shape)
    x = keras.layers.ReLU()(draw.conv(inputs, 16, "stem"))
    for stage, filters in enumerate((16, 32, 64), start=1):
        stride = 1 if stage == 1 else 2
        y = keras.layers.ReLU()(draw.conv(x, filters, f"stage{stage}_conv1", stride=stride))
        y = draw.conv(y, filters, f"stage{stage}_conv2")
        if stage > 1:
            x = draw.conv(x, filters, f"stage{stage}_shortcut", size=1, stride=stride)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    return draw.classifier(inputs, x, classes, "small_resnet")


def small_vgg(
    input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int | None = None
) -> keras.Model:
    """VGG-11 with batch normalization and a quarter of the filters."""
    draw = _Weights(seed)
    inputs = x = keras.Input(input_shape)
    for block, widths in enumerate(((16,), (32,), (64, 64), (128, 128), (128, 128)), start=1):
        if block > 1:
            x = keras.layers.MaxPooling2D(2, padding="same")(x)
        for number, filters in enumerate(widths, start=1):
            x = keras.layers.ReLU()(draw.conv(x, filters, f"block{block}_conv{number}"))
    return draw.classifier(inputs, x, classes, "small_vgg")


class _Weights:
    """Layers whose initial weights depend on a seed and on their place in the model."""

    def __init__(self, seed: int | None):
        self._seed = seed
        self._count = 0

    def conv(self, x: keras.KerasTensor, filters: int, name: str, size: int = 3, stride: int = 1) -> keras.KerasTensor:
        """Make a convolution without bias, and batch normalization."""
        layer = keras.layers.Conv2D(
            filters, size, stride, "same", use_bias=False, kernel_initializer=self._he(), name=name
        )
        return keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(layer(x))

    def classifier(self, inputs: keras.KerasTensor, x: keras.KerasTensor, classes: int, name: str) -> keras.Model:
        """Average pooling and logits."""
        x = keras.layers.GlobalAveragePooling2D()(x)
        logits = keras.layers.Dense(classes, kernel_initializer=self._he(), name="head")(x)
        return keras.Model(inputs, logits, name=name)

    def _he(self) -> keras.initializers.Initializer:
        self._count += 1
        return keras.initializers.HeNormal(None if self._seed is None else 1000 * self._seed + self._count)
