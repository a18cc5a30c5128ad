"""The graph of layers that Sequential and functional models of both Keras versions keep."""

from __future__ import annotations

from typing import Any, NamedTuple

from tfprune_init.backend import compat
from tfprune_init.backend.contracts import get_private, require


class NodeCall(NamedTuple):
    """One node of the graph: what is called, with which arguments, and the symbolic tensors it gives."""

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any


def list_node_calls(model: Any) -> tuple[list[NodeCall], bool]:
    """List the calls in the graph of a model, each after those it depends on; inputs are no calls.

    Args:
        model: A built Sequential or functional model of either Keras.

    Returns:
        The calls, and whether the graph has losses or metrics on tensors inside (add_loss, add_metric of tf_keras).
    """
    graph = model
    if compat.is_keras3(model):
        require("keras Function._nodes_by_depth", "keras Node.operation", "keras Node.arguments")
        if "Sequential" in compat.get_class_names(model):
            # It keeps its graph in a functional model.
            require("keras Sequential._functional")
            graph = model._functional
    else:
        require("tf_keras Functional._nodes_by_depth", "tf_keras Node.call_args", "tf_keras Node.call_kwargs")
    by_depth = graph._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]
    return [_read_node(node, compat.is_keras3(model)) for node in nodes], min(by_depth) < 0


def _read_node(node: Any, is_keras3: bool) -> NodeCall:
    if is_keras3:
        return NodeCall(node.operation, tuple(node.arguments.args), dict(node.arguments.kwargs), node.outputs)
    return NodeCall(node.layer, tuple(node.call_args), dict(node.call_kwargs), node.outputs)


def get_input_name(model: Any, symbol: Any) -> str:
    """Return the name of the input layer that a symbolic input of a model comes from."""
    require(f"{compat.get_package_name(model)} Node._keras_history")
    return str(symbol._keras_history[0].name)


def get_logits(model: Any, output: Any) -> Any:
    """Return what went into the softmax or sigmoid that an output tensor of a model comes from; else the output."""
    package = compat.get_package_name(model)
    require(f"{package} {'nn' if package == 'keras' else 'backend'}._keras_logits")
    return getattr(output, "_keras_logits", output)


def is_saved_by_layers(kind: type) -> bool:
    """Return whether tf_keras can rebuild a functional model of this class from its layers."""
    return bool(get_private("tf_keras functional.has_functional_like_constructor")(kind))
