"""`tfprune inspect`: the words of the command line."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from tfprune_cli.arguments import add_command, add_json

_ABOUT = """Read a TFLite file, ours or not, and say for each weight how many zeros it has,
how they are stored, and whether a sparse kernel, a dense one or none reads it."""

_EXAMPLES = """examples:
  tfprune inspect model.tflite
  tfprune inspect model.tflite --json
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "inspect", run, summary="say what is inside a TFLite file", about=_ABOUT, examples=_EXAMPLES
    )
    parser.add_argument("file", metavar="FILE", help="a .tflite file")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from tfprune_cli import inspect

    inspect.run(options.file, options.json, Console())
