"""The constraints on one variable: pruned weights at exactly zero, or frozen ones at their values."""

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


class HoldingConstraint(keras.constraints.Constraint):  # type: ignore[misc]  # Keras has no types
    """Project a weight array onto a mask: what is not kept is held, whatever trains the others.

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

    def held(self, x: tf.Tensor) -> tf.Tensor:
        """`x` with what is held where the mask is False."""
        raise NotImplementedError

    def __call__(self, w: Any) -> tf.Tensor:
        """Return what an optimizer assigns after its step: `w`, a variable or a tensor, under both constraints."""
        if isinstance(w, (keras.Variable, tf.Variable)):
            self.guard(w)
        w = tf.convert_to_tensor(w)
        if self.then is not None:
            w = tf.convert_to_tensor(self.then(self.project(w)))
        return self.project(w)

    def project(self, w: tf.Tensor) -> tf.Tensor:
        """`w` as `held` gives it; a tensor this returned is returned as it is."""
        if self._projected is not None and self._projected() is w:
            return w
        w = self.held(w)
        self._projected = weakref.ref(w)
        return w

    def guard(self, variable: Variable) -> None:
        """Let whatever is assigned to the variable later, or restored into it, keep what is held."""
        for holder in compat.get_replica_variables(variable):
            guard_values(holder, self.project)

    @staticmethod
    def unguard(variable: Variable) -> None:
        """Take the guard off again."""
        for holder in compat.get_replica_variables(variable):
            unguard_values(holder)


@keras.saving.register_keras_serializable(package="tfprune_init")
class MaskConstraint(HoldingConstraint):
    """Holds what a mask prunes at exactly 0.0, NaN included.

    Args:
        mask: As in `HoldingConstraint`.
        then: Another constraint on the same variable, which optimizers apply to the kept weights.
    """

    def held(self, x: tf.Tensor) -> tf.Tensor:
        """`x` with zeros, as `masked` gives it."""
        return self.masked(x)

    def set_mask(self, mask: np.ndarray) -> bool:
        """Take another mask if it lives in a variable, as a `PrunableLayer`'s does; whether it does."""
        if not isinstance(self._mask, keras.Variable):
            return False
        self._mask.assign(mask)
        self._projected = None
        return True

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


class FrozenConstraint(HoldingConstraint):
    """Holds what a mask does not keep at values of its own, to the bit. It prunes nothing.

    It is no `MaskConstraint`: what asks for masks, zeros or sparsity does not see it.

    Args:
        mask: Boolean array of the variable's shape; True where the weight trains.
        values: Array of the variable's shape and dtype, of which the others are held.
        then: Another constraint on the same variable, which optimizers apply to what trains.
    """

    def __init__(self, mask: np.ndarray, values: np.ndarray, then: Any = None):
        super().__init__(mask, then)
        self._values = tf.constant(values)

    def held(self, x: tf.Tensor) -> tf.Tensor:
        """`x` with the values where the mask is False."""
        return tf.where(self._mask, x, tf.cast(self._values, x.dtype))

    def count_moved(self, values: np.ndarray) -> int:
        """Count the frozen weights that have another value than they were frozen at."""
        return int(np.count_nonzero((values != np.array(self._values))[~self.mask]))


def get_holding_constraint(variable: Variable) -> HoldingConstraint | None:
    """Return the constraint that holds some weights of a variable, at zero or elsewhere, or None."""
    constraint = variable.constraint
    return constraint if isinstance(constraint, HoldingConstraint) else None


def get_constraint(variable: Variable) -> MaskConstraint | None:
    """Return the MaskConstraint on a variable, or None."""
    constraint = variable.constraint
    return constraint if isinstance(constraint, MaskConstraint) else None
