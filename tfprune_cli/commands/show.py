"""`tfprune show`: the words of the command line."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from tfprune_cli.arguments import add_command, add_json

_ABOUT = """Say what masks keep: sparsity, fingerprint, and for each variable its shape and
how many of its weights are kept. For a run also the method, the data and, once
it is trained, what was measured on the test split."""

_EXAMPLES = """examples:
  tfprune show run
  tfprune show masks.npz --json
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "show", run, summary="say what masks keep, and what a run reached", about=_ABOUT, examples=_EXAMPLES
    )
    parser.add_argument("source", metavar="RUN_OR_MASKS", help="a folder of `tfprune prune`, or a file of masks")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from tfprune_cli import show

    show.run(options.source, options.json, Console())
