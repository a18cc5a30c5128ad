"""Which channels stay: the best of all layers together, as many as asked for, and one of each layer at least."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfprune_init.errors import ScoreError
from tfprune_init.selection import keep_top


def choose_channels(scores: Mapping[str, np.ndarray], keep: int) -> dict[str, np.ndarray]:
    """Return which channels stay: of each layer the best, and the best of all others up to a number.

    Ties go to the lower position, earlier layers first. Where `keep` is less than the number of layers, the best of
    each layer stays, and no other.

    Args:
        scores: For each layer the score of each channel, not NaN; higher means keep.
        keep: How many channels stay, at most as many as there are.

    Returns:
        Boolean arrays of the scores' shapes.

    Raises:
        ScoreError: If a score is NaN or infinite.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.gates.channel_choice import choose_channels
        >>> kept = choose_channels({"a": np.array([3.0, 2.0, 2.0]), "b": np.array([0.1, 0.2])}, keep=3)
        >>> kept["a"].tolist(), kept["b"].tolist()
        ([True, True, False], [False, True])
    """
    broken = [name for name, values in scores.items() if not np.isfinite(values).all()]
    if broken:
        raise ScoreError(f"Scores of channels of {', '.join(broken)} are NaN or infinite. Try a lower learning rate.")
    raised = {name: np.array(values, np.float64) for name, values in scores.items()}
    for values in raised.values():
        values[np.argmax(values)] = np.inf
    return keep_top(raised, max(keep, len(raised)))
