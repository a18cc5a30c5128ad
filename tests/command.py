"""The command line as its users start it: as a process, in their environment."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SCRIPT = (str(Path(sys.executable).with_name("tfprune")),)
MODULE = (sys.executable, "-m", "tfprune_cli")
DIGITS = "digits: 1,437 training and 360 test images of 8x8x1, 10 classes"


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    # Other tests, and TF-MOT, set TF_...; a user's shell has none of it.
    return {key: value for key, value in os.environ.items() if not key.startswith("TF_") and key != "COLUMNS"}


def run(*command: str, cwd: Path, **variables: str) -> Finished:
    done = subprocess.run(
        command, cwd=cwd, env=environment() | variables, capture_output=True, text=True, timeout=900, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def cells(out: str, row: str) -> list[str]:
    """The cells to the right of the one that starts with `row`, in the last table that has it."""
    line = [line for line in out.splitlines() if line.startswith(f"│ {row}")][-1]
    return [cell.strip() for cell in line.split("│")[2:-1]]
