"""Shares in proportion to weights, none above its limit, in exact arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def apportion(weights: Sequence[Fraction], limits: Sequence[int], total: int) -> list[int]:
    """Return whole numbers that sum to `total`, in proportion to `weights`, none above its limit.

    What exceeds a limit is shared by the others in proportion to their weights. The shares are rounded down, and
    what that leaves goes one by one to the largest remainders, ties to the earlier.

    Args:
        weights: Positive weights.
        limits: The most that each can get.
        total: What to share out, at most the sum of the limits.

    Raises:
        ValueError: If the limits sum to less than `total`.

    Example:
        >>> from tfprune_init.selection.apportionment import apportion
        >>> apportion([1, 1, 1], [100, 2, 100], 9)
        [4, 2, 3]
    """
    if not 0 <= total <= sum(limits):
        raise ValueError(f"Cannot keep {total} of {sum(limits)} candidates.")
    shares = share_in_proportion(weights, limits, Fraction(total))
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def share_in_proportion(weights: Sequence[Fraction], limits: Sequence[int], total: Fraction) -> list[Fraction]:
    """Return min(limit, level * weight) for each, with the level at which they sum to `total`.

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
