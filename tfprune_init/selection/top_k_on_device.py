"""The best scores chosen where they are: exact, and in operations that XLA compiles with static shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def keep_top_on_device(
    scores: Sequence[tf.Tensor], keep: int | tf.Tensor, alive: Sequence[tf.Tensor] | None = None
) -> list[tf.Tensor]:
    """Masks of the `keep` highest scores over all tensors together, without leaving the device.

    The same masks as those chosen on the host, ties included: they go to the lower position. The threshold is found
    by bisection on the bits of the scores, one count over all scores a bit: slower than a partition on a CPU's host,
    but with nothing to copy, no dynamic shapes and no numbers but counts between replicas.

    Args:
        scores: Finite scores, float16, bfloat16, float32 or float64, fewer than 2^31 in all.
        keep: How many to keep, at most as many as there are candidates.
        alive: Booleans of the same shapes: the candidates; all by default.

    Returns:
        A boolean tensor for each tensor of scores, True where it is kept.

    Example:
        >>> import tensorflow as tf
        >>> from tfprune_init.selection import keep_top_on_device
        >>> masks = keep_top_on_device([tf.constant([0.1, 0.4]), tf.constant([[0.4, 0.2]])], 2)
        >>> [mask.numpy().tolist() for mask in masks]
        [[False, True], [[True, False]]]
    """
    keys = [_ordered(score) for score in scores]
    if alive is None:
        alive = [tf.ones_like(key, tf.bool) for key in keys]
    keep = tf.cast(keep, tf.int32)
    threshold = _threshold(keys, keep, alive)
    above = [chosen & (key > threshold) for key, chosen in zip(keys, alive, strict=True)]
    places = keep - _count(above)
    masks = []
    for key, chosen, better in zip(keys, alive, above, strict=True):
        tied = tf.reshape(tf.cast(chosen & (key == threshold), tf.int32), [-1])
        first = tf.reshape((tied > 0) & (tf.cumsum(tied) <= places), key.shape)
        masks.append(better | first)
        places -= tf.minimum(places, tf.reduce_sum(tied))
    return masks


def _ordered(score: tf.Tensor) -> tf.Tensor:
    """Integers in the order of the scores, equal where these are."""
    if score.dtype in (tf.float16, tf.bfloat16):
        score = tf.cast(score, tf.float32)
    score = tf.where(score == 0, tf.zeros((), score.dtype), score)  # -0.0 equals 0.0, and its bits do not
    bits = tf.bitcast(score, tf.int64 if score.dtype == tf.float64 else tf.int32)
    # Negative floats are larger the farther from zero, as integers.
    return tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, bits.dtype.max), bits)


def _threshold(keys: list[tf.Tensor], keep: tf.Tensor, alive: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the largest integer that at least `keep` candidates reach, found bit by bit from the highest."""
    dtype = keys[0].dtype
    one = tf.ones((), dtype)

    def refined(bit: tf.Tensor, reached: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        higher = reached + tf.bitwise.left_shift(one, bit)  # the sum wraps at the highest bit, as it should
        enough = _count([chosen & (key >= higher) for key, chosen in zip(keys, alive, strict=True)]) >= keep
        return bit - one, tf.where(enough, higher, reached)

    highest = tf.constant(np.iinfo(dtype.as_numpy_dtype).bits - 1, dtype)
    lowest = tf.constant(dtype.min, dtype)
    return tf.while_loop(lambda bit, reached: bit >= 0, refined, (highest, lowest))[1]


def _count(masks: list[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([tf.reduce_sum(tf.cast(mask, tf.int32)) for mask in masks])
