"""How much may stay: exact shares and counts, and budgets in weights, parameters, multiply-adds, units or latency."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np

from tfprune_init.errors import OptionError

# A float such as 1 - 0.9 means the fraction of small denominator beside it.
_LARGEST_DENOMINATOR = 10**9


def to_fraction(share: float | Fraction) -> Fraction:
    """Return the fraction that a float stands for, free of float error.

    Example:
        >>> from tfprune_init.selection.budget import to_fraction
        >>> to_fraction(1 - 0.9), to_fraction(0.25)
        (Fraction(1, 10), Fraction(1, 4))
    """
    return share if isinstance(share, Fraction) else Fraction(share).limit_denominator(_LARGEST_DENOMINATOR)


def count_kept(size: int, density: float | Fraction) -> int:
    """Return floor(size * density), in exact arithmetic.

    Example:
        >>> from tfprune_init.selection import count_kept
        >>> count_kept(1000, 1 - 0.9), count_kept(7, 0.5)
        (100, 3)
    """
    return math.floor(size * to_fraction(density))


def parse_sparsity(sparsity: Any) -> Fraction:
    """Return the exact sparsity that a number written in decimals means.

    Raises:
        OptionError: If it is no number in [0, 1).

    Example:
        >>> from tfprune_init.selection.budget import parse_sparsity
        >>> parse_sparsity(0.95)
        Fraction(19, 20)
    """
    if isinstance(sparsity, Fraction) and 0 <= sparsity < 1:
        return sparsity
    if isinstance(sparsity, (bool, np.bool_)) or not isinstance(sparsity, (int, float, np.integer, np.floating)):
        raise OptionError(f"sparsity must be a number in [0, 1). Received: {sparsity!r}.")
    if not math.isfinite(sparsity) or not 0.0 <= sparsity < 1.0:
        hint = f" Did you mean {sparsity / 100:g}?" if 1.0 < sparsity < 100.0 else ""
        raise OptionError(f"sparsity is the share of weights to remove, in [0, 1). Received: {sparsity!r}.{hint}")
    return to_fraction(float(str(sparsity)))


@dataclass(frozen=True)
class Budget:
    """Limit what may stay of a network, in one of several ways.

    An integer is an absolute limit; a float in (0, 1] is a share of the dense network. What is kept is the largest
    selection in rank order that fits.

    Attributes:
        weights: Prunable weights that stay.
        parameters: Parameters of the whole model that stay: nonzero prunable weights and all others; with
            granularity "units", those of the model that `compact` gives.
        multiply_adds: Multiply-adds of one example: with granularity "units", those of the model that `compact` gives;
            otherwise nonzero weights times the positions at which each is used.
        units: Groups of channels that stay, of those that may be removed; for `tpi.find_channels`.
        latency: Share of the dense network's latency in TFLite, a float in (0, 1]; for `tpi.find_channels`.

    Raises:
        OptionError: If not exactly one is given, one is no positive integer and no float in (0, 1], or the latency is
            an integer.

    Example:
        >>> import tfprune_init as tpi
        >>> tpi.Budget(weights=5_000)
        Budget(weights=5000)
    """

    weights: int | float | None = None
    parameters: int | float | None = None
    multiply_adds: int | float | None = None
    units: int | float | Fraction | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        given = [one.name for one in fields(self) if getattr(self, one.name) is not None]
        if len(given) != 1:
            raise OptionError(
                "A budget limits one of weights, parameters, multiply_adds, units and latency. "
                f"Received: {', '.join(given) or 'none of them'}."
            )
        value = self.limit
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 1
        whole = whole and self.latency is None
        share = isinstance(value, (float, np.floating, Fraction)) and 0 < value <= 1
        if not whole and not share:
            kinds = "a positive integer, or a share of the dense network, a float in (0, 1]"
            if self.latency is not None:
                kinds = "a share of the dense network's, a float in (0, 1], as it depends on the machine"
            raise OptionError(f"A budget is {kinds}. Received: {given[0]}={value!r}.")

    def __repr__(self) -> str:
        return f"Budget({self.kind}={self.limit!r})"

    @property
    def kind(self) -> str:
        """What is limited: "weights", "parameters", "multiply_adds", "units" or "latency"."""
        return next(one.name for one in fields(self) if getattr(self, one.name) is not None)

    @property
    def limit(self) -> Any:
        """The limit, as it was given."""
        return next((getattr(self, one.name) for one in fields(self) if getattr(self, one.name) is not None), None)

    def resolve(self, dense: int) -> int:
        """Return the limit as an integer, for a dense network of that cost.

        Raises:
            OptionError: If an absolute limit is above what the dense network has, so that it has no effect.
        """
        if isinstance(self.limit, (int, np.integer)):
            if self.limit > dense:
                raise OptionError(
                    f"The budget has no effect: the dense network has {dense:,} {self.kind.replace('_', '-')}. "
                    f"Received: {self.kind}={self.limit:,}."
                )
            return int(self.limit)
        return math.floor(dense * Fraction(str(self.limit)))


def find_largest_count(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest count in 0 .. `most` that fits, by bisection; 0 is taken to fit.

    Args:
        fits: Whether a count fits; once false, false for all larger counts.
        most: The largest count to try.

    Example:
        >>> from tfprune_init.selection.budget import find_largest_count
        >>> find_largest_count(lambda count: count * count <= 50, 100)
        7
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
