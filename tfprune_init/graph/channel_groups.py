"""Labels of channels, and the one union-find over them: which go together, what goes with them, which have to stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The label of what is no channel of its own.
NO_LABEL = -1


def make_unlabelled(shape: tuple[int, ...]) -> np.ndarray:
    """Return labels of a tensor that carries no channels."""
    return np.broadcast_to(np.int64(NO_LABEL), shape)


def spread_labels(vector: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return a view of `shape` that varies along `axis` alone."""
    return np.broadcast_to(vector.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


def labels_along(labels: np.ndarray, axis: int) -> np.ndarray:
    """Return the one label at each index of `axis`; none where the labels at that index differ."""
    rows = np.moveaxis(squeeze_broadcast([labels], axis)[0], axis, 0).reshape(labels.shape[axis], -1)
    return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], NO_LABEL)


def squeeze_broadcast(arrays: Sequence[np.ndarray], axis: int | None = None) -> list[np.ndarray]:
    """Return arrays of one rank, of size 1 along axes other than `axis` along which all are views of one value."""
    views = [i != axis and all(one.strides[i] == 0 for one in arrays) for i in range(arrays[0].ndim)]
    part = tuple(slice(0, 1) if view else slice(None) for view in views)
    return [one[(*part, ...)] for one in arrays]


@dataclass(frozen=True, eq=False)
class ResolvedGroups:
    """Channel groups with their final numbers.

    Attributes:
        units: For each kernel with units of its own, the group of each.
        consumers: For each variable and axis that is indexed by channels, the group at each index (-1: none).
        followers: The same for variables that are cut but not masked.
        cells: For each variable whose weights go one by one, the group of each weight (-1: none), int64, of its shape.
        removable: Whether each group may go.
        reasons: Why each of the other groups has to stay: the first reason that was found.
    """

    units: dict[str, np.ndarray]
    consumers: dict[tuple[str, int], np.ndarray]
    followers: dict[tuple[str, int], np.ndarray]
    cells: dict[str, np.ndarray]
    removable: np.ndarray
    reasons: dict[int, str]


class ChannelGroups:
    """Channels as they get their labels, and what has been learned of them.

    Args:
        strict: Whether channels are to be cut out of arrays. A channel that meets what bears no label, in `couple` and
            `add_consumer`, has to stay then; else only the label is lost there.

    Attributes:
        strict: As given.

    Example:
        >>> from tfprune_init.graph.channel_groups import ChannelGroups
        >>> groups = ChannelGroups()
        >>> one, other = groups.make_labels(2), groups.make_labels(2)
        >>> groups.couple(one, other)
        >>> groups.pin(other[1:], "is an output")
        True
        >>> groups.find_roots().tolist(), groups.find_reasons()
        ([0, 1, 0, 1, -1], {1: 'is an output'})
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self._parents: list[int] = []
        self._units: dict[tuple[str, int], np.ndarray] = {}
        self._others: dict[str, np.ndarray] = {}
        self._columns: dict[str, np.ndarray] = {}
        self._consumers: dict[tuple[str, int], np.ndarray] = {}
        self._followers: dict[tuple[str, int], np.ndarray] = {}
        self._cells: dict[str, np.ndarray] = {}
        self._silencing: list[tuple[tuple[str, int], np.ndarray]] = []
        self._pinned: dict[int, str] = {}

    def make_labels(self, count: int) -> np.ndarray:
        """Return labels of as many new channels, int64, each a group of its own."""
        start = len(self._parents)
        self._parents += range(start, start + count)
        return np.arange(start, start + count)

    def make_labels_of(self, path: str, count: int) -> np.ndarray:
        """Return labels of the channels of a variable that is no kernel: the same each time."""
        if path not in self._others:
            self._others[path] = self.make_labels(count)
        return self._others[path]

    def make_units(self, path: str, axis: int, count: int) -> np.ndarray:
        """Return labels of the units along an axis of a kernel: the same each time.

        Args:
            path: The kernel.
            axis: Its axis.
            count: Number of units.

        Returns:
            Labels, int64, of shape [count]; no labels if the kernel has units along another axis.
        """
        if any(known == path and other != axis for known, other in self._units):
            return make_unlabelled((count,))
        if (path, axis) not in self._units:
            self._units[path, axis] = self.make_labels(count)
        return self._units[path, axis]

    def add_units(self, path: str, axis: int, labels: np.ndarray, columns: np.ndarray) -> None:
        """Let units that are known have weights in one more kernel, or several columns in their own.

        Args:
            path: The kernel.
            axis: Its axis.
            labels: The units.
            columns: The unit of each column of the kernel's matrix view.
        """
        self._units.setdefault((path, axis), labels)
        self._columns.setdefault(path, columns)

    @property
    def units(self) -> dict[str, np.ndarray]:
        """Labels of the units of each kernel."""
        return {path: labels for (path, _), labels in self._units.items()}

    def add_consumer(self, path: str, axis: int, labels: np.ndarray, where: str = "") -> None:
        """Let the weights at each index of an axis go with a channel, in each call of their layer.

        Args:
            path: The variable.
            axis: Its axis.
            labels: The channel at each index.
            where: The layer, for reasons.
        """
        known = self._consumers.get((path, axis))
        if known is not None:
            self.couple(known, labels, where)
            labels = _join(known, labels)
        self._consumers[path, axis] = labels

    def add_follower(self, path: str, axis: int, labels: np.ndarray) -> None:
        """Let numbers that are not masked, as statistics, be cut out with their channels."""
        self._followers[path, axis] = _join(self._followers.get((path, axis), labels), labels)

    def add_silencing(self, path: str, axis: int, labels: np.ndarray) -> None:
        """Let weights go with their channels, without which those are not silent: where they cannot, channels stay."""
        self.add_consumer(path, axis, labels)
        self._silencing.append(((path, axis), labels))

    def add_cells(self, path: str, labels: np.ndarray) -> None:
        """Let each weight of a variable go with a channel; where calls differ, it goes with none."""
        known = self._cells.get(path, labels)
        self._cells[path] = np.where(known == labels, labels, NO_LABEL)

    def couple(self, one: np.ndarray, other: np.ndarray, where: str = "") -> None:
        """Let channels at the same place of two arrays go together; `where` names the layer, for reasons."""
        if self.strict:
            self.pin(one[other == NO_LABEL], f"meets in {where} what cannot go")
            self.pin(other[one == NO_LABEL], f"meets in {where} what cannot go")
        both = (one != NO_LABEL) & (other != NO_LABEL)
        for a, b in np.unique(np.stack([one[both], other[both]], axis=1), axis=0).tolist():
            first, second = sorted((self._find_root(a), self._find_root(b)))
            self._parents[second] = first

    def couple_places(self, labels: np.ndarray, where: str) -> np.ndarray:
        """Let channels at the same place of all groups of a convolution go together.

        Args:
            labels: The channels, of shape [groups, places].
            where: The layer, for reasons.

        Returns:
            The label of each place; none where that of a channel is not known, and the others stay.
        """
        for other in labels[1:]:
            self.couple(labels[0], other, where)
        unknown = (labels == NO_LABEL).any(axis=0)
        self.pin(labels[:, unknown], f"is in the convolution in groups of {where} beside what cannot go")
        return np.where(unknown, NO_LABEL, labels[0])

    def pin(self, labels: np.ndarray, reason: str) -> bool:
        """Let channels stay, with all that go together with them; return whether that is news of any."""
        distinct = np.unique(squeeze_broadcast([labels])[0]).tolist()
        fresh = [label for label in distinct if label != NO_LABEL and label not in self._pinned]
        self._pinned.update(dict.fromkeys(fresh, reason))
        return bool(fresh)

    def find_missing(self, labels: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Return the labels whose group is not among those of others."""
        own, others = (np.unique(squeeze_broadcast([one])[0]).tolist() for one in (labels, among))
        there = {self._find_root(label) for label in others if label != NO_LABEL}
        missing = [one for one in own if one != NO_LABEL and self._find_root(one) not in there]
        return np.array(missing, np.int64)

    def get_consumed(self, path: str) -> dict[int, np.ndarray]:
        """Return the axes of a variable that are indexed by channels, with the label at each index."""
        return {axis: labels for (known, axis), labels in self._consumers.items() if known == path}

    def find_reasons(self) -> dict[int, str]:
        """Return why a group has to stay, by its root: the first reason that was found."""
        found: dict[int, str] = {}
        for label, reason in self._pinned.items():
            found.setdefault(self._find_root(label), reason)
        return found

    def find_roots(self) -> np.ndarray:
        """Return the label that stands for the group of each; one place more keeps NO_LABEL, the last, as it is."""
        return np.array([*(self._find_root(label) for label in range(len(self._parents))), NO_LABEL], np.int64)

    def _find_root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = label = self._parents[self._parents[label]]
        return label

    def resolve(self, paths: Sequence[str]) -> ResolvedGroups:
        """Return what has been learned, with one number for channels that go together.

        Args:
            paths: All variables, in the order in which their units are numbered.
        """
        for key, labels in self._silencing:
            self.pin(labels[self._consumers[key] == NO_LABEL], f"shares {key[0]} with others")
        place = {path: i for i, path in enumerate(paths)}
        units = sorted(self._units, key=lambda key: place[key[0]])
        roots = self.find_roots()
        ordered = np.concatenate([roots[:0], *(roots[self._units[key]] for key in units)])
        distinct, first = np.unique(ordered, return_index=True)
        # What belongs to no kernel with units gets no number, and NO_LABEL, which is the last, remains itself.
        number = np.full(len(roots), NO_LABEL)
        number[distinct[np.argsort(first)]] = np.arange(len(distinct))
        number[:-1] = number[roots[:-1]]
        keys = sorted(self._consumers, key=lambda key: (place[key[0]], key[1]))
        followers = {key: number[labels] for key, labels in self._followers.items()}
        consumers = {key: number[self._consumers[key]] for key in keys}
        cells = {path: number[self._cells[path]] for path in sorted(self._cells, key=place.__getitem__)}
        reasons = {int(number[root]): why for root, why in self.find_reasons().items() if number[root] != NO_LABEL}
        removable = np.ones(len(distinct), bool)
        removable[list(reasons)] = False
        return ResolvedGroups(
            {key[0]: number[self._columns.get(key[0], self._units[key])] for key in units},
            {key: labels for key, labels in consumers.items() if (labels != NO_LABEL).any()},
            {key: labels for key, labels in followers.items() if (labels != NO_LABEL).any()},
            {path: labels for path, labels in cells.items() if (labels != NO_LABEL).any()},
            removable,
            reasons,
        )


def _join(known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return labels known in one call, where those of another are known too."""
    return np.where((known == NO_LABEL) | (labels == NO_LABEL), NO_LABEL, known)
