"""The kernels whose output units are the outputs of the model."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_graph import list_node_calls
from tfprune_init.backend.protocols import Model
from tfprune_init.graph.variables import ModelVariable


def find_output_kernels(model: Model, targets: Sequence[ModelVariable]) -> frozenset[str]:
    """Find the kernels whose units are the numbers that a model gives, such as its classes.

    The graph is followed backwards from the outputs, through layers that take one tensor and hold no matrix:
    activations, softmax, pooling, reshaping, normalization.

    Args:
        model: A built model, Keras 3 or tf_keras.
        targets: Its variables among which to look.

    Returns:
        Their paths; none where the model is subclassed, or the way back meets a sum or another layer with weights.

    Example:
        >>> import keras
        >>> from tfprune_init.graph.output_kernels import find_output_kernels
        >>> from tfprune_init.graph.variables import list_variables
        >>> layers = [keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2, name="head"), keras.layers.Softmax()]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> sorted(find_output_kernels(model, list_variables(model)))
        ['head/kernel']
    """
    if not compat.is_symbolic(model):
        return frozenset()
    calls, _ = list_node_calls(model)
    makers = {id(tensor): call for call in calls for tensor in tf.nest.flatten(call.outputs)}
    found: set[str] = set()
    waiting = [id(tensor) for tensor in tf.nest.flatten(model.outputs)]
    while waiting:
        call = makers.get(waiting.pop())
        if call is None:
            continue
        if compat.is_model(call.layer):
            found |= find_output_kernels(call.layer, targets)
            continue
        variables = getattr(call.layer, "variables", ())
        own = {id(variable) for variable in variables}
        kernels = [t.path for t in targets if id(t.variable) in own and t.channel_axis is not None]
        inputs = [id(one) for one in tf.nest.flatten((call.args, call.kwargs)) if id(one) in makers]
        if len(kernels) == 1:
            found.update(kernels)
        elif len(inputs) == 1 and all(len(variable.shape) < 2 for variable in variables):
            waiting += inputs
    return frozenset(found)
