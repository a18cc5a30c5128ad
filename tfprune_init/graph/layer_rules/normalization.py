"""Layers that normalize: a scale and an offset for each channel, and what they mix."""

from __future__ import annotations

import numpy as np

from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.channel_groups import ChannelGroups, labels_along, make_unlabelled, spread_labels
from tfprune_init.graph.layer_rules.contexts import ChannelRecord, LabelContext, SignalContext
from tfprune_init.graph.layer_rules.rule import LayerRule, find_axes, register_rule
from tfprune_init.graph.signals import Signal, make_signal


@register_rule("BatchNormalization", "SyncBatchNormalization")
class Scale(LayerRule):
    """BatchNorm in inference: a scale and an offset for each channel, and nothing passes a scale of zero."""

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Let scale and offset go with their unit."""
        axes = find_axes(use.layer, use.labels.ndim)
        if len(axes) != 1 or axes[0] < 0:
            return make_unlabelled(use.shape)
        labels = labels_along(use.labels, axes[0])
        for name, variable in use.variables.items():
            if name in ("gamma", "scale", "beta"):
                groups.add_silencing(variable.path, 0, labels)
            else:
                groups.add_follower(variable.path, 0, labels)
        return spread_labels(labels, axes[0], use.shape)

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        return None

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Let scale, offset and statistics go with their channel; at a scale of zero it is constant."""
        x, (axis, *_) = use.first, find_axes(use.layer, len(use.first.shape))
        channels = record.take_along(x, axis, use)
        for name in use.variables:
            record.add_consumer(use, name, 0, channels)
        return make_signal(x.varies & _find_passing(use), use.run(x.value), use.unsized, axis, channels)

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Return what is used of the output and passes the scale."""
        return [output.used & _find_passing(use)]


@register_rule(*(f"{kind}Normalization" for kind in ("Layer", "Group", "RMS")))
class MixedScale(Scale):
    """Normalization over channels: what enters mixes in the others; only a scale of zero takes that out again."""

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Let scale and offset go with their unit; without a scale its output is not silent."""
        scaled = {"gamma", "scale"} & set(use.variables)
        return super().label(groups, use) if scaled else make_unlabelled(use.shape)

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        return f"{type(layer).__name__} normalizes over its channels"


@register_rule("UnitNormalization")
class Mixed(LayerRule):
    """Normalization over channels without a scale."""

    follows_units = False

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        return f"{type(layer).__name__} normalizes over its channels"


def _find_passing(use: SignalContext) -> np.ndarray:
    """Return where the scale is not zero for good."""
    (axis, *_) = find_axes(use.layer, len(use.first.shape))
    return spread_labels(use.alive.get("gamma", np.ones(use.first.shape[axis], bool)), axis, use.first.shape)
