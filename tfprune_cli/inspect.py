"""The command that says what is inside a TFLite file."""

from __future__ import annotations

import json
import os

from rich.console import Console

from tfprune_init.export.inspection import inspect


def run(path: str | os.PathLike[str], as_json: bool, console: Console) -> None:
    """Print what is inside a TFLite file.

    Args:
        path: The file.
        as_json: As JSON, for programs, rather than as tables.
        console: Where to print.

    Raises:
        OptionError: If there is no file of that name.
        ExportError: If it is no TFLite file, or a truncated or damaged one.
    """
    inspection = inspect(path)
    if as_json:
        console.file.write(json.dumps(inspection.to_dict(), indent=2) + "\n")
    else:
        inspection.show(console)
