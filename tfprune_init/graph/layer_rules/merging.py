"""Layers that put several inputs together: side by side, or at the same place."""

from __future__ import annotations

import numpy as np

from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.channel_groups import NO_LABEL, ChannelGroups, make_unlabelled, squeeze_broadcast
from tfprune_init.graph.layer_rules.contexts import ChannelRecord, LabelContext, SignalContext
from tfprune_init.graph.layer_rules.rule import LayerRule, find_axes, register_rule
from tfprune_init.graph.signals import Signal, make_signal


@register_rule("Concatenate")
class Concatenate(LayerRule):
    """Channels side by side; or channels that go together, side by side along another axis."""

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Put labels side by side."""
        (axis,) = find_axes(use.layer, use.labels.ndim)
        if axis < 0:
            return make_unlabelled(use.shape)
        return np.broadcast_to(np.concatenate(squeeze_broadcast(use.inputs, axis), axis), use.shape)

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        return None

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Put channels side by side; along another axis, couple them."""
        (axis,) = find_axes(use.layer, len(use.first.shape))
        axes = [x.axis for x in use.inputs if x.axis not in (None, axis)]
        value = use.run(*(x.value for x in use.inputs))
        varies = np.concatenate([x.varies for x in use.inputs], axis)
        if axes:
            channels = _couple(record, use, use.inputs, axes[0])
            return make_signal(varies, value, use.unsized, axes[0], channels)
        channels = np.concatenate([record.take_along(x, axis, use) for x in use.inputs])
        return make_signal(varies, value, use.unsized, axis, channels)

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Divide what is used."""
        (axis,) = find_axes(use.layer, len(use.first.shape))
        return np.split(output.used, np.cumsum([x.shape[axis] for x in use.inputs])[:-1], axis)


@register_rule("Add", "Subtract", "Average", "Maximum", "Minimum")
class Merge(LayerRule):
    """Sums and the like: channels at the same place go together."""

    aligns_ranks = True

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Couple the units at one place; next to no unit there is no label."""
        first, *others = squeeze_broadcast(np.broadcast_arrays(*use.inputs))
        # Next to what bears no label nothing is silent: the other goes on.
        all_labelled = np.all([one != NO_LABEL for one in (first, *others)], axis=0)
        for other in others:
            groups.couple(first[all_labelled], other[all_labelled])
        return np.broadcast_to(np.where(all_labelled, first, NO_LABEL), use.shape)

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        return None

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Couple the channels at one place, and run the layer on constants."""
        inputs = _align(use.inputs)
        varies = np.any(np.broadcast_arrays(*(x.varies for x in inputs)), axis=0)
        whole = (x.axis for x in inputs if x.axis is not None and x.shape[x.axis] == varies.shape[x.axis])
        axis = next(whole, None)
        value = use.run(*(x.value for x in use.inputs))
        if axis is None:
            for x in inputs:
                record.groups.pin(x.channels, f"is spread over others by {use.path}")
            return make_signal(varies, value, use.unsized)
        return make_signal(varies, value, use.unsized, axis, _couple(record, use, inputs, axis))

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Return what is used of all that a number was spread over."""
        return [_sum_up(output.used, x.shape) for x in use.inputs]


@register_rule("Multiply")
class Product(Merge):
    """A product, as by a gate: 0 times anything is 0."""

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Couple the channels at one place, where 0 times anything is constant."""
        signal = super().follow(record, use)
        zero = np.any(np.broadcast_arrays(*(_is_zero(x) for x in use.inputs)), axis=0)
        return make_signal(signal.varies & ~zero, signal.value, use.unsized, signal.axis, signal.channels)

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Return what is used, where nothing is seen that is multiplied by 0."""
        zeros = [_is_zero(x) for x in use.inputs]
        others = [[*zeros[:i], *zeros[i + 1 :]] for i in range(len(zeros))]
        return [
            _sum_up(output.used & ~np.any(np.broadcast_arrays(*rest), axis=0), x.shape)
            for x, rest in zip(use.inputs, others, strict=True)
        ]


def _is_zero(x: Signal) -> np.ndarray:
    return np.asarray(~x.varies & (x.value == 0))


def _align(inputs: tuple[Signal, ...]) -> list[Signal]:
    """Return signals of one rank: Keras puts axes of size 1 in front of those of fewer axes."""
    rank = max(len(x.shape) for x in inputs)
    return [_put_axes_in_front(x, rank - len(x.shape)) for x in inputs]


def _put_axes_in_front(x: Signal, count: int) -> Signal:
    if not count:
        return x
    varies, value, used = (array.reshape((1,) * count + x.shape) for array in (x.varies, x.value, x.used))
    axis = None if x.axis is None else x.axis + count
    return Signal(varies, value, axis, x.channels, tuple(i + count for i in x.unsized), used)


def _sum_up(used: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return whether any is used of what a number of this shape was spread over."""
    aligned = (1,) * (used.ndim - len(shape)) + shape
    axes = tuple(i for i, size in enumerate(aligned) if size == 1 < used.shape[i])
    return np.asarray(used.any(axis=axes, keepdims=True)).reshape(shape)


def _couple(
    record: ChannelRecord, use: SignalContext, inputs: list[Signal] | tuple[Signal, ...], axis: int
) -> np.ndarray:
    """Return the label at each index of an axis, coupled over all inputs; one spread along it keeps its channel."""
    size = max(x.shape[axis] for x in inputs)
    whole = [x for x in inputs if x.shape[axis] == size]
    for x in inputs:
        if x.shape[axis] != size:
            record.groups.pin(x.channels, f"is spread over others by {use.path}")
    first, *others = [record.take_along(x, axis, use) for x in whole]
    for other in others:
        record.groups.couple(first, other, use.path)
    return first
