"""Channels that can only go together, and those that have to stay, with the reason."""

from __future__ import annotations

import numpy as np

# Label of what is no channel of its own: it stays, and what is tied to it stays too.
STAYS = -1


class Groups:
    """Labels of channels, in groups."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._held: dict[int, str] = {}

    def new(self, count: int) -> np.ndarray:
        """Labels of as many new channels, each a group of its own."""
        start = len(self._parents)
        self._parents += range(start, start + count)
        return np.arange(start, start + count)

    def tie(self, one: np.ndarray, other: np.ndarray, where: str) -> None:
        """Channels at the same place of two arrays go together; next to what stays, they stay."""
        self.hold(np.where(other == STAYS, one, STAYS), f"meets in {where} what cannot go")
        self.hold(np.where(one == STAYS, other, STAYS), f"meets in {where} what cannot go")
        both = (one != STAYS) & (other != STAYS)
        for a, b in zip(one[both].tolist(), other[both].tolist(), strict=True):
            first, second = sorted((self._root(a), self._root(b)))
            self._parents[second] = first

    def hold(self, labels: np.ndarray, why: str) -> bool:
        """Channels that have to stay; whether that is news of any."""
        fresh = [label for label in np.unique(labels).tolist() if label != STAYS and label not in self._held]
        self._held.update(dict.fromkeys(fresh, why))
        return bool(fresh)

    def reasons(self) -> dict[int, str]:
        """Why a group has to stay, by its root: the first reason that was found."""
        found: dict[int, str] = {}
        for label, why in self._held.items():
            found.setdefault(self._root(label), why)
        return found

    def roots(self) -> np.ndarray:
        """The label that stands for the group of each; one place more than there are labels keeps STAYS as it is."""
        return np.array([*(self._root(label) for label in range(len(self._parents))), STAYS], np.int64)

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = label = self._parents[self._parents[label]]
        return label
