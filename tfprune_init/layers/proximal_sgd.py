"""Sparse Structure Selection: an optimizer that sets factors of gates to exactly 0."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.checks import check_number
from tfprune_init.errors import OptionError
from tfprune_init.layers.gates import FactorBounds


@keras.saving.register_keras_serializable(package="tfprune_init")
class ProximalSGD(keras.optimizers.SGD):  # type: ignore[misc]  # Keras has no types
    """SGD with Nesterov momentum for weights, and accelerated proximal gradient for factors of gates.

    With gradient g, rate a, momentum m and velocity v, a factor f of a `ChannelGate` becomes

        z = soft(f - a g, a * penalty),  v = z - f + m v,  f = max(0, z + m v)

    where soft(x, t) = sign(x) max(0, abs(x) - t). That minimizes the loss + penalty * sum(abs(factors)), and sets
    factors to exactly 0. The penalty is in no loss: what `fit` shows is the loss without it. All other variables follow
    `keras.optimizers.SGD`. Weight decay, which is beside the gradient, should leave the factors out:
    `optimizer.exclude_from_weight_decay(var_names=["factors"])`.

    Keras 3, on one device. Give the gates upper=None and no regularizer, as in the paper.

    Args:
        learning_rate: A number or a schedule.
        momentum: Momentum m, in [0, 1).
        penalty: Weight of the penalty, positive; the paper has 0.01 for ResNet-50.
        **kwargs: Further arguments of `keras.optimizers.SGD`.

    Raises:
        OptionError: If the penalty is not positive, or, when it is built, there is no gate to train.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> gate = tpi.layers.ChannelGate(initial=0.05, upper=None)
        >>> gate.build((None, 1))
        >>> optimizer = tpi.layers.ProximalSGD(0.1, penalty=0.2)
        >>> optimizer.build(gate.trainable_variables)
        >>> optimizer.apply([np.array([0.1], "float32")], gate.trainable_variables)
        >>> gate.read_factors().tolist()
        [0.0]

    Reference:
        Huang & Wang, "Data-Driven Sparse Structure Selection for Deep Neural Networks", ECCV 2018, whose code this
        follows: the velocity is that of the step before it is cut off at 0.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        penalty: float = 0.01,
        name: str = "proximal_sgd",
        **kwargs: Any,
    ):
        nesterov = kwargs.pop("nesterov", True)
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, name=name, **kwargs)
        self.penalty = check_number("penalty", penalty, "a number above 0", lambda given: given > 0)
        self._factor_velocities: dict[int, Any] = {}

    def build(self, variables: Any) -> None:
        """Make the state of all variables."""
        if self.built:
            return
        super().build(variables)
        for variable in variables:
            if isinstance(getattr(variable, "constraint", None), FactorBounds):
                velocity = self.add_variable_from_reference(variable, name="factor_velocity")
                # Keras gives the one or the other to `update_step`.
                for one in (variable, compat.get_tf_variable(variable)):
                    self._factor_velocities[id(one)] = velocity
        if not self._factor_velocities:
            raise OptionError(
                f"ProximalSGD has no effect: none of {len(variables)} variables is the factors of a gate. Insert gates "
                "with tpi.insert_gates(model, upper=None), or use keras.optimizers.SGD."
            )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Change a variable by its gradient."""
        velocity = self._factor_velocities.get(id(variable))
        if velocity is None:
            super().update_step(gradient, variable, learning_rate)
            return
        factors = tf.convert_to_tensor(variable)
        rate = tf.cast(learning_rate, factors.dtype)
        moved = factors - rate * tf.cast(gradient, factors.dtype)
        near = tf.sign(moved) * tf.maximum(tf.abs(moved) - rate * self.penalty, 0)
        speed = near - factors + self.momentum * tf.convert_to_tensor(velocity)
        self.assign(velocity, speed)
        self.assign(variable, tf.maximum(near + self.momentum * speed, 0))

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the optimizer."""
        config: dict[str, Any] = super().get_config()
        return {**config, "penalty": self.penalty}
