"""Attention: heads are units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.channel_groups import ChannelGroups, labels_along, make_unlabelled, spread_labels
from tfprune_init.graph.layer_rules.contexts import ChannelRecord, LabelContext, SignalContext
from tfprune_init.graph.layer_rules.rule import LayerRule, register_rule
from tfprune_init.graph.signals import Signal, any_along, make_signal

# The projections, with the place of what they take among query, value and key.
_TAKES = {"query": 0, "gate": 0, "value": 1, "key": 2}
_OUTPUT = "attention_output"


@register_rule("MultiHeadAttention", "GroupedQueryAttention")
class Attention(LayerRule):
    """Attention in heads. A head has a part of each projection; with grouped queries, those that share keys are one."""

    makes_units = True
    nesting = 1
    most_inputs = 3

    def knows(self, layer: Layer) -> bool:
        """Return whether its projections are plain."""
        projections = _find_projections(layer)
        changed = any(
            getattr(one, "lora_enabled", False) or getattr(one, "quantization_mode", None)
            for one in projections.values()
        )
        return {"query", "key", "value", _OUTPUT} <= set(projections) and not changed

    def find_inputs(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """Return query, value and key."""
        given = {**dict(zip(("query", "value", "key"), args, strict=False)), **kwargs}
        if given.get("query") is None or given.get("value") is None:
            return None
        key = given.get("key")
        return given["query"], given["value"], given["value"] if key is None else key

    def find_variables(self, layer: Layer) -> dict[str, Any]:
        """Return those of the projections, by projection and name."""
        return {
            f"{part}/{name}": variable
            for part, projection in _find_projections(layer).items()
            for name, variable in super(Attention, self).find_variables(projection).items()
        }

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Let the weights of a head go with it, rows with the units they take, and columns with those they make."""
        heads = groups.make_units(use.variables["query/kernel"].path, 1, use.variables["key/kernel"].shape[1])
        for part, place in _TAKES.items():
            if f"{part}/kernel" in use.variables:
                kernel, taken = use.variables[f"{part}/kernel"], use.inputs[place]
                groups.add_consumer(kernel.path, 0, labels_along(taken, taken.ndim - 1))
                labels = _repeat(heads, kernel.shape[1])
                groups.add_units(kernel.path, 1, labels, np.repeat(labels, kernel.shape[2]))
                groups.add_silencing(kernel.path, 1, labels)
            if f"{part}/bias" in use.variables:
                groups.add_silencing(use.variables[f"{part}/bias"].path, 0, labels)
        output = use.variables[f"{_OUTPUT}/kernel"]
        groups.add_consumer(output.path, 0, _repeat(heads, output.shape[0]))
        if len(output.shape) != 3:
            return make_unlabelled(use.shape)
        units = groups.make_units(output.path, 2, output.shape[2])
        if groups.strict:  # the layer makes its output as wide as the query, so they are cut together
            groups.couple(units, labels_along(use.inputs[0], use.inputs[0].ndim - 1), use.layer.name)
        groups.add_silencing(output.path, 2, units)
        if f"{_OUTPUT}/bias" in use.variables:
            groups.add_silencing(use.variables[f"{_OUTPUT}/bias"].path, 0, units)
        return spread_labels(units, len(use.shape) - 1, use.shape)

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        config = type(layer).get_config(layer)
        if (
            not {"num_heads", "num_query_heads"} & set(config)
            or config.get("output_shape") is not None
            or config.get("use_gate")
        ):
            return f"{type(layer).__name__} with these options is not followed"
        return None

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Let the same go with heads and channels; the output has the width of the query, and goes with it."""
        inputs = _by_place(use.inputs)
        widths = [record.take_along(x, len(x.shape) - 1, use) for x in inputs]
        heads = record.make_units(use, use.variables["key/kernel"].shape[1])
        queries = _repeat(heads, use.variables["query/kernel"].shape[1])
        for size, labels in (("num_heads", heads), ("num_key_value_heads", heads), ("num_query_heads", queries)):
            if size in type(use.layer).get_config(use.layer):
                record.add_size(use, size, None, labels)
        for part in ("query", "key", "value"):
            taken, x = widths[_TAKES[part]], inputs[_TAKES[part]]
            made = queries if part == "query" else heads
            record.add_consumer(use, f"{part}/kernel", 0, taken)
            record.add_consumer(use, f"{part}/kernel", 1, made)
            if f"{part}/bias" in use.variables:
                record.add_consumer(use, f"{part}/bias", 0, made)
            constant = any_along(x.value != 0, len(x.shape) - 1) & use.alive[f"{part}/kernel"].any(axis=(1, 2))
            record.groups.pin(taken[constant], f"is a constant that enters {use.path}")
        record.add_consumer(use, f"{_OUTPUT}/kernel", 0, queries)
        record.add_consumer(use, f"{_OUTPUT}/kernel", 2, widths[0])
        if f"{_OUTPUT}/bias" in use.variables:
            record.add_consumer(use, f"{_OUTPUT}/bias", 0, widths[0])
        speaks = _find_speaking(use)
        record.add_inner(use, "heads", speaks, heads)
        heard = np.asarray(use.alive[f"{_OUTPUT}/kernel"].any(axis=1))
        leads = any_along(heard & _repeat(speaks, len(heard))[:, None], 1)
        shape, last = use.first.shape, len(use.first.shape) - 1
        bias = use.values.get(f"{_OUTPUT}/bias", np.zeros(len(leads)))
        value = np.broadcast_to(bias, shape)
        return make_signal(spread_labels(leads, last, shape), value, use.unsized, last, widths[0])

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Return which features lead to a head whose output is used."""
        used = any_along(output.used, len(output.shape) - 1)
        speaks = _find_speaking(use)
        heard = any_along(use.alive[f"{_OUTPUT}/kernel"].any(axis=1) & used, 0)
        heads = heard.reshape(len(speaks), -1).any(axis=1)
        use.inner["heads"].used[...] |= heads
        made = {"query": heard & _repeat(speaks, len(heard)), "key": heads & speaks, "value": heads & speaks}
        features = {part: any_along(use.alive[f"{part}/kernel"].any(axis=2) & which, 0) for part, which in made.items()}
        places = [features["query"], features["value"], features["key"]]
        if len(use.inputs) == 2:
            places = [features["query"], features["value"] | features["key"]]
        return [spread_labels(one, len(x.shape) - 1, x.shape) for one, x in zip(places, use.inputs, strict=True)]

    def count_uses(
        self, layer: Layer, inputs: list[tuple[int, ...]], output: tuple[int, ...]
    ) -> Mapping[str, int] | None:
        """Return how often each weight is used: once at each position of what its projection takes."""
        positions = [math.prod(shape[:-1]) for shape in inputs]
        return {f"{part}/kernel": positions[_TAKES.get(part, 0)] for part in _find_projections(layer)}


def _by_place(inputs: tuple[Signal, ...]) -> tuple[Signal, Signal, Signal]:
    """Return what is known of query, value and key; keys are values if there are no others."""
    return inputs[0], inputs[1], inputs[-1]


def _find_speaking(use: SignalContext) -> np.ndarray:
    """Return which heads have a value other than 0."""
    x = use.inputs[1]
    enters = any_along(x.varies | (x.value != 0), len(x.shape) - 1)
    speaks = any_along(use.alive["value/kernel"].any(axis=2) & enters[:, None], 1)
    return speaks | any_along(use.values["value/bias"] != 0, 0) if "value/bias" in use.variables else speaks


def _repeat(heads: np.ndarray, count: int) -> np.ndarray:
    """Repeat what is of each head for its queries: those that share keys and values lie side by side."""
    return np.repeat(heads, count // len(heads))


def _find_projections(layer: Layer) -> dict[str, Any]:
    names = {*_TAKES, _OUTPUT}
    return {one.name: one for one in compat.get_sublayers(layer) if one.name in names}
