"""A training written to a folder, from which it goes on as if it had never stopped."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from tfprune_init import kerases
from tfprune_init.distribute.optimizer import variables_of
from tfprune_init.enforce import attach, attached_masks
from tfprune_init.errors import CheckpointError
from tfprune_init.masks import Masks
from tfprune_init.targets import all_variables

_FILE = "training.npz"
_FORMAT = "tfprune_init training 1"
_ARRAY = "array"


class Checkpoint:
    """The state of a training in one file: weights, optimizer, seeds, metrics, masks, and how far it is.

    Args:
        folder: Where the file is; the same for all workers.
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
        """Write the state; the file is the new one or the old one, never half of one.

        Args:
            progress: What else to keep: nested dicts and lists of what JSON knows and of NumPy arrays.
        """
        if not self._writes:
            _values(self._model.metrics_variables)
            return
        masks: Mapping[str, np.ndarray] = attached_masks(self._model) or {}
        arrays: dict[str, Any] = {f"variable_{i}": value for i, value in enumerate(_values(self._variables()))}
        arrays |= {f"mask_{i}": mask for i, mask in enumerate(masks.values())}
        header = {
            "format": _FORMAT,
            "variables": self._described(),
            "masks": list(masks),
            "progress": _without_arrays(progress, arrays),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=_FILE, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, header=np.array(json.dumps(header)), **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def read(self) -> dict[str, Any] | None:
        """Read the file; `restore` puts what was read into the model.

        Returns:
            The progress that was saved; None if there is no file.

        Raises:
            CheckpointError: If the file is damaged, or of another model, optimizer, set of metrics, or without masks.
        """
        if not self._path.exists():
            return None
        try:
            with np.load(self._path, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                if header.get("format") != _FORMAT:
                    raise ValueError(f"format {header.get('format')!r}")
                self._arrays = dict(file)
        except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{str(self._path)!r} is damaged, or no checkpoint that this version reads. Received: "
                f"{type(error).__name__}: {error}. Remove it to start anew, or give another folder."
            ) from error
        self._masks = {path: self._arrays[f"mask_{i}"] for i, path in enumerate(header["masks"])}
        self._check(header["variables"])
        return _with_arrays(header["progress"], self._arrays)

    def restore(self) -> None:
        """Put the model back to what was read. All workers do, as with `save`."""
        if self._masks and Masks(self._masks) != attached_masks(self._model):
            attach(self._model, Masks(self._masks))
        for i, variable in enumerate(self._variables()):
            holder, value = kerases.tensor_of(variable), self._arrays[f"variable_{i}"]
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
        if attached_masks(self._model) is not None and not self._masks:
            raise CheckpointError(
                f"{str(self._path)!r} is of a training without masks, and model {self._model.name!r} carries masks. "
                "Remove the file to start anew, or give another folder."
            )

    def _variables(self) -> list[Any]:
        model = self._model
        found = [*model.variables, *variables_of(model.optimizer), *model.metrics_variables]
        return list({id(variable): variable for variable in found}.values())

    def _described(self) -> list[list[Any]]:
        # Keras numbers models and layers within a process; what stays is the last part of a weight's path.
        names = {id(target.variable): target.name for target in all_variables(self._model)}
        return [[names.get(id(v), "state"), list(v.shape), str(v.dtype)] for v in self._variables()]


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [kerases.tensor_of(variable).numpy() for variable in variables]


def _without_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Nested values with each array replaced by its name among the arrays."""
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
    """The inverse of `_without_arrays`."""
    if isinstance(value, dict):
        return arrays[value[_ARRAY]] if _ARRAY in value else {k: _with_arrays(v, arrays) for k, v in value.items()}
    return [_with_arrays(one, arrays) for one in value] if isinstance(value, list) else value
