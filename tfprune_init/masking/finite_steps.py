"""Keep optimizers from dividing 0 by 0 where pruning leaves whole units without a gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.instance_methods import guard_values, replace_method, restore_method, unguard_values
from tfprune_init.backend.optimizers import find_optimizers, list_factored_moments
from tfprune_init.errors import EnforcementError

# What optimizers start their second moments from, or add to them. At least one of them must not be zero.
_ADDED = ("epsilon", "initial_accumulator_value")


def check_divisions(optimizer: Any) -> None:
    """Refuse an optimizer that divides 0 by 0 for each weight that never had a gradient.

    Args:
        optimizer: An optimizer of either Keras. Anything else that `compile` takes passes.

    Raises:
        EnforcementError: If its `epsilon` and its `initial_accumulator_value`, as far as it has them, are 0.
    """
    for part in find_optimizers(optimizer):
        values = {name: getattr(part, name, None) for name in _ADDED}
        given = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
        if given and sum(given.values()) < np.finfo(np.float32).tiny:
            received = ", ".join(f"{name}={value:g}" for name, value in given.items())
            raise EnforcementError(
                f"{type(part).__name__} would turn weights into NaN: beside pruned units gradients are 0, and it "
                f"divides them by the root of their squares. Received: {received}. Try {next(iter(given))}=1e-7."
            )


def guard_moments(optimizer: Any) -> None:
    """Keep an optimizer's factored second moments (Adafactor's) above zero, now and once it is built.

    The second moment of a weight is a product of its row's and its column's. Where neither gets a gradient, the product
    is smaller than any float, and the step would be 0/0, which makes the whole array NaN. It becomes the
    smallest float instead, so that the step is 0. Other optimizers, and other weights, are left as they are.
    """
    if not _has_factored_moments(optimizer):
        return
    replace_method(optimizer, "build", _build)
    _guard_built(optimizer)


def release_moments(optimizer: Any) -> None:
    """Undo `guard_moments`."""
    if not _has_factored_moments(optimizer):
        return
    restore_method(optimizer, "build")
    for holder in _list_holders(optimizer):
        unguard_values(holder)


def _has_factored_moments(optimizer: Any) -> bool:
    return "Adafactor" in compat.get_class_names(optimizer)


def _build(self: Any, variables: Any) -> None:
    type(self).build(self, variables)
    _guard_built(self)


def _guard_built(optimizer: Any) -> None:
    for holder in _list_holders(optimizer):
        guard_values(holder, _raise_to_smallest)


def _list_holders(optimizer: Any) -> list[tf.Variable]:
    return [holder for moment in list_factored_moments(optimizer) for holder in compat.get_replica_variables(moment)]


def _raise_to_smallest(moment: tf.Tensor) -> tf.Tensor:
    # Processors take float32's and float64's subnormal numbers for zero; float16's are computed with.
    numbers = {tf.float16: np.finfo(np.float16).smallest_subnormal, tf.float64: np.finfo(np.float64).tiny}
    smallest = tf.cast(numbers.get(moment.dtype, np.finfo(np.float32).tiny), moment.dtype)
    return tf.where(moment >= smallest, moment, smallest)
