"""The budget that `--budget` names."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tfprune_init.checks import suggest
from tfprune_init.errors import OptionError
from tfprune_init.selection import Budget


def make_budget(given: tuple[str, Any] | None) -> Budget | None:
    """Make the budget of a pair of its kind and its value; None for None.

    Raises:
        OptionError: If there is no such kind, or the value is out of range.
    """
    if given is None:
        return None
    kind, value = given
    kinds = [field.name for field in fields(Budget)]
    if kind not in kinds:
        raise OptionError(f"--budget has no {kind!r}. {suggest(kind, kinds)} Received: --budget {kind}={value}.")
    return Budget(**{kind: value})
