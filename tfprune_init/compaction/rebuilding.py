"""The smaller model: the same layers, with fewer channels, called in the same way."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.layer_copy import copy_from_config, copy_layer, copy_state
from tfprune_init.backend.protocols import Layer, Model, Variable
from tfprune_init.compaction.folding import Decision
from tfprune_init.compaction.model_copy import ModelCopy
from tfprune_init.compaction.network import Propagation
from tfprune_init.errors import ModelError
from tfprune_init.graph.layer_rules import LayerRule, find_channel_rule


class Rebuilding(ModelCopy):
    """A model built again with fewer channels.

    Args:
        model: The model.
        network: What is known of it.
        decision: What goes.

    Attributes:
        model: The smaller model, with its weights.
        twins: For each variable of the model, by its id, the one in its place.

    Raises:
        ModelError: If a layer cannot be copied, or a copy of the model would lack methods of its class.
    """

    def __init__(self, model: Model, network: Propagation, decision: Decision):
        self._network = network
        self._decision = decision
        self.twins: dict[int, Any] = {}
        super().__init__(model)
        for layer, copy in self.layers:
            self._fill(layer, copy)

    def find_input_shape(self, model: Model, symbol: Any) -> list[int | None]:
        """Return the shape with as many channels as stay."""
        shape = super().find_input_shape(model, symbol)
        signals = self._network.entrances.get(id(model))
        if signals is not None:
            signal = signals[[id(one) for one in model.inputs].index(id(symbol))]
            if signal.axis is not None:
                shape[signal.axis + 1] = self._decision.kept(signal.channels).size
        return shape

    def make_layer(self, layer: Any) -> Any:
        """Make a layer of the size that stays."""
        followed = isinstance(find_channel_rule(layer), LayerRule)
        return copy_from_config(layer, partial(self._find_changes, layer)) if followed else copy_layer(layer)

    def _find_changes(self, layer: Layer, config: dict[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for key, (index, channels) in self._network.record.sizes.get(id(layer), {}).items():
            count = self._decision.kept(channels).size
            changes[key] = count if index is None else (*config[key][:index], count, *config[key][index + 1 :])
        if self._decision.needs_bias(layer):
            changes["use_bias"] = True
        # Attention of tf_keras would be built at once for inputs as wide as they were.
        changes |= {key: None for key in ("query_shape", "key_shape", "value_shape") if key in config}
        return changes

    def _fill(self, layer: Layer, copy: Any) -> None:
        """Give the copy of a layer its weights, and all else that it keeps."""
        if not compat.is_layer(layer):  # operations of Keras 3
            return
        if not isinstance(find_channel_rule(layer), LayerRule):  # left whole
            copy_state(layer, copy)
        variables, twins = map(compat.get_variables, (layer, copy))
        added = self._decision.added.get(id(layer), np.zeros(()))
        if self._decision.needs_bias(layer):
            twins = [twin for twin in twins if twin is not copy.bias]
            units = self._network.record.find_units(layer)
            assert units is not None  # only layers with units take a bias
            _assign(copy.bias, added[self._decision.kept(units)])
        if len(variables) != len(twins):
            raise ModelError(
                f"A copy of layer {layer.name!r} ({type(layer).__name__}) has {len(twins)} variables in place of "
                f"{len(variables)}. A layer of your own must build them all in its constructor, build or first call."
            )
        for variable, twin in zip(variables, twins, strict=True):
            self.twins[id(variable)] = twin
            value, mask = np.asarray(compat.get_tf_variable(variable)), self._network.mask_of(variable)
            if added.any() and variable is layer.bias:
                value = value + added
            if mask is not None:
                value = np.where(mask, value, np.zeros((), value.dtype))
            _assign(twin, self.sliced(variable, value))

    def sliced(self, variable: Variable, array: np.ndarray) -> np.ndarray:
        """Return what stays of an array of a variable's shape."""
        for axis, channels in self._network.get_cuts(variable).items():
            array = array.take(self._decision.kept(channels), axis)
        return array


def _assign(variable: Variable, value: np.ndarray) -> None:
    tensor = compat.get_tf_variable(variable)
    tensor.assign(value.astype(tensor.dtype.as_numpy_dtype))
