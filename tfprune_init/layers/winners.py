"""Which units win: the k largest of each example, boosted by how seldom they won before. The same for both Kerases."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.checks import check_integer, check_number
from tfprune_init.errors import ModelError, OptionError

# exp(50) times a number still is a float32.
_MOST_BOOST = 50


def boost_values(x: tf.Tensor, duty_cycle: tf.Tensor, boost: tf.Tensor, target: float) -> tf.Tensor:
    """Return x * exp(boost * (target - duty cycle)): what units compete with.

    Args:
        x: Float tensor.
        duty_cycle: How often each unit won lately, in [0, 1]; of a shape that fits x.
        boost: Strength, from 0; at 0 units compete with what they are.
        target: Share of the units that win.

    Example:
        >>> import tensorflow as tf
        >>> boost_values(tf.constant([1.0, 0.6]), tf.constant([0.5, 0.0]), 1.5, 0.4).numpy().round(4)
        array([0.8607, 1.0933], dtype=float32)
    """
    return x * tf.exp(boost * (target - duty_cycle))


def find_winners(values: tf.Tensor, k: int) -> tf.Tensor:
    """Return True at exactly the k largest along the last axis; ties go to the lower position.

    Args:
        values: Float tensor without NaN.
        k: From 1 to the length of the last axis.

    Example:
        >>> import tensorflow as tf
        >>> find_winners(tf.constant([[1.0, 2.0, 1.0, 1.0]]), 2).numpy().tolist()
        [[True, True, False, False]]
    """
    least = tf.math.top_k(values, k).values[..., -1:]
    above, tied = values > least, tf.cast(tf.equal(values, least), tf.int32)
    left = k - tf.reduce_sum(tf.cast(above, tf.int32), axis=-1, keepdims=True)
    return above | ((tied > 0) & (tf.cumsum(tied, axis=-1) <= left))


@dataclass(frozen=True)
class Entropy:
    """How evenly the units of a layer win.

    Attributes:
        bits: Sum over the competing units of the entropy of winning or not, by their duty cycles.
        most: What it is when all units win equally often, k of n times.
    """

    bits: float
    most: float


class WinnersLayer:
    """What k-winners layers of both Kerases do; the rest of such a class is Keras's Layer.

    Attributes:
        duty_cycle: Variable: how often each unit, or channel, won lately.
        boost: Variable: strength of boosting.
        examples_seen: Variable: the number of training examples that the duty cycle is an average over.
        winners: Numbers that win in training and in inference, once built.
    """

    name: str

    def __init__(
        self,
        k: int | float,
        k_inference_factor: float = 1.5,
        boost: float = 1.5,
        period: int = 1000,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.k = _check_k(k)
        self.k_inference_factor = check_number(
            "k_inference_factor", k_inference_factor, "a number above 0", lambda factor: factor > 0
        )
        self.initial_boost = check_number("boost", boost, f"a number from 0 to {_MOST_BOOST}", _is_boost)
        self.period = check_integer("period", period, 1)

    def build(self, input_shape: Any) -> None:
        """Make the variables, and count out the winners."""
        self._competing = self.count_competing(tuple(input_shape))
        self.winners = self._count_winners()
        channels = (input_shape[self.channel_axis(len(input_shape))],)
        self.duty_cycle = compat.add_state(self, "duty_cycle", channels, "float32")
        self.boost = compat.add_state(self, "boost", (), "float32", self.initial_boost)
        self.examples_seen = compat.add_state(self, "examples_seen", (), "int32")
        self.built = True

    def channel_axis(self, rank: int) -> int:
        """Return the axis of what has a duty cycle, in a tensor of some rank."""
        return rank - 1

    def count_competing(self, shape: tuple[int | None, ...]) -> int:
        """Return how many numbers compete with each other, for inputs of some shape."""
        raise NotImplementedError

    def arrange(self, values: tf.Tensor) -> tf.Tensor:
        """Put what competes with each other into the last axis."""
        return values

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Return the winners as they are, and 0 elsewhere; in training, count who won."""
        winners = self.winners[0 if training else 1]
        # Half precision has too few numbers to tell boosted units apart.
        x = tf.cast(inputs, tf.float32) if inputs.dtype in (tf.float16, tf.bfloat16) else tf.convert_to_tensor(inputs)
        axis = self.channel_axis(len(x.shape))
        sides = [-1 if one == axis else 1 for one in range(1, len(x.shape))]
        duty = tf.reshape(tf.cast(self.duty_cycle, x.dtype), sides)
        boosted = boost_values(x, duty, tf.cast(self.boost, x.dtype), self.winners[0] / self._competing)
        won = tf.reshape(find_winners(self.arrange(tf.stop_gradient(boosted)), winners), tf.shape(x))
        # A product, so that NaN stays NaN.
        outputs = inputs * tf.cast(won, inputs.dtype)
        if training:
            self._count(outputs, axis)
        return outputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape

    def compute_entropy(self) -> Entropy:
        """Compute how evenly units win: the entropy of the duty cycles, and the most it can be, in bits.

        Raises:
            ModelError: If the layer is not built.
        """
        if not self.built:
            raise ModelError(f"Layer {self.name!r} is not built, so nothing has won. Call it once on a batch.")
        duty = np.asarray(compat.get_tf_variable(self.duty_cycle), np.float64)
        each = self._competing / duty.size
        return Entropy(
            float(_compute_entropies(duty).sum() * each),
            float(_compute_entropies(np.array(self.winners[0] / self._competing)) * self._competing),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        own = {"k": self.k, "k_inference_factor": self.k_inference_factor, "boost": self.initial_boost}
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]  # of Keras's Layer
        return {**config, **own, "period": self.period}

    def _count_winners(self) -> tuple[int, int]:
        k = self.k if isinstance(self.k, int) else max(1, round(self.k * self._competing))
        if k >= self._competing:
            raise OptionError(
                f"Layer {self.name!r} lets k of {self._competing} units win, so k must be smaller. Received: "
                f"k={self.k!r}, which is {k}. Where all units win, use ReLU in place of k winners."
            )
        return k, min(self._competing, max(1, round(k * self.k_inference_factor)))

    def _count(self, outputs: tf.Tensor, axis: int) -> None:
        """Average the duty cycles over the last `period` examples, or over the batch where that is larger."""
        others = [one for one in range(len(outputs.shape)) if one != axis]
        # Whole numbers, whose sum does not depend on the order.
        won = tf.cast(tf.reduce_sum(tf.cast(outputs > 0, tf.int32), axis=others), tf.float32)
        examples = tf.shape(outputs)[0]
        places = tf.cast(tf.math.floordiv(tf.size(outputs), tf.maximum(1, examples * outputs.shape[axis])), tf.float32)
        period = tf.maximum(examples, tf.minimum(self.period, tf.cast(self.examples_seen, tf.int32) + examples))
        before = tf.cast(self.duty_cycle, tf.float32) * tf.cast(period - examples, tf.float32)
        now = tf.math.divide_no_nan(won, places)
        self.duty_cycle.assign(tf.math.divide_no_nan(before + now, tf.cast(period, tf.float32)))
        self.examples_seen.assign(period)


class UnitWinners(WinnersLayer):
    """Units of the last axis compete."""

    def count_competing(self, shape: tuple[int | None, ...]) -> int:
        """Return the length of the last axis."""
        if len(shape) < 2 or shape[-1] is None:
            raise ModelError(
                f"Layer {self.name!r} takes (batch, ..., units), with a fixed number of units. Received: {shape}."
            )
        return shape[-1]


class ImageWinners(WinnersLayer):
    """All numbers of an image compete, with one duty cycle a channel."""

    def __init__(self, k: int | float, *args: Any, data_format: str | None = None, **kwargs: Any):
        super().__init__(k, *args, **kwargs)
        self.data_format = compat.get_keras(self).backend.image_data_format() if data_format is None else data_format
        if self.data_format not in ("channels_last", "channels_first"):
            raise OptionError(
                f"data_format must be 'channels_last' or 'channels_first'. Received: data_format={data_format!r}."
            )

    def channel_axis(self, rank: int) -> int:
        """Return the axis of the channels."""
        return 1 if self.data_format == "channels_first" else rank - 1

    def count_competing(self, shape: tuple[int | None, ...]) -> int:
        """Return height * width * channels."""
        if len(shape) != 4 or None in shape[1:]:
            raise ModelError(
                f"Layer {self.name!r} takes images of a fixed size, (batch, height, width, channels). "
                f"Received: {shape}. Where units compete at each place alone, use KWinners."
            )
        return math.prod(side for side in shape[1:] if side is not None)

    def arrange(self, values: tf.Tensor) -> tf.Tensor:
        """Flatten each image."""
        return tf.reshape(values, (-1, self._competing))

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "data_format": self.data_format}


def _compute_entropies(p: np.ndarray) -> np.ndarray:
    """Return -p log2 p - (1 - p) log2 (1 - p), 0 at 0 and 1."""
    inside = np.where((p > 0) & (p < 1), p, 0.5)
    return np.where((p > 0) & (p < 1), -inside * np.log2(inside) - (1 - inside) * np.log2(1 - inside), 0.0)


def _check_k(k: Any) -> int | float:
    if isinstance(k, numbers.Integral):
        return check_integer("k", k, 1)
    if isinstance(k, numbers.Real) and 0 < float(k) < 1:
        return float(k)
    raise OptionError(f"k is a number of units, an integer from 1, or a share of them, in (0, 1). Received: k={k!r}.")


def _is_boost(boost: float) -> bool:
    return 0 <= boost <= _MOST_BOOST
