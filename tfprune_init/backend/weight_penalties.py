"""Penalties on weights that are built already: parts of the loss, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.contracts import require


@contextmanager
def add_penalties(
    model: Any, variables: Iterable[tuple[Any, Any]], penalize: Callable[[Any], tf.Tensor]
) -> Iterator[None]:
    """Add a penalty of each of some variables to the losses of a model, and take them off on leaving.

    They are in `model.losses`, so in what `fit` minimizes and in the loss that it and `evaluate` show, like those of a
    regularizer that the layer was built with, which stays.

    Args:
        model: A built model of either Keras.
        variables: Each with the layer it belongs to.
        penalize: Returns the penalty of a variable, a scalar.
    """
    undo = []
    for layer, variable in variables:
        undo.append(
            _penalize_variable(variable, penalize)
            if compat.is_keras3(layer)
            else _penalize_layer(layer, partial(penalize, variable))
        )
    compat.reset_functions(model)
    try:
        yield
    finally:
        for put_back in undo:
            put_back()
        compat.reset_functions(model)


def _penalize_variable(variable: Any, penalize: Callable[[Any], tf.Tensor]) -> Callable[[], None]:
    before = variable.regularizer

    def both(one: Any) -> tf.Tensor:
        return penalize(one) if before is None else before(one) + penalize(one)

    def put_back() -> None:
        variable.regularizer = before

    variable.regularizer = both
    return put_back


def _penalize_layer(layer: Any, penalty: Callable[[], tf.Tensor]) -> Callable[[], None]:
    require("tf_keras Layer._callable_losses")
    count = len(layer._callable_losses)
    layer.add_loss(penalty)

    def put_back() -> None:
        del layer._callable_losses[count : count + 1]

    return put_back
