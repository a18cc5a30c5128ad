"""Granularity "units": filters and neurons are removed with everything that belongs to them."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from tfprune_init.errors import OptionError
from tfprune_init.graph import DependencyGraph
from tfprune_init.selection.granularity import Granularity, Groups, Pool, register_granularity
from tfprune_init.selection.matrix_layout import Layout, Layouts
from tfprune_init.selection.top_k import Arrays


class UnitLayouts(dict[str, Layout]):
    """Layouts of a network whose dependency graph is known.

    Attributes:
        graph: Which weights belong to which unit.
    """

    def __init__(self, layouts: Layouts, graph: DependencyGraph):
        super().__init__(layouts)
        self.graph = graph

    @cached_property
    def kernels(self) -> dict[str, np.ndarray]:
        """The unit of each output, for every kernel that may lose units."""
        return {path: units for path, units in self.graph.units.items() if path in self}

    @cached_property
    def removable(self) -> np.ndarray:
        """Whether each unit may be removed: no output of the model, and no kernel of it excluded."""
        removable = self.graph.removable.copy()
        for path, units in self.graph.units.items():
            if path not in self:
                removable[units] = False
        return removable

    @cached_property
    def layers(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Kernels that share units, by the first of them: their paths, and their removable units in order."""
        found: list[tuple[list[str], set[int]]] = []
        for path, units in self.kernels.items():
            own = {int(unit) for unit in units if self.removable[unit]}
            together = [one for one in found if one[1] & own]
            merged = ([p for one in together for p in one[0]] + [path], own.union(*(one[1] for one in together)))
            found = [one for one in found if one not in together] + [merged]
        layers = [(tuple(paths), np.array(sorted(units))) for paths, units in found if units]
        layers.sort(key=lambda layer: int(layer[1][0]))
        return {paths[0]: (paths, units) for paths, units in layers}


@register_granularity
class WholeUnits(Granularity):
    """Keep or prune whole units, by the sum of their kernel weights' scores.

    Bias, BatchNorm scale and offset and outgoing weights go with a unit. The model's output units are never removed
    and do not count. Each layer keeps at least its best unit, so that a very low density keeps more. Units that meet in
    a sum (residual networks) are one, removed together; to an allocation, kernels that share units are one layer.
    Where the network cannot be followed (own layers), a unit is its incoming weights and its bias.
    """

    name, counts_in, of_units = "units", "units", True
    summary = "whole units, with their bias, BatchNorm scale and outgoing weights"

    def pools(self, layouts: Any, **options: Any) -> dict[str, Pool]:
        """Return one pool for kernels that share units."""
        return {name: Pool(units.size, paths) for name, (paths, units) in layouts.layers.items()}

    def check(self, density: Fraction, layouts: Any, **options: Any) -> None:
        """Raise OptionError if no unit may be removed."""
        if not layouts.layers:
            raise OptionError(
                "No unit of this network may be removed: all its units are outputs of the model, or excluded. "
                "Received: granularity='units'. Use granularity='channel' or 'weights'."
            )

    def group(self, scores: Arrays, alive: Arrays | None, layouts: Any, **options: Any) -> Groups:
        """Add up the scores of each unit, in float64; the best of each layer gets +inf."""
        totals = np.zeros(layouts.removable.size)
        left = np.ones(totals.size, bool)
        for path, unit in layouts.kernels.items():
            np.add.at(totals, unit, layouts[path].to_matrix(scores[path]).sum(axis=0, dtype=np.float64))
            if alive is not None:
                left[unit[~layouts[path].to_matrix(alive[path]).any(axis=0)]] = False
        candidates = layouts.removable & left
        best = {int(unit[np.argmax(totals[unit])]) for unit in _competing(layouts, candidates)}
        totals[list(best)] = np.inf
        units = {name: units for name, (_, units) in layouts.layers.items()}
        return Groups(
            {name: totals[own] for name, own in units.items()},
            {name: candidates[own] for name, own in units.items()},
            {name: len(best.intersection(own.tolist())) for name, own in units.items()},
        )

    def spread(
        self, chosen: dict[str, np.ndarray], alive: Arrays | None, layouts: Any, **options: Any
    ) -> dict[str, np.ndarray]:
        """Remove what belongs to units that are not chosen."""
        removed = layouts.removable.copy()
        for name, kept in chosen.items():
            removed[layouts.layers[name][1][kept]] = False
        masks: dict[str, np.ndarray] = layouts.graph.masks(removed)
        return masks


def _competing(layouts: UnitLayouts, candidates: np.ndarray) -> list[np.ndarray]:
    """Return the candidates of each layer that has nothing but candidates left to keep."""
    kernels = layouts.kernels.values()
    return [unit[candidates[unit]] for unit in kernels if layouts.removable[unit].all() and candidates[unit].any()]
