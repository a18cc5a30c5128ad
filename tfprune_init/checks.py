"""Checks of arguments that many modules share, and hints at what was perhaps meant."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

from tfprune_init.errors import OptionError

_LISTED = 10


def check_integer(name: str, value: Any, least: int) -> int:
    """Return an integer option as an int.

    Args:
        name: What the option is called.
        value: What was given. Integers of NumPy are fine, booleans are not.
        least: The least that it may be.

    Raises:
        OptionError: If it is no integer, or less than that.

    Example:
        >>> from tfprune_init.checks import check_integer
        >>> check_integer("steps", 3, 1)
        3
        >>> check_integer("steps", True, 1)
        Traceback (most recent call last):
        tfprune_init.errors.OptionError: steps must be a positive integer. Received: steps=True.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        kinds = {0: "a non-negative integer", 1: "a positive integer"}
        kind = kinds.get(least, f"an integer of at least {least}")
        raise OptionError(f"{name} must be {kind}. Received: {name}={value!r}.")
    return int(value)


def check_number(name: str, value: Any, kind: str, fits: Callable[[float], bool]) -> float:
    """Return a real option as a float.

    Args:
        name: What the option is called.
        value: What was given. Numbers of NumPy are fine; booleans, NaN and infinity are not.
        kind: What it must be, in words.
        fits: Whether a finite number is that.

    Raises:
        OptionError: If it is no finite number, or does not fit.

    Example:
        >>> from tfprune_init.checks import check_number
        >>> check_number("factor", 2, "a number above 1", lambda factor: factor > 1)
        2.0
        >>> check_number("factor", 0.5, "a number above 1", lambda factor: factor > 1)
        Traceback (most recent call last):
        tfprune_init.errors.OptionError: factor must be a number above 1. Received: factor=0.5.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not real or not fits(float(value)):
        raise OptionError(f"{name} must be {kind}. Received: {name}={value!r}.")
    return float(value)


def suggest(received: Any, names: Iterable[str], *, list_all: bool = False) -> str:
    """Return a sentence that says which name was perhaps meant, or which names there are.

    Args:
        received: What was given in place of a name.
        names: The names there are, in the order to list them in.
        list_all: Whether to list all names, also where one looks alike.

    Returns:
        "Did you mean 'force'?" with up to three names that look alike, the nearest first; else "There is: force,
        snip.", cut off after ten unless all are to be listed; "There is none." if there are no names.

    Example:
        >>> from tfprune_init.checks import suggest
        >>> suggest("fource", ["snip", "force"])
        "Did you mean 'force'?"
        >>> suggest("x", ["snip", "force"])
        'There is: snip, force.'
    """
    known = list(names)
    near = difflib.get_close_matches(str(received), known, n=3)
    near = near or difflib.get_close_matches(str(received), known, n=1, cutoff=0.4)
    meant = f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
    if near and not list_all:
        return meant
    if not known:
        return "There is none."
    more = len(known) > _LISTED and not list_all
    listed = f"There is: {', '.join([*known[:_LISTED], '...'])}" if more else f"There is: {', '.join(known)}."
    return f"{meant} {listed}".strip()
