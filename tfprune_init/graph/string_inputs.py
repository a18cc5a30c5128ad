"""Models that take strings, cut behind the layers that turn these into numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.batch_sources import to_tensor
from tfprune_init.backend.model_graph import list_node_calls
from tfprune_init.backend.model_inputs import find_string_inputs
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import ModelError


@dataclass(frozen=True)
class StringCut:
    """A model in two parts, which share its layers and variables.

    Attributes:
        front: From the model's inputs to the numbers that `rest` takes, a list.
        rest: From numbers to the model's outputs; it takes a list, or one tensor if that is all.
        layers: Names of the layers that turn strings into numbers.
    """

    front: Any
    rest: Any
    layers: tuple[str, ...]

    def run_front(self, x: Any) -> list[Any]:
        """Compute what `rest` takes from a batch of the model's inputs, given as the model takes it."""
        tensors = tf.nest.map_structure(to_tensor, x)
        return list(tf.nest.flatten(compat.call_model(self.front, tensors, training=False)))


def cut_string_inputs(model: Model) -> Any:
    """Return the model behind the layers that turn strings into numbers.

    It shares all its layers and weights with the model: prune it, and the model is pruned.

    Args:
        model: A built Sequential or functional model that takes strings, of either Keras.

    Returns:
        A model that takes what those layers give, in their order, then the inputs of numbers.

    Raises:
        ModelError: If the model takes no strings, is subclassed, or a layer that takes strings has weights.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> words = keras.layers.StringLookup(vocabulary=["red", "blue"])
        >>> layers = [words, keras.layers.Embedding(3, 4), keras.layers.Flatten(), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((5,), dtype="string"), *layers])
        >>> tpi.cut_string_inputs(model).input_shape
        (None, 5)
    """
    return split_at_strings(model).rest


def split_at_strings(model: Model) -> StringCut:
    """Split a model behind the layers that turn strings into numbers.

    Raises:
        ModelError: As `cut_string_inputs`.
    """
    compat.check_model(model)
    if not compat.is_symbolic(model):
        raise ModelError(
            f"Model {model.name!r} is subclassed, so it can't be cut by itself: make a model of the layers behind "
            "those that take strings, and use that."
        )
    if not find_string_inputs(model):
        raise ModelError(f"Model {model.name!r} takes no strings, so there is nothing to cut. Use it as it is.")
    layers, cut = _find_ends_of_strings(model)
    if not cut:
        raise ModelError(f"No layer of model {model.name!r} turns its strings into numbers. Received: strings only.")
    numbers = [symbol for symbol in model.inputs if tf.as_dtype(symbol.dtype) != tf.string]
    package = compat.get_keras(model)
    joints = [*cut, *numbers]
    given = model.inputs[0] if len(model.inputs) == 1 else model.input
    outputs = model.outputs[0] if len(model.outputs) == 1 else model.output
    return StringCut(
        front=package.Model(given, joints),
        rest=package.Model(joints[0] if len(joints) == 1 else joints, outputs, name=model.name),
        layers=tuple(layers),
    )


def _find_ends_of_strings(model: Model) -> tuple[list[str], list[Any]]:
    """List the layers that take strings and give numbers, and the symbolic tensors of numbers that others take."""
    names: list[str] = []
    ends: list[Any] = []
    for call in list_node_calls(model)[0]:
        taken = [leaf for leaf in tf.nest.flatten([call.args, call.kwargs]) if hasattr(leaf, "dtype")]
        if not any(tf.as_dtype(leaf.dtype) == tf.string for leaf in taken):
            continue
        if compat.get_variables(call.layer):
            raise ModelError(
                f"Layer {call.layer.name!r} of model {model.name!r} takes strings and has weights, which would be cut "
                "off with it. Make a model of the layers behind the vectorizer inside it, and use that."
            )
        made = [leaf for leaf in tf.nest.flatten(call.outputs) if tf.as_dtype(leaf.dtype) != tf.string]
        names += [call.layer.name] if made else []
        ends += made
    return names, ends
