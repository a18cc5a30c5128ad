"""The table of options that the Python API, the command line, TOML files and docs/guide.md share: options.toml.

`python -m tfprune_init.options` prints it as docs/guide.md has it. The command line reads the file, not this module,
because help must not wait for TensorFlow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _check_positive(name: str, value: Any) -> int:
    return check_integer(name, value, 1)


def _check_not_negative(name: str, value: Any) -> int:
    return check_integer(name, value, 0)


def _check_truth(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise OptionError(f"{name} must be True or False. Received: {name}={value!r}.")
    return bool(value)


def _take(name: str, value: Any) -> Any:
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "integer from 1": _check_positive,
    "integer from 0": _check_not_negative,
    "boolean": _check_truth,
    "any": _take,
}

_VALUES = {
    "integer from 1": "an integer, 1 or more",
    "integer from 0": "an integer, 0 or more",
    "boolean": "`True`, `False`",
}


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: What it is called, in Python, on the command line (with dashes) and in TOML.
        type: How a value is checked: "integer from 0", "integer from 1", "boolean", or "any".
        applies_to: "search" (how masks are selected), "engine" (how the network is looked at), or "call" (all else).
        help: What it says, in one line.
        default: Its default; None leaves the choice to the method.
        choices: The values, where they are few.
        values: What the guide says of the values, where type and choices do not say it.
    """

    name: str
    type: str
    applies_to: str
    help: str
    default: Any = None
    choices: tuple[str, ...] = ()
    values: str = ""

    def check(self, value: Any) -> Any:
        """Return the value, if the option takes it.

        Raises:
            OptionError: If it does not.

        Example:
            >>> from tfprune_init.options import OPTIONS
            >>> OPTIONS["batches"].check(0)
            Traceback (most recent call last):
            tfprune_init.errors.OptionError: batches must be a positive integer. Received: batches=0.
        """
        if self.choices and value not in self.choices:
            raise OptionError(f"{self.name} must be one of {self.choices}, or None. Received: {self.name}={value!r}.")
        return _CHECKS[self.type](self.name, value)


def _read_options() -> dict[str, Option]:
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {
        name: Option(name, **{**entry, "choices": tuple(entry.get("choices", ()))}) for name, entry in table.items()
    }


OPTIONS: dict[str, Option] = _read_options()


class ScoreOptions(TypedDict, total=False):
    """Options that `score` passes on, for editors and type checkers; the last ones belong to single criteria."""

    loss: Any
    batches: int | None
    training: bool | None
    seed: int
    jit_compile: bool
    temperature: float
    estimator: str
    samples: int
    sample: int | None


class SearchOptions(ScoreOptions, total=False):
    """Options that `find_masks` passes on; the last ones belong to single granularities."""

    steps: int | None
    schedule: Any
    granularity: str | None
    allocation: Any
    normalize: str | None
    shuffle: bool
    block_size: tuple[int, int]
    m: int


def get_defaults(applies_to: str) -> dict[str, Any]:
    """Return the defaults of the options that apply to the "search", the "engine" or the "call".

    Example:
        >>> from tfprune_init.options import get_defaults
        >>> get_defaults("search")["shuffle"]
        False
    """
    return {name: option.default for name, option in OPTIONS.items() if option.applies_to == applies_to}


def make_markdown_table() -> str:
    """Return the table of docs/guide.md, a row for each option."""
    rows = ["| option | values | meaning |", "|---|---|---|"]
    for option in OPTIONS.values():
        values = option.values or ", ".join(f'`"{one}"`' for one in option.choices) or _VALUES[option.type]
        default = "" if option.default is None else f"; default `{option.default!r}`".replace("'", '"')
        rows.append(f"| `{option.name}` | {values}{default} | {option.help} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(f"{make_markdown_table()}\n")
