"""The folders of runs, each written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RESULTS = "results.jsonl"
RUNS = "runs"

_UNFINISHED = ".unfinished-"


def prepare(out: Path) -> None:
    """Make the folder of a comparison, and clear away what a killed one left unfinished."""
    (out / RUNS).mkdir(parents=True, exist_ok=True)
    for left in (out / RUNS).glob(f"{_UNFINISHED}*"):
        if not _alive(int(left.name.removeprefix(_UNFINISHED).split("-")[0])):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def run_folder(out: Path, name: str) -> Iterator[Path]:
    """A folder to fill, which appears under its name only when all of it is there."""
    unfinished = Path(tempfile.mkdtemp(prefix=f"{_UNFINISHED}{os.getpid()}-", dir=out / RUNS))
    try:
        yield unfinished
        final = out / RUNS / name
        shutil.rmtree(final, ignore_errors=True)
        unfinished.chmod(0o755)
        unfinished.rename(final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def stored(out: Path, name: str) -> dict[str, Any] | None:
    """The row of a finished run, or None."""
    path = out / RUNS / name / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
