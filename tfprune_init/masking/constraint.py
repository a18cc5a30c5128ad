"""The constraint that keeps pruned weights at exactly zero, on one variable."""

from __future__ import annotations

import base64
import weakref
import zlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.instance_methods import guard_values, unguard_values
from tfprune_init.backend.protocols import Variable


@keras.saving.register_keras_serializable(package="tfprune_init")
class MaskConstraint(keras.constraints.Constraint):  # type: ignore[misc]  # Keras has no types
    """Projects a weight array onto its mask: what is not kept becomes exactly 0.0, NaN included.

    Optimizers apply it after every step. The first time it meets its variable it also guards the
    variable's `assign`, through which averaged weights (EMA), restored weights and checkpoints come back.

    Args:
        mask: Boolean array, or a boolean variable, of the variable's shape; True where the weight is kept.
        then: Another constraint on the same variable, which optimizers apply to the kept weights.
    """

    def __init__(self, mask: Any, then: Any = None):
        self._mask = mask if isinstance(mask, keras.Variable) else tf.constant(np.asarray(mask, bool))
        self.then = keras.constraints.get(then)
        self._projected: weakref.ref[Any] | None = None

    @property
    def mask(self) -> np.ndarray:
        """The mask as a boolean array."""
        return np.array(self._mask)

    def masked(self, x: tf.Tensor) -> tf.Tensor:
        """`x`, of the weight's shape, with 0.0 where the mask is False, NaN included."""
        mask = self._mask.value if isinstance(self._mask, keras.Variable) else self._mask
        return tf.where(mask, x, tf.zeros((), x.dtype))

    def set_mask(self, mask: np.ndarray) -> bool:
        """Take another mask if it lives in a variable, as a `PrunableLayer`'s does; whether it does."""
        if not isinstance(self._mask, keras.Variable):
            return False
        self._mask.assign(mask)
        self._projected = None
        return True

    def __call__(self, w: Any) -> tf.Tensor:
        """Return what an optimizer assigns after its step: `w`, a variable or a tensor, under both constraints."""
        if isinstance(w, (keras.Variable, tf.Variable)):
            self.guard(w)
        w = tf.convert_to_tensor(w)
        if self.then is not None:
            w = tf.convert_to_tensor(self.then(self.project(w)))
        return self.project(w)

    def project(self, w: tf.Tensor) -> tf.Tensor:
        """`w` as `masked` gives it; a tensor this returned is returned as it is."""
        if self._projected is not None and self._projected() is w:
            return w
        w = self.masked(w)
        self._projected = weakref.ref(w)
        return w

    def guard(self, variable: Variable) -> None:
        """Let whatever is assigned to the variable later, or restored into it, keep the zeros."""
        for holder in compat.get_replica_variables(variable):
            guard_values(holder, self.project)

    @staticmethod
    def unguard(variable: Variable) -> None:
        """Take the guard off again."""
        for holder in compat.get_replica_variables(variable):
            unguard_values(holder)

    def get_config(self) -> dict[str, Any]:
        """Return the mask, eight weights a byte and deflated, as text."""
        mask = self.mask
        return {
            "shape": list(mask.shape),
            "bits": base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode("ascii"),
            "then": keras.constraints.serialize(self.then) if self.then is not None else None,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MaskConstraint:
        """Return the constraint that `get_config` described."""
        packed = np.frombuffer(zlib.decompress(base64.b64decode(config["bits"])), np.uint8)
        size = int(np.prod(config["shape"], dtype=np.int64))
        mask = np.unpackbits(packed, count=size).astype(bool).reshape(config["shape"])
        return cls(mask, then=config["then"])


def get_constraint(variable: Variable) -> MaskConstraint | None:
    """Return the MaskConstraint on a variable, or None."""
    constraint = variable.constraint
    return constraint if isinstance(constraint, MaskConstraint) else None
