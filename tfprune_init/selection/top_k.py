"""Exact selection: the highest scores of several arrays together, without sorting them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tfprune_init.errors import OptionError

Arrays = Mapping[str, np.ndarray]
# A sample settles roughly where the threshold lies; an odd stride does not fall in step with array shapes.
_SAMPLE_EVERY = 97
_SAMPLING_PAYS = 200_000


def keep_top(scores: Arrays, keep: int, alive: Arrays | None = None) -> dict[str, np.ndarray]:
    """Keep exactly the `keep` highest scores of several arrays together.

    Ties at the threshold go to the lower position: earlier arrays first, row-major within an array.
    Nothing is sorted, and only scores near the threshold are copied.

    Args:
        scores: Mapping from path to a finite float array, in the fixed order of variables.
        keep: How many to keep, at most the number of candidates.
        alive: Where given, only True positions are candidates.

    Returns:
        Boolean arrays of the scores' shapes, `keep` of their entries True.

    Raises:
        OptionError: If there are fewer candidates than `keep`, as where earlier pruning went further.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.selection import keep_top
        >>> keep_top({"a": np.array([3.0, 1.0]), "b": np.array([1.0, 2.0])}, keep=3)
        {'a': array([ True,  True]), 'b': array([False,  True])}
    """
    candidates = sum(s.size if alive is None else int(np.count_nonzero(alive[p])) for p, s in scores.items())
    if not 0 <= keep <= candidates:
        raise OptionError(
            f"Cannot keep {keep} of {candidates} candidates. If earlier pruning left no more, ask for a higher "
            "sparsity."
        )
    if keep == 0:
        return {path: np.zeros(score.shape, bool) for path, score in scores.items()}
    threshold, ties = _threshold(scores, keep, candidates, alive)
    masks = {}
    for path, score in scores.items():
        mask = _candidates(score > threshold, path, alive)
        if ties:
            taken = np.flatnonzero(_candidates(score == threshold, path, alive))[:ties]
            mask.flat[taken] = True
            ties -= taken.size
        masks[path] = mask
    return masks


def _threshold(scores: Arrays, keep: int, candidates: int, alive: Arrays | None) -> tuple[np.floating, int]:
    """Return the `keep`-th highest score, and how many of those equal to it are to be kept."""
    low, high = _bracket(scores, keep, candidates, alive)
    above = _count_above(scores, high, alive)
    near = _between(scores, low, high, alive)
    if not above < keep <= above + near.size:
        above, near = 0, _between(scores, -np.inf, np.inf, alive)
    first = near.size - (keep - above)
    near.partition(first)
    threshold = near[first]
    return threshold, keep - above - int(np.count_nonzero(near[first:] > threshold))


def _bracket(scores: Arrays, keep: int, candidates: int, alive: Arrays | None) -> tuple[float, float]:
    """Bounds that the `keep`-th highest score very likely lies between, from a sample of the scores."""
    if candidates < _SAMPLING_PAYS:
        return -np.inf, np.inf
    every = slice(None, None, _SAMPLE_EVERY)
    sample = np.concatenate(
        [
            score.ravel()[every] if alive is None else score.ravel()[every][alive[path].ravel()[every]]
            for path, score in scores.items()
        ]
    )
    sample.sort()
    share = keep / candidates
    place = sample.size * (1.0 - share)
    margin = 6.0 * math.sqrt(sample.size * share * (1.0 - share)) + 6.0
    lowest, highest = math.floor(place - margin), math.ceil(place + margin)
    low = sample[lowest] if lowest >= 0 else -np.inf
    high = sample[highest] if highest < sample.size else np.inf
    return float(low), float(high)


def _count_above(scores: Arrays, bound: float, alive: Arrays | None) -> int:
    return sum(int(np.count_nonzero(_candidates(score > bound, path, alive))) for path, score in scores.items())


def _between(scores: Arrays, low: float, high: float, alive: Arrays | None) -> np.ndarray:
    near = []
    for path, score in scores.items():
        within = score >= low
        within &= score <= high
        near.append(score.ravel()[np.flatnonzero(_candidates(within, path, alive))])
    return np.concatenate(near)


def _candidates(chosen: np.ndarray, path: str, alive: Arrays | None) -> np.ndarray:
    """Return what is chosen, in place, without the positions that are no candidates."""
    if alive is not None:
        chosen &= alive[path]
    return chosen
