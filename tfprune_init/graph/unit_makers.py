"""Which layer with kernels makes the units that another layer takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_graph import NodeCall, list_node_calls
from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.graph.trace import is_graph, is_symbol
from tfprune_init.graph.variables import ModelVariable, list_variables


class UnitMakers:
    """The kernels behind the units that layers of a model take.

    The graph is followed backwards from a layer, into nested models and out of them, through what takes one tensor and
    holds no matrix: activations, normalization, pooling, reshaping, Dropout.

    Args:
        model: A built model, Keras 3 or tf_keras.

    Example:
        >>> import keras
        >>> from tfprune_init.graph.unit_makers import UnitMakers
        >>> layers = [keras.layers.Dense(3, "relu", name="hidden"), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> [target.path for target in UnitMakers(model).find_kernels(layers[1])]
        ['hidden/kernel']
        >>> UnitMakers(model).find_kernels(layers[0])
        'it takes the inputs of the model'
    """

    def __init__(self, model: Model):
        self._kernels = [target for target in list_variables(model) if "kernel" in target.name]
        self._calls: list[NodeCall] = []
        # Tensors inside of nested models, and what they are outside; and the other way round.
        self._aliases: defaultdict[int, set[int]] = defaultdict(set)
        self._has_graph = compat.is_symbolic(model)
        if self._has_graph:
            self._calls = list(self._walk(model, set()))
        self._makers = {id(tensor): call for call in self._calls for tensor in tf.nest.flatten(call.outputs)}

    def find_kernels(self, layer: Layer) -> list[ModelVariable] | str:
        """Return the kernels of the layer that makes what a layer takes; why that is not known, in words.

        Args:
            layer: A layer of the model. Where it is called several times, it has to be behind the same layer always.
        """
        if not self._has_graph:
            return "it is in a subclassed model, whose graph of layers is not known"
        calls = [call for call in self._calls if call.layer is layer]
        if not calls:
            return "it is inside of another layer, or not called"
        found = {id(maker): maker for maker in map(self._find_maker, calls)}
        reasons = [maker for maker in found.values() if isinstance(maker, str)]
        if reasons:
            return reasons[0]
        if len(found) > 1:
            return f"it is behind several layers: {', '.join(sorted(maker.name for maker in found.values()))}"
        return self._list_kernels(next(iter(found.values())))

    def _walk(self, model: Model, seen: set[int]) -> Iterator[NodeCall]:
        """Yield the calls of a model and of those inside of it, and note which of their tensors are the same."""
        seen.add(id(model))
        for call in list_node_calls(model)[0]:
            if not is_graph(call.layer):
                yield call
                continue
            for inside, outside in zip(tf.nest.flatten(call.layer.inputs), _list_inputs(call), strict=False):
                self._aliases[id(inside)].add(id(outside))
            for inside, outside in zip(
                tf.nest.flatten(call.layer.outputs), tf.nest.flatten(call.outputs), strict=False
            ):
                self._aliases[id(outside)].add(id(inside))
            if id(call.layer) not in seen:
                yield from self._walk(call.layer, seen)

    def _find_maker(self, call: NodeCall) -> Any:
        """Return the layer with kernels that a call takes its tensor from, or why that is not known."""
        while True:
            inputs = [id(tensor) for tensor in _list_inputs(call)]
            if len(inputs) != 1:
                return f"several tensors meet in {call.layer.name} before it"
            place = inputs[0]
            while self._aliases[place]:
                if len(self._aliases[place]) > 1:
                    return "it is inside of a model that is called several times"
                (place,) = self._aliases[place]
            maker = self._makers.get(place)
            if maker is None:
                return "it takes the inputs of the model"
            if self._list_kernels(maker.layer):
                return maker.layer
            if any(len(variable.shape) > 1 for variable in compat.get_variables(maker.layer)):
                return f"{maker.layer.name} before it has weights that are no kernels"
            call = maker

    def _list_kernels(self, layer: Layer) -> list[ModelVariable]:
        own = {id(variable) for variable in compat.get_variables(layer)}
        return [target for target in self._kernels if id(target.variable) in own]


def _list_inputs(call: NodeCall) -> list[Any]:
    return [leaf for leaf in tf.nest.flatten((call.args, call.kwargs)) if is_symbol(leaf)]
