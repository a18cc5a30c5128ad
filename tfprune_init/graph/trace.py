"""The calls of a model's layers, in order: as its graph lists them, or as one run on an example shows them.

The graph of a Sequential or functional model knows sizes that are open, and each argument; a run knows what happens in
subclassed models, and inside of layers of one's own. What follows reads the same `LayerCall` of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_graph import list_node_calls
from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.overrides import compute_in_full_precision, intercept_calls
from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.backend.thread_overrides import run_functions_eagerly
from tfprune_init.errors import DataError, ModelError


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a layer, of an operation, or of a nested model.

    Attributes:
        layer: What is called.
        inputs: The tensors it takes, kept alive so that each is told from the others by its id; in a run, all that are
            among the arguments of what is not known.
        outputs: The tensors it gives; none where nothing is known of what the layer does.
        args: Its arguments, symbolic tensors among them; empty in a run.
        kwargs: Its arguments by name; empty in a run.
    """

    layer: Any
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether it takes symbolic tensors and nothing else, but that it be told to run as in inference."""
        told = {name: value for name, value in self.kwargs.items() if value is not None}
        leaves = tf.nest.flatten(self.args)
        return told in ({}, {"training": False}) and bool(leaves) and all(map(is_symbol, leaves))


def list_calls(model: Model) -> list[LayerCall]:
    """List the calls in the graph of a model, each after those it depends on; inputs are no calls.

    Args:
        model: A built Sequential or functional model. Nested models are one call.

    Raises:
        ModelError: If the model has losses or metrics of its own on tensors inside (tf_keras's add_loss, add_metric).
    """
    nodes, has_added = list_node_calls(model)
    if has_added:
        raise ModelError(
            f"Model {model.name!r} has losses or metrics added on tensors inside it (add_loss, add_metric), which a "
            "smaller copy would lack. Build it without them and pass them to compile."
        )
    return [_to_call(*node) for node in nodes]


def _to_call(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> LayerCall:
    inputs = tuple(leaf for leaf in tf.nest.flatten((args, kwargs)) if is_symbol(leaf))
    return LayerCall(layer, inputs, tuple(tf.nest.flatten(outputs)), args, kwargs)


def is_symbol(leaf: Any) -> bool:
    """Return whether this is a symbolic tensor of either Keras."""
    return any(base.__name__ == "KerasTensor" for base in type(leaf).__mro__)


def is_graph(layer: Layer) -> bool:
    """Return whether a layer is a nested Sequential or functional model that computes what its graph says."""
    return compat.is_model(layer) and compat.is_symbolic(layer) and "call" not in compat.find_overridden_methods(layer)


def walk_calls(model: Model) -> Iterator[LayerCall]:
    """Yield the calls in the graph of a model and, in place of those of nested models, the calls inside them.

    Args:
        model: A built Sequential or functional model.
    """
    for call in list_calls(model):
        if is_graph(call.layer):
            yield from walk_calls(call.layer)
        else:
            yield call


def trace_calls(
    model: Model, example: Any, find_inputs: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
) -> tuple[list[LayerCall], list[tf.Tensor]]:
    """Run a model once as in inference, and leave no trace on it.

    Args:
        model: A built model.
        example: A batch of inputs.
        find_inputs: Called as `find_inputs(layer, args, kwargs)`; returns the tensors that a layer of which it is known
            what it does takes, None of others. Calls inside of a layer that is known are its own affair.

    Returns:
        The calls in the order in which they ended, those of unknown layers and of operations as they began, and the
        model's outputs.

    Raises:
        DataError: If the model cannot run on the example.
    """
    calls: list[LayerCall] = []
    within: list[Any] = []

    def around(layer: Layer, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if within:
            return call(*args, **kwargs)
        inputs = find_inputs(layer, args, kwargs)
        if inputs is None:
            calls.append(LayerCall(layer, _find_tensors(args, kwargs)))
            return call(*args, **kwargs)
        within.append(layer)
        try:
            output = call(*args, **kwargs)
        finally:
            within.pop()
        clear = all(isinstance(one, tf.Tensor) and one.shape.is_fully_defined() for one in (*inputs, output))
        calls.append(
            LayerCall(layer, tuple(inputs), (output,)) if clear else LayerCall(layer, _find_tensors(args, kwargs))
        )
        return output

    def note(operation: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not within:
            calls.append(LayerCall(operation, _find_tensors(args, kwargs)))
        return call(*args, **kwargs)

    layers = [layer for layer in compat.walk_layers(model) if not compat.is_model(layer)]
    try:
        with (
            restore_state(model),
            run_functions_eagerly(),
            compute_in_full_precision(model),
            intercept_calls(layers, around),
            intercept_calls(_find_operations(model), note),
        ):
            outputs = compat.call_model(model, example, False)
    except Exception as error:
        shapes = [tuple(getattr(leaf, "shape", ())) for leaf in tf.nest.flatten(example)]
        raise DataError(
            f"Model {model.name!r} cannot run on the example: {error} Received: an example of shapes {shapes}. "
            "Pass example=..., one small batch of what the model is called with."
        ) from error
    return calls, [output for output in tf.nest.flatten(outputs) if isinstance(output, tf.Tensor)]


def _find_tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tf.Tensor, ...]:
    return tuple(leaf for leaf in tf.nest.flatten((args, kwargs)) if isinstance(leaf, tf.Tensor))


def _find_operations(model: Model) -> list[Any]:
    """Return the operations of Keras 3 that are no layers, such as a sum written with +, in the graphs of a model."""
    graphs = [one for one in (model, *compat.walk_layers(model)) if is_graph(one)]
    called = {id(node.layer): node.layer for graph in graphs for node in list_node_calls(graph)[0]}
    layers = {id(layer) for layer in compat.walk_layers(model)}
    return [operation for place, operation in called.items() if place not in layers]
