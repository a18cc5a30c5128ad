"""One call of a layer as its rule sees it, and the record in which rules write down what `compact` needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.channel_groups import NO_LABEL, ChannelGroups, labels_along, spread_labels
from tfprune_init.graph.layer_run import run_layer
from tfprune_init.graph.signals import Signal, make_signal
from tfprune_init.graph.variables import ModelVariable


def find_channel_axis(layer: Layer, rank: int) -> int:
    """Return the axis that a layer takes for channels, in an example of some rank."""
    return 0 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


@dataclass(frozen=True, eq=False)
class LabelContext:
    """One call of a layer, with the labels of the units that its inputs carry.

    Where a tensor bears the label of a unit it holds one value for all inputs once that unit is removed; where a rule
    cannot promise that, it gives no label.

    Attributes:
        layer: The layer.
        inputs: Labels of its inputs, each of the shape of one example.
        shape: Shape of its output, for one example.
        variables: Variables of the layer, by the names that its rule gives them.
    """

    layer: Layer
    inputs: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    variables: Mapping[str, ModelVariable]

    @property
    def labels(self) -> np.ndarray:
        """Labels of the first input."""
        return self.inputs[0]

    def take_channels(self) -> np.ndarray:
        """Return the label of each channel of the first input."""
        return labels_along(self.labels, find_channel_axis(self.layer, self.labels.ndim))

    def spread_over_channels(self, labels: np.ndarray) -> np.ndarray:
        """Return labels of the output, with one for each channel."""
        return spread_labels(labels, find_channel_axis(self.layer, len(self.shape)), self.shape)


@dataclass(frozen=True, eq=False)
class SignalContext:
    """One call of a layer, with what is known of the numbers that enter it.

    Attributes:
        layer: The layer.
        path: Its name, behind those of the models it is nested in.
        inputs: What is known of its inputs.
        unsized: Axes of its output whose size is not fixed.
        variables: Variables of the layer, by the names that its rule gives them.
        alive: Which of their weights are not gone for good.
        inner: What is known of numbers inside of it that have channels of their own, by name: filled in by the rule.
    """

    layer: Layer
    path: str
    inputs: tuple[Signal, ...]
    unsized: tuple[int, ...]
    variables: Mapping[str, ModelVariable]
    alive: Mapping[str, np.ndarray]
    inner: dict[str, Signal] = field(default_factory=dict)

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
        """Return what the layer makes of one example; of several, it takes the list."""
        x = [one[None].astype(float) for one in examples]
        return np.asarray(run_layer(self.layer, x[0] if len(x) == 1 else x, self.values)[0])

    def channel_axis(self, rank: int) -> int:
        """Return the axis that the layer takes for channels, in an example of some rank."""
        return find_channel_axis(self.layer, rank)


@dataclass(eq=False)
class ChannelRecord:
    """What the rules learn of a network that is to lose channels.

    Attributes:
        groups: Which channels go together, which weights go with them, and which stay.
        sizes: For each layer by its id, the entries of its config that shrink: at which index, with which channels.
        left_whole: Why layers are not cut, by path.
    """

    groups: ChannelGroups = field(default_factory=lambda: ChannelGroups(strict=True))
    sizes: dict[int, dict[str, tuple[int | None, np.ndarray]]] = field(default_factory=dict)
    left_whole: dict[str, str] = field(default_factory=dict)

    def take_along(self, signal: Signal, axis: int, use: SignalContext) -> np.ndarray:
        """Return the label at each index of an axis; channels that lie along another one stay."""
        if signal.axis == axis:
            return signal.channels
        if signal.axis is not None:
            self.groups.pin(signal.channels, f"lies along another axis than the channels of {use.path}")
        return np.full(signal.shape[axis], NO_LABEL)

    def add_consumer(self, use: SignalContext, name: str, axis: int, labels: np.ndarray) -> None:
        """Let weights at the indices of an axis go with these channels, in each call of the layer."""
        self.groups.add_consumer(use.variables[name].path, axis, labels, use.path)

    def add_size(self, use: SignalContext, key: str, index: int | None, labels: np.ndarray) -> None:
        """Let an entry of the layer's config be the number of these channels, in each call of the layer."""
        known_index, known = self.sizes.setdefault(id(use.layer), {}).setdefault(key, (index, labels))
        if known_index == index and known.shape == labels.shape:
            self.groups.couple(known, labels, use.path)
        else:
            self.groups.pin(known, f"{use.path} is called on shapes that differ")
            self.groups.pin(labels, f"{use.path} is called on shapes that differ")

    def make_units(self, use: SignalContext, count: int) -> np.ndarray:
        """Return labels of the units of a layer: the same in each call."""
        known = self.find_units(use.layer)
        return self.groups.make_labels(count) if known is None else known

    def find_units(self, layer: Layer) -> np.ndarray | None:
        """Return the labels of a layer's units, the first of its sizes; None if nothing of it shrinks."""
        return next((labels for _, labels in self.sizes.get(id(layer), {}).values()), None)

    def add_inner(self, use: SignalContext, name: str, varies: np.ndarray, channels: np.ndarray) -> None:
        """Let channels inside of a layer be removed as others are; those that do not vary are 0."""
        use.inner[name] = make_signal(varies, np.zeros(varies.shape), (), 0, channels)

    def leave_whole(self, use: SignalContext, reason: str) -> None:
        """Let nothing go that enters this layer."""
        self.left_whole.setdefault(use.path, reason)
        for signal in use.inputs:
            self.groups.pin(signal.channels, f"enters {use.path}, which is left whole")
