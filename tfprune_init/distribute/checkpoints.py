"""A training saved to a folder, from which it continues as if it had never stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.optimizers import get_optimizer_variables
from tfprune_init.errors import CheckpointError
from tfprune_init.files import atomic_write, read_npz
from tfprune_init.graph.variables import list_variables
from tfprune_init.masking.attachment import attach, get_attached_masks
from tfprune_init.masks import Masks
from tfprune_init.records import check_record

_FILE = "training.npz"
_FORMAT = "tfprune_init training 1"
_ARRAY = "array"


class _Progress(TypedDict):
    epoch: int
    step: int
    stopped: bool
    callbacks: list[dict[str, Any]]
    history: dict[str, list[Any]]


class _Header(TypedDict):
    format: str
    variables: list[list[Any]]
    masks: list[str]
    progress: _Progress


class Checkpoint:
    """The state of a training in one file: weights, optimizer, seeds, metrics, masks and progress.

    Args:
        folder: Folder of the file; the same for all workers.
        model: The model, built with its optimizer and metrics.
        writes: Whether this process writes the file. All workers call `save`, since reading a metric takes all.
    """

    def __init__(self, folder: str | os.PathLike[str], model: Any, writes: bool):
        self._path = Path(folder) / _FILE
        self._model = model
        self._writes = writes
        self._arrays: dict[str, np.ndarray] = {}
        self._masks: dict[str, np.ndarray] = {}

    def save(self, progress: dict[str, Any]) -> None:
        """Write the state atomically: after a crash the file is the new one or the old one.

        Args:
            progress: Epoch, step, whether it stopped, memory of the callbacks, and history: nested dicts and lists of
                JSON values and NumPy arrays.
        """
        if not self._writes:
            _values(self._model.metrics_variables)
            return
        masks: Mapping[str, np.ndarray] = get_attached_masks(self._model) or {}
        arrays: dict[str, Any] = {f"variable_{i}": value for i, value in enumerate(_values(self._variables()))}
        arrays |= {f"mask_{i}": mask for i, mask in enumerate(masks.values())}
        header = {
            "format": _FORMAT,
            "variables": self._described(),
            "masks": list(masks),
            "progress": _without_arrays(progress, arrays),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path) as part, part.open("wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)

    def read(self) -> dict[str, Any] | None:
        """Read the file; `restore` then puts what was read into the model.

        Returns:
            The progress that was saved; None if there is no file.

        Raises:
            CheckpointError: If the file is damaged, or of another model, optimizer, set of metrics, or without masks.
        """
        if not self._path.exists():
            return None
        try:
            self._arrays = read_npz(self._path)
            header = json.loads(str(self._arrays["header"]))
            check_record(header, _Header, "its header")
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']!r}")
            self._masks = {path: self._arrays[f"mask_{i}"] for i, path in enumerate(header["masks"])}
            progress = _with_arrays(header["progress"], self._arrays)
        except (ValueError, KeyError, RecursionError) as error:
            raise CheckpointError(
                f"{str(self._path)!r} is damaged, or no checkpoint that this version reads. Received: "
                f"{type(error).__name__}: {error}. Remove it to start anew, or give another folder."
            ) from error
        self._check(header["variables"])
        return progress

    def restore(self) -> None:
        """Put what was read into the model. All workers must call it, as with `save`."""
        if self._masks and Masks(self._masks) != get_attached_masks(self._model):
            attach(self._model, Masks(self._masks))
        for i, variable in enumerate(self._variables()):
            holder, value = compat.get_tf_variable(variable), self._arrays[f"variable_{i}"]
            # NumPy writes the bytes of bfloat16, not its name.
            holder.assign(value.view(holder.dtype.as_numpy_dtype) if value.dtype.kind == "V" else value)
        self._arrays = {}

    def _check(self, saved: list[Any]) -> None:
        own = self._described()
        differing = [pair for pair in zip_longest(saved, own) if pair[0] != pair[1]]
        if differing:
            raise CheckpointError(
                f"{str(self._path)!r} is of another training: of {len(saved)} variables saved and {len(own)} here "
                f"{len(differing)} differ, first {differing[0][0]} and {differing[0][1]}. Build and compile the model "
                "as before, remove the file to start anew, or give another folder."
            )
        for i, variable in enumerate(self._variables()):
            stored = self._arrays.get(f"variable_{i}", np.zeros(0, bool))
            dtype = np.dtype(compat.get_tf_variable(variable).dtype.as_numpy_dtype)
            alike = stored.dtype == dtype or (stored.dtype.kind == "V" and stored.dtype.itemsize == dtype.itemsize)
            if not alike or stored.shape != tuple(variable.shape):
                raise CheckpointError(
                    f"{str(self._path)!r} is damaged: variable {i} must be {dtype} {tuple(variable.shape)}. Received: "
                    f"{stored.dtype} {stored.shape}. Remove the file to start anew, or give another folder."
                )
        if get_attached_masks(self._model) is not None and not self._masks:
            raise CheckpointError(
                f"{str(self._path)!r} is of a training without masks, and model {self._model.name!r} carries masks. "
                "Remove the file to start anew, or give another folder."
            )

    def _variables(self) -> list[Any]:
        model = self._model
        found = [*model.variables, *get_optimizer_variables(model.optimizer), *model.metrics_variables]
        return list({id(variable): variable for variable in found}.values())

    def _described(self) -> list[list[Any]]:
        # Keras numbers models and layers within a process; only the last part of a weight's path is stable.
        names = {id(entry.variable): entry.name for entry in list_variables(self._model)}
        return [[names.get(id(v), "state"), list(v.shape), str(v.dtype)] for v in self._variables()]


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [compat.get_tf_variable(variable).numpy() for variable in variables]


def _without_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Replace each array in nested values by its name among the arrays."""
    if isinstance(value, dict):
        return {key: _without_arrays(one, arrays) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_arrays(one, arrays) for one in value]
    if isinstance(value, np.ndarray):
        name = f"progress_{len(arrays)}"
        arrays[name] = value
        return {_ARRAY: name}
    return value


def _with_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Put the arrays back; the inverse of `_without_arrays`."""
    if isinstance(value, dict):
        return arrays[value[_ARRAY]] if _ARRAY in value else {k: _with_arrays(v, arrays) for k, v in value.items()}
    return [_with_arrays(one, arrays) for one in value] if isinstance(value, list) else value
