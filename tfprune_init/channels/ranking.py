"""Rankings: groups of channels in the order in which they are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfprune_init.registry import Registry

Pools = Sequence[np.ndarray]
"""For each set of layers that share channels, the numbers of its groups that may go, ascending."""

NORMALIZATIONS: Registry[Callable[[np.ndarray], float]] = Registry("normalization of importances")
"""What the importances of a layer are divided by before layers compete."""

NORMALIZATIONS.register("mean", lambda numbers: float(np.abs(numbers).mean()))
NORMALIZATIONS.register("max", lambda numbers: float(np.abs(numbers).max()))
NORMALIZATIONS.register("l2", lambda numbers: float(np.sqrt(np.square(numbers).sum())))


@dataclass(frozen=True, eq=False)
class Ranking:
    """Bundles of groups in the order in which they are kept; a bundle is kept or removed as one.

    Attributes:
        bundles: The groups of each bundle.
        least: The first so many are kept whatever the budget, so that no layer gets too narrow.
        place: For each group the place of its bundle; -1 where the group may not be removed.
    """

    bundles: tuple[np.ndarray, ...]
    least: int
    place: np.ndarray

    def remove_after(self, count: int) -> np.ndarray:
        """Return whether each group is removed where the first so many bundles are kept.

        Example:
            >>> import numpy as np
            >>> from tfprune_init.channels.ranking import Ranking
            >>> ranking = Ranking((np.array([2]), np.array([0])), 1, np.array([1, -1, 0]))
            >>> ranking.remove_after(1)
            array([ True, False, False])
        """
        return np.asarray(self.place >= count)


def order_globally(numbers: np.ndarray, pools: Pools) -> np.ndarray:
    """Let all groups compete: the highest number first, ties by position."""
    groups = np.sort(np.concatenate(list(pools)))
    return groups[np.argsort(-numbers[groups], kind="stable")]


def order_uniformly(numbers: np.ndarray, pools: Pools) -> np.ndarray:
    """Let layers shrink alike: the r-th best of a layer's n groups comes at r / n, ties by position.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.channels.ranking import order_uniformly
        >>> order_uniformly(np.array([1.0, 2.0, 30.0, 50.0, 40.0, 20.0]), [np.arange(2), np.arange(2, 6)])
        array([3, 1, 4, 2, 0, 5])
    """
    share, groups = [], []
    for pool in pools:
        best_first = pool[np.argsort(-numbers[pool], kind="stable")]
        groups.append(best_first)
        share.append(np.arange(1, pool.size + 1) / pool.size)
    ordered, shares = np.concatenate(groups), np.concatenate(share)
    return ordered[np.lexsort((ordered, shares))]


ALLOCATIONS: Registry[Callable[[np.ndarray, Pools], np.ndarray]] = Registry("allocation of channels")
"""Functions from the number of each group, and pools, to the groups in the order in which they are kept."""

ALLOCATIONS.register("global", order_globally)
ALLOCATIONS.register("uniform", order_uniformly)


def normalize_pools(numbers: np.ndarray, pools: Pools, by: str) -> np.ndarray:
    """Divide the numbers of each pool by their mean, largest or L2 norm; a pool of zeros stays as it is.

    Raises:
        OptionError: If there is no such normalization.
    """
    measure = NORMALIZATIONS.find(by)
    scaled = numbers.copy()
    for pool in pools:
        whole = measure(numbers[pool])
        scaled[pool] /= whole if whole > 0 else 1.0
    return scaled


def make_ranking(
    order: np.ndarray, channels: Mapping[str, np.ndarray], count: int, round_to: int, min_channels: int
) -> Ranking:
    """Put groups in order together as rounding demands, and those in front that no budget removes.

    Groups with channels in the same kernels are bundled, best first, so that a kernel's width is a multiple of
    `round_to`, or its whole width. A bundle takes the place of the last of its groups.

    Args:
        order: Groups that may go, best first.
        channels: For each kernel the group of each of its channels.
        count: Number of all groups.
        round_to: Number that widths are a multiple of.
        min_channels: Channels that each kernel keeps at least; all where it has fewer.
    """
    bundles = _bundle(order, channels, count, round_to)
    place = np.full(count, -1)
    for number, bundle in enumerate(bundles):
        place[bundle] = number
    protected = np.zeros(len(bundles), bool)
    for labels in channels.values():
        places = place[labels]
        sizes = np.bincount(places[places >= 0], minlength=len(bundles))
        kept = int(np.count_nonzero(places < 0))
        for number in np.flatnonzero(sizes).tolist():
            if kept >= min(min_channels, labels.size):
                break
            protected[number] = True
            kept += int(sizes[number])
    in_front = [*np.flatnonzero(protected).tolist(), *np.flatnonzero(~protected).tolist()]
    ranked = tuple(bundles[one] for one in in_front)
    for number, bundle in enumerate(ranked):
        place[bundle] = number
    return Ranking(ranked, int(np.count_nonzero(protected)), place)


def _bundle(order: np.ndarray, channels: Mapping[str, np.ndarray], count: int, round_to: int) -> list[np.ndarray]:
    """Return the bundles in the order of the last of their groups."""
    if round_to == 1:
        return [order[i : i + 1] for i in range(order.size)]
    kinds: list[tuple[tuple[str, int], ...]] = [()] * count
    for path, labels in channels.items():
        for group, times in zip(*np.unique(labels, return_counts=True), strict=True):
            kinds[group] = (*kinds[group], (path, int(times)))
    last = {kinds[group]: place for place, group in enumerate(order)}
    filling: dict[tuple[tuple[str, int], ...], list[int]] = {}
    bundles: list[np.ndarray] = []
    for place, group in enumerate(order):
        kind = kinds[group]
        filling.setdefault(kind, []).append(int(group))
        # So many groups have a multiple of `round_to` channels in each kernel.
        size = math.lcm(*(round_to // math.gcd(round_to, times) for _, times in kind))
        if len(filling[kind]) == size or place == last[kind]:
            bundles.append(np.array(filling.pop(kind)))
    return bundles
