"""One call of a layer as its rule sees it, and the book in which the rules write down what they learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfprune_init.compaction.groups import STAYS, Groups
from tfprune_init.compaction.running import run
from tfprune_init.compaction.signals import Signal
from tfprune_init.targets import Target


@dataclass(frozen=True, eq=False)
class Use:
    """One call of a layer.

    Attributes:
        layer: The layer.
        path: Its name, behind those of the models it is nested in.
        inputs: What is known of its inputs.
        unsized: Axes of its output whose size is not fixed.
        variables: Its own variables by name.
        alive: Which of their weights are not gone for good.
    """

    layer: Any
    path: str
    inputs: tuple[Signal, ...]
    unsized: tuple[int, ...]
    variables: Mapping[str, Target]
    alive: Mapping[str, np.ndarray]

    @property
    def values(self) -> dict[str, np.ndarray]:
        """Values of its variables, float64, by name; 0 where a weight is gone."""
        tensors = {name: np.asarray(target.tensor) for name, target in self.variables.items()}
        return {name: np.where(self.alive[name], value.astype(np.float64), 0.0) for name, value in tensors.items()}

    @property
    def first(self) -> Signal:
        """What is known of its first, or only, input."""
        return self.inputs[0]

    def run(self, *examples: np.ndarray) -> np.ndarray:
        """What the layer makes of one example; of several, it takes the list."""
        x = [one[None].astype(float) for one in examples]
        return np.asarray(run(self.layer, x[0] if len(x) == 1 else x, self.values))[0]

    def channel_axis(self, rank: int) -> int:
        """The axis that the layer takes for channels, in an example of some rank."""
        return 0 if getattr(self.layer, "data_format", None) == "channels_first" else rank - 1


@dataclass(eq=False)
class Book:
    """What the rules learn of a network.

    Attributes:
        groups: Which channels go together, and which stay.
        slices: For each variable by its id, labels of the channels along some of its axes.
        sizes: For each layer by its id, the entry of its config that shrinks, at which index, with which channels.
        left_whole: Why layers are not understood, by path.
    """

    groups: Groups = field(default_factory=Groups)
    slices: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    sizes: dict[int, tuple[str, int | None, np.ndarray]] = field(default_factory=dict)
    left_whole: dict[str, str] = field(default_factory=dict)

    def along(self, signal: Signal, axis: int, use: Use) -> np.ndarray:
        """Label at each index of an axis; channels that lie along another one stay."""
        if signal.axis == axis:
            return signal.channels
        if signal.axis is not None:
            self.groups.hold(signal.channels, f"lies along another axis than the channels of {use.path}")
        return np.full(signal.shape[axis], STAYS)

    def serves(self, use: Use, name: str, axis: int, labels: np.ndarray) -> None:
        """Weights at the indices of an axis go with these channels, in each call of the layer."""
        axes = self.slices.setdefault(id(use.variables[name].variable), {})
        if axis in axes:
            self.groups.tie(axes[axis], labels, use.path)
        axes.setdefault(axis, labels)

    def shrinks(self, use: Use, key: str, index: int | None, labels: np.ndarray) -> None:
        """An entry of the layer's config is the number of these channels, in each call of the layer."""
        _, known_index, known = self.sizes.setdefault(id(use.layer), (key, index, labels))
        if known_index == index and known.shape == labels.shape:
            self.groups.tie(known, labels, use.path)
        else:
            self.groups.hold(known, f"{use.path} is called on shapes that differ")
            self.groups.hold(labels, f"{use.path} is called on shapes that differ")

    def units(self, use: Use, count: int) -> np.ndarray:
        """Labels of the units of a layer: the same in each call."""
        known = self.sizes.get(id(use.layer))
        return self.groups.new(count) if known is None else known[2]

    def leave(self, use: Use, why: str) -> None:
        """Nothing that enters this layer can go."""
        self.left_whole.setdefault(use.path, why)
        for signal in use.inputs:
            self.groups.hold(signal.channels, f"enters {use.path}, which is left whole")
