"""`tfprune inspect`: what is inside a TFLite file."""

from __future__ import annotations

import click

from tfprune_cli.declaration import command, write_json_output
from tfprune_cli.options import json_option

_ABOUT = """Read a TFLite file, ours or not, and say for each weight how many zeros it has,
how they are stored, and whether a sparse kernel, a dense one or none reads it."""

_EXAMPLES = """examples:
  tfprune inspect model.tflite
  tfprune inspect model.tflite --json
"""


@command("inspect", summary="say what is inside a TFLite file", about=_ABOUT, examples=_EXAMPLES)
@click.argument("file", metavar="FILE", type=click.Path(), help="a .tflite file")
@json_option
def execute(file: str, as_json: bool) -> None:
    """Print what is inside a TFLite file."""
    from rich.console import Console

    from tfprune_init.export.inspection import inspect

    inspection = inspect(file)
    if as_json:
        write_json_output(inspection.to_dict())
    else:
        inspection.show(Console())
