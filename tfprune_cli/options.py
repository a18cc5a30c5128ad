"""The options that several commands have, and the types of their values."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import click

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_SEED = 2**32 - 1

F = TypeVar("F", bound=Callable[..., Any])


@cache
def read_table() -> dict[str, dict[str, Any]]:
    """Read the table of options of `tfprune_init`, which is not imported for it: that would import TensorFlow."""
    spec = find_spec("tfprune_init")
    return tomllib.loads(Path(str(spec and spec.origin)).with_name("options.toml").read_text(encoding="utf-8"))


def table_option(name: str, **settings: Any) -> Callable[[F], F]:
    """Add the option of that name in the table, with its help, type, default and choices; `settings` go before."""
    entry = read_table()[name]
    flag = f"--{name.replace('_', '-')}"
    settings = {"help": entry["help"], **settings}
    if entry["type"] == "boolean" and "default" not in entry:
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, **settings)
    if entry["type"] == "boolean":
        return click.option(flag, is_flag=True, **settings)
    if "choices" in entry:
        return click.option(flag, type=click.Choice(entry["choices"]), **settings)
    if "default" in entry:
        settings = {
            "default": entry["default"],
            **settings,
            "help": f"{settings['help']} (default: {entry['default']})",
        }
    if entry["type"].startswith("integer"):
        settings = {"type": WholeNumber(int(entry["type"][-1]), 1_000_000), "metavar": "N", **settings}
    return click.option(flag, **{"metavar": "NAME", **settings})


def data_options(use: str) -> Callable[[F], F]:
    """Add `--data` and `--data-dir`; `use` says what the data is for, and what is used without."""
    data = click.option(
        "--data",
        metavar="NAME",
        help="digits, tfds:NAME or package.module:function, which is called without arguments and returns "
        f"(train, test) or a tfprune_init.datasets.Dataset: {use}",
    )
    folder = click.option(
        "--data-dir", metavar="DIR", type=click.Path(), help="folder of prepared TFDS data, for tfds:NAME"
    )
    return lambda function: data(folder(function))


def loss_options(function: F) -> F:
    """Add `--loss` and `--from-logits`."""
    loss = table_option(
        "loss",
        help="Keras's name of the loss, such as sparse_categorical_crossentropy (default: the "
        "one the model is compiled with)",
    )
    logits = click.option(
        "--from-logits", is_flag=True, help="the model's outputs are logits, not probabilities; with --loss"
    )
    return loss(logits(function))


def budget_option(function: F) -> F:
    """Add `--budget`, a pair of kind and value."""
    return table_option(
        "budget",
        type=Setting(),
        metavar="KIND=VALUE",
        help=read_table()["budget"]["help"] + ", such as multiply_adds=0.3",
    )(function)


def seed_option(use: str) -> Callable[[F], F]:
    """Add `--seed`; `use` says what it is the seed of."""
    return table_option("seed", type=WholeNumber(0, LARGEST_SEED), help=use)


def json_option(function: F) -> F:
    """Add `--json`, given to the function as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON, and nothing else, to the standard output")(
        function
    )


class WholeNumber(click.ParamType[int]):
    """Whole numbers from `low` to `high`."""

    name = "whole number"

    def __init__(self, low: int, high: int):
        self._low = low
        self._high = high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        text = str(value)
        if not text.isascii() or not text.isdigit() or not self._low <= int(text) <= self._high:
            self.fail(f"must be a whole number from {self._low} to {self._high}. Received: {text!r}", param, ctx)
        return int(text)


class PositiveNumber(click.ParamType[float]):
    """Finite numbers above 0."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0.0 < number < float("inf"):
            self.fail(f"must be a number above 0. Received: {value!r}", param, ctx)
        return number


class Setting(click.ParamType[tuple[str, Any]]):
    """NAME=VALUE: a pair of the name and the value, which is a literal of Python or else text."""

    name = "setting"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Return the pair."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"must be NAME=VALUE, such as m=4. Received: {value!r}", param, ctx)
        try:
            return name, ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return name, text
