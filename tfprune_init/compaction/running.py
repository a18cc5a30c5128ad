"""Layers run by themselves, in float64 and with other weights: what they do to constants, and what reaches what."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.surgery import in_float64, in_full_precision, substituted, without_activations


def run(layer: Any, x: Any, weights: Mapping[str, np.ndarray], linear: bool = False) -> tf.Tensor:
    """What a layer gives, in inference; no trace is left on it.

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
        output = run(_channels_last(layer, x.shape), _moved(x, 1, -1), weights, linear)
        return _moved(output, -1, 1)
    # TensorFlow pools volumes in nothing larger than float32.
    precise = not kerases.class_names(layer) & {"AveragePooling3D", "MaxPooling3D"}
    dtype = tf.float64 if precise else tf.as_dtype(layer.variable_dtype)
    with ExitStack() as changes:
        changes.enter_context(in_float64(layer) if precise else in_full_precision(layer))
        changes.enter_context(substituted(layer, {name: tf.cast(value, dtype) for name, value in weights.items()}))
        if linear:
            changes.enter_context(without_activations(layer))
        output = kerases.call(layer, tf.nest.map_structure(lambda one: tf.cast(one, dtype), x), False)
    return tf.cast(output, tf.float64)


def _is_spatial(layer: Any) -> bool:
    return hasattr(layer, "data_format") and "Flatten" not in kerases.class_names(layer)


def _channels_last(layer: Any, shape: Any) -> Any:
    config = {**type(layer).get_config(layer), "data_format": "channels_last"}
    twin = type(layer).from_config(config)
    twin.build((None, *shape[2:], shape[1]))
    return twin


def _moved(x: Any, source: int, target: int) -> tf.Tensor:
    """A tensor with one axis moved; of rank 2 as it is."""
    order = list(range(len(x.shape)))
    order.insert(target % len(order), order.pop(source % len(order)))
    return tf.transpose(x, order) if len(order) > 2 else tf.convert_to_tensor(x)
