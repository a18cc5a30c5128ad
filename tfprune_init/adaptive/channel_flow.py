"""What becomes of channels in a layer: whether each goes on by itself, and whether closed ones stay 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.layer_run import run_layer
from tfprune_init.graph.variables import list_variables

# A change so large that it shows behind every activation that is not constant.
_CHANGE = 10.0


@dataclass(frozen=True)
class ChannelFlow:
    """A layer whose channels go on by themselves.

    Attributes:
        axis: Axis of the channels in its output, with the batch as axis 0.
        is_aligned: Whether channel i of the output is channel i of the input. Else each channel of the input makes
            the same number of them, as in a Flatten.
        keeps_zeros: Whether a channel of zeros stays one, whatever the weights.
    """

    axis: int
    is_aligned: bool
    keeps_zeros: bool


def follow_channels(layer: Layer, shape: tuple[int, ...], axis: int) -> ChannelFlow | None:
    """Find out by running a layer what it does to channels, in inference; no trace is left on it.

    All its weights are 1 then, so that what an unlucky weight hides is seen. Channels are changed by the bits of their
    numbers: for each bit those that have it, then those that have it not. A number of the output that depends on one
    channel alone changes in one of the two, and says so by which channel it is.

    Args:
        layer: A built layer of one input.
        shape: Shape of its input, for one example.
        axis: Axis of the channels in its input, with the batch as axis 0.

    Returns:
        None if channels mix, or it cannot be known.

    Example:
        >>> import keras
        >>> from tfprune_init.adaptive.channel_flow import follow_channels
        >>> keras.Sequential([keras.Input((4, 4, 3)), (layer := keras.layers.BatchNormalization())]).built
        True
        >>> follow_channels(layer, (4, 4, 3), 3)
        ChannelFlow(axis=3, is_aligned=True, keeps_zeros=False)
        >>> follow_channels(keras.layers.Flatten(), (4, 4, 3), 3)
        ChannelFlow(axis=1, is_aligned=False, keeps_zeros=True)
        >>> follow_channels(keras.layers.Softmax(), (4, 4, 3), 3) is None
        True
    """
    channels = shape[axis - 1]
    bits = max(1, (channels - 1).bit_length())
    having = (np.arange(channels) >> np.arange(bits)[:, None]) & 1  # [bits, channels]
    changes = np.concatenate([having, 1 - having])
    x = np.repeat(np.random.default_rng(0).normal(size=(1, *shape)), 2 * bits + 2, axis=0)
    sides = [channels if one == axis else 1 for one in range(1, len(shape) + 1)]
    x[1:-1] += _CHANGE * changes.reshape(2 * bits, *sides)
    x[-1] = 0
    output = _run(layer, x)
    if output is None or output.ndim not in (x.ndim, 2) or output.shape[0] != len(x):
        return None
    axis = axis if output.ndim == x.ndim else 1
    others = tuple(one for one in range(1, output.ndim) if one != axis)
    changed = (output[1:-1] != output[0]).any(axis=others).reshape(2, bits, output.shape[axis])
    if not (changed[0] ^ changed[1]).all():
        return None
    origins = (changed[0] << np.arange(bits)[:, None]).sum(axis=0)
    counts = np.bincount(origins, minlength=channels)
    if (counts != counts[0]).any():
        return None
    is_aligned = np.array_equal(origins, np.arange(channels))
    return ChannelFlow(axis, is_aligned, not output[-1].any())


def _run(layer: Layer, x: np.ndarray) -> Any:
    weights = {
        target.path: np.ones(target.shape)
        for target in list_variables(layer)
        if tf.as_dtype(target.tensor.dtype).is_floating
    }
    try:
        output = run_layer(layer, x, weights)
    except (AttributeError, ValueError, TypeError, RuntimeError, tf.errors.OpError):
        return None
    return np.asarray(output)
