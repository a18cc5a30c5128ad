"""Models built again from their layers, with something changed on the way."""

from __future__ import annotations

from inspect import getfullargspec
from typing import Any

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.layer_copy import copy_layer
from tfprune_init.backend.model_graph import get_input_name
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import ModelError
from tfprune_init.graph.trace import is_graph, list_calls


class ModelCopy:
    """A Sequential or functional model built again: the same layers, called in the same way. Subclasses change that.

    Args:
        model: The model; others nested in it are built again too.

    Attributes:
        model: The copy.

    Raises:
        ModelError: If a layer cannot be copied, or a copy of the model would lack methods of its class.
    """

    def __init__(self, model: Model):
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._models: dict[int, Any] = {}
        self.model = self._copy_model(model)

    @property
    def layers(self) -> list[tuple[Any, Any]]:
        """Each layer with its copy."""
        return list(self._copies.values())

    def find_input_shape(self, model: Model, symbol: Any) -> list[int | None]:
        """Return the shape, batch included, of what takes the place of a symbolic input of a model, nested or not."""
        return list(symbol.shape)

    def make_layer(self, layer: Any) -> Any:
        """Make the layer that takes the place of one."""
        return copy_layer(layer)

    def leaves_out(self, layer: Any) -> bool:
        """Return whether a layer gets no copy; it must give one tensor of the shape of the one it takes."""
        return False

    def find_next(self, symbol: Any) -> Any | None:
        """Return a new layer that is called on what takes the place of a symbolic tensor; None for none."""
        return None

    def _copy_model(self, model: Model) -> Any:
        if id(model) not in self._models:
            sequential = "Sequential" in compat.get_class_names(model)
            copy = self._copy_sequential(model) if sequential else self._copy_functional(model)
            if not model.trainable:
                copy.trainable = False
            self._models[id(model)] = copy
        return self._models[id(model)]

    def _copy_sequential(self, model: Model) -> Any:
        (symbol,) = model.inputs
        layers = [self._make_input(model, symbol)]
        for call in list_calls(model):
            if not self.leaves_out(call.layer):
                layers.append(self._copy_layer(call.layer))
            layers += [layer for layer in map(self.find_next, call.outputs) if layer is not None]
        return _class_for(model, "Sequential")(layers, name=model.name)

    def _copy_functional(self, model: Model) -> Any:
        symbols = {id(symbol): self._make_input(model, symbol) for symbol in model.inputs}

        def replaced(structure: Any) -> Any:
            return tf.nest.map_structure(lambda leaf: symbols.get(id(leaf), leaf), structure)

        for call in list_calls(model):
            if self.leaves_out(call.layer):
                outputs = replaced(list(call.inputs))
            else:
                outputs = tf.nest.flatten(self._copy_layer(call.layer)(*replaced(call.args), **replaced(call.kwargs)))
            for symbol, output in zip(call.outputs, outputs, strict=True):
                behind = self.find_next(symbol)
                symbols[id(symbol)] = output if behind is None else behind(output)
        return _class_for(model, "Model")(replaced(model.input), replaced(model.output), name=model.name)

    def _make_input(self, model: Model, symbol: Any) -> Any:
        shape = self.find_input_shape(model, symbol)
        name = get_input_name(model, symbol)
        return compat.get_keras(model).Input(shape[1:], batch_size=shape[0], dtype=symbol.dtype, name=name)

    def _copy_layer(self, layer: Any) -> Any:
        if is_graph(layer):
            return self._copy_model(layer)
        if id(layer) not in self._copies:
            self._copies[id(layer)] = layer, self.make_layer(layer)
        return self._copies[id(layer)][1]


def _class_for(model: Model, base: str) -> Any:
    """Return what to make a copy of a model with: its own class if that is made of a graph, else that of Keras.

    Raises:
        ModelError: If the class of Keras would lack methods of the model's own class.
    """
    kind = type(model)
    package = compat.get_package_name(model)
    spec = getfullargspec(kind.__init__)
    if kind.__module__.split(".")[0] != package:
        if kind.__init__.__module__.split(".")[0] == package or (spec.varargs and spec.varkw):
            return kind
        lost = compat.find_overridden_methods(model)
        if lost:
            raise ModelError(
                f"A changed copy of model {model.name!r} would lack {', '.join(lost)} of its class {kind.__name__}. "
                "Give the class a constructor that takes *args and **kwargs and passes them on, or use a plain one."
            )
    return getattr(compat.get_keras(model), base)
