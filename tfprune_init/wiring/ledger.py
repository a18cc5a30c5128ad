"""Labels of units: arrays of them, and the ledger of who carries which and which must go together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NONE = -1


def unlabelled(shape: tuple[int, ...]) -> np.ndarray:
    """Labels of a tensor that carries no units."""
    return np.broadcast_to(np.int64(NONE), shape)


def spread(vector: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """A view of `shape` that varies along `axis` alone."""
    return np.broadcast_to(vector.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


def along(labels: np.ndarray, axis: int) -> np.ndarray:
    """The one label at each index of `axis`; none where the labels at that index differ."""
    rows = np.moveaxis(compact([labels], axis)[0], axis, 0).reshape(labels.shape[axis], -1)
    return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], NONE)


def compact(arrays: Sequence[np.ndarray], axis: int | None = None) -> list[np.ndarray]:
    """Arrays of one rank, of size 1 along axes other than `axis` along which all of them are views of one value."""
    views = [i != axis and all(one.strides[i] == 0 for one in arrays) for i in range(arrays[0].ndim)]
    part = tuple(slice(0, 1) if view else slice(None) for view in views)
    return [one[(*part, ...)] for one in arrays]


class Ledger:
    """Units as they get their labels, and what has been learned of them."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._units: dict[tuple[str, int], np.ndarray] = {}
        self._entries: dict[tuple[str, int], np.ndarray] = {}
        self._zeroed: list[tuple[tuple[str, int], np.ndarray]] = []
        self._protected: list[np.ndarray] = []

    def units(self, path: str, axis: int, count: int) -> np.ndarray:
        """Labels of the units along an axis of a kernel: the same each time; none if it has units along another."""
        if any(known == path and other != axis for known, other in self._units):
            return unlabelled((count,))
        if (path, axis) not in self._units:
            start = len(self._parents)
            self._parents += range(start, start + count)
            self._units[path, axis] = np.arange(start, start + count)
        return self._units[path, axis]

    def serves(self, path: str, axis: int, labels: np.ndarray) -> None:
        """Weights at the indices of an axis serve these units, and go with them."""
        known = self._entries.get((path, axis))
        if known is not None:
            self.couple(known, labels)
            labels = np.where((known == NONE) | (labels == NONE), NONE, known)
        self._entries[path, axis] = labels

    def silences(self, path: str, axis: int, labels: np.ndarray) -> None:
        """Weights serve these units, and only where they go too is the unit silent: otherwise it has to stay."""
        self.serves(path, axis, labels)
        self._zeroed.append(((path, axis), labels))

    def couple(self, one: np.ndarray, other: np.ndarray) -> None:
        """Units at the same place of two arrays go together."""
        both = (one != NONE) & (other != NONE)
        for a, b in np.unique(np.stack([one[both], other[both]], axis=1), axis=0).tolist():
            first, second = sorted((self._root(a), self._root(b)))
            self._parents[second] = first

    def protect(self, labels: np.ndarray) -> None:
        """Units that have to stay."""
        distinct = np.unique(compact([labels])[0])
        self._protected.append(distinct[distinct != NONE])

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = label = self._parents[self._parents[label]]
        return label

    def settle(self, paths: list[str]) -> tuple[dict[str, np.ndarray], dict[tuple[str, int], np.ndarray], np.ndarray]:
        """What has been learned, with one label for units that go together.

        Args:
            paths: All variables, in the order in which their units are numbered.

        Returns:
            Labels of the units of each kernel; labels along each axis that serves some; whether each label may go.
        """
        for key, labels in self._zeroed:
            self.protect(labels[self._entries[key] == NONE])
        place = {path: i for i, path in enumerate(paths)}
        units = sorted(self._units, key=lambda key: place[key[0]])
        roots = np.array([self._root(label) for label in range(len(self._parents))], np.int64)
        ordered = np.concatenate([roots[:0], *(roots[self._units[key]] for key in units)])
        distinct, first = np.unique(ordered, return_index=True)
        # One place more than there are labels, so that NONE, which is the last, remains NONE.
        number = np.full(len(roots) + 1, NONE)
        number[distinct[np.argsort(first)]] = np.arange(len(distinct))
        number[:-1] = number[roots]
        removable = np.ones(len(distinct), bool)
        for labels in self._protected:
            removable[number[labels]] = False
        keys = sorted(self._entries, key=lambda key: (place[key[0]], key[1]))
        entries = {key: number[self._entries[key]] for key in keys if (self._entries[key] != NONE).any()}
        return {key[0]: number[self._units[key]] for key in units}, entries, removable
