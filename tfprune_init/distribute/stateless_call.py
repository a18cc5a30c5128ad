"""A call of a model on one replica's examples that assigns nothing."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfprune_init.backend import compat

# What the seeds of neighboring replicas differ by, so that Dropout drops other units on each.
_STRIDE = 0x9E3779B1

Assigned = list[tuple[Any, tf.Tensor]]


class StatelessCall:
    """One call of a model within a replica. Values that layers would assign are kept, for replicas to combine.

    Args:
        model: A Keras 3 model.
        x: The inputs that this replica holds.
        training: Whether to call it as in training.

    Attributes:
        outputs: Outputs of the model.
        losses: Losses added by layers and regularizers; scalars.
    """

    def __init__(self, model: Any, x: Any, training: bool):
        self._model = model
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int64)
        self._offset = tf.stack([replica * _STRIDE, tf.zeros_like(replica)])
        scope = keras.StatelessScope(collect_losses=True)
        for seed in _seeds(model):
            scope.state_mapping[id(seed)] = seed.value + tf.cast(self._offset, seed.dtype)
        # Keras asks the scope for the variables it regularizes.
        for variable in model.trainable_weights:
            if variable.regularizer is not None:
                scope.state_mapping[id(variable)] = variable.value
        with scope:
            self.outputs = compat.call_model(model, x, training)
            self.losses = model.losses
        self._values = scope.state_mapping

    def seeds(self) -> Assigned:
        """List the model's seed generators with their current states; they are equal on every replica."""
        return [(seed, self._values[id(seed)] - tf.cast(self._offset, seed.dtype)) for seed in _seeds(self._model)]

    def states(self) -> Assigned:
        """List other variables that layers would assign, above all moving statistics, with the new values."""
        seeds = {id(seed) for seed in _seeds(self._model)}
        return self._assigned([v for v in self._model.non_trainable_variables if id(v) not in seeds])

    def counts(self) -> Assigned:
        """List variables of metrics that layers would assign."""
        return self._assigned(self._model.metrics_variables)

    def _assigned(self, variables: list[Any]) -> Assigned:
        return [(variable, self._values[id(variable)]) for variable in variables if id(variable) in self._values]


def _seeds(model: Any) -> list[Any]:
    named = [(variable, compat.get_variable_name(model, variable)) for variable in model.non_trainable_variables]
    return [variable for variable, name in named if name == "seed_generator_state"]
