"""Masks that are learned while the weights stay as they are: a score for each weight, and how scores make a mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.graph.variables import ModelVariable
from tfprune_init.selection import keep_top, keep_top_on_device
from tfprune_init.selection.granularity import Share


@tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow has no types
def pass_straight_through(hard: tf.Tensor, soft: tf.Tensor) -> Any:
    """Return `hard`; its whole gradient is that of `soft`.

    It is `soft + stop_gradient(hard - soft)` without rounding.

    Args:
        hard: A tensor of floats, such as a mask of 0 and 1.
        soft: A tensor of its shape and dtype, which `hard` stands for.

    Example:
        >>> import tensorflow as tf
        >>> from tfprune_init.masking.learned_masks import pass_straight_through
        >>> soft = tf.constant([0.3, 0.8])
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(soft)
        ...     product = tf.reduce_sum([2.0, 4.0] * pass_straight_through(tf.round(soft), soft))
        >>> float(product), tape.gradient(product, soft).numpy().tolist()
        (4.0, [2.0, 4.0])
    """
    return tf.identity(hard), lambda upstream: (None, upstream)


class LearnedMasks:
    """A score for each weight of some variables, and the rule that makes masks of them.

    Attributes:
        scores: The scores, by path of the variable: float64 where it is float64, float32 elsewhere.
    """

    scores: dict[str, tf.Variable]

    def make_factors(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Make what each weight is multiplied by in one step: 0.0 where it is masked.

        Its gradient reaches all scores, also those of masked weights.

        Args:
            step: Number of the step, a scalar of int64, from which random masks are drawn.
        """
        raise NotImplementedError

    def choose(self) -> dict[str, np.ndarray]:
        """Return the masks that the scores say, by path."""
        raise NotImplementedError


class BernoulliMasks(LearnedMasks):
    """Masks drawn anew in each step: a weight is kept with probability sigmoid(score).

    The gradient goes straight through the draw: dL/dscore = dL/dv * w * p * (1 - p), where p is the probability, w the
    weight and v what the network computes with, w or 0.0.

    Args:
        variables: The variables.
        start: Score that all weights begin with.
        seed: Seed of the draws.
        rescale: Whether what is kept of a variable is multiplied by n / k, where k of its n weights are. The factor is
            differentiated, too.
    """

    def __init__(self, variables: Iterable[ModelVariable], *, start: float = 0.0, seed: int = 0, rescale: bool = False):
        self.scores = {one.path: tf.Variable(tf.fill(one.shape, _cast(start, one))) for one in variables}
        self.rescale = rescale
        self._seeds = _draw_seeds(seed, len(self.scores))

    def make_factors(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Make the draws of one step."""
        made = {}
        for (path, score), seed in zip(self.scores.items(), self._seeds, strict=True):
            made[path] = draw_factor(tf.convert_to_tensor(score), self._draw(score, seed, step), self.rescale)
        return made

    def choose(self) -> dict[str, np.ndarray]:
        """Return what is kept with a probability of at least a half."""
        return {path: score.numpy() >= 0 for path, score in self.scores.items()}

    def sample(self, number: int) -> dict[str, np.ndarray]:
        """Return masks that are drawn as in a step of that number."""
        step = tf.constant(number, tf.int64)
        return {
            path: (self._draw(score, seed, step) < tf.sigmoid(score)).numpy()
            for (path, score), seed in zip(self.scores.items(), self._seeds, strict=True)
        }

    def compute_probabilities(self) -> dict[str, np.ndarray]:
        """Return the probability that each weight is kept, by path."""
        return {path: tf.sigmoid(score).numpy() for path, score in self.scores.items()}

    def _draw(self, score: tf.Variable, seed: int, step: tf.Tensor) -> tf.Tensor:
        key = tf.stack([tf.constant(seed, tf.int64), step])
        # An algorithm by name: which one is usual depends on the device.
        return tf.random.stateless_uniform(score.shape, key, dtype=score.dtype, alg="philox")


def draw_factor(score: tf.Tensor, uniform: tf.Tensor, rescale: bool) -> tf.Tensor:
    """Make what weights are multiplied by: 1.0 where a draw is below sigmoid(score), 0.0 elsewhere.

    Args:
        score: Scores.
        uniform: Draws from [0, 1), of the shape and dtype of the scores.
        rescale: Whether it is n / k in place of 1.0, where k of the n weights are kept; 0.0 if none is.

    Example:
        >>> import tensorflow as tf
        >>> from tfprune_init.masking.learned_masks import draw_factor
        >>> draw_factor(tf.constant([0.0, 2.0, -1.0, 0.5]), tf.constant([0.4, 0.9, 0.1, 0.7]), True).numpy().tolist()
        [2.0, 0.0, 2.0, 0.0]
    """
    probability = tf.sigmoid(score)
    mask = pass_straight_through(tf.cast(uniform < probability, score.dtype), probability)
    if not rescale:
        return mask
    return tf.math.divide_no_nan(tf.cast(tf.size(mask), mask.dtype), tf.reduce_sum(mask)) * mask


class TopScoreMasks(LearnedMasks):
    """Masks that keep the largest absolute scores, exactly so many; ties go to the lower position.

    The gradient goes straight through the choice and through the absolute value: dL/dr = dL/dv * w * sign(r), where r
    is the score, w the weight and v what the network computes with, w or 0.0.

    Args:
        variables: The variables. Their scores begin in U(-1 / sqrt(n), 1 / sqrt(n)), where n is the number of weights
            that each output of the layer is a sum of.
        shares: What competes, and how much of it is kept.
        seed: Seed of the scores.
    """

    def __init__(self, variables: Iterable[ModelVariable], shares: Sequence[Share], *, seed: int = 0):
        targets = list(variables)
        self._shares = list(shares)
        self.scores = {}
        for one, own in zip(targets, _draw_seeds(seed, len(targets)), strict=True):
            bound = count_inputs(one) ** -0.5
            drawn = np.random.default_rng(own).uniform(-bound, bound, one.shape)
            self.scores[one.path] = tf.Variable(_cast(drawn, one))

    def make_factors(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Make 1.0 for what is kept, and 0.0; the step has no effect."""
        sizes = {path: tf.abs(tf.convert_to_tensor(score)) for path, score in self.scores.items()}
        made = {}
        for share in self._shares:
            masks = keep_top_on_device([tf.stop_gradient(sizes[path]) for path in share.pools], share.keep)
            for path, mask in zip(share.pools, masks, strict=True):
                made[path] = pass_straight_through(tf.cast(mask, sizes[path].dtype), sizes[path])
        return made

    def choose(self) -> dict[str, np.ndarray]:
        """Return what the last step would keep if there were one more."""
        sizes = {path: np.abs(score.numpy()) for path, score in self.scores.items()}
        kept: dict[str, np.ndarray] = {}
        for share in self._shares:
            kept |= keep_top({path: sizes[path] for path in share.pools}, share.keep)
        return {path: kept[path] for path in self.scores}


def count_inputs(variable: ModelVariable) -> int:
    """Return how many weights of a kernel each output of its layer is a sum of.

    Example:
        >>> import keras
        >>> from tfprune_init.graph.variables import list_variables
        >>> from tfprune_init.masking.learned_masks import count_inputs
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 5, use_bias=False)])
        >>> count_inputs(list_variables(model)[0])
        75
    """
    outputs = np.prod([variable.shape[axis] for axis in variable.units.outputs], dtype=np.int64)
    return max(1, variable.size // int(outputs))


def _draw_seeds(seed: int, count: int) -> list[int]:
    """Return a seed of 31 bits for each variable; the first ones are the same for every count."""
    return [int(word) >> 1 for word in np.random.SeedSequence(seed).generate_state(count)]


def _cast(values: Any, variable: ModelVariable) -> Any:
    dtype = tf.float64 if variable.tensor.dtype == tf.float64 else tf.float32
    return tf.cast(values, dtype)
