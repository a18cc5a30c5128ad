"""A copy of a model with modules: its layers, called in the same way, and decisions that are followed on their way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune_init.adaptive.channel_flow import follow_channels
from tfprune_init.adaptive.cost_terms import CostTerms, has_filters
from tfprune_init.adaptive.decided_channels import DecidedChannels, merge_decided
from tfprune_init.backend import compat
from tfprune_init.backend.layer_copy import copy_layer
from tfprune_init.backend.model_graph import get_input_name
from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.checks import check_integer, suggest
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.layer_rules import find_rule
from tfprune_init.graph.layer_rules.contexts import find_channel_axis
from tfprune_init.graph.layer_rules.kernels import DepthwiseKernel
from tfprune_init.graph.layer_rules.merging import Concatenate, Merge
from tfprune_init.graph.output_kernels import find_output_kernels
from tfprune_init.graph.trace import LayerCall, is_graph, list_calls
from tfprune_init.graph.variables import is_named_by, list_variables
from tfprune_init.layers import ApplyDecisions, ChannelDecisions, DecisionCost


class AdaptiveCopy:
    """A model built again with modules beside its convolutions.

    Args:
        model: A built Sequential or functional model of Keras 3.
        exclude: Patterns of convolutions without modules.
        options: Options of the modules.

    Attributes:
        copies: For each layer of the model, by its id, the layer and its copy.
        modules: The modules.

    Raises:
        OptionError: If a pattern matches nothing.
    """

    def __init__(self, model: Model, exclude: list[str], options: dict[str, Any]):
        self._model = model
        self._options = options
        self._calls = list_calls(model)
        self._times = Counter(id(call.layer) for call in self._calls)
        targets = list_variables(model)
        self._paths = {id(target.variable): target.path for target in targets}
        self._output_kernels = find_output_kernels(model, targets)
        self._costs = CostTerms(model)
        self._symbols: dict[int, Any] = {}
        self._decided: dict[int, DecidedChannels | None] = {}
        self._left_alone = dict(self._costs.uncounted)
        self._excluded = self._find_excluded(exclude)
        self.copies: dict[int, tuple[Any, Any]] = {}
        self.modules: list[ChannelDecisions] = []

    def build(self, strength: float, budget: float) -> Any:
        """Build the model.

        Args:
            strength: Of the cost.
            budget: Of the cost.

        Raises:
            OptionError: If an option is out of range.
            ModelError: If the model holds models, has open sizes or no convolution to decide on.
        """
        for symbol in self._model.inputs:
            name = get_input_name(self._model, symbol)
            given = {"batch_size": symbol.shape[0], "dtype": symbol.dtype, "name": name}
            self._symbols[id(symbol)] = keras.Input(tuple(symbol.shape[1:]), **given)
        for call in self._calls:
            self._add(call)
        if not self.modules:
            reasons = "; ".join(f"{name}: {why}" for name, why in self._left_alone.items())
            raise ModelError(
                f"Model {self._model.name!r} has no convolution to decide on. Received: "
                f"{reasons or 'a model without convolutions'}."
            )
        is_sequential = "Sequential" in compat.get_class_names(self._model)
        given, made = (
            (self._model.inputs[0], self._model.outputs[0])
            if is_sequential
            else (self._model.input, self._model.output)
        )
        outputs = tf.nest.flatten(self._replace(made))
        cost = DecisionCost(self._costs.terms, strength, budget, self._left_alone, name="decision_cost")
        outputs[0] = cost([outputs[0], *self._costs.decisions])
        return keras.Model(self._replace(given), tf.nest.pack_sequence_as(made, outputs), name=self._model.name)

    def _replace(self, structure: Any) -> Any:
        return tf.nest.map_structure(lambda leaf: self._symbols.get(id(leaf), leaf), structure)

    def _copy(self, layer: Any) -> Any:
        if id(layer) not in self.copies:
            self.copies[id(layer)] = layer, copy_layer(layer)
        return self.copies[id(layer)][1]

    def _add(self, call: LayerCall) -> None:
        layer = call.layer
        if is_graph(layer):
            raise ModelError(
                f"tpi.insert_saliency takes models without models inside. Received: {layer.name!r} in "
                f"{self._model.name!r}. Build it of the layers of both."
            )
        outputs = self._copy(layer)(*self._replace(call.args), **self._replace(call.kwargs))
        known = [self._decided.get(id(one)) for one in call.inputs]
        is_once = self._times[id(layer)] == 1
        decided: DecidedChannels | None
        if self._is_decided_on(layer):
            outputs, decided = self._decide(call, outputs)
        else:
            outputs, decided = self._follow(call, known, outputs)
        self._costs.add(call, known[0] if len(known) == 1 and is_once else None, decided if is_once else None)
        self._symbols.update(zip(map(id, call.outputs), tf.nest.flatten(outputs), strict=True))
        self._decided.update(dict.fromkeys(map(id, call.outputs), decided))

    def _is_decided_on(self, layer: Layer) -> bool:
        if not has_filters(layer):
            if isinstance(find_rule(layer), DepthwiseKernel):
                self._left_alone[layer.name] = "depthwise: its channels are open where those that it takes are"
            return False
        paths = {self._paths[id(variable)] for variable in compat.get_own_variables(layer)}
        if paths & self._output_kernels:
            self._left_alone[layer.name] = "makes outputs of the model"
        elif layer.name in self._excluded:
            self._left_alone[layer.name] = "excluded"
        elif self._times[id(layer)] > 1:
            self._left_alone[layer.name] = "is called several times"
        return layer.name not in self._left_alone

    def _decide(self, call: LayerCall, outputs: Any) -> tuple[Any, DecidedChannels]:
        """Put a module beside a convolution."""
        layer, (taken,) = call.layer, call.inputs
        form = {"data_format": layer.data_format}
        options = {**self._options, **form, **self._find_seed()}
        module = ChannelDecisions(layer.filters, **options, name=f"{layer.name}_decisions")
        self.modules.append(module)
        made = module(self._symbols[id(taken)])
        decisions, factors = made if module.scale else (made, made)
        applied = ApplyDecisions(**form, name=f"{layer.name}_decided")([outputs, factors])
        return applied, DecidedChannels(decisions, 1 + find_channel_axis(layer, len(applied.shape) - 1))

    def _find_seed(self) -> dict[str, int]:
        """Return a seed for the next module, so that no two draw the same noise."""
        seed = self._options.get("seed")
        if seed is None:
            return {}
        words = [check_integer("seed", seed, 0), len(self.modules)]
        return {"seed": int(np.random.SeedSequence(words).generate_state(1)[0])}

    def _follow(
        self, call: LayerCall, known: list[DecidedChannels | None], outputs: Any
    ) -> tuple[Any, DecidedChannels | None]:
        """Return the outputs of another layer, with closed channels at 0, and what is decided on them."""
        if len(call.outputs) != 1 or not any(known):
            return outputs, None
        if isinstance(find_rule(call.layer), (Concatenate, Merge)):
            return outputs, merge_decided(call, known, f"{call.layer.name}_decisions{self._find_place(call.layer)}")
        decided = known[0]
        if len(call.inputs) != 1 or decided is None or not compat.is_layer(call.layer):
            return outputs, None
        flow = follow_channels(call.layer, tuple(call.inputs[0].shape[1:]), decided.axis)
        if flow is None:
            return outputs, None
        after = DecidedChannels(decided.decisions, flow.axis, decided.is_aligned and flow.is_aligned)
        if flow.keeps_zeros:
            return outputs, after
        if not after.is_aligned:
            return outputs, None
        return self._apply_again(call.layer, outputs, after), after

    def _apply_again(self, layer: Layer, outputs: Any, decided: DecidedChannels) -> Any:
        form = "channels_first" if decided.axis == 1 and len(outputs.shape) > 2 else "channels_last"
        name = f"{layer.name}_decided{self._find_place(layer)}"
        return ApplyDecisions(form, name=name)([outputs, decided.decisions])

    def _find_place(self, layer: Any) -> str:
        """Return what tells apart the names of what is put behind each call of a layer that is called several times."""
        return "" if self._times[id(layer)] == 1 else f"_{len(self._decided)}"

    def _find_excluded(self, exclude: list[str]) -> set[str]:
        """Return the names of the convolutions that are left alone."""
        convolutions = {call.layer.name: call.layer for call in self._calls if has_filters(call.layer)}
        found: set[str] = set()
        for pattern in exclude:
            named = {
                name
                for name, layer in convolutions.items()
                for variable in compat.get_own_variables(layer)
                if is_named_by(self._paths[id(variable)], pattern)
            }
            if not named:
                raise OptionError(f"exclude={pattern!r} matches no convolution. {suggest(pattern, convolutions)}")
            found |= named
        return found
