"""Masks: which weights are kept."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from tfprune_init.backend.protocols import Model
from tfprune_init.errors import MaskFileError, MaskMismatchError
from tfprune_init.files import atomic_write, read_npz
from tfprune_init.graph.variables import ModelVariable, find_prunable_variables, list_variables
from tfprune_init.records import check_record

_FORMAT = "tfprune_init masks"
_VERSION = 1


class _Format(TypedDict):
    format: str
    version: int


class _Entry(TypedDict):
    path: str
    shape: list[int]


class _Collapse(TypedDict, total=False):  # files of earlier versions do not have it
    collapse: str | None


class _Header(_Format, _Collapse):
    fingerprint: str
    masks: list[_Entry]


class Masks(Mapping[str, np.ndarray]):
    """An immutable mapping from variable path to a boolean array, True where the weight is kept.

    Args:
        masks: Mapping from path (`layer/variable`) to a boolean array of the variable's shape. Arrays are
            copied. Arrays of other dtypes are taken only if they hold nothing but 0 and 1.
        collapse: How the network collapses under them; None if that is not known of them. It is saved with them, and
            says nothing about whether masks are equal.

    Attributes:
        collapse: As given.

    Raises:
        MaskMismatchError: If there is no mask, or one holds something else than booleans.

    Example:
        >>> import tfprune_init as tpi
        >>> masks = tpi.Masks({"dense/kernel": [[True, False], [False, False]]})
        >>> masks.density, masks.kept, masks.size
        (0.25, 1, 4)
    """

    def __init__(self, masks: Mapping[str, npt.ArrayLike], collapse: str | None = None):
        if not masks:
            raise MaskMismatchError("Masks need at least one entry. Received: an empty mapping.")
        self._masks = {str(path): _boolean(path, mask) for path, mask in masks.items()}
        self.collapse = collapse

    def __getitem__(self, path: str) -> np.ndarray:
        return self._masks[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.keys() == other.keys() and all(np.array_equal(self[p], other[p]) for p in self)

    __hash__ = None  # type: ignore[assignment]  # equality by value, like a dict

    def __repr__(self) -> str:
        collapsed = "" if self.collapse is None else "; the network collapses"
        return f"Masks({len(self)} variables, {self.kept:,} of {self.size:,} weights kept{collapsed})"

    @property
    def size(self) -> int:
        """Number of weights, kept or not."""
        return sum(mask.size for mask in self._masks.values())

    @property
    def kept(self) -> int:
        """Number of weights kept."""
        return sum(int(np.count_nonzero(mask)) for mask in self._masks.values())

    @property
    def density(self) -> float:
        """Share of weights kept, in [0, 1]."""
        return self.kept / self.size

    @property
    def sparsity(self) -> float:
        """Share of weights removed, in [0, 1]."""
        return 1.0 - self.density

    @property
    def fingerprint(self) -> str:
        """SHA-256 of paths, shapes and bits: equal exactly for equal masks in the same order."""
        digest = hashlib.sha256()
        for path, mask in self.items():
            digest.update(f"{path}{mask.shape}".encode())
            digest.update(np.packbits(mask).tobytes())
        return digest.hexdigest()

    @classmethod
    def from_zeros(cls, model: Model, **options: Any) -> Masks:
        """Read the masks of a model whose pruned weights are zero: kept is what is not 0.0.

        Args:
            model: A built model, Keras 3 or tf_keras.
            **options: `exclude` and `prune_bias`, as in `find_masks`.

        Returns:
            A mask for every prunable variable, all True where a variable has no zero.
        """
        targets = find_prunable_variables(model, **options)
        return cls({t.path: np.asarray(t.effective) != 0 for t in targets.prunable})

    def check(self, model: Model) -> dict[str, ModelVariable]:
        """Refuse a model that these masks were not made for.

        Args:
            model: A built model, Keras 3 or tf_keras.

        Returns:
            The model's variable for each path of the masks.

        Raises:
            MaskMismatchError: If a path is missing from the model, or has another shape; names each.
        """
        variables = {target.path: target for target in list_variables(model)}
        missing = [path for path in self if path not in variables]
        reshaped = [
            f"{path} is {variables[path].shape}, its mask {mask.shape}"
            for path, mask in self.items()
            if path in variables and variables[path].shape != mask.shape
        ]
        if missing or reshaped:
            unmasked = [target.path for target in variables.values() if target.path not in self]
            raise MaskMismatchError(
                f"These masks do not fit model {model.name!r}. "
                + (f"Not in the model: {_listed(missing)}. " if missing else "")
                + (f"Other shapes: {_listed(reshaped)}. " if reshaped else "")
                + (f"In the model without a mask: {_listed(unmasked)}. " if missing and unmasked else "")
                + "If only layer names differ, carry them over with masks.carried_to(model)."
            )
        return {path: variables[path] for path in self}

    def covering(self, paths: list[str], model: Model) -> Masks:
        """Return these masks in the order of `paths`, after `check(model)`.

        Raises:
            MaskMismatchError: If a path has no mask; names each.
        """
        self.check(model)
        missing = [path for path in paths if path not in self]
        if missing:
            raise MaskMismatchError(f"Without a mask: {_listed(missing)}. Leave them alone with exclude=[...].")
        return Masks({path: self[path] for path in paths}, self.collapse)

    def carried_to(self, model: Model) -> Masks:
        """Rename masks for the same architecture built again, whose automatic layer names differ.

        Variables are matched in the order the model tracks its layers; last parts of the paths ("kernel")
        and shapes must agree one by one.

        Args:
            model: A built model of the same architecture, Keras 3 or tf_keras.

        Returns:
            The same arrays under the paths of `model`.

        Raises:
            MaskMismatchError: If the sequence of names and shapes is not that of the masks.
        """
        names = {path.rsplit("/", 1)[-1] for path in self}
        candidates = [
            t for t in find_prunable_variables(model, prune_bias="bias" in names and _has_bias(model)).prunable
        ]
        mine = [(path.rsplit("/", 1)[-1], mask.shape) for path, mask in self.items()]
        theirs = [(target.name, target.shape) for target in candidates]
        if mine != theirs:
            first = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None)
            where = (
                f"{len(mine)} masks against {len(theirs)} prunable variables"
                if first is None
                else f"mask {list(self)[first]} {mine[first][1]} against {candidates[first].path} {theirs[first][1]}"
            )
            raise MaskMismatchError(f"Model {model.name!r} is not the architecture of these masks: {where}.")
        return Masks({t.path: mask for t, mask in zip(candidates, self.values(), strict=True)}, self.collapse)

    def shuffled(self, seed: int = 0) -> Masks:
        """Move what is kept in each variable to random places: what a method's layer densities alone are worth.

        Args:
            seed: Seed of the places.

        Reference:
            Frankle et al., Pruning Neural Networks at Initialization: Why Are We Missing the Mark?, ICLR 2021.

        Example:
            >>> import tfprune_init as tpi
            >>> masks = tpi.Masks({"a": [[True, True, False, False]], "b": [False] * 9 + [True]}).shuffled(seed=3)
            >>> [int(mask.sum()) for mask in masks.values()]
            [2, 1]
        """
        rng = np.random.default_rng(seed)
        return Masks({path: rng.permutation(mask.ravel()).reshape(mask.shape) for path, mask in self.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the masks to an .npz file, eight weights a byte, atomically.

        Args:
            path: Where to write. The file is complete or not there at all; nothing in it is pickled.
        """
        path = Path(path)
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "collapse": self.collapse,
            "masks": [{"path": name, "shape": list(mask.shape)} for name, mask in self.items()],
        }
        arrays: dict[str, Any] = {f"bits_{i}": np.packbits(mask) for i, mask in enumerate(self.values())}
        with atomic_write(path) as part, part.open("wb") as file:
            np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Masks:
        """Read masks written by `save`.

        Raises:
            FileNotFoundError: If there is no such file.
            MaskFileError: If the file is truncated, damaged, or no mask file.
        """
        try:
            arrays = read_npz(path)
            header = json.loads(str(arrays["header"]))
            check_record(header, _Format, "its header")
            if header["format"] != _FORMAT or header["version"] != _VERSION:
                raise MaskFileError(
                    f"{os.fspath(path)!r} is not a mask file this version reads. "
                    f"Received: format {header['format']!r}, version {header['version']!r}."
                )
            check_record(header, _Header, "its header")
            entries = enumerate(header["masks"])
            found = {entry["path"]: _unpack(arrays[f"bits_{i}"], entry["shape"]) for i, entry in entries}
            masks = cls(found, header.get("collapse"))
            fingerprint = masks.fingerprint
        except MaskFileError:
            raise
        except (ValueError, KeyError, RecursionError) as error:
            raise MaskFileError(
                f"{os.fspath(path)!r} is truncated, damaged, or was not written by Masks.save. "
                f"Received: {type(error).__name__}: {error}."
            ) from error
        if fingerprint != header["fingerprint"]:
            raise MaskFileError(f"{os.fspath(path)!r} is damaged: its masks do not match its fingerprint.")
        return masks


def _unpack(bits: np.ndarray, shape: list[int]) -> np.ndarray:
    """Unpack the bits of a mask, eight a byte."""
    size = math.prod(shape)
    if bits.dtype != np.uint8 or bits.shape != (-(-size // 8),):
        raise ValueError(f"{bits.dtype} {bits.shape} for a mask of shape {tuple(shape)}")
    return np.unpackbits(bits, count=size).astype(bool).reshape(shape)


def _boolean(path: str, mask: npt.ArrayLike) -> np.ndarray:
    array = np.array(mask)
    if array.dtype != bool:
        if not np.isin(array, (0, 1)).all():
            raise MaskMismatchError(
                f"Mask {path!r} must be boolean, or hold only 0 and 1. Received: dtype {array.dtype}."
            )
        array = array.astype(bool)
    array.flags.writeable = False
    return array


def _has_bias(model: Model) -> bool:
    return any(target.name == "bias" for target in list_variables(model))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
