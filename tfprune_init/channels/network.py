"""What an importance can ask of a network: its kernels by channel, its scales, and derivatives of its loss."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfprune_init.graph.variables import ModelVariable
from tfprune_init.scoring import ScoringEngine
from tfprune_init.selection import UnitLayouts


class ChannelNetwork:
    """A network whose channels are judged.

    Args:
        layouts: How its kernels lie, with the dependency graph.
        variables: All of its variables, by path.
        engine: Measures derivatives of the loss; None where the importance uses none.

    Attributes:
        graph: Which channels stand or fall together: the groups, numbered.
        kernels: Paths of kernels with channels of their own that may be pruned.
    """

    def __init__(
        self, layouts: UnitLayouts, variables: Mapping[str, ModelVariable], engine: ScoringEngine | None = None
    ):
        self.graph = layouts.graph
        self.kernels = tuple(layouts.kernels)
        self._layouts = layouts
        self._variables = variables
        self._engine = engine

    @property
    def engine(self) -> ScoringEngine:
        """The engine that measures derivatives of the loss."""
        assert self._engine is not None, "the importance is registered without uses_gradients=True"
        return self._engine

    def get_columns(self, path: str, array: np.ndarray | None = None) -> np.ndarray:
        """Return the matrix view of a kernel, of shape [weights that feed a channel, channels].

        Args:
            path: The kernel.
            array: An array of its shape to view instead, as of gradients.
        """
        return self._layouts[path].to_matrix(self.get_values(path) if array is None else array)

    def get_values(self, path: str) -> np.ndarray:
        """Return what the network computes with in place of a variable, float32 or float64."""
        values = self._variables[path].effective.numpy()
        return np.asarray(values if values.dtype == np.float64 else values.astype(np.float32))

    def find_scales(self) -> dict[str, np.ndarray]:
        """Return the scales of normalizations that belong to channels: values of each gamma, by path."""
        return {
            path: self.get_values(path)
            for path, axes in self.graph.entries.items()
            if self._variables[path].name == "gamma" and len(axes) == 1 and len(self._variables[path].shape) == 1
        }

    def get_groups(self, path: str) -> np.ndarray:
        """Return the group of each channel of a kernel or of another variable that is indexed by channels; -1: none."""
        if path in self.graph.units:
            return self.graph.units[path]
        ((_, groups),) = self.graph.entries[path]
        return groups
