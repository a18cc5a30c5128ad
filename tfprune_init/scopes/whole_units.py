"""The scope of whole units: filters and neurons are removed with everything that belongs to them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from tfprune_init.errors import OptionError
from tfprune_init.scopes.layout import Layout, Layouts
from tfprune_init.scopes.registry import scope
from tfprune_init.scopes.selection import Arrays, keep_top, kept_count
from tfprune_init.wiring import Wiring


class UnitLayouts(dict[str, Layout]):
    """Layouts of a network whose wiring is known.

    Attributes:
        wiring: Which weights belong to which unit.
    """

    def __init__(self, layouts: Layouts, wiring: Wiring):
        super().__init__(layouts)
        self.wiring = wiring

    @cached_property
    def kernels(self) -> dict[str, np.ndarray]:
        """The unit of each output, for every kernel that may lose units."""
        return {path: units for path, units in self.wiring.units.items() if path in self}

    @cached_property
    def removable(self) -> np.ndarray:
        """Whether each unit may be removed: no output of the model, and no kernel of it left alone."""
        removable = self.wiring.removable.copy()
        for path, units in self.wiring.units.items():
            if path not in self:
                removable[units] = False
        return removable


def _count_units(layouts: UnitLayouts) -> int:
    return int(np.count_nonzero(layouts.removable))


def _check_units(density: float, layouts: UnitLayouts) -> None:
    if not _count_units(layouts):
        raise OptionError(
            "No unit of this network may be removed: all its units are outputs of the model, or left alone. "
            "Received: scope='units'. Use scope='channel' or 'global'."
        )


@scope(
    "units",
    summary="whole units compete; their bias, BatchNorm scale and outgoing weights go with them",
    compares_layers=True,
    count=_count_units,
    check=_check_units,
    counts_in="units",
    of_units=True,
)
def units(scores: Arrays, density: float, alive: Arrays | None, layouts: Any) -> dict[str, np.ndarray]:
    """Units compete by the sum of their kernel weights' scores: floor(units * density) of them are kept.

    The model's output units are never removed and do not count. Each layer keeps at least its best unit, so that a
    very low density keeps more. Units that meet in a sum (residual networks) are one, removed together. Where the
    network cannot be followed (own layers, attention, recurrence), a unit is its incoming weights and its bias.
    """
    totals = np.zeros(len(layouts.wiring.removable))
    left = np.ones(totals.size, bool)
    for path, unit in layouts.kernels.items():
        np.add.at(totals, unit, layouts[path].to_matrix(scores[path]).sum(axis=0, dtype=np.float64))
        if alive is not None:
            left[unit[~layouts[path].to_matrix(alive[path]).any(axis=0)]] = False
    candidates = layouts.removable & left
    best = {int(unit[np.argmax(totals[unit])]) for unit in _competing(layouts, candidates)}
    first = np.isin(np.arange(totals.size), list(best))
    keep = max(kept_count(_count_units(layouts), density), len(best)) - len(best)
    chosen = keep_top({"rest": totals}, keep, {"rest": candidates & ~first})["rest"]
    return layouts.wiring.masks(layouts.removable & ~first & ~chosen)


def _competing(layouts: UnitLayouts, candidates: np.ndarray) -> list[np.ndarray]:
    """The candidates of each layer that has nothing but candidates left to keep."""
    kernels = layouts.kernels.values()
    return [unit[candidates[unit]] for unit in kernels if layouts.removable[unit].all() and candidates[unit].any()]
