"""Decisions of 0 or 1 whose gradient is that of something soft."""

from __future__ import annotations

import tensorflow as tf


def soften_by_stretching(logits: tf.Tensor) -> tf.Tensor:
    """Return clip(1.2 sigmoid(logits) - 0.1, 0, 1): a sigmoid that reaches 0 and 1, and has no gradient there.

    Args:
        logits: Float tensor.

    Example:
        >>> import tensorflow as tf
        >>> from tfprune_init.layers.straight_through_decisions import soften_by_stretching
        >>> soften_by_stretching(tf.constant([-4.0, 0.0, 4.0])).numpy().tolist()
        [0.0, 0.5, 1.0]
    """
    return tf.clip_by_value(1.2 * tf.sigmoid(logits) - 0.1, 0.0, 1.0)


def soften_by_temperature(logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """Return sigmoid(logits / temperature).

    Args:
        logits: Float tensor.
        temperature: Above 0; near 0 nearly all of it is 0 or 1.
    """
    return tf.sigmoid(logits / temperature)


def pass_straight_through(hard: tf.Tensor, soft: tf.Tensor) -> tf.Tensor:
    """Return the hard values, to the last bit, with the gradient of the soft ones.

    Args:
        hard: What is computed with.
        soft: What the gradient is taken of, of the same shape and dtype.

    Example:
        >>> import tensorflow as tf
        >>> from tfprune_init.layers.straight_through_decisions import pass_straight_through
        >>> x = tf.Variable(3.0)
        >>> with tf.GradientTape() as tape:
        ...     y = pass_straight_through(tf.constant(1.0), x * x)
        >>> float(y), float(tape.gradient(y, x))
        (1.0, 6.0)
    """
    # The difference is exactly 0, so the sum is exactly the hard value.
    return tf.stop_gradient(hard) + (soft - tf.stop_gradient(soft))
