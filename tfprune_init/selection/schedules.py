"""Schedules: the density at each step, from dense down to the one asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from tfprune_init.errors import OptionError
from tfprune_init.options import OPTIONS
from tfprune_init.registry import Registry
from tfprune_init.selection.budget import to_fraction

Schedule = Callable[[float, int], Sequence[float]]


def exponential(density: float, steps: int) -> list[float]:
    """Remove the same share of what is left at each step: density^(t / steps), t = 1 .. steps.

    Reference: de Jorge et al., Progressive Skeletonization (FORCE), ICLR 2021, equation 8.

    Example:
        >>> from tfprune_init.selection.schedules import exponential
        >>> [round(d, 3) for d in exponential(0.125, 3)]
        [0.5, 0.25, 0.125]
    """
    return [density ** (t / steps) for t in range(1, steps)] + [density]


def linear(density: float, steps: int) -> list[float]:
    """Remove the same number of weights at each step: 1 - (1 - density) t / steps, t = 1 .. steps.

    Example:
        >>> from tfprune_init.selection.schedules import linear
        >>> linear(0.25, 3)
        [0.75, 0.5, 0.25]
    """
    return [1.0 - (1.0 - density) * t / steps for t in range(1, steps)] + [density]


def one_shot(density: float, steps: int) -> list[float]:
    """Keep to the final density from the first step on; further steps only choose again at that density.

    Example:
        >>> from tfprune_init.selection.schedules import one_shot
        >>> one_shot(0.1, 2)
        [0.1, 0.1]
    """
    return [density] * steps


def halving(density: float, steps: int) -> list[float]:
    """SNIP-it's: half the weights at once, then each step halves what is left to prune, then the rest.

    Step i of the first `steps` - 1 has sparsity s - (s - 1/2) / 2^(i - 1), never more than s.

    Reference:
        Verdenius et al., Pruning via Iterative Ranking of Sensitivity Statistics, 2020, and its code.

    Example:
        >>> from tfprune_init.selection.schedules import halving
        >>> halving(0.25, 4)
        [0.5, 0.375, 0.3125, 0.25]
    """
    return [*(max(density, density + (0.5 - density) / 2**i) for i in range(steps - 1)), density]


def cubic(density: float, steps: int) -> list[float]:
    """Remove much at first and little at last: sparsity s (1 - (1 - t / steps)^3), t = 1 .. steps.

    Reference: Zhu & Gupta, To prune, or not to prune, 2017.

    Example:
        >>> from tfprune_init.selection.schedules import cubic
        >>> [round(d, 4) for d in cubic(0.1, 4)]
        [0.4797, 0.2125, 0.1141, 0.1]
    """
    return [1.0 - (1.0 - density) * (1.0 - (1.0 - t / steps) ** 3) for t in range(1, steps)] + [density]


SCHEDULES: Registry[Schedule] = Registry("schedule")
for _schedule in (exponential, linear, one_shot, halving, cubic):
    SCHEDULES.register(_schedule.__name__, _schedule)


def compute_densities(schedule: str | Schedule, density: float | Fraction, steps: int) -> list[Fraction]:
    """Return the checked, exact densities of a schedule.

    Args:
        schedule: "exponential", "linear", "halving", "one_shot", "cubic", or a function of (density, steps).
        density: Final density, in (0, 1].
        steps: Number of steps, at least 1.

    Returns:
        `steps` densities that never rise and end exactly at `density`.

    Raises:
        OptionError: If the name is unknown, `steps` is no positive integer, or a function of one's own
            breaks those rules.
    """
    OPTIONS["steps"].check(steps)
    function = SCHEDULES.find(schedule) if isinstance(schedule, str) else schedule
    values = [float(value) for value in function(float(density), steps)]
    falling = all(a >= b for a, b in zip([1.0, *values], values, strict=False))
    if len(values) != steps or not falling or values[-1] != float(density):
        raise OptionError(
            f"A schedule must give {steps} densities that never rise and end at {float(density)}. Received: {values}."
        )
    exact = to_fraction(density)
    return [*(max(exact, to_fraction(value)) for value in values[:-1]), exact]
