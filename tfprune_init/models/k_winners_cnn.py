"""The networks of "How can we be so dense?": two with ReLU, and two sparse ones whose activations are k winners."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfprune_init.errors import OptionError
from tfprune_init.layers import KWinners, KWinners2D
from tfprune_init.models.initialization import he_normal


def dense_cnn_1(
    input_shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10, seed: int | None = None
) -> keras.Model:
    """Build the dense CNN-1: one 5x5 convolution of 30 filters, max pooling, ReLU, 1,000 units, ReLU.

    Like all four of these networks it is unpadded, and padded on images smaller than 16 pixels (see `lenet_5`).

    Args:
        input_shape: (height, width, channels), at least 2 pixels high and wide.
        classes: Number of logits.
        seed: Makes the initial weights repeatable; None draws other weights in every call.

    Returns:
        A functional model from images to logits, 4,331,790 parameters on 28x28x1.

    Raises:
        OptionError: If the images are too small.

    Example:
        >>> dense_cnn_1(seed=0).count_params()
        4331790

    Reference:
        Ahmad & Scheinkman, "How can we be so dense? The benefits of using highly sparse representations", 2019,
        https://arxiv.org/abs/1903.11257
    """
    return _build("dense_cnn_1", [(30, None)], (1000, None), input_shape, classes, seed)


def dense_cnn_2(
    input_shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10, seed: int | None = None
) -> keras.Model:
    """Build the dense CNN-2: two 5x5 convolutions of 30 filters, each with max pooling and ReLU, 1,000 units, ReLU.

    Args:
        input_shape: (height, width, channels), at least 4 pixels high and wide.
        classes: Number of logits.
        seed: As in `dense_cnn_1`.

    Returns:
        A functional model from images to logits, 514,320 parameters on 28x28x1.

    Raises:
        OptionError: If the images are too small.

    Example:
        >>> dense_cnn_2(seed=0).count_params()
        514320
    """
    return _build("dense_cnn_2", [(30, None), (30, None)], (1000, None), input_shape, classes, seed)


def sparse_cnn_1(
    input_shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10, seed: int | None = None
) -> keras.Model:
    """Build the sparse CNN-1: `dense_cnn_1` with k winners: 400 of the 4,320 numbers behind pooling, 50 of 150 units.

    On images of another size the same share wins. The paper's weights are sparse too: each of the 150 units keeps a
    random 30% of its inputs, which is pruned as below. It lowers the boost by `tpi.layers.BoostDecay(0.85)`.

    Args:
        input_shape: (height, width, channels), at least 2 pixels high and wide.
        classes: Number of logits.
        seed: As in `dense_cnn_1`.

    Returns:
        A functional model from images to logits, 650,440 parameters on 28x28x1, beside states of k winners.

    Raises:
        OptionError: If the images are too small.

    Example:
        >>> import tfprune_init as tpi
        >>> model = sparse_cnn_1(seed=0)
        >>> options = {"granularity": "per_unit", "exclude": ["conv*", "head"]}
        >>> report = tpi.prune_at_init(model, None, sparsity=0.7, method="random", **options)
        >>> report.masks.kept == 1296 * 150
        True
    """
    return _build("sparse_cnn_1", [(30, 400 / 4320)], (150, 50 / 150), input_shape, classes, seed)


def sparse_cnn_2(
    input_shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10, seed: int | None = None
) -> keras.Model:
    """Build the sparse CNN-2: 32 and 64 filters with 400 of 4,608 and 300 of 1,024 winners, 700 units with 100.

    See `sparse_cnn_1` for other sizes of images, sparse weights and boost.

    Args:
        input_shape: (height, width, channels), at least 4 pixels high and wide.
        classes: Number of logits.
        seed: As in `dense_cnn_1`.

    Returns:
        A functional model from images to logits, 776,606 parameters on 28x28x1, beside states of k winners.

    Raises:
        OptionError: If the images are too small.

    Example:
        >>> [layer.winners for layer in sparse_cnn_2().layers if layer.name.endswith("winners")]
        [(400, 600), (300, 450), (100, 150)]
    """
    convolutions = [(32, 400 / 4608), (64, 300 / 1024)]
    return _build("sparse_cnn_2", convolutions, (700, 100 / 700), input_shape, classes, seed)


def _build(
    name: str,
    convolutions: Sequence[tuple[int, float | None]],
    dense: tuple[int, float | None],
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int | None,
) -> keras.Model:
    """Build a network of layers given by their size and by the share that wins; None for ReLU."""
    shortest_side, least = min(input_shape[:2]), 2 ** len(convolutions)
    if shortest_side < least:
        raise OptionError(
            f"{name} halves the image {len(convolutions)} times, so it must be at least {least} pixels high and wide. "
            f"Received: input_shape={input_shape}. Try lenet_300_100."
        )
    x = inputs = keras.Input(input_shape, name="image")
    for block, (filters, share) in enumerate(convolutions, start=1):
        layer = f"conv{block}"
        padding = "valid" if shortest_side >= 16 else "same"
        x = keras.layers.Conv2D(filters, 5, padding=padding, kernel_initializer=he_normal(layer, seed), name=layer)(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool{block}")(x)
        x = _activate(layer, KWinners2D, share)(x)
    x = keras.layers.Flatten(name="flatten")(x)
    units, share = dense
    x = keras.layers.Dense(units, kernel_initializer=he_normal("dense", seed), name="dense")(x)
    x = _activate("dense", KWinners, share)(x)
    outputs = keras.layers.Dense(classes, kernel_initializer=he_normal("head", seed), name="head")(x)
    return keras.Model(inputs, outputs, name=name)


def _activate(layer: str, winners: type[KWinners | KWinners2D], share: float | None) -> keras.layers.Layer:
    return keras.layers.ReLU(name=f"{layer}_relu") if share is None else winners(share, name=f"{layer}_winners")
