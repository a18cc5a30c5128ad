"""The graph of a Sequential or functional model, as the calls of its layers in order, under both Kerases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.errors import ModelError


@dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer, of an operation, or of a nested model, on symbolic tensors.

    Attributes:
        layer: What is called.
        args: Its arguments, symbolic tensors among them.
        kwargs: Its arguments by name.
        outputs: The symbolic tensors it gives.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Any, ...]

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The symbolic tensors it takes."""
        return tuple(leaf for leaf in tf.nest.flatten((self.args, self.kwargs)) if is_symbol(leaf))

    @property
    def is_plain(self) -> bool:
        """Whether it takes tensors and nothing else, but that it be told to run as in inference."""
        told = {name: value for name, value in self.kwargs.items() if value is not None}
        leaves = tf.nest.flatten(self.args)
        return told in ({}, {"training": False}) and bool(leaves) and all(map(is_symbol, leaves))


def nodes_of(model: Any) -> list[Node]:
    """The calls that make up a model, each after those it depends on; inputs are no calls.

    Raises:
        ModelError: If the model has losses or metrics of its own on tensors inside (tf_keras's add_loss, add_metric).
    """
    # A Sequential model of Keras 3 keeps its graph in a functional one.
    by_depth = (getattr(model, "_functional", None) or model)._nodes_by_depth
    if min(by_depth) < 0:
        raise ModelError(
            f"Model {model.name!r} has losses or metrics added on tensors inside it (add_loss, add_metric), which a "
            "smaller copy would lack. Build it without them and pass them to compile."
        )
    found = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]
    return [_node(node) for node in found]


def _node(node: Any) -> Node:
    outputs = tuple(tf.nest.flatten(node.outputs))
    if hasattr(node, "operation"):
        return Node(node.operation, tuple(node.arguments.args), dict(node.arguments.kwargs), outputs)
    return Node(node.layer, tuple(node.call_args), dict(node.call_kwargs), outputs)


def is_symbol(leaf: Any) -> bool:
    """Whether this is a symbolic tensor of either Keras."""
    return any(base.__name__ == "KerasTensor" for base in type(leaf).__mro__)


def is_graph(layer: Any) -> bool:
    """Whether a layer is a nested Sequential or functional model that computes what its graph says."""
    return kerases.is_model(layer) and kerases.is_symbolic(layer) and "call" not in kerases.replaced_methods(layer)
