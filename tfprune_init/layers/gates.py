"""What gates of channels are: one factor for each channel, trained. The same for both Kerases, and for every kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.checks import check_number
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.registry import Registry


class GateLayer:
    """What layers of gates of both Kerases do; the rest of such a class is Keras's Layer.

    A kind of gate is a class of this sort that says which variables it has (`build_gate`) and which factors it makes of
    them (`make_factors`). Called at several places, it multiplies the same factors there, so that channels which stand
    together have one gate.

    Args:
        axis: The axis of the channels, not that of the batch.
        **kwargs: Usual layer arguments.

    Attributes:
        channels: Number of channels, once built.

    Raises:
        OptionError: If the axis is no integer, or that of the batch.
        ModelError: When it is built, if the number of channels is not fixed.
    """

    name: str
    built: bool

    def __init__(self, axis: int = -1, **kwargs: Any):
        super().__init__(**kwargs)
        if isinstance(axis, bool) or not isinstance(axis, int) or axis == 0:
            raise OptionError(f"axis is the axis of the channels, an integer other than 0. Received: axis={axis!r}.")
        self.axis = axis
        self.supports_masking = True
        self._held: np.ndarray | None = None

    def build_gate(self, channels: int) -> None:
        """Make the variables of the gate.

        Args:
            channels: Number of channels.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what variables it has.")

    def make_factors(self, training: Any) -> tf.Tensor:
        """Return what channels are multiplied with, of shape [channels] and at least 0; 0 closes a channel.

        Args:
            training: Whether it is called in training.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its factors are.")

    def make_open(self) -> np.ndarray:
        """Return the factors of a gate that is open, of shape [channels]."""
        return np.ones(self.channels, np.float32)

    def build(self, input_shape: Any) -> None:
        """Make the variables."""
        shape = tuple(input_shape)
        place = range(len(shape))[self.axis] if -len(shape) <= self.axis < len(shape) else 0
        if place == 0 or shape[place] is None:
            raise ModelError(
                f"Gate {self.name!r} needs a fixed number of channels on axis {self.axis}. Received: inputs of {shape}."
            )
        self.channels = int(shape[place])
        self.build_gate(self.channels)
        self.built = True

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Return the inputs, each channel times its factor."""
        factors = self.make_factors(training) if self._held is None else tf.constant(self._held)
        rank = len(inputs.shape)
        sides = [-1 if place == self.axis % rank else 1 for place in range(rank)]
        return inputs * tf.cast(tf.reshape(factors, sides), inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape

    def hold(self, factors: np.ndarray | None) -> None:
        """Multiply with given factors from now on, in calls that are not traced yet; with its own again for None."""
        self._held = None if factors is None else np.asarray(factors)

    def read_factors(self) -> np.ndarray:
        """Return the factors of inference, float64, of shape [channels].

        Raises:
            ModelError: If the layer is not built.
        """
        if not self.built:
            raise ModelError(f"Gate {self.name!r} is not built, so it has no factors. Call it once on a batch.")
        return np.asarray(tf.convert_to_tensor(self.make_factors(False)), np.float64)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]  # of Keras's Layer
        return {**config, "axis": self.axis}


class PlainGate(GateLayer):
    """What `ChannelGate` of both Kerases does."""

    def __init__(
        self, axis: int = -1, initial: float = 1.0, upper: float | None = 1.0, regularizer: Any = None, **kwargs: Any
    ):
        super().__init__(axis, **kwargs)
        self.upper = None if upper is None else check_number("upper", upper, "a positive number", lambda one: one > 0)
        most = math.inf if self.upper is None else self.upper
        self.initial = check_number("initial", initial, f"a number in [0, {most:g}]", lambda one: 0 <= one <= most)
        self.regularizer = compat.get_keras(self).regularizers.get(regularizer)

    def build_gate(self, channels: int) -> None:
        """Make one factor for each channel."""
        self.factors = self.add_weight(  # type: ignore[attr-defined]  # of Keras's Layer
            name="factors",
            shape=(channels,),
            initializer=compat.get_keras(self).initializers.Constant(self.initial),
            regularizer=self.regularizer,
            constraint=FactorBounds(self.upper),
            trainable=True,
        )

    def make_factors(self, training: Any) -> tf.Tensor:
        """Return the factors as they are."""
        return FactorBounds(self.upper)(self.factors)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        regularizer = compat.get_keras(self).regularizers.serialize(self.regularizer) if self.regularizer else None
        return {**super().get_config(), "initial": self.initial, "upper": self.upper, "regularizer": regularizer}


@dataclass(frozen=True)
class FactorBounds:
    """Clip factors to [0, upper]: the constraint of `ChannelGate`, after every step of an optimizer.

    Attributes:
        upper: The largest factor; None for none.
    """

    upper: float | None

    def __call__(self, factors: Any) -> tf.Tensor:
        """Return the factors within the bounds."""
        positive = tf.maximum(tf.convert_to_tensor(factors), 0)
        return positive if self.upper is None else tf.minimum(positive, self.upper)


@contextmanager
def hold_factors(factors: Mapping[GateLayer, np.ndarray]) -> Iterator[None]:
    """Let gates multiply with given factors in calls that are not traced, and leave no trace.

    Args:
        factors: For each gate an array of shape [channels].
    """
    try:
        for gate, values in factors.items():
            gate.hold(values)
        yield
    finally:
        for gate in factors:
            gate.hold(None)


GATE_KINDS: Registry[type[GateLayer]] = Registry("kind of gate")
"""Layers of Keras 3 by the name that `tpi.insert_gates` takes."""

_Gate = TypeVar("_Gate", bound=type[GateLayer])


def register_gate(kind: str) -> Callable[[_Gate], _Gate]:
    """Register a layer of gates under the name of its kind. A decorator.

    Args:
        kind: What `tpi.insert_gates` calls it.

    Raises:
        OptionError: If the name is taken.
    """

    def register(layer: _Gate) -> _Gate:
        GATE_KINDS.register(kind, layer)
        return layer

    return register
