"""Distributions over widths and depths: how they are drawn from, and what is expected of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

_FLOOR = 1e-7
"""Added to each probability before two are drawn, so that none is 0."""


class WidthDraw(NamedTuple):
    """Two different widths that a convolution has for one step.

    Attributes:
        places: Their places among the candidates, shape (2,).
        shares: Their shares of the output, which add up to 1, shape (2,).
        widest: The place of the wider one, which the output has the width of.
    """

    places: tf.Tensor
    shares: tf.Tensor
    widest: tf.Tensor


def relax(logits: tf.Tensor, noise: tf.Tensor, tau: Any) -> tf.Tensor:
    """Compute the logits of a Gumbel-softmax draw: (log_softmax(logits) - log(noise)) / tau.

    Args:
        logits: Shape (candidates,).
        noise: Draws of the exponential distribution of mean 1, of the shape of the logits.
        tau: Temperature; the smaller, the nearer the softmax of the result is to one candidate.

    Example:
        >>> import tensorflow as tf
        >>> from tfprune_init.width_search.distributions import relax
        >>> drawn = tf.nn.softmax(relax(tf.math.log([0.2, 0.8]), tf.constant([1.0, 2.0]), 1.0))
        >>> [round(float(probability), 3) for probability in drawn]
        [0.333, 0.667]
    """
    return (tf.nn.log_softmax(logits) - tf.math.log(noise)) / tau


def choose_two(relaxed: tf.Tensor, gumbel: tf.Tensor) -> WidthDraw:
    """Draw two different candidates by their relaxed probabilities, without replacement.

    No gradient goes through the choice; it goes through the shares.

    Args:
        relaxed: What `relax` gives, shape (candidates,). A single candidate is drawn twice, with half a share each.
        gumbel: Draws of the Gumbel distribution, of the same shape.

    Returns:
        The draw; its shares are the softmax over the two relaxed logits.
    """
    if relaxed.shape[0] == 1:
        return WidthDraw(tf.constant([0, 0]), tf.constant([0.5, 0.5], relaxed.dtype), tf.constant(0))
    likely = tf.math.log(tf.nn.softmax(tf.stop_gradient(relaxed)) + _FLOOR) + gumbel
    places = tf.math.top_k(likely, 2).indices
    return WidthDraw(places, tf.nn.softmax(tf.gather(relaxed, places)), tf.reduce_max(places))


def draw_exponential(count: int, key: tf.Tensor) -> tf.Tensor:
    """Draw from the exponential distribution of mean 1: float32, shape (count,), the same for the same key.

    Args:
        count: How many.
        key: Two integers.
    """
    # An algorithm by name: which one is usual depends on the device.
    uniform = tf.random.stateless_uniform((count,), key, minval=np.finfo(np.float32).tiny, alg="philox")
    return tf.maximum(-tf.math.log(uniform), _FLOOR)


def draw_gumbel(count: int, key: tf.Tensor) -> tf.Tensor:
    """Draw from the Gumbel distribution: float32, shape (count,), the same for the same key."""
    return -tf.math.log(draw_exponential(count, key))


def compute_tails(probabilities: Any, depths: tuple[int, ...]) -> list[Any]:
    """Compute how likely each block of a stage is used: that the depth is at least its number.

    Args:
        probabilities: Of each depth.
        depths: The depths, rising.

    Example:
        >>> from tfprune_init.width_search.distributions import compute_tails
        >>> [round(tail, 3) for tail in compute_tails([0.2, 0.3, 0.5], (1, 2, 3))]
        [1.0, 0.8, 0.5]
    """
    return [
        sum(probabilities[place] for place, depth in enumerate(depths) if depth >= block)
        for block in range(1, depths[-1] + 1)
    ]


def compute_tau(progress: float, start: float, end: float, decay: str) -> float:
    """Compute the temperature of the draws.

    Args:
        progress: Share of the search that is done, in [0, 1].
        start: The temperature at the beginning.
        end: The temperature at the end.
        decay: "cosine" or "linear".

    Example:
        >>> from tfprune_init.width_search.distributions import compute_tau
        >>> [round(compute_tau(done, 5, 0.1, "cosine"), 3) for done in (0, 0.5, 1)]
        [5.0, 2.55, 0.1]
    """
    left = (1 + math.cos(math.pi * progress)) / 2 if decay == "cosine" else 1 - progress
    return end + (start - end) * left


def find_direction(chosen: int, asked: int, tolerance: float) -> int:
    """Say where the cost must go: -1 down, 1 up, 0 where it is within the tolerance below what was asked for.

    Args:
        chosen: Multiply-adds of the network of the likeliest widths and depths.
        asked: Multiply-adds that were asked for.
        tolerance: Share of them that may be missing.

    Example:
        >>> from tfprune_init.width_search.distributions import find_direction
        >>> [find_direction(cost, 1000, 0.05) for cost in (1001, 1000, 950, 949)]
        [-1, 0, 0, 1]
    """
    if chosen > asked:
        return -1
    return 1 if chosen < asked * (1 - tolerance) else 0
