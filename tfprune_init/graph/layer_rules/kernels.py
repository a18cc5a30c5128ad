"""Layers that mix channels by a kernel: Dense, convolution in all its forms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.channel_groups import NO_LABEL, ChannelGroups
from tfprune_init.graph.kernel_axes import find_kernel_axes
from tfprune_init.graph.layer_rules.contexts import ChannelRecord, LabelContext, SignalContext, find_channel_axis
from tfprune_init.graph.layer_rules.elementwise import pin_where_mixed
from tfprune_init.graph.layer_rules.rule import LayerRule, is_elementwise, register_rule
from tfprune_init.graph.layer_run import run_layer
from tfprune_init.graph.signals import Signal, make_signal
from tfprune_init.graph.variables import ModelVariable

_ND = ("1D", "2D", "3D")


class _WithKernel(LayerRule):
    """What layers with a kernel have in common."""

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        return None

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Return from where a way through weights that are left leads to what is used."""
        x = tf.Variable(np.zeros((1, *use.first.shape)))
        with tf.GradientTape() as tape:
            # Of a sum with no negative weights the gradient says how many ways lead from there.
            linear = run_layer(use.layer, x, _open_weights(use), linear=True)
            ways = tf.reduce_sum(linear * find_needed(use, output))
        return [np.asarray(tape.gradient(ways, x))[0] > 0.5]

    def count_uses(
        self, layer: Layer, inputs: list[tuple[int, ...]], output: tuple[int, ...]
    ) -> Mapping[str, int] | None:
        """Return how often each weight is used: once at each position."""
        # A transposed convolution multiplies each number that comes in, the others those that go out.
        transposed = any(name.endswith("Transpose") for name in compat.get_class_names(layer))
        shape = inputs[0] if transposed else output
        positions = math.prod(shape) // shape[find_channel_axis(layer, len(shape))]
        return {name: positions for name in self.find_variables(layer) if name.endswith("kernel")}


@register_rule(
    "Dense",
    *(f"Conv{nd}{suffix}" for nd in _ND for suffix in ("", "Transpose")),
    *(f"SeparableConv{nd}" for nd in _ND[:2]),
)
class UnitKernel(_WithKernel):
    """Dense, convolution, transposed and separable convolution: each unit takes every channel, or those of its group.

    In a grouped convolution a row of the kernel takes one channel of each group. A weight goes with the channel it
    takes; `compact` removes channels at the same place of all groups together, and units likewise.
    """

    mixes = True
    makes_units = True

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Let rows go with the units they take, and columns and bias with the units they make."""
        taken, name = use.take_channels(), "kernel"
        if "depthwise_kernel" in use.variables:
            taken, name = _label_by_depth(groups, use.variables["depthwise_kernel"], taken), "pointwise_kernel"
        kernel = use.variables[name]
        rows, columns = _find_unit_axes(use.layer, name, kernel)
        labels = groups.make_units(kernel.path, columns, kernel.shape[columns])
        if kernel.shape[rows] == len(taken):
            groups.add_consumer(kernel.path, rows, taken, use.layer.name)
        elif groups.strict:
            by_group = taken.reshape(-1, kernel.shape[rows])
            groups.add_consumer(kernel.path, rows, groups.couple_places(by_group, use.layer.name), use.layer.name)
            groups.couple_places(labels.reshape(len(by_group), -1), use.layer.name)
        else:
            groups.add_cells(kernel.path, _label_cells(taken, kernel.shape, rows, columns))
        if (labels != NO_LABEL).all():
            groups.add_silencing(kernel.path, columns, labels)
        return _label_output(groups, use, labels)

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Let the same go with channels; what nothing that varies reaches is constant."""
        x, name = use.first, "kernel"
        taken = record.take_along(x, use.channel_axis(len(x.shape)), use)
        if "pointwise_kernel" in use.variables:
            taken, name = _follow_by_depth(record, use, "depthwise_kernel", taken), "pointwise_kernel"
        rows, columns = _find_unit_axes(use.layer, name, use.variables[name])
        units = record.make_units(use, use.variables[name].shape[columns])
        in_each_group = _couple_groups(record, use, taken)
        _couple_groups(record, use, units)
        record.add_consumer(use, name, rows, in_each_group)
        record.add_consumer(use, name, columns, units)
        record.add_size(use, "units" if hasattr(use.layer, "units") else "filters", None, units)
        return _follow_output(record, use, units)


@register_rule(*(f"DepthwiseConv{nd}" for nd in _ND[:2]))
class DepthwiseKernel(_WithKernel):
    """Depthwise convolution: each channel by itself."""

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Let the weights and bias of a channel go with it."""
        return _label_output(groups, use, _label_by_depth(groups, use.variables["kernel"], use.take_channels()))

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Let the same go with channels; what nothing that varies reaches is constant."""
        taken = record.take_along(use.first, use.channel_axis(len(use.first.shape)), use)
        return _follow_output(record, use, _follow_by_depth(record, use, "kernel", taken))


def _find_unit_axes(layer: Layer, name: str, kernel: ModelVariable) -> tuple[int, int]:
    """Return the axis of the rows and the axis of the units."""
    axes = find_kernel_axes(compat.get_class_names(layer), name, len(kernel.shape))
    (rows,), (columns,) = axes.inputs, axes.outputs
    return rows, columns


def _label_by_depth(groups: ChannelGroups, kernel: ModelVariable, taken: np.ndarray) -> np.ndarray:
    groups.add_consumer(kernel.path, len(kernel.shape) - 2, taken)
    return np.repeat(taken, kernel.shape[-1])


def _label_cells(taken: np.ndarray, shape: tuple[int, ...], rows: int, columns: int) -> np.ndarray:
    """Return the channel that each weight of a grouped kernel takes: a unit takes those of its group alone."""
    by_group = taken.reshape(-1, shape[rows])  # [groups, channels of a group]
    of_units = np.repeat(by_group, shape[columns] // len(by_group), axis=0)  # [units, channels of a group]
    both = of_units if columns < rows else of_units.T
    return np.broadcast_to(both.reshape([n if i in (rows, columns) else 1 for i, n in enumerate(shape)]), shape)


def _label_output(groups: ChannelGroups, use: LabelContext, labels: np.ndarray) -> np.ndarray:
    bias = use.variables.get("bias")
    if bias is not None:
        groups.add_silencing(bias.path, 0, labels)
    output = use.spread_over_channels(labels)
    pin_where_mixed(groups, use.layer, output)
    return output


def _couple_groups(record: ChannelRecord, use: SignalContext, channels: np.ndarray) -> np.ndarray:
    """Let channels at the same place of all groups go together; return those of the first group."""
    first, *others = channels.reshape(getattr(use.layer, "groups", 1), -1)
    for other in others:
        record.groups.couple(first, other, use.path)
    return first


def _follow_by_depth(record: ChannelRecord, use: SignalContext, name: str, taken: np.ndarray) -> np.ndarray:
    shape = use.variables[name].shape
    record.add_consumer(use, name, len(shape) - 2, taken)
    return np.repeat(taken, shape[-1])


def _follow_output(record: ChannelRecord, use: SignalContext, channels: np.ndarray) -> Signal:
    if "bias" in use.variables:
        record.add_consumer(use, "bias", 0, channels)
    varies = _find_reached(use)
    if not is_elementwise(use.layer.activation):
        record.groups.pin(channels, f"the activation of {use.path} looks at several channels at once")
        varies = np.full_like(varies, varies.any())
    return make_signal(varies, use.run(use.first.value), use.unsized, use.channel_axis(varies.ndim), channels)


def _find_reached(use: SignalContext) -> np.ndarray:
    """Return whether anything that varies reaches each number of the output."""
    varies = use.first.varies | (has_unknown_borders(use) & (use.first.value != 0))
    counted = run_layer(use.layer, varies[None].astype(float), _open_weights(use), linear=True)
    return np.asarray(np.asarray(counted)[0] > 0.5)


def _open_weights(use: SignalContext) -> dict[str, np.ndarray]:
    """Return 1 for each weight that is left; where sizes are not fixed, for each of its channels."""
    weights = {}
    for name, alive in use.alive.items():
        if use.first.unsized and alive.ndim > 2:
            alive = np.broadcast_to(alive.any(axis=tuple(range(alive.ndim - 2)), keepdims=True), alive.shape)
        weights[name] = np.zeros(alive.shape) if name == "bias" else alive.astype(float)
    return weights


def find_needed(use: SignalContext, output: Signal) -> np.ndarray:
    """Return whether each number before the activation is seen in what is used of the output."""
    return output.used if is_elementwise(use.layer.activation) else np.broadcast_to(output.used.any(), output.shape)


def has_unknown_borders(use: SignalContext) -> bool:
    """Return whether padding beside inputs of no fixed size makes constants differ in ways that are not known."""
    extent = max((max(target.shape[:-2], default=1) for target in use.variables.values()), default=1)
    return bool(use.first.unsized) and extent > 1 and getattr(use.layer, "padding", "valid") != "valid"
