"""A residual network that computes with two widths of each convolution at once, and with all depths of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune_init.models.initialization import he_normal
from tfprune_init.width_search.channels import make_widenings
from tfprune_init.width_search.distributions import WidthDraw, choose_two, draw_exponential, draw_gumbel, relax
from tfprune_init.width_search.networks import ResNetSpace

_EPSILON = 1e-5
_DEVIATION = 0.01


class ElasticConv(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A convolution and BatchNorm of two widths at once.

    One full convolution runs. The first channels of each of the two widths are normalized by scales and offsets of that
    width's own, interpolated to the wider of the two, and added up by their shares. What lies beyond is 0.0, so feature
    maps of all widths have one shape. Statistics are those of the batch, also outside of training: a channel's do not
    depend on the width that it is used for.

    Args:
        widths: The widths, rising.
        kernel_size: Height and width of the kernel.
        strides: Stride in both directions.
        seed: Seed of the kernel, with the layer's name.
        **options: Options of a layer.
    """

    def __init__(
        self, widths: tuple[int, ...], kernel_size: int, strides: int = 1, seed: int | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.widths = tuple(widths)
        self.kernel_size = kernel_size
        self.strides = strides
        self.seed = seed
        self._widenings = make_widenings(self.widths)
        self._is_used = np.less.outer(np.arange(self.widths[-1]), self.widths).T.astype(np.float32)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the kernel, and a scale and an offset for each channel of each width."""
        shape = (self.kernel_size, self.kernel_size, input_shape[-1], self.widths[-1])
        own = (len(self.widths), self.widths[-1])
        self.kernel = self.add_weight(shape=shape, initializer=he_normal(self.name, self.seed), name="kernel")
        self.gamma = self.add_weight(shape=own, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=own, initializer="zeros", name="beta")

    def call(self, x: tf.Tensor, draw: WidthDraw) -> tf.Tensor:
        """Compute the mixture of two widths, of the shape of the full convolution's output."""
        full = tf.nn.conv2d(x, tf.convert_to_tensor(self.kernel), self.strides, "SAME")
        mean, variance = tf.nn.moments(full, [0, 1, 2])
        normal = (full - mean) * tf.math.rsqrt(variance + _EPSILON)
        # All that comes after is linear, so it is one matrix for both widths.
        shares = draw.shares[:, None] * tf.gather(self._is_used, draw.places)
        widenings = tf.gather(self._widenings, draw.places)
        widenings = tf.gather(widenings, draw.widest, axis=1)
        scales = shares * tf.gather(tf.convert_to_tensor(self.gamma), draw.places)
        offsets = shares * tf.gather(tf.convert_to_tensor(self.beta), draw.places)
        matrix = tf.reduce_sum(scales[:, :, None] * widenings, 0)
        return tf.tensordot(normal, matrix, 1) + tf.einsum("wc,wcd->d", offsets, widenings)


class SearchableResNet(keras.Model):  # type: ignore[misc]  # Keras has no types
    """The largest network of a space, with logits for all widths and depths.

    A call draws widths and depths, and computes a mixture of them that is differentiable in the logits. Blocks whose
    shapes match have identity shortcuts: the first channels are added up, and the others of the wider one pass.

    Args:
        space: The space.
        seed: Seed of weights and logits.

    Attributes:
        space: As given.
        logits: Logits by name, as `ResNetSpace.list_choices` has them; they begin as draws of N(0, 0.01^2).
    """

    def __init__(self, space: ResNetSpace, seed: int = 0):
        super().__init__()
        self.space = space
        self._choices = space.list_choices()
        self._seed = seed
        drawn = np.random.default_rng([seed, 0])
        self._logits = [
            self.add_weight(
                shape=(len(sizes),),
                initializer=keras.initializers.Constant(drawn.normal(0, _DEVIATION, len(sizes))),
                name=f"{name}_logits",
            )
            for name, sizes in self._choices.items()
        ]
        self._convolutions: dict[str, ElasticConv] = {"stem": self._make_convolution("stem", "stem", 3)}
        for stage, (blocks, _) in enumerate(space.stages, start=1):
            for number in range(1, blocks + 1):
                name, stride = f"stage{stage}_block{number}", 2 if stage > 1 and number == 1 else 1
                added = {f"{name}_conv1": (3, stride), f"{name}_conv2": (3, 1)}
                if stride > 1:
                    added[f"{name}_shortcut"] = (1, stride)
                for own, (size, step) in added.items():
                    choice = own.replace("shortcut", "conv2")
                    self._convolutions[own] = self._make_convolution(own, choice, size, step)
        self._widenings = [make_widenings(self._choices[f"stage{s}_block1_conv1"]) for s, _ in self._number_stages()]
        self._head = keras.layers.Dense(space.classes, kernel_initializer=he_normal("head", seed), name="head")
        self(tf.zeros((2, *space.input_shape)), tf.constant([0, 0], tf.int64), tf.constant(1.0))

    @property
    def logits(self) -> dict[str, Any]:
        """Logits by name."""
        return dict(zip(self._choices, self._logits, strict=True))

    @property
    def network_variables(self) -> list[Any]:
        """The trainable variables that are no logits."""
        known = {id(one) for one in self._logits}
        return [one for one in self.trainable_variables if id(one) not in known]

    def compute_probabilities(self) -> dict[str, tf.Tensor]:
        """Compute the probability of each width and depth, by name."""
        return {name: tf.nn.softmax(tf.convert_to_tensor(logits)) for name, logits in self.logits.items()}

    def call(self, images: tf.Tensor, key: tf.Tensor, tau: tf.Tensor) -> tf.Tensor:
        """Compute logits of classes with widths and depths that are drawn.

        Args:
            images: Shape (batch, height, width, channels).
            key: Two integers that decide the draws, int64.
            tau: Temperature of the draws.
        """
        relaxed = {
            name: relax(tf.convert_to_tensor(logits), draw_exponential(logits.shape[0], _derive(key, 2 * place)), tau)
            for place, (name, logits) in enumerate(self.logits.items())
        }
        draws = {
            name: choose_two(one, draw_gumbel(one.shape[0], _derive(key, 2 * place + 1)))
            for place, (name, one) in enumerate(relaxed.items())
        }
        x, widest = tf.nn.relu(self._convolutions["stem"](images, draws["stem"])), draws["stem"].widest
        for stage, (blocks, _) in self._number_stages():
            ends = []
            for number in range(1, blocks + 1):
                x, widest = self._compute_block(x, widest, f"stage{stage}_block{number}", draws)
                ends.append((x, widest))
            name = f"stage{stage}_depth"
            reached = [ends[depth - 1] for depth in self._choices[name]]
            x, widest = self._mix_depths(reached, tf.nn.softmax(relaxed[name]), stage)
        return self._head(tf.reduce_mean(x, [1, 2]))

    def _compute_block(
        self, x: tf.Tensor, widest: tf.Tensor, name: str, draws: Mapping[str, WidthDraw]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        first, second = (draws[f"{name}_conv{conv}"] for conv in (1, 2))
        y = tf.nn.relu(self._convolutions[f"{name}_conv1"](x, first))
        y = self._convolutions[f"{name}_conv2"](y, second)
        shortcut = self._convolutions.get(f"{name}_shortcut")
        if shortcut is not None:
            return tf.nn.relu(y + shortcut(x, second)), second.widest
        return tf.nn.relu(y + x), tf.maximum(widest, second.widest)

    def _mix_depths(
        self, reached: list[tuple[tf.Tensor, tf.Tensor]], shares: tf.Tensor, stage: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if len(reached) == 1:
            return reached[0]
        widest = tf.reduce_max(tf.stack([width for _, width in reached]))
        table = self._widenings[stage - 1]
        wide = [tf.tensordot(x, tf.gather(tf.gather(table, width), widest), 1) for x, width in reached]
        return tf.add_n([shares[place] * x for place, x in enumerate(wide)]), widest

    def _make_convolution(self, name: str, choice: str, size: int, stride: int = 1) -> ElasticConv:
        return ElasticConv(self._choices[choice], size, stride, self._seed, name=name)

    def _number_stages(self) -> list[tuple[int, tuple[int, int]]]:
        return list(enumerate(self.space.stages, start=1))


def _derive(key: tf.Tensor, number: int) -> tf.Tensor:
    """Return a key of its own for each number, where keys of a search differ in their second integer."""
    return tf.stack([key[0] + number * 1_000_003, key[1]])
