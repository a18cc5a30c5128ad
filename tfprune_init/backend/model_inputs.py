"""What goes into a model: examples made up for it, inputs of strings, and where a signal enters."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_graph import get_input_name


def find_string_inputs(model: Any) -> list[str]:
    """Return the names of the inputs of strings of a Sequential or functional model; none for other models."""
    if not compat.is_symbolic(model):
        return []
    return [get_input_name(model, symbol) for symbol in model.inputs if tf.as_dtype(symbol.dtype) == tf.string]


def make_example_input(model: Any, rng: np.random.Generator) -> Any:
    """Two made-up examples for a symbolic model: uniform floats in 0..1, integers 0 and 1; None if it takes strings."""
    if find_string_inputs(model):
        return None

    def one(symbol: Any) -> tf.Tensor:
        shape = (2, *(8 if size is None else size for size in symbol.shape[1:]))
        dtype = tf.as_dtype(symbol.dtype)
        values = rng.uniform(size=shape) if dtype.is_floating else rng.integers(0, 2, shape)
        return tf.constant(values, dtype)

    return tf.nest.map_structure(one, model.inputs[0] if len(model.inputs) == 1 else model.input)


def take_examples(model: Any, x: Any, count: int) -> Any:
    """Take the first examples of a nested batch; all if it is sparse, or the model has a batch size of its own."""
    fixed = compat.is_symbolic(model) and any(symbol.shape[0] is not None for symbol in tf.nest.flatten(model.inputs))
    if fixed or any(isinstance(leaf, tf.SparseTensor) for leaf in tf.nest.flatten(x)):
        return x
    return tf.nest.map_structure(lambda leaf: leaf[:count], x)


def to_differentiable_input(model: Any, x: Any) -> Any:
    """Return the batch with integers as floats where the model itself would make them floats."""
    if not compat.is_symbolic(model):
        return x
    symbols = list(model.inputs)
    leaves = tf.nest.flatten(x)
    if len(symbols) != len(leaves):
        return x
    floats = [
        tf.cast(leaf, symbol.dtype) if tf.as_dtype(symbol.dtype).is_floating else leaf
        for leaf, symbol in zip(leaves, symbols, strict=True)
    ]
    return tf.nest.pack_sequence_as(x, floats)


def find_embedding_tables(model: Any) -> list[tf.Variable]:
    """Tables of the model's Embedding layers, which is where a signal enters that integers carry."""
    return [
        compat.get_tf_variable(variable)
        for layer in compat.walk_layers(model)
        if "Embedding" in compat.get_class_names(layer)
        for variable in compat.get_own_variables(layer)
        if compat.get_tf_variable(variable).dtype.is_floating
    ]
