"""The two steps that a search takes in turn: weights on one half of the data, logits on the other."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune_init.width_search.expected_cost import expect_multiply_adds
from tfprune_init.width_search.searchable import SearchableResNet

_LOGIT_DECAY = 1e-3


class WeightLearner:
    """Trains the weights of a searchable network: SGD with Nesterov's momentum of 0.9, a rate that falls to 0.

    Args:
        network: The network.
        learning_rate: Rate at the first step, which falls along a cosine.
        weight_decay: What is added to the gradients, times the weights, as in PyTorch.
        steps: Number of steps.
    """

    def __init__(self, network: SearchableResNet, learning_rate: float, weight_decay: float, steps: int):
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        self._network = network
        self._variables = network.network_variables
        self._decay = weight_decay
        self._optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
        self._optimizer.build(self._variables)
        self._learn = tf.function(self._take_step, autograph=False)

    def learn(self, images: np.ndarray, labels: np.ndarray, key: tuple[int, int], tau: float) -> float:
        """Take a step; return the cross-entropy before it.

        Args:
            images: Images of the first half.
            labels: Their labels.
            key: Decides the draws.
            tau: Temperature of the draws.
        """
        return float(self._learn(images, labels, _to_key(key), tf.constant(tau, tf.float32)))

    def _take_step(self, images: tf.Tensor, labels: tf.Tensor, key: tf.Tensor, tau: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = _compute_entropy(self._network, images, labels, key, tau)
        _apply(self._optimizer, tape.gradient(loss, self._variables), self._variables, self._decay)
        return loss


class LogitLearner:
    """Trains the logits of a searchable network: Adam with betas 0.5 and 0.999, and weight decay 1e-3.

    Args:
        network: The network.
        learning_rate: The rate, constant.
        cost_weight: Weight of the logarithm of the expected cost.
    """

    def __init__(self, network: SearchableResNet, learning_rate: float, cost_weight: float):
        self._network = network
        # A stage of one block has nothing to choose, and its logit no gradient.
        self._variables = [logits for logits in network.logits.values() if logits.shape[0] > 1]
        self._cost_weight = cost_weight
        self._optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5, beta_2=0.999, epsilon=1e-8)
        self._optimizer.build(self._variables)
        self._learn = tf.function(self._take_step, autograph=False)

    def learn(self, images: np.ndarray, labels: np.ndarray, key: tuple[int, int], tau: float, direction: int) -> float:
        """Take a step; return the cross-entropy before it.

        Args:
            images: Images of the second half.
            labels: Their labels.
            key: Decides the draws.
            tau: Temperature of the draws.
            direction: Where the cost must go, as `find_direction` says.
        """
        numbers = tf.constant(tau, tf.float32), tf.constant(direction, tf.float32)
        return float(self._learn(images, labels, _to_key(key), *numbers))

    def _take_step(
        self, images: tf.Tensor, labels: tf.Tensor, key: tf.Tensor, tau: tf.Tensor, direction: tf.Tensor
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            entropy = _compute_entropy(self._network, images, labels, key, tau)
            expected = expect_multiply_adds(self._network.space, self._network.compute_probabilities())
            loss = entropy - self._cost_weight * direction * tf.math.log(expected)
        _apply(self._optimizer, tape.gradient(loss, self._variables), self._variables, _LOGIT_DECAY)
        return entropy


def _compute_entropy(
    network: SearchableResNet, images: tf.Tensor, labels: tf.Tensor, key: tf.Tensor, tau: tf.Tensor
) -> tf.Tensor:
    logits = network(images, key, tau)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def _apply(optimizer: Any, gradients: list[Any], variables: list[Any], decay: float) -> None:
    """Apply gradients to which the decay of the variables is added; one without a gradient had no part in the draw."""
    pairs = [(one, tf.convert_to_tensor(variable)) for one, variable in zip(gradients, variables, strict=True)]
    optimizer.apply([(0.0 if one is None else one) + decay * value for one, value in pairs], variables)


def _to_key(key: tuple[int, int]) -> tf.Tensor:
    return tf.constant(key, tf.int64)
