"""Recurrent layers: a unit has columns in all gates, and a row that feeds it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.channel_groups import ChannelGroups, labels_along, spread_labels
from tfprune_init.graph.layer_rules.contexts import ChannelRecord, LabelContext, SignalContext
from tfprune_init.graph.layer_rules.rule import LayerRule, is_elementwise, register_rule
from tfprune_init.graph.signals import Signal, any_along, make_signal

# Place of the gate that makes the new state, among the gates of a kernel: (i, f, c, o) and (z, r, h).
_CANDIDATE = 2


@register_rule("LSTM", "GRU")
class Recurrent(LayerRule):
    """LSTM and GRU, whose state starts at zero: without its weights and bias the state of a unit stays zero."""

    makes_units = True
    nesting = 1

    def knows(self, layer: Layer) -> bool:
        """Return whether its state starts at zero for each batch, and its cell is the one that Keras gives it."""
        cell = layer.cell
        changed = type(cell).__module__.split(".")[0] not in ("keras", "tf_keras")
        functions = (cell.activation, cell.recurrent_activation)
        return not (changed or layer.stateful or layer.return_state) and all(map(is_elementwise, functions))

    def find_inputs(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """Return the sequence; None where a state is given."""
        if kwargs.get("initial_state") is not None or len(args) > 1:
            return None
        found = super().find_inputs(layer, args, kwargs)
        return found if found is not None and len(found) == 1 else None

    def find_variables(self, layer: Layer) -> dict[str, Any]:
        """Return those of the cell."""
        return super().find_variables(layer.cell)

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Let the columns of all gates, the bias and the row that feeds back go with their unit."""
        kernel, recurrent = use.variables["kernel"], use.variables["recurrent_kernel"]
        units, columns = recurrent.shape
        groups.add_consumer(kernel.path, 0, labels_along(use.labels, use.labels.ndim - 1))
        labels = groups.make_units(kernel.path, 1, units)
        in_each_gate = np.tile(labels, columns // units)
        for one in (kernel, recurrent):
            groups.add_units(one.path, 1, labels, in_each_gate)
            groups.add_silencing(one.path, 1, in_each_gate)
        groups.add_consumer(recurrent.path, 0, labels)
        bias = use.variables.get("bias")
        if bias is not None:
            groups.add_silencing(bias.path, len(bias.shape) - 1, in_each_gate)
        return spread_labels(labels, len(use.shape) - 1, use.shape)

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        at_zero = np.asarray(layer.cell.activation(np.zeros(1, np.float32)))
        return None if not at_zero.any() else f"{type(layer).__name__} has a state other than 0 without weights"

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Let the same go with channels; units into whose state nothing leads are zero."""
        x, last = use.first, len(use.first.shape) - 1
        units, columns = use.variables["recurrent_kernel"].shape
        taken, labels = record.take_along(x, last, use), record.make_units(use, units)
        in_each_gate = np.tile(labels, columns // units)
        record.add_consumer(use, "kernel", 0, taken)
        record.add_consumer(use, "kernel", 1, in_each_gate)
        record.add_consumer(use, "recurrent_kernel", 0, labels)
        record.add_consumer(use, "recurrent_kernel", 1, in_each_gate)
        if "bias" in use.variables:
            record.add_consumer(use, "bias", len(use.variables["bias"].shape) - 1, in_each_gate)
        record.add_size(use, "units", None, labels)
        # Constants add something at each step before the gates: no bias can take that over where steps differ.
        constant = any_along(x.value != 0, last) & use.alive["kernel"].any(axis=1)
        record.groups.pin(taken[constant], f"is a constant that enters {use.path}")
        sequences = (x.shape[0],) if use.layer.return_sequences else ()
        shape = (*sequences, units)
        varies = spread_labels(~_find_silent(use), len(shape) - 1, shape)
        return make_signal(varies, np.zeros(shape), use.unsized, len(shape) - 1, labels)

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Return which features lead to a unit that is used, or that feeds one that is; such units are used too."""
        assert output.axis is not None
        speaks = ~_find_silent(use)
        recurrent = _join_gates(use.alive["recurrent_kernel"], len(speaks))
        used = any_along(output.used, output.axis)
        for _ in speaks:
            used = used | (recurrent & (used & speaks)).any(axis=1)
        output.used[...] |= used
        features = (_join_gates(use.alive["kernel"], len(speaks)) & (used & speaks)).any(axis=1)
        return [spread_labels(features, len(use.first.shape) - 1, use.first.shape)]

    def count_uses(
        self, layer: Layer, inputs: list[tuple[int, ...]], output: tuple[int, ...]
    ) -> Mapping[str, int] | None:
        """Return how often each weight is used: once at each step."""
        return {"kernel": inputs[0][0], "recurrent_kernel": inputs[0][0]}


def _join_gates(alive: np.ndarray, units: int) -> np.ndarray:
    """Return whether a row has a weight left in any gate of each unit, of shape [rows, units]."""
    return np.asarray(alive.reshape(len(alive), -1, units).any(axis=1))


def _find_silent(use: SignalContext) -> np.ndarray:
    """Return which units stay at zero, as nothing but zeros leads to their new state."""
    x, values = use.first, use.values
    units = len(values["recurrent_kernel"])
    new_state = slice(_CANDIDATE * units, (_CANDIDATE + 1) * units)
    enters = any_along(x.varies | (x.value != 0), len(x.shape) - 1)
    fed = (use.alive["kernel"][:, new_state] & enters[:, None]).any(axis=0)
    if "bias" in values:
        fed = fed | values["bias"].reshape(-1, values["kernel"].shape[1])[:, new_state].any(axis=0)
    recurrent = use.alive["recurrent_kernel"][:, new_state]
    for _ in range(units):
        fed = fed | (recurrent & fed[:, None]).any(axis=0)
    return np.asarray(~fed)
