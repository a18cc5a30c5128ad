"""The folder of a run: what it holds, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfprune_cli.saved import MODEL_FILE
from tfprune_init.errors import OptionError
from tfprune_init.files import whole
from tfprune_init.masks import Masks

UNTRAINED_FILE = "untrained.keras"
MASKS_FILE = "masks.npz"
INITIAL_FILE = "initial.npz"
REPORT_FILE = "report.json"
HISTORY_FILE = "history.json"
RUN_FILE = "run.json"

_FORMAT = "tfprune_init run"
_VERSION = 1


@dataclass(frozen=True)
class Run:
    """A run that is there.

    Attributes:
        folder: Where.
        about: What `run.json` says: command, model, data, masks_in_model, versions.
    """

    folder: Path
    about: dict[str, Any]

    @property
    def masks(self) -> Masks:
        """What is kept."""
        return Masks.load(self.folder / MASKS_FILE)

    @property
    def report(self) -> dict[str, Any]:
        """What `PruningReport.to_dict` gave."""
        return _read_json(self.folder / REPORT_FILE)

    @property
    def history(self) -> dict[str, list[dict[str, Any]]]:
        """The settings of each training under "trainings", what each epoch measured under "epochs"."""
        path = self.folder / HISTORY_FILE
        return _read_json(path) if path.exists() else {"trainings": [], "epochs": []}

    def save_trained(self, model: Any, history: dict[str, list[dict[str, Any]]]) -> None:
        """Put a trained model in place of the one that is there; the untrained one is kept beside it."""
        untrained = self.folder / UNTRAINED_FILE
        if not untrained.exists():
            with whole(untrained) as part:
                shutil.copyfile(self.folder / MODEL_FILE, part)
        with whole(self.folder / MODEL_FILE) as part:
            model.save(part)
        write_json(self.folder / HISTORY_FILE, history)


def open_run(folder: str | os.PathLike[str]) -> Run:
    """The run in a folder.

    Raises:
        OptionError: If there is none.
    """
    path = Path(folder).expanduser()
    if not (path / RUN_FILE).is_file():
        raise OptionError(f"There is no run: give a folder that `tfprune prune` wrote. Received: {str(folder)!r}")
    about = _read_json(path / RUN_FILE)
    if about.get("format") != _FORMAT or about.get("version") != _VERSION:
        raise OptionError(
            f"{path / RUN_FILE} is no run that this version reads. Received: format {about.get('format')!r}, version "
            f"{about.get('version')!r}."
        )
    return Run(path, about)


@contextmanager
def new_run(output: str, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write a run into, which takes the name `output` at the end, if all went well.

    Raises:
        OptionError: If there is something of that name: a file, or a folder with something in it. With `overwrite`,
            a run is replaced.
    """
    folder = Path(output).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"The output must be a folder, and there is a file of that name. Received: {output!r}.")
    there = folder.exists() and any(folder.iterdir())
    if there and not (folder / RUN_FILE).is_file():
        raise OptionError(f"{output!r} holds other things than a run. Give a new folder with -o.")
    if there and not overwrite:
        raise OptionError(f"There is a run in {output!r}. Give a new folder with -o, or replace it with --overwrite.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, old = (folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.{kind}") for kind in ("part", "old"))
    part.mkdir()
    try:
        yield part
        if there:
            os.replace(folder, old)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def write_run_file(folder: Path, about: Mapping[str, Any]) -> None:
    """Write run.json."""
    write_json(folder / RUN_FILE, {"format": _FORMAT, "version": _VERSION, **about})


def write_initial(folder: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write initial.npz: floats of types that NumPy does not know, such as bfloat16, as float32."""
    known = (np.float16, np.float32, np.float64)
    arrays = {path: w if w.dtype in known else w.astype(np.float32) for path, w in weights.items()}
    np.savez(folder / INITIAL_FILE, **arrays)  # type: ignore[arg-type]


def write_json(path: Path, value: Any) -> None:
    """Write a file of JSON, complete or not at all."""
    with whole(path) as part:
        part.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is damaged: {error}.") from error
    if not isinstance(value, dict):
        raise OptionError(f"{path} is damaged: it holds no object.")
    return value
