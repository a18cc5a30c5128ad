"""The calls of a model, followed from layer to layer: how far a channel that is 0 stays 0."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.graph.layer_rules import LayerRule, find_channel_rule
from tfprune_init.graph.trace import LayerCall, is_graph, list_calls
from tfprune_init.graph.variables import ModelVariable

# What a layer adds to zeros, or takes from them.
_OFFSETS = {"bias", "beta", "moving_mean"}


def keeps_zeros(layer: Layer) -> bool:
    """Return whether a layer with one input makes zeros of zeros, whatever its weights are trained to.

    Args:
        layer: A layer that `compact` can follow.

    Example:
        >>> import keras
        >>> from tfprune_init.gates.model_calls import keeps_zeros
        >>> keeps_zeros(keras.layers.ReLU()), keeps_zeros(keras.layers.Activation("sigmoid"))
        (True, False)
    """
    rule = find_channel_rule(layer)
    assert isinstance(rule, LayerRule)
    if _OFFSETS & set(rule.find_variables(layer)) or np.any(getattr(layer, "offset", 0)):
        return False
    activation = getattr(layer, "activation", None)
    return activation is None or not np.any(activation(tf.zeros((1, 1))))


class ModelCalls:
    """The calls of a model and of those nested in it."""

    def __init__(self, model: Model):
        self._makers: defaultdict[int, list[LayerCall]] = defaultdict(list)
        self._takers: defaultdict[int, list[LayerCall]] = defaultdict(list)
        self._ends: dict[int, str] = {}
        for one, call in _walk(model, set()):
            self._makers[id(call.layer)].append(call)
            for tensor in call.inputs:
                self._takers[id(tensor)].append(call)
            whose = "the model" if one is model else f"the nested model {one.name!r}"
            self._ends |= {id(tensor): whose for tensor in tf.nest.flatten(one.outputs)}

    def find_places(self, target: ModelVariable) -> list[tuple[tuple[Any, ...], Any]] | str:
        """Return the layers and the symbol before each place for gates of a kernel's units; or why there is none."""
        layer = target.layer
        rule = find_channel_rule(layer)
        if isinstance(rule, str):
            return rule
        if not self._makers[id(layer)]:
            return f"{layer.name} is inside of another layer"
        assert target.channel_axis is not None
        places = [self._follow(call, target.channel_axis) for call in self._makers[id(layer)]]
        for _, symbol in places:
            doubt = self._find_doubt(symbol)
            if doubt is not None:
                return doubt
        return places

    def find_takers(self, layer: Layer) -> list[Layer] | str:
        """Return the layers with weights that alone take what a layer gives, and zeros where it is 0; or why not.

        Args:
            layer: A layer that is called once.
        """
        makers = self._makers[id(layer)]
        if len(makers) != 1 or len(makers[0].outputs) != 1:
            return f"{layer.name} is called at several places, or inside of another layer"
        found: list[Layer] = []
        waiting = list(makers[0].outputs)
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in self._ends:
                return f"it is an output of {self._ends[id(tensor)]}"
            for call in self._takers[id(tensor)]:
                rule = None if is_graph(call.layer) else find_channel_rule(call.layer)
                if not isinstance(rule, LayerRule) or len(call.inputs) != 1:
                    return f"{call.layer.name} takes it, where it meets others or is not followed"
                if rule.makes_units:
                    if len(self._makers[id(call.layer)]) != 1:
                        return f"{call.layer.name}, which takes it, is called at several places"
                    found.append(call.layer)
                elif not keeps_zeros(call.layer):
                    return f"{call.layer.name} makes something else of a channel that is 0"
                else:
                    waiting += call.outputs
        return found

    def _follow(self, call: LayerCall, axis: int) -> tuple[tuple[Any, ...], Any]:
        """Follow what one layer after the other takes, to the last that makes something else of zeros."""
        way, place = [call], 1
        while True:
            (symbol,) = way[-1].outputs
            takers = self._takers[id(symbol)]
            if len(takers) != 1 or id(symbol) in self._ends or len(takers[0].inputs) != 1:
                break
            rule = None if is_graph(takers[0].layer) else find_channel_rule(takers[0].layer)
            if not isinstance(rule, LayerRule) or rule.makes_units or len(takers[0].outputs) != 1:
                break
            shapes = [tuple(one.shape) for one in (symbol, *takers[0].outputs)]
            if len(shapes[0]) != len(shapes[1]) or shapes[0][axis] != shapes[1][axis]:
                break
            way.append(takers[0])
            if not keeps_zeros(takers[0].layer):
                place = len(way)
        return tuple(one.layer for one in way[:place]), way[place - 1].outputs[0]

    def _find_doubt(self, symbol: Any) -> str | None:
        """Return why a channel that is 0 here does not stay 0 until weights take it; None if it does."""
        waiting = [symbol]
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in self._ends:
                return f"it is an output of {self._ends[id(tensor)]}"
            for call in self._takers[id(tensor)]:
                if is_graph(call.layer):
                    return f"it enters the nested model {call.layer.name!r}"
                rule = find_channel_rule(call.layer)
                if isinstance(rule, str):
                    return f"it enters {call.layer.name}: {rule}"
                if rule.makes_units:
                    continue
                if not keeps_zeros(call.layer):
                    return f"{call.layer.name} makes something else of a channel that is 0"
                waiting += call.outputs
        return None


def _walk(model: Model, seen: set[int]) -> Iterator[tuple[Any, LayerCall]]:
    """Yield each call with the model whose graph it is in; each nested model once."""
    seen.add(id(model))
    for call in list_calls(model):
        yield model, call
        if is_graph(call.layer) and id(call.layer) not in seen:
            yield from _walk(call.layer, seen)
