"""Names of what events leave alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tfprune_init.errors import OptionError


def list_names(exclude: Any) -> tuple[str, ...]:
    """Return the names of what an event leaves alone.

    Args:
        exclude: A name or glob pattern, or several. Functions are refused: nothing would tell a run with one from a run
            with another.

    Raises:
        OptionError: If it is something else.

    Example:
        >>> from tfprune_init.training.events.names import list_names
        >>> list_names("head"), list_names(["head", "conv*"])
        (('head',), ('head', 'conv*'))
    """
    given = [exclude] if isinstance(exclude, str) or not isinstance(exclude, Iterable) else list(exclude)
    if not all(isinstance(name, str) for name in given):
        raise OptionError(
            "exclude= of a procedure takes names of layers or variables, or glob patterns, which tell its runs apart. "
            f"Received: {exclude!r}."
        )
    return tuple(given)
