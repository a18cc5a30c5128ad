"""`tfprune report`: the words of the command line."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from tfprune_cli.arguments import add_command

_ABOUT = """Write a page for the browser: one HTML file with tables that sort and figures,
which needs no network. Of a run of `tfprune prune` it shows layers, connections
and what training reached; of a comparison accuracies, layers and every run."""

_EXAMPLES = """examples:
  tfprune report run -o report.html
  tfprune report runs/lenet -o report.html
      the folder of a comparison
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "report", run, summary="write a page about a run or a comparison", about=_ABOUT, examples=_EXAMPLES
    )
    parser.add_argument("source", metavar="RUN", help="a folder of `tfprune prune`, or of `tfprune compare`")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the HTML file to write")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from tfprune_cli import report

    report.run(options.source, options.output, Console())
