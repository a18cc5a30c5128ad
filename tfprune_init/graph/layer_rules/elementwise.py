"""Layers that make of each number something by itself."""

from __future__ import annotations

import numpy as np

from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.channel_groups import ChannelGroups, labels_along, make_unlabelled
from tfprune_init.graph.layer_rules.contexts import ChannelRecord, LabelContext, SignalContext
from tfprune_init.graph.layer_rules.rule import LayerRule, find_axes, is_elementwise, register_rule
from tfprune_init.graph.signals import Signal, make_signal


@register_rule(
    *("ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU", "Identity"),
    *("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "ActivityRegularization"),
    *(f"SpatialDropout{nd}" for nd in ("1D", "2D", "3D")),
)
class Elementwise(LayerRule):
    """Activations, Dropout, noise."""

    def is_elementwise(self, layer: Layer) -> bool:
        """Return whether it makes of each number something by itself."""
        return True

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Pass the labels on."""
        last = use.labels.ndim - 1
        for variable in use.variables.values():
            # Slopes of PReLU; not the states of random numbers, which are whole.
            fits = len(variable.shape) == last + 1 and variable.shape[last] == use.labels.shape[last] > 1
            if fits and variable.tensor.dtype.is_floating:
                groups.add_follower(variable.path, last, labels_along(use.labels, last))
        return use.labels if use.labels.shape == use.shape else make_unlabelled(use.shape)

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        return None

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Run the layer on constants; slopes of PReLU go with their channels."""
        x = use.first
        for name, target in use.variables.items():
            if x.axis is not None and target.shape[x.axis] == len(x.channels) > 1:
                record.add_consumer(use, name, x.axis, x.channels)  # slopes of PReLU
        return make_signal(x.varies, use.run(x.value), use.unsized, x.axis, x.channels)

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Return what is used of the output."""
        return [output.used]


@register_rule("Rescaling")
class Rescaling(Elementwise):
    """A scale and an offset, the same for all channels or one for each."""

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        return "Rescaling has numbers for each channel" if np.ndim(layer.scale) + np.ndim(layer.offset) else None


@register_rule("Activation")
class Activation(Elementwise):
    """An activation function as a layer."""

    def is_elementwise(self, layer: Layer) -> bool:
        """Return whether it makes of each number something by itself."""
        return is_elementwise(layer.activation)

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Pass the labels on; units that the function compares stay."""
        pin_where_mixed(groups, use.layer, use.labels)
        return super().label(groups, use)

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        if is_elementwise(layer.activation):
            return None
        return f"the activation of {type(layer).__name__} looks at several channels at once"


@register_rule("Softmax")
class Softmax(LayerRule):
    """Softmax as a layer: units that it compares have to stay, others pass."""

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Pass the labels on; units that are compared stay."""
        axes = find_axes(use.layer, use.labels.ndim)
        if any(axis < 0 or (use.labels != use.labels.take([0], axis)).any() for axis in axes):
            groups.pin(use.labels, f"passes through the softmax of {use.layer.name}")
        return use.labels if use.labels.shape == use.shape else make_unlabelled(use.shape)

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        return "Softmax looks at several channels at once"


def pin_where_mixed(groups: ChannelGroups, layer: Layer, labels: np.ndarray) -> None:
    """Let units stay whose numbers a layer's activation compares."""
    if not is_elementwise(layer.activation):
        groups.pin(labels, f"passes through the activation of {layer.name}, which looks at several units at once")
