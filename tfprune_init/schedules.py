"""Schedules: the density at each step, from dense down to the one asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from tfprune_init.errors import OptionError

Schedule = Callable[[float, int], Sequence[float]]


def exponential(density: float, steps: int) -> list[float]:
    """The same share of what is left is removed at each step: density^(t / steps), t = 1 .. steps.

    Reference: de Jorge et al., Progressive Skeletonization (FORCE), ICLR 2021, equation 8.

    Example:
        >>> from tfprune_init.schedules import exponential
        >>> [round(d, 3) for d in exponential(0.125, 3)]
        [0.5, 0.25, 0.125]
    """
    return [density ** (t / steps) for t in range(1, steps)] + [density]


def linear(density: float, steps: int) -> list[float]:
    """The same number of weights is removed at each step: 1 - (1 - density) t / steps, t = 1 .. steps.

    Example:
        >>> from tfprune_init.schedules import linear
        >>> linear(0.25, 3)
        [0.75, 0.5, 0.25]
    """
    return [1.0 - (1.0 - density) * t / steps for t in range(1, steps)] + [density]


def one_shot(density: float, steps: int) -> list[float]:
    """The final density from the first step on; further steps only choose again at that density.

    Example:
        >>> from tfprune_init.schedules import one_shot
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
        >>> from tfprune_init.schedules import halving
        >>> halving(0.25, 4)
        [0.5, 0.375, 0.3125, 0.25]
    """
    return [*(max(density, density + (0.5 - density) / 2**i) for i in range(steps - 1)), density]


SCHEDULES: dict[str, Schedule] = {
    "exponential": exponential,
    "linear": linear,
    "one_shot": one_shot,
    "halving": halving,
}


def densities(schedule: str | Schedule, density: float, steps: int) -> list[float]:
    """The checked densities of a schedule.

    Args:
        schedule: "exponential", "linear", "halving", "one_shot", or a function of (density, steps).
        density: Final density, in (0, 1].
        steps: Number of steps, at least 1.

    Returns:
        `steps` densities that never rise and end exactly at `density`.

    Raises:
        OptionError: If the name is unknown, `steps` is no positive integer, or a function of one's own
            breaks those rules.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise OptionError(f"steps must be a positive integer. Received: steps={steps!r}.")
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            near = difflib.get_close_matches(schedule, SCHEDULES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(f"schedule must be one of {sorted(SCHEDULES)}. Received: {schedule!r}.{hint}")
        schedule = SCHEDULES[schedule]
    values = [float(value) for value in schedule(density, steps)]
    falling = all(a >= b for a, b in zip([1.0, *values], values, strict=False))
    if len(values) != steps or not falling or values[-1] != density:
        raise OptionError(
            f"A schedule must give {steps} densities that never rise and end at {density}. Received: {values}."
        )
    return values
