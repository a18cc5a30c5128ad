"""Weights by variable path, apart from any model: copied from one, or given by the caller and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import OptionError
from tfprune_init.graph.variables import Exclusion, ModelVariable, find_prunable_variables, list_variables

_LISTED = 8


def copy_weights(
    model: Model, *, exclude: Exclusion | Iterable[Exclusion] | None = None, prune_bias: bool = False
) -> dict[str, np.ndarray]:
    """Copy the prunable weights of a model: what it computes with now, kept for later.

    Args:
        model: A built model, Keras 3 or tf_keras.
        exclude: What to leave out, as in `find_masks`.
        prune_bias: Whether biases are copied too.

    Returns:
        Mapping from variable path to an array of the variable's shape and dtype, in the order of the variables.

    Raises:
        ModelError: If the model is unbuilt, or has nothing to prune.
        OptionError: If an exclusion or `prune_bias` has no effect.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
        >>> initial = tpi.copy_weights(model)
        >>> {path: weights.shape for path, weights in initial.items()}
        {'head/kernel': (8, 4)}
    """
    targets = find_prunable_variables(model, exclude=exclude, prune_bias=prune_bias)
    return {target.path: np.array(target.effective) for target in targets.prunable}


def copy_variables(model: Model) -> dict[str, np.ndarray]:
    """Copy every variable of a model as it is held: kernels, biases, normalizations with their statistics, states.

    Args:
        model: A built model, Keras 3 or tf_keras.

    Returns:
        Mapping from variable path to an array of the variable's shape and dtype, in the order of the variables.

    Raises:
        ModelError: If the model is unbuilt.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
        >>> start = tpi.copy_variables(model)
        >>> {path: values.shape for path, values in start.items()}
        {'head/kernel': (8, 4), 'head/bias': (4,)}
    """
    compat.check_model(model)
    return {target.path: np.array(target.tensor) for target in list_variables(model)}


def check_weights(name: str, weights: Any, model: Model, targets: Iterable[ModelVariable]) -> dict[str, np.ndarray]:
    """Return weights that were given for variables of a model, as float64 arrays in the order of the variables.

    Args:
        name: What the option is called.
        weights: Mapping from variable path to an array, as `copy_weights` gives it. It may hold more variables of the
            model than are asked for.
        model: The model that they are for.
        targets: The variables to return.

    Raises:
        OptionError: If it is no mapping, lacks a variable, names one that the model does not have, or has an array of
            another shape, or one that holds something else than finite numbers.

    Example:
        >>> import keras
        >>> from tfprune_init.graph.variables import find_prunable_variables
        >>> from tfprune_init.graph.weight_copies import check_weights
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
        >>> targets = find_prunable_variables(model).prunable
        >>> check_weights("initial", {"head/kernel": [[0.5], [1]]}, model, targets)["head/kernel"].tolist()
        [[0.5], [1.0]]
    """
    if not isinstance(weights, Mapping):
        raise OptionError(
            f"{name}= is a mapping from variable path to an array, as tpi.copy_weights(model) gives it. "
            f"Received: {type(weights).__module__}.{type(weights).__qualname__}."
        )
    known = {target.path for target in list_variables(model)}
    unknown = [path for path in weights if path not in known]
    missing = [target.path for target in targets if target.path not in weights]
    if unknown or missing:
        raise OptionError(
            f"{name}= does not fit model {model.name!r}. "
            + (f"Not in the model: {_list_names(unknown)}. " if unknown else "")
            + (f"Without weights: {_list_names(missing)}. " if missing else "")
            + "Copy them with tpi.copy_weights, or all variables with tpi.copy_variables, from this model, or from one "
            "whose layers have the same names."
        )
    return {target.path: _check_array(name, weights[target.path], target) for target in targets}


def _check_array(name: str, given: Any, target: ModelVariable) -> np.ndarray:
    array = np.asarray(given)
    if array.shape != target.shape:
        raise OptionError(f"{target.path} is {target.shape}. Received: {name}= with an array of {array.shape}.")
    # The kind of bfloat16 is "V".
    numbers = array.dtype.kind in "iufV" and array.dtype.names is None
    values = array.astype(np.float64) if numbers else np.array(np.nan)
    if not np.isfinite(values).all():
        raise OptionError(
            f"{name}= must hold finite numbers. Received: {target.path} of dtype {array.dtype}"
            + (", with NaN or Inf." if numbers else ".")
        )
    return values


def _list_names(names: list[str]) -> str:
    return ", ".join(map(str, names[:_LISTED])) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
