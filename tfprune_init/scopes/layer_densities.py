"""Scopes that fix how many weights each layer keeps, by its shape; inside a layer the scores decide.

Each is a weight per layer. Layers keep in proportion to it, except that none keeps more than it has: those that would
are kept whole, and the others share what is left. Arithmetic is exact, so that counts are, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from tfprune_init.errors import OptionError
from tfprune_init.scopes.layout import Layout, Layouts
from tfprune_init.scopes.registry import count_weights, scope
from tfprune_init.scopes.selection import Arrays, keep_top, kept_count


def _erk_weight(layout: Layout) -> Fraction:
    """Density grows with sum(shape) / prod(shape), so the number kept grows with sum(shape)."""
    return Fraction(sum(layout.shape))


def _er_weight(layout: Layout) -> Fraction:
    """Density grows with (in + out) / (in * out), in which the axes of a kernel's window do not appear."""
    inputs, outputs = layout.extent(layout.axes.inputs), layout.extent(layout.axes.outputs)
    return Fraction(layout.size * (inputs + outputs), inputs * outputs)


def _same_weight(layout: Layout) -> Fraction:
    return Fraction(1)


_WEIGHTS: dict[str, Callable[[Layout], Fraction]] = {
    "erk": _erk_weight,
    "er": _er_weight,
    "balanced": _same_weight,
}


def layer_densities(kind: str, layouts: Layouts, density: float) -> dict[str, float]:
    """The density of each layer, before counts are made whole.

    Args:
        kind: "erk", "er" or "balanced".
        layouts: The variables.
        density: Density of all of them together, in (0, 1].

    Returns:
        Mapping from path to a density in [0, 1]; weighted by the layers' sizes, they average to `density`.

    Raises:
        OptionError: If there is no such kind.

    Example:
        >>> from tfprune_init.scopes import Layout, layer_densities
        >>> from tfprune_init.units import UnitAxes
        >>> axes = UnitAxes((0,), (1,))
        >>> layouts = {"hidden": Layout((90, 30), axes), "head": Layout((30, 10), axes)}
        >>> layer_densities("erk", layouts, 0.5)
        {'hidden': 0.4444444444444444, 'head': 1.0}
    """
    if kind not in _WEIGHTS:
        raise OptionError(f"kind must be one of {sorted(_WEIGHTS)}. Received: {kind!r}.")
    sizes = [layout.size for layout in layouts.values()]
    shares = _shares(_weights(kind, layouts), sizes, Fraction(density) * sum(sizes))
    return {path: float(share / size) for path, share, size in zip(layouts, shares, sizes, strict=True)}


def apportion(weights: Sequence[Fraction], limits: Sequence[int], total: int) -> list[int]:
    """Whole numbers that sum to `total`, in proportion to `weights`, none above its limit.

    What exceeds a limit is shared by the others in proportion to their weights. The shares are rounded down, and
    what that leaves goes one by one to the largest remainders, ties to the earlier.

    Args:
        weights: Positive weights.
        limits: The most that each can get.
        total: What to share out, at most the sum of the limits.

    Raises:
        ValueError: If the limits sum to less than `total`.

    Example:
        >>> from tfprune_init.scopes.layer_densities import apportion
        >>> apportion([1, 1, 1], [100, 2, 100], 9)
        [4, 2, 3]
    """
    if not 0 <= total <= sum(limits):
        raise ValueError(f"Cannot keep {total} of {sum(limits)} candidates.")
    shares = _shares(weights, limits, Fraction(total))
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _shares(weights: Sequence[Fraction], limits: Sequence[int], total: Fraction) -> list[Fraction]:
    """min(limit, level * weight) for each, with the level at which they sum to `total`.

    Limits that are exceeded raise the level for the others, so whatever exceeds its limit once does so for good.
    """
    shares = [Fraction(limit) for limit in limits]
    rest, sharing = total, list(range(len(shares)))
    while sharing:
        level = rest / sum(weights[i] for i in sharing)
        below = [i for i in sharing if level * weights[i] <= limits[i]]
        if len(below) == len(sharing):
            for i in sharing:
                shares[i] = level * weights[i]
            break
        rest = total - sum(shares) + sum(shares[i] for i in below)
        sharing = below
    return shares


def _weights(kind: str, layouts: Layouts) -> list[Fraction]:
    return [_WEIGHTS[kind](layout) for layout in layouts.values()]


def _choose(kind: str, scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts) -> dict[str, np.ndarray]:
    layouts = {path: layouts[path] for path in scores}
    limits = [s.size if alive is None else int(np.count_nonzero(alive[path])) for path, s in scores.items()]
    counts = apportion(_weights(kind, layouts), limits, kept_count(count_weights(layouts), density))
    masks: dict[str, np.ndarray] = {}
    for (path, score), count in zip(scores.items(), counts, strict=True):
        masks |= keep_top({path: score}, count, alive)
    return masks


@scope("erk", summary="Erdős-Rényi-Kernel: layers of small shape keep a larger share", compares_layers=False)
def erk(scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts) -> dict[str, np.ndarray]:
    """Densities of layers in proportion to sum(shape) / prod(shape), at most 1: floor(N * density) weights are kept.

    Reference: Evci et al., Rigging the Lottery, ICML 2020.
    """
    return _choose("erk", scores, density, alive, layouts)


@scope(
    "er", summary="Erdős-Rényi: layers of few units keep a larger share, whatever their window", compares_layers=False
)
def er(scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts) -> dict[str, np.ndarray]:
    """Densities of layers in proportion to (in + out) / (in * out), at most 1: floor(N * density) weights are kept.

    Reference: Mocanu et al., Scalable training of artificial neural networks with adaptive sparse connectivity,
    Nature Communications 2018.
    """
    return _choose("er", scores, density, alive, layouts)


@scope("balanced", summary="each layer keeps the same number of weights", compares_layers=False)
def balanced(scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts) -> dict[str, np.ndarray]:
    """The same number of weights in each layer, small layers whole: floor(N * density) weights are kept."""
    return _choose("balanced", scores, density, alive, layouts)
