"""Factors of gates that go into the weights of the layer before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Layer
from tfprune_init.errors import ModelError
from tfprune_init.gates.places import GatePlace
from tfprune_init.graph.layer_rules import LayerRule, find_channel_rule
from tfprune_init.graph.variables import list_variables


def fold_factors(place: GatePlace, factors: np.ndarray) -> None:
    """Multiply the weights that a gate stands behind with its factors, so that without it all comes out the same.

    Args:
        place: Where the gate stood, in the model whose weights change.
        factors: A factor for each channel, not negative.

    Raises:
        ModelError: If a layer has no weights that could take them. Nothing is changed then.
    """
    if (factors == 1).all():
        return
    scaled: dict[int, tuple[tf.Variable, np.ndarray]] = {}
    for way in place.behind:
        for variable, values in _scale(place, way, factors):
            scaled[id(variable)] = variable, values  # once, where the layer is called at several places
    for variable, values in scaled.values():
        variable.assign(values.astype(variable.dtype.as_numpy_dtype))


def _scale(place: GatePlace, way: tuple[Any, ...], factors: np.ndarray) -> list[tuple[tf.Variable, np.ndarray]]:
    """Return the variables of the layer before a gate, with what they become."""
    layer = _find_weighted(way)
    rule = None if layer is None else find_channel_rule(layer)
    if layer is None or not isinstance(rule, LayerRule):
        raise ModelError(_explain(place, way[-1], "its activation does not pass a factor on"))
    variables = {name: compat.get_tf_variable(one) for name, one in rule.find_variables(layer).items()}
    if {"moving_mean", "moving_variance"} <= variables.keys():
        if "gamma" not in variables:
            raise ModelError(_explain(place, layer, "it has no scale"))
        chosen: dict[str, Callable[[np.ndarray], np.ndarray]] = dict.fromkeys(("gamma", "beta"), lambda _: factors)
    else:
        name = next(one for one in ("pointwise_kernel", "kernel") if one in variables)
        (target,) = [one for one in list_variables(layer) if one.tensor is variables[name]]
        axes = target.units.outputs
        chosen = {name: lambda value: _spread(factors, axes, value.shape), "bias": lambda _: factors}
    return [(one, find(one.numpy()) * one.numpy()) for name, one in variables.items() if (find := chosen.get(name))]


def _find_weighted(way: tuple[Any, ...]) -> Any | None:
    """Return the layer that takes the factors: the last one, or one before activations that pass factors on."""
    for layer in reversed(way):
        if not passes_factors(getattr(layer, "activation", None)):
            return None
        rule = find_channel_rule(layer)
        if isinstance(rule, LayerRule) and rule.find_variables(layer):
            return layer
    return None


def passes_factors(function: Any) -> bool:
    """Return whether an activation gives c times as much for c times as much, c not negative; None does.

    Example:
        >>> import keras
        >>> from tfprune_init.gates.factor_folding import passes_factors
        >>> passes_factors(keras.activations.relu), passes_factors(keras.activations.tanh)
        (True, False)
    """
    if function is None:
        return True
    x = tf.constant([[-64.0, -3.0, -0.5, 0.0, 0.5, 3.0, 64.0]])
    # Powers of two, with which nothing is rounded.
    return all(np.array_equal(c * np.asarray(function(x)), np.asarray(function(c * x))) for c in (0.0, 0.25, 4.0))


def _spread(factors: np.ndarray, axes: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    return factors.reshape([shape[axis] if axis in axes else 1 for axis in range(len(shape))])


def _explain(place: GatePlace, layer: Layer, cause: str) -> str:
    return (
        f"The factors of gate {place.name} cannot go into layer {layer.name!r} ({type(layer).__name__}): {cause}. Pass "
        "fold=False, which sets open gates to 1, or train on until all gates are 0 or 1."
    )
