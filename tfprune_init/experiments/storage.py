"""The folders of runs: one format for those of a comparison and those of the command line."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypedDict

from tfprune_init.errors import OptionError
from tfprune_init.files import atomic_folder, remove_unfinished, write_json
from tfprune_init.records import check_record, parse_json

RESULTS = "results.jsonl"
RUNS = "runs"
STATES = "states"
"""Where runs of several trainings are kept until they are finished."""

MASKS_FILE = "masks.npz"
REPORT_FILE = "report.json"
RUN_FILE = "run.json"

COMPARED = "compare"
"""Kind of the runs of a comparison; their run.json holds the fields of a `Run`."""
PRUNED = "prune"
"""Kind of the runs of `tfprune prune`; their run.json says command, model, data, masks_in_model and versions."""

_FORMAT = "tfprune_init run"
_VERSION = 1


class _Kind(TypedDict, total=False):
    kind: str


def prepare_folder(out: Path) -> None:
    """Make the folder of a comparison, and clear away what a killed one left unfinished."""
    (out / RUNS).mkdir(parents=True, exist_ok=True)
    for folder in (out / RUNS, out / STATES):
        if folder.is_dir():
            remove_unfinished(folder)


def run_folder(out: Path, name: str) -> AbstractContextManager[Path]:
    """Yield a folder to fill, which appears under its name only when all of it is there."""
    return atomic_folder(out / RUNS / name, replace=True)


def state_folder(out: Path, name: str) -> Path:
    """Return where the state of an unfinished run is kept; the folder around it is made."""
    (out / STATES).mkdir(exist_ok=True)
    return out / STATES / name


def remove_state(out: Path, name: str) -> None:
    """Remove the state of a run that is finished, if there is one."""
    shutil.rmtree(out / STATES / name, ignore_errors=True)
    if (out / STATES).is_dir() and not any((out / STATES).iterdir()):
        (out / STATES).rmdir()


def load_run(out: Path, name: str) -> dict[str, Any] | None:
    """Return the row of a finished run of a comparison, or None."""
    folder = out / RUNS / name
    return read_run_file(folder) if (folder / RUN_FILE).is_file() else None


def write_run_file(folder: Path, kind: str, values: Mapping[str, Any]) -> None:
    """Write run.json.

    Args:
        folder: The folder of the run.
        kind: `COMPARED` or `PRUNED`.
        values: What it says.
    """
    write_json(folder / RUN_FILE, {"format": _FORMAT, "version": _VERSION, "kind": kind, **values})


def read_run_file(folder: Path) -> dict[str, Any]:
    """Return what run.json says, with its "kind"; those of before there were kinds are told apart.

    Raises:
        OptionError: If it is damaged, or this version cannot read it.
    """
    path = folder / RUN_FILE
    values = read_json(path)
    check_record(values, _Kind, f"{path} is damaged")
    if "format" not in values and {"id", "label", "status"} <= values.keys():
        return {"kind": COMPARED, **values}
    if values.get("format") != _FORMAT or values.get("version") != _VERSION:
        raise OptionError(
            f"{path} is no run that this version reads. Received: format {values.get('format')!r}, version "
            f"{values.get('version')!r}."
        )
    return {"kind": PRUNED, **values}


def read_json(path: Path, expected: Any = dict) -> dict[str, Any]:
    """Return the object that a file of JSON holds.

    Args:
        path: The file.
        expected: What it must have, see `check_record`.

    Raises:
        OptionError: If the file is damaged.
    """
    record: dict[str, Any] = parse_json(path.read_bytes(), expected, f"{path} is damaged")
    return record
