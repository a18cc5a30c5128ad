"""`tfprune methods`: the words of the command line."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console

from tfprune_cli.arguments import add_command, add_json

_ABOUT = "List the pruning methods, with their settings and papers."

_EXAMPLES = """examples:
  tfprune methods
  tfprune methods --json
      for programs; also which options each method takes
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "methods", run, summary="list the pruning methods", about=_ABOUT, examples=_EXAMPLES)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print the whole page of docs/methods.md")
    add_json(form)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from tfprune_cli.method_table import describe_methods, print_methods
    from tfprune_cli.methods_page import methods_page

    if options.markdown:
        sys.stdout.write(methods_page())
    elif options.json:
        sys.stdout.write(json.dumps(describe_methods(), indent=2) + "\n")
    else:
        print_methods(Console())
