"""What the parsers of several commands share. TensorFlow must not be needed to read a command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

LARGEST_SEED = 2**32 - 1


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], *, summary: str, about: str, examples: str
) -> argparse.ArgumentParser:
    """Add the parser of one command.

    Args:
        commands: What `add_subparsers` returned.
        name: Name of the command.
        run: What runs it, given the options.
        summary: The line in `tfprune -h`.
        about: What it does, for its own help, in lines of at most 80 characters.
        examples: Examples of its use, in lines too.
    """
    parser = described(commands.add_parser(name, help=summary, allow_abbrev=False), about, examples)
    parser.set_defaults(command=run)
    return parser


def described(parser: argparse.ArgumentParser, about: str, epilog: str) -> argparse.ArgumentParser:
    """Give a parser a description and an epilog whose lines stay as they are."""
    parser.description = about
    parser.epilog = epilog
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def add_data(parser: argparse.ArgumentParser, use: str) -> None:
    """Add `--data` and `--data-dir`.

    Args:
        parser: Where to.
        use: What the data is for, and what is used without.
    """
    parser.add_argument(
        "--data",
        metavar="NAME",
        help=f"digits, tfds:NAME or package.module:function, which is called without "
        f"arguments and returns (train, test) or a tfprune_init.datasets.Dataset: {use}",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data, for tfds:NAME")


def add_loss(parser: argparse.ArgumentParser) -> None:
    """Add `--loss` and `--from-logits`."""
    parser.add_argument(
        "--loss",
        metavar="NAME",
        help="Keras's name of the loss, such as sparse_categorical_crossentropy (default: the one the model is "
        "compiled with)",
    )
    parser.add_argument(
        "--from-logits", action="store_true", help="the model's outputs are logits, not probabilities; with --loss"
    )


def add_seed(parser: argparse.ArgumentParser, use: str) -> None:
    """Add `--seed`; `use` says what it is the seed of."""
    parser.add_argument("--seed", type=whole(0, LARGEST_SEED), default=0, metavar="N", help=f"{use} (default: 0)")


def add_json(parser: argparse._ActionsContainer) -> None:
    """Add `--json` to a parser, or to a group of one."""
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, to the standard output")


def whole(low: int, high: int) -> Callable[[str], int]:
    """A type of argument: whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}. Received: {text!r}")
        return int(text)

    return parse
