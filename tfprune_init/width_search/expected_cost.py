"""The multiply-adds that are expected of a network whose widths and depths are drawn, exactly and differentiably."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfprune_init.width_search.distributions import compute_tails
from tfprune_init.width_search.networks import ResNetSpace, count_positions


class WidthDistribution(NamedTuple):
    """How likely a feature map has each width.

    Attributes:
        widths: The widths.
        probabilities: Of each, shape (widths,).
    """

    widths: tuple[int, ...]
    probabilities: tf.Tensor

    @property
    def mean(self) -> tf.Tensor:
        """The expected width."""
        return tf.reduce_sum(self.probabilities * tf.constant(self.widths, self.probabilities.dtype))

    def expect_equal(self, other: WidthDistribution) -> tf.Tensor:
        """Compute the expected product of both widths where they are equal, and 0 elsewhere."""
        squares = np.square(self.widths)[:, None] * np.equal.outer(self.widths, other.widths)
        together = self.probabilities[:, None] * other.probabilities[None, :]
        return tf.reduce_sum(together * tf.constant(squares, together.dtype))


def expect_multiply_adds(space: ResNetSpace, probabilities: Mapping[str, Any]) -> tf.Tensor:
    """Compute the multiply-adds that are expected where all widths and depths are drawn independently.

    It is the exact mean over all networks of the space of what `ResNetWidths.count_multiply_adds` says. What a
    convolution sees at the beginning of a stage depends on the depth of the stage before. A block whose width differs
    from that of its input has a shortcut of its own, which counts as often as they differ.

    Args:
        space: The space.
        probabilities: Of each choice, by name, as tensors.

    Returns:
        A scalar of their dtype.
    """
    choices = space.list_choices()

    def get(name: str) -> WidthDistribution:
        return WidthDistribution(choices[name], tf.convert_to_tensor(probabilities[name]))

    width = get("stem")
    positions = count_positions(space.input_shape, 1)
    total = 9 * positions * space.input_shape[2] * width.mean
    for stage in range(1, len(space.stages) + 1):
        positions = count_positions(space.input_shape, stage)
        depths, likely = choices[f"stage{stage}_depth"], tf.convert_to_tensor(probabilities[f"stage{stage}_depth"])
        ends = []
        for number, tail in enumerate(compute_tails(likely, depths), start=1):
            first, second = (get(f"stage{stage}_block{number}_conv{conv}") for conv in (1, 2))
            block = 9 * (width.mean + second.mean) * first.mean + width.mean * second.mean
            if stage == 1 or number > 1:
                block -= width.expect_equal(second)
            total += positions * tail * block
            width = second
            ends.append(second.probabilities)
        reached = tf.stack([ends[depth - 1] for depth in depths])
        width = WidthDistribution(width.widths, tf.linalg.matvec(reached, likely, transpose_a=True))
    return total + space.classes * width.mean
