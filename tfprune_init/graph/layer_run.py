"""Layers run by themselves, in float64 and with other weights: what they do to constants, and what reaches what."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.overrides import (
    compute_in_float64,
    compute_in_full_precision,
    disable_activations,
    override_variables,
)
from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.variables import list_variables


def run_layer(layer: Layer, x: Any, weights: Mapping[str, np.ndarray], linear: bool = False) -> tf.Tensor:
    """Return what a layer gives, in inference; no trace is left on it.

    Args:
        layer: A built layer.
        x: Its input with a batch axis, or the list of them if it takes a list.
        weights: Values of its variables, by name.
        linear: Without its activation.

    Returns:
        Its output, float64; computed in float64 wherever TensorFlow knows how.
    """
    if _is_spatial(layer) and layer.data_format == "channels_first":
        # TensorFlow knows few of these on CPUs. The weights are the same either way.
        output = run_layer(_channels_last(layer, x.shape), _moved(x, 1, -1), weights, linear)
        return _moved(output, -1, 1)
    # TensorFlow pools volumes in nothing larger than float32.
    precise = not compat.get_class_names(layer) & {"AveragePooling3D", "MaxPooling3D"}
    dtype = tf.float64 if precise else tf.as_dtype(layer.variable_dtype)
    with ExitStack() as changes:
        changes.enter_context(compute_in_float64(layer) if precise else compute_in_full_precision(layer))
        changes.enter_context(
            override_variables(
                layer, list_variables(layer), {name: tf.cast(value, dtype) for name, value in weights.items()}
            )
        )
        if linear:
            changes.enter_context(disable_activations(layer))
        output = compat.call_model(layer, tf.nest.map_structure(lambda one: tf.cast(one, dtype), x), False)
    return tf.cast(output, tf.float64)


def _is_spatial(layer: Layer) -> bool:
    return hasattr(layer, "data_format") and "Flatten" not in compat.get_class_names(layer)


def _channels_last(layer: Layer, shape: Any) -> Any:
    config = {**type(layer).get_config(layer), "data_format": "channels_last"}
    twin = type(layer).from_config(config)
    twin.build((None, *shape[2:], shape[1]))
    return twin


def _moved(x: Any, source: int, target: int) -> tf.Tensor:
    """Return a tensor with one axis moved; of rank 2 as it is."""
    order = list(range(len(x.shape)))
    order.insert(target % len(order), order.pop(source % len(order)))
    return tf.transpose(x, order) if len(order) > 2 else tf.convert_to_tensor(x)
