"""What keeps the weights of TF-MOT's wrappers at zero: a constraint that reads the wrapper's own mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.masking.constraint import MaskConstraint, get_constraint
from tfprune_init.tfmot.imports import PruneLowMagnitude


class VariableMask(MaskConstraint):
    """A MaskConstraint whose mask is a variable of zeros and ones, as TF-MOT's wrappers have it.

    Args:
        variable: The mask; whatever is assigned to it later counts from then on.
        then: Another constraint on the same weights.
    """

    def __init__(self, variable: Any, then: Any = None):
        super().__init__(True, then)
        self._variable = variable

    @property
    def mask(self) -> np.ndarray:
        """The mask as a boolean array."""
        return self._variable.numpy() != 0

    def masked(self, x: tf.Tensor) -> tf.Tensor:
        """`x`, of the weight's shape, with 0.0 where the mask is 0, NaN included; in one pass over the weights."""
        return tf.math.multiply_no_nan(x, tf.cast(self._variable, x.dtype))

    def reads(self, variable: Any) -> bool:
        """Whether its mask is this very variable."""
        return self._variable is variable

    def set_mask(self, mask: np.ndarray) -> bool:
        """Take another mask; always possible here."""
        self._variable.assign(mask.astype(self._variable.dtype.as_numpy_dtype))
        self._projected = None
        return True


def hold_at_zero(weight: Any, mask: Any) -> bool:
    """Set what the mask prunes to zero and hold it there, beside another constraint the weight may have.

    Args:
        weight: A variable of a tf_keras layer.
        mask: The variable of zeros and ones that masks it.

    Returns:
        Whether the weight was not held by this mask before.
    """
    # A layer may get its weights while a graph is traced, and this must not become part of the graph.
    with tf.init_scope():
        held = get_constraint(weight)
        new = not (isinstance(held, VariableMask) and held.reads(mask))
        if held is None or new:
            held = VariableMask(mask, then=weight.constraint if held is None else held.then)
            MaskConstraint.unguard(weight)
            compat.set_constraint(weight, held)
        held.guard(weight)
        holder = compat.get_tf_variable(weight)
        holder.assign(holder)
    return new


def find_wrappers(model: Any) -> Iterator[Any]:
    """TF-MOT's wrappers in a model, ours among them, wherever they are."""
    return (layer for layer in compat.walk_layers(model) if isinstance(layer, PruneLowMagnitude))
