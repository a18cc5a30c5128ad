"""Channels: the widths a convolution may have, and feature maps of one width as feature maps of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfprune_init.checks import check_integer


def list_widths(filters: int) -> tuple[int, ...]:
    """List the widths that a convolution may have: 30%, 40%, ... 100% of its filters, rounded down.

    Args:
        filters: Its number of filters in the full network.

    Example:
        >>> from tfprune_init.width_search.channels import list_widths
        >>> list_widths(16)
        (4, 6, 8, 9, 11, 12, 14, 16)
    """
    count = check_integer("filters", filters, 1)
    return tuple(sorted({max(1, count * tenths // 10) for tenths in range(3, 11)}))


def list_depths(blocks: int) -> tuple[int, ...]:
    """List the numbers of blocks that a stage may have: all up to three, else odd ones and all blocks.

    Example:
        >>> from tfprune_init.width_search.channels import list_depths
        >>> list_depths(3), list_depths(6)
        ((1, 2, 3), (1, 3, 5, 6))
    """
    count = check_integer("blocks", blocks, 1)
    return tuple(range(1, count + 1)) if count <= 3 else (*range(1, count, 2), count)


def make_interpolation(channels: int, width: int) -> np.ndarray:
    """Make the matrix of channel-wise interpolation: each channel becomes the mean of those that it lies over.

    Channel i of the result is the mean of channels floor(i C / O) to before ceil((i + 1) C / O), as adaptive average
    pooling over channels has it.

    Args:
        channels: Number C of channels.
        width: Number O of channels of the result.

    Returns:
        float64, shape (channels, width): feature maps times it are the interpolated ones.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.width_search.channels import make_interpolation
        >>> (np.array([1, 2, 3, 4]) @ make_interpolation(4, 3)).tolist()
        [1.5, 2.5, 3.5]
    """
    matrix = np.zeros((channels, width))
    for place in range(width):
        first, stop = place * channels // width, -(-(place + 1) * channels // width)
        matrix[first:stop, place] = 1 / (stop - first)
    return matrix


def interpolate_channels(features: tf.Tensor, width: int) -> tf.Tensor:
    """Give feature maps another number of channels, by channel-wise interpolation.

    Args:
        features: Shape (..., channels).
        width: The number.

    Example:
        >>> import tensorflow as tf
        >>> from tfprune_init.width_search.channels import interpolate_channels
        >>> interpolate_channels(tf.constant([1.0, 2, 3, 4]), 6).numpy().tolist()
        [1.0, 1.5, 2.0, 3.0, 3.5, 4.0]
    """
    matrix = tf.constant(make_interpolation(features.shape[-1], width), features.dtype)
    return tf.tensordot(features, matrix, 1)


def make_widenings(widths: Sequence[int]) -> np.ndarray:
    """Make the matrices that interpolate from each width to each larger one, padded with zeros to the largest.

    Args:
        widths: The widths, rising; C is the last.

    Returns:
        float32, shape (widths, widths, C, C): at (i, j) from width i to width j; zeros where j is less than i.
    """
    table = np.zeros((len(widths), len(widths), widths[-1], widths[-1]), np.float32)
    for i, narrow in enumerate(widths):
        for j, wide in enumerate(widths[i:], i):
            table[i, j, :narrow, :wide] = make_interpolation(narrow, wide)
    return table
