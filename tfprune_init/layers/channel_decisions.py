"""Which channels of a convolution are computed for an example: a decision of 0 or 1 for each, from its input."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfprune_init.checks import check_integer, check_number, suggest
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.layers.straight_through_decisions import (
    pass_straight_through,
    soften_by_stretching,
    soften_by_temperature,
)

_CHOICES = {
    "pooling": ("mean", "mean_abs"),
    "noise": ("normal", "logistic", "none"),
    "forward": ("mixed", "hard", "soft"),
    "data_format": ("channels_last", "channels_first"),
}
_SHARE_HIDDEN = 4


@keras.saving.register_keras_serializable(package="tfprune_init")
class ChannelDecisions(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Decide for each example which channels of a convolution are open (1) and which are closed (0).

    The input of the convolution, averaged over all places, goes through one or two dense layers to a logit g for each
    channel. In inference a channel is open where g > 0. In training noise is added, and the decisions pass on the
    gradient of something soft:

    - noise "normal": g + N(0, 1), soft = clip(1.2 sigmoid - 0.1, 0, 1);
    - noise "logistic": g + logistic noise, soft = sigmoid(. / temperature), a Gumbel softmax of two;
    - noise "none": the first without noise.

    It stands beside the convolution; `ApplyDecisions` multiplies. `tpi.insert_saliency` puts both into a model.

    The paper of this method (Chen et al., "Self-Adaptive Network Pruning", 2019) was not to be had beyond its abstract,
    which has a module that predicts a saliency per channel and decisions of 0 and 1. Every option here fills a gap,
    from related work that is named with it.

    Args:
        channels: Number of channels to decide on: those that the convolution makes.
        hidden: Units between the two dense layers. None for a quarter of the channels of the input, at least 1 (squeeze
            and excitation: Hu et al., 2018); 0 for one dense layer (feature boosting and suppression: Gao et al.,
            2019).
        pooling: "mean" over places (Hu et al.), or "mean_abs", the mean of absolute values (Gao et al.).
        noise: "normal" (improved semantic hashing: Kaiser and Bengio, 2018), "logistic" (Jang et al., 2017; Maddison et
            al., 2017), or "none".
        forward: What training computes with: "hard" decisions, "soft" ones, or "mixed": either with equal chance, drawn
            for each batch (Kaiser and Bengio).
        temperature: Of noise "logistic"; 1 by default.
        scale: Whether what is open is also multiplied with sigmoid(g). The layer then gives a list: the decisions, and
            the factors.
        kernel_initializer: Of the last dense layer; "he_normal" as Gao et al. Its bias begins at 1, as theirs, so that
            most channels are open at first. With "zeros" all are, but they also go together then: what differs between
            channels comes from the noise alone.
        data_format: "channels_last" or "channels_first": where the channels of the input are.
        seed: Seed of the noise; drawn from Keras's global seed by default.
        **kwargs: Usual layer arguments. The dtype is float32 unless given, also under mixed precision.

    Raises:
        OptionError: If an option is out of range, unknown, or has no effect.
        ModelError: When it is built, if the number of channels of the input is open.

    Example:
        >>> import numpy as np, tfprune_init as tpi
        >>> layer = tpi.layers.ChannelDecisions(3, kernel_initializer="zeros")
        >>> layer(np.ones((2, 5, 5, 8), "float32")).numpy().tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
        >>> _ = layer.decision_bias.assign([1.0, -1.0, 0.0])
        >>> layer(np.ones((2, 5, 5, 8), "float32")).numpy().tolist()
        [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]

    References:
        Chen, Zhu, Li and Zhao, "Self-Adaptive Network Pruning", 2019, https://arxiv.org/abs/1910.08906. For options:
        Gao et al., "Dynamic Channel Pruning: Feature Boosting and Suppression", 2019, https://arxiv.org/abs/1810.05331;
        Kaiser and Bengio, "Discrete Autoencoders for Sequence Models", 2018, https://arxiv.org/abs/1801.09797;
        Hu et al., "Squeeze-and-Excitation Networks", 2018, https://arxiv.org/abs/1709.01507
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        pooling: str = "mean",
        noise: str = "normal",
        forward: str = "mixed",
        temperature: float | None = None,
        scale: bool = False,
        kernel_initializer: Any = "he_normal",
        data_format: str = "channels_last",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.channels = check_integer("channels", channels, 1)
        self.hidden = None if hidden is None else check_integer("hidden", hidden, 0)
        self.pooling = _check_choice("pooling", pooling)
        self.noise = _check_choice("noise", noise)
        self.forward = _check_choice("forward", forward)
        self.temperature = _check_temperature(temperature, noise)
        if not isinstance(scale, bool):
            raise OptionError(f"scale must be True or False. Received: scale={scale!r}.")
        self.scale = scale
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.data_format = _check_choice("data_format", data_format)
        self.seed = None if seed is None else check_integer("seed", seed, 0)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any) -> None:
        """Make the dense layers."""
        axis = 1 if self.data_format == "channels_first" else len(input_shape) - 1
        taken = input_shape[axis]
        if taken is None:
            raise ModelError(f"Layer {self.name!r} needs a fixed number of channels. Received: {input_shape}.")
        self.pooled_axes = [one for one in range(1, len(input_shape)) if one != axis]
        width = max(1, taken // _SHARE_HIDDEN) if self.hidden is None else self.hidden
        self.hidden_units = width
        if width:
            self.hidden_kernel = self.add_weight(name="hidden_weights", shape=(taken, width), initializer="he_normal")
            self.hidden_bias = self.add_weight(name="hidden_bias", shape=(width,), initializer="zeros")
        self.decision_kernel = self.add_weight(
            name="decision_weights", shape=(width or taken, self.channels), initializer=self.kernel_initializer
        )
        self.decision_bias = self.add_weight(name="decision_bias", shape=(self.channels,), initializer="ones")
        self.built = True

    def compute_logits(self, inputs: Any) -> Any:
        """Compute g, of shape (examples, channels), without noise."""
        x = tf.convert_to_tensor(inputs)
        x = tf.abs(x) if self.pooling == "mean_abs" else x
        x = tf.reduce_mean(x, axis=self.pooled_axes) if self.pooled_axes else x
        if self.hidden_units:
            x = tf.nn.relu(tf.matmul(x, self.hidden_kernel) + self.hidden_bias)
        return tf.matmul(x, self.decision_kernel) + self.decision_bias

    def draw_noise(self, shape: Any) -> Any:
        """Draw what is added to the logits in training."""
        if self.noise == "normal":
            return keras.random.normal(shape, dtype=self.compute_dtype, seed=self.seed_generator)
        # Away from 0 and 1, where the logistic noise would be infinite.
        least = 1e-6
        uniform = keras.random.uniform(shape, least, 1 - least, dtype=self.compute_dtype, seed=self.seed_generator)
        return tf.math.log(uniform) - tf.math.log1p(-uniform)

    def decide(self, logits: Any, is_hard: Any) -> Any:
        """Return the decisions of training for logits with their noise, with the gradient of the soft ones.

        Args:
            logits: Float tensor.
            is_hard: Whether they are 0 and 1: a bool, or a boolean tensor of no axes.
        """
        if self.noise == "logistic":
            soft = soften_by_temperature(logits, self.temperature or 1.0)
        else:
            soft = soften_by_stretching(logits)
        hard = tf.cast(logits > 0, logits.dtype)
        return pass_straight_through(tf.where(is_hard, hard, tf.stop_gradient(soft)), soft)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Return the decisions, of shape (examples, channels); with `scale` a list of them and the factors."""
        logits = self.compute_logits(inputs)
        if training:
            noisy = logits if self.noise == "none" else logits + self.draw_noise(tf.shape(logits))
            decisions = self.decide(noisy, self._draw_is_hard())
        else:
            decisions = tf.cast(logits > 0, logits.dtype)
        return [decisions, decisions * tf.sigmoid(logits)] if self.scale else decisions

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the decisions; with `scale` also that of the factors."""
        shape = (input_shape[0], self.channels)
        return [shape, shape] if self.scale else shape

    def count_multiply_adds(self) -> int:
        """Count what the dense layers multiply for one example."""
        kernels = [self.decision_kernel, *([self.hidden_kernel] if self.hidden_units else [])]
        return sum(int(kernel.shape[0]) * int(kernel.shape[1]) for kernel in kernels)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        names = ("channels", "hidden", "pooling", "noise", "forward", "temperature", "scale", "data_format", "seed")
        config: dict[str, Any] = super().get_config()
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**config, **{name: getattr(self, name) for name in names}, "kernel_initializer": initializer}

    def _draw_is_hard(self) -> Any:
        if self.forward != "mixed":
            return self.forward == "hard"
        return keras.random.uniform((), seed=self.seed_generator) < 0.5


@keras.saving.register_keras_serializable(package="tfprune_init")
class ApplyDecisions(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Multiply each channel of each example with its decision: what is closed becomes 0.

    Called on a list of two: a tensor with channels, and decisions of shape (examples, channels).

    Args:
        data_format: "channels_last" or "channels_first".
        **kwargs: Usual layer arguments.

    Raises:
        OptionError: If the data format is neither.

    Example:
        >>> import numpy as np, tfprune_init as tpi
        >>> tpi.layers.ApplyDecisions()([np.ones((1, 1, 2, 3)), np.array([[1.0, 0.0, 1.0]])]).numpy().tolist()
        [[[[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]]]
    """

    def __init__(self, data_format: str = "channels_last", **kwargs: Any):
        # What it multiplies keeps its dtype.
        super().__init__(**{"autocast": False, **kwargs})
        self.data_format = _check_choice("data_format", data_format)

    def call(self, inputs: Any) -> Any:
        """Return the product."""
        values, decisions = map(tf.convert_to_tensor, inputs)
        places = [1] * (len(values.shape) - 2)
        sides = [-1, *places] if self.data_format == "channels_first" else [*places, -1]
        return values * tf.cast(tf.reshape(decisions, [tf.shape(decisions)[0], *sides]), values.dtype)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Return shape and dtype of the first input."""
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "data_format": self.data_format}


def _check_choice(name: str, value: Any) -> str:
    if value not in _CHOICES[name]:
        raise OptionError(
            f"{name} must be one of {', '.join(map(repr, _CHOICES[name]))}. Received: {name}={value!r}. "
            f"{suggest(value, _CHOICES[name])}"
        )
    return str(value)


def _check_temperature(temperature: Any, noise: str) -> float | None:
    if temperature is None:
        return None
    if noise != "logistic":
        raise OptionError(f"temperature= has no effect with noise={noise!r}. Received: temperature={temperature!r}.")
    return check_number("temperature", temperature, "a number above 0", lambda given: given > 0)
