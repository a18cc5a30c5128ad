"""The folder of a run that `tfprune prune` wrote: what it holds, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tfprune_cli.saved_models import MODEL_FILE
from tfprune_cli.zeros import check_zeros
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import OptionError, PruningError
from tfprune_init.experiments.storage import (
    MASKS_FILE,
    PRUNED,
    REPORT_FILE,
    RUN_FILE,
    read_json,
    read_run_file,
    write_run_file,
)
from tfprune_init.files import atomic_folder, atomic_write, read_npz, write_json
from tfprune_init.graph.variables import SkippedVariable
from tfprune_init.masking.wrapper import strip
from tfprune_init.masks import Masks
from tfprune_init.methods.mask_search import PruningStep
from tfprune_init.records import check_record
from tfprune_init.training import RunResult

UNTRAINED_FILE = "untrained.keras"
INITIAL_FILE = "initial.npz"
HISTORY_FILE = "history.json"


class _Data(TypedDict):
    name: str
    data_dir: str | None
    description: str


class _About(TypedDict):
    command: str
    model: str
    data: _Data | None


class _Layer(TypedDict):
    path: str
    kept: int
    size: int
    density: float
    dead_inputs: int
    dead_outputs: int


class _Report(TypedDict):
    model: str
    method: str
    options: dict[str, Any]
    requested_sparsity: float | None
    sparsity: float
    size: int
    kept: int
    fingerprint: str
    layers: list[_Layer]
    skipped: list[SkippedVariable]
    steps: list[PruningStep]
    empty: list[str]
    connected: bool | None
    seconds: float
    versions: dict[str, str]


class _Training(TypedDict):
    data: _Data


class _History(TypedDict):
    trainings: list[_Training]
    epochs: list[dict[str, float]]


@dataclass(frozen=True)
class RunFolder:
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
        return read_json(self.folder / REPORT_FILE, _Report)

    @property
    def history(self) -> dict[str, list[dict[str, Any]]]:
        """The settings of each training under "trainings", what each epoch measured under "epochs"."""
        path = self.folder / HISTORY_FILE
        if not path.exists():
            return {"trainings": [], "epochs": []}
        history = read_json(path, _History)
        if bool(history["trainings"]) != bool(history["epochs"]):
            raise OptionError(f"{path} is damaged: it has epochs without a training, or a training without epochs.")
        return history

    @property
    def initial(self) -> dict[str, np.ndarray]:
        """The weights that the masked variables had before they were pruned, by path."""
        path = self.folder / INITIAL_FILE
        try:
            return read_npz(path)
        except ValueError as error:
            raise OptionError(f"{path} is damaged: {error}.") from error

    def save_trained(self, model: Model, history: dict[str, list[dict[str, Any]]]) -> None:
        """Put a trained model in place of the one that is there; the untrained one is kept beside it."""
        untrained = self.folder / UNTRAINED_FILE
        if not untrained.exists():
            with atomic_write(untrained) as part:
                shutil.copyfile(self.folder / MODEL_FILE, part)
        with atomic_write(self.folder / MODEL_FILE) as part:
            model.save(part)
        write_json(self.folder / HISTORY_FILE, history, allow_nan=False)


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, of `tfprune prune` or of a comparison."""
    return (folder / RUN_FILE).is_file()


def open_run(folder: str | os.PathLike[str]) -> RunFolder:
    """Open the run in a folder.

    Raises:
        OptionError: If there is none that `tfprune prune` wrote, or it is damaged.
    """
    path = Path(folder).expanduser()
    if not is_run(path):
        raise OptionError(f"There is no run: give a folder that `tfprune prune` wrote. Received: {str(folder)!r}")
    about = read_run_file(path)
    if about["kind"] != PRUNED:
        raise OptionError(
            f"The run is one of `tfprune compare`, without a model to go on with: give a folder that `tfprune prune` "
            f"wrote. Received: {str(folder)!r}"
        )
    check_record(about, _About, f"{path / RUN_FILE} is damaged")
    return RunFolder(path, about)


def check_output(output: str, *, overwrite: bool) -> Path:
    """Return the folder that a new run is to have.

    Raises:
        OptionError: If there is something of that name: a file, or a folder with something in it. With `overwrite`,
            a run is replaced.
    """
    folder = Path(output).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"The output must be a folder, and there is a file of that name. Received: {output!r}.")
    there = folder.exists() and any(folder.iterdir())
    if there and not is_run(folder):
        raise OptionError(f"{output!r} holds other things than a run. Give a new folder with -o.")
    if there and not overwrite:
        raise OptionError(f"There is a run in {output!r}. Give a new folder with -o, or replace it with --overwrite.")
    return folder


@contextmanager
def new_run(output: str, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write a run into, which takes the name `output` at the end, if all went well.

    Raises:
        OptionError: As `check_output`.
    """
    folder = check_output(output, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder, replace=is_run(folder)) as part:
        yield part


def write_trained(
    folder: Path,
    result: RunResult,
    initial: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Write the run of a method that trained.

    Args:
        folder: The folder to fill.
        result: What the run gave.
        initial: The weights that the prunable variables began with, by path.
        about: What run.json says, but the versions.
        training: How it was trained.

    Raises:
        PruningError: If it pruned nothing, or a pruned weight is not exactly zero.
    """
    if result.masks is None or result.report is None:
        raise PruningError("The method pruned nothing, so there is no run to write.")
    model = strip(result.model)
    check_zeros(model, result.masks)
    model.save(folder / MODEL_FILE)
    result.masks.save(folder / MASKS_FILE)
    write_initial(folder, {path: initial[path] for path in result.masks if path in initial})
    result.report.save(folder / REPORT_FILE)
    epochs: list[dict[str, Any]] = [{"epoch": number, **values} for number, values in enumerate(result.epochs, 1)]
    last = result.history[-1]
    epochs[-1] |= {f"val_{name}": last[name] for name in last if name not in ("event", "place", "step", "density")}
    write_json(folder / HISTORY_FILE, {"trainings": [training], "epochs": epochs}, allow_nan=False)
    write_run_file(folder, PRUNED, {**about, "versions": result.report.versions})


def write_initial(folder: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write initial.npz: floats of types that NumPy does not know, such as bfloat16, as float32."""
    known = (np.float16, np.float32, np.float64)
    arrays = {path: w if w.dtype in known else w.astype(np.float32) for path, w in weights.items()}
    np.savez(folder / INITIAL_FILE, **arrays)  # type: ignore[arg-type]
