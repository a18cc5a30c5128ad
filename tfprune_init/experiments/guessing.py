"""The accuracy above which a network is better than guessing."""

from __future__ import annotations

import math

STANDARD_ERRORS = 5
"""Number of standard errors above guessing from which an accuracy counts as learned."""


def is_above_guessing(guess: float, examples: int) -> float:
    """Return the accuracy above which a network has learned something.

    Args:
        guess: Share of the most frequent class among the examples, in [0, 1]: what guessing reaches.
        examples: Number of examples the accuracy is measured on.

    Returns:
        The guess and 5 standard errors of an accuracy of that size.

    Example:
        >>> round(is_above_guessing(0.1, 10_000), 3)
        0.115
    """
    return guess + STANDARD_ERRORS * math.sqrt(guess * (1 - guess) / examples)
