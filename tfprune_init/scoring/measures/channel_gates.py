"""Derivatives of the loss with respect to a gate on each unit's output."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from tfprune_init.backend.overrides import intercept_calls
from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.variables import ModelVariable
from tfprune_init.scoring.masked_model import MaskedModel, to_score_dtype

# Each replica is traced in a thread of its own, with its own gates.
_HERE = threading.local()


def find_gated_variables(network: MaskedModel) -> list[ModelVariable]:
    """List variables that are the last kernel of a layer whose output channels are its units."""
    return [target for target in network.targets if target.channel_axis is not None]


@contextmanager
def gate_outputs(network: MaskedModel) -> Iterator[None]:
    """Multiply the outputs of unit layers by the gates that the current replica has set up."""
    axes = {id(t.layer): t.channel_axis for t in find_gated_variables(network)}

    def through_gate(layer: Layer, call: Any, args: Any, kwargs: Any) -> Any:
        output = call(*args, **kwargs)
        gate = tf.cast(_HERE.gates[id(layer)], output.dtype)
        if axes[id(layer)] == 1 and output.shape.rank > 2:
            gate = tf.reshape(gate, [-1] + [1] * (output.shape.rank - 2))
        return output * gate

    with intercept_calls([target.layer for target in find_gated_variables(network)], through_gate):
        yield


def measure_gate_derivatives(
    network: MaskedModel, x: Any, y: Any, sample_weight: Any, scale: tf.Tensor, temperature: float
) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """Compute the loss of a batch and dL/dc at c = 1 for every unit layer.

    c multiplies the layer's outputs by unit. To be traced within `gate_outputs`.
    """
    gates = {
        id(t.layer): tf.ones([t.shape[axis] for axis in t.units.outputs], network.weights[t.path].dtype)
        for t in find_gated_variables(network)
    }
    _HERE.gates = gates
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(list(gates.values()))
        loss = network.compute_loss(x, y, sample_weight, temperature)
        scaled = loss * tf.cast(scale, loss.dtype)
    derivatives = tape.gradient(scaled, list(gates.values()))
    return loss, [None if d is None else to_score_dtype(tf.convert_to_tensor(d)) for d in derivatives]
