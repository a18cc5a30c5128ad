"""Layers that change shapes: pooling, padding, cropping, upsampling; Flatten, Reshape, Permute; TimeDistributed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.channel_groups import NO_LABEL, ChannelGroups, labels_along, spread_labels
from tfprune_init.graph.layer_rules.contexts import ChannelRecord, LabelContext, SignalContext
from tfprune_init.graph.layer_rules.rule import LayerRule, find_rule, register_rule
from tfprune_init.graph.signals import Signal, any_along, make_signal

_ND = ("1D", "2D", "3D")


@register_rule(*(f"Adaptive{kind}Pooling{nd}" for kind in ("Max", "Average") for nd in _ND))
class ByChannel(LayerRule):
    """Each channel by itself, whatever becomes of positions."""

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Label channels that bear one label at all positions."""
        return use.spread_over_channels(use.take_channels())


@register_rule(
    *(f"{kind}Pooling{nd}" for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for nd in _ND),
    *(f"{kind}{nd}" for kind in ("ZeroPadding", "Cropping", "UpSampling") for nd in _ND),
    "RepeatVector",
)
class Resize(ByChannel):
    """Pooling, padding, cropping, upsampling."""

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        if getattr(layer, "interpolation", "nearest") not in ("nearest", "bilinear"):
            return f"{type(layer).__name__} interpolates with weights below zero"
        return None

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Run the layer on what varies and on constants; no weight is below zero."""
        channels = record.take_along(use.first, use.channel_axis(len(use.first.shape)), use)
        varies = use.run(use.first.varies) > 0
        return make_signal(varies, use.run(use.first.value), use.unsized, use.channel_axis(varies.ndim), channels)

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Return which channels are used at all."""
        shape = use.first.shape
        used = any_along(output.used, use.channel_axis(len(output.shape)))
        return [spread_labels(used, use.channel_axis(len(shape)), shape)]


class _Rearrange(LayerRule):
    """The same numbers in another shape, where channels may still fill whole slices."""

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        return None

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Move labels and constants; without whole slices for channels, all of them stay."""
        x = use.first
        labels = use.run(x.labels).astype(np.int64)
        found = [labels_along(labels, axis) for axis in range(labels.ndim)]
        axes = [i for i, one in enumerate(found) if (spread_labels(one, i, labels.shape) == labels).all()]
        if not axes:
            record.leave_whole(use, f"{type(use.layer).__name__} mixes channels with positions")
            return make_signal(use.run(x.varies) > 0, use.run(x.value), use.unsized)
        axis, channels = axes[-1], found[axes[-1]]
        target = getattr(use.layer, "target_shape", None)
        if target is not None and target[axis] != -1:
            record.add_size(use, "target_shape", axis, channels)
        return make_signal(use.run(x.varies) > 0, use.run(x.value), use.unsized, axis, channels)

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Move back what is used."""
        shape = use.first.shape
        used = np.zeros(shape, bool)
        used.flat[use.run(np.arange(used.size).reshape(shape)).astype(np.int64).ravel()] = output.used.ravel()
        return [used]


@register_rule("Flatten")
class Flatten(_Rearrange):
    """All numbers in a row, channels last."""

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Move the labels."""
        first = getattr(use.layer, "data_format", None) == "channels_first" and use.labels.ndim > 1
        return (np.moveaxis(use.labels, 0, -1) if first else use.labels).reshape(use.shape)


@register_rule("Reshape")
class Reshape(_Rearrange):
    """All numbers in another shape."""

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Move the labels."""
        return use.labels.reshape(use.shape)


@register_rule("Permute")
class Permute(_Rearrange):
    """Axes in another order."""

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Move the labels."""
        return use.labels.transpose([axis - 1 for axis in use.layer.dims])


@register_rule("TimeDistributed")
class EachStep(LayerRule):
    """A layer that is called on each step by itself."""

    def knows(self, layer: Layer) -> bool:
        """Return whether the layer inside is known."""
        rule = find_rule(layer.layer)
        return rule is not None and rule.follows_units

    def find_variables(self, layer: Layer) -> dict[str, Any]:
        """Return those of the layer inside."""
        rule = find_rule(layer.layer)
        assert rule is not None
        return rule.find_variables(layer.layer)

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Let the layer inside say what goes, for units that are the same at all steps."""
        rule = find_rule(use.layer.layer)
        assert rule is not None
        at_all_steps = np.where((use.labels == use.labels[0]).all(axis=0), use.labels[0], NO_LABEL)
        one = replace(use, layer=use.layer.layer, inputs=(at_all_steps,), shape=use.shape[1:])
        return np.broadcast_to(rule.label(groups, one), use.shape)

    def count_uses(self, layer: Layer, inputs: list[tuple[int, ...]], output: tuple[int, ...]) -> dict[str, int] | None:
        """Return how often each weight is used: once at each position."""
        rule = find_rule(layer.layer)
        assert rule is not None
        uses = rule.count_uses(layer.layer, [shape[1:] for shape in inputs], output[1:])
        return None if uses is None else {name: output[0] * count for name, count in uses.items()}
