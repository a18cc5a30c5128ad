"""`tfprune methods`: the pruning methods, as tables, as JSON or as docs/methods.md."""

from __future__ import annotations

import sys

import click

from tfprune_cli.declaration import command, write_json_output
from tfprune_cli.options import json_option

_ABOUT = "List the pruning methods, with their settings and papers."

_EXAMPLES = """examples:
  tfprune methods
  tfprune methods --json
      for programs; also which options each method takes
"""


@command(
    "methods",
    summary="list the pruning methods",
    about=_ABOUT,
    examples=_EXAMPLES,
    exclusive=[("markdown", "as_json")],
)
@click.option("--markdown", is_flag=True, help="print the whole page of docs/methods.md")
@json_option
def execute(markdown: bool, as_json: bool) -> None:
    """List the methods."""
    from rich.console import Console

    from tfprune_cli.method_table import describe_methods, print_methods
    from tfprune_cli.methods_page import build_methods_page

    if markdown:
        sys.stdout.write(build_methods_page())
    elif as_json:
        write_json_output(describe_methods())
    else:
        print_methods(Console())
