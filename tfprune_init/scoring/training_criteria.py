"""Criteria that compare the weights before training with those after it, for any model.

Each is a function of two float64 arrays of one dimension, the initial and the final weights of all that competes: those
of one kernel, or of several where kernels compete. A new one is such a function under the decorator.

References:
    Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask, NeurIPS 2019.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfprune_init.registry import Registry

TrainingScore = Callable[..., np.ndarray]


@dataclass(frozen=True)
class TrainingCriterion:
    """A way to judge weights by what training did to them.

    Attributes:
        name: Its name.
        formula: What it keeps, where w0 is an initial weight and w the final one.
        score: Function from initial and final weights to scores, higher = keep. One with a parameter `rng` also gets a
            random generator.
        decides: Whether its scores are booleans that say what is kept, so that no sparsity is asked for.
    """

    name: str
    formula: str
    score: TrainingScore
    decides: bool = False

    @property
    def is_random(self) -> bool:
        """Whether it needs a random generator."""
        return "rng" in inspect.signature(self.score).parameters


TRAINING_CRITERIA: Registry[TrainingCriterion] = Registry("criterion of weights before and after training")


def register_training_criterion(
    name: str, formula: str, *, decides: bool = False
) -> Callable[[TrainingScore], TrainingScore]:
    """Register a function of initial and final weights as a criterion.

    Args:
        name: Name of the criterion.
        formula: What it keeps, for tables.
        decides: Whether it says itself which weights are kept, by booleans.

    Raises:
        OptionError: If the name is taken.

    Example:
        >>> from tfprune_init.scoring.training_criteria import TRAINING_CRITERIA, register_training_criterion
        >>> @register_training_criterion("signed_movement", "the largest w - w0")
        ... def score_signed_movement(initial, final):
        ...     return final - initial
        >>> TRAINING_CRITERIA.pop("signed_movement").is_random
        False
    """

    def register(score: TrainingScore) -> TrainingScore:
        TRAINING_CRITERIA.register(name, TrainingCriterion(name, formula, score, decides))
        return score

    return register


@register_training_criterion("large_final", "the largest abs(w)")
def score_large_final(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by the final magnitude."""
    return _magnitude(final)


@register_training_criterion("small_final", "the smallest abs(w)")
def score_small_final(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by the final magnitude, the smallest first."""
    return -_magnitude(final)


@register_training_criterion("large_init", "the largest abs(w0)")
def score_large_init(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by the initial magnitude."""
    return _magnitude(initial)


@register_training_criterion("small_init", "the smallest abs(w0)")
def score_small_init(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by the initial magnitude, the smallest first."""
    return -_magnitude(initial)


@register_training_criterion("large_init_large_final", "the largest min(rank of abs(w0), rank of abs(w))")
def score_large_init_large_final(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by the lower of two ranks: what is kept is large before and after training."""
    return np.asarray(np.minimum(_rank(_magnitude(initial)), _rank(_magnitude(final))))


@register_training_criterion("small_init_small_final", "the largest min(rank of -abs(w0), rank of -abs(w))")
def score_small_init_small_final(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by the lower of two ranks: what is kept is small before and after training."""
    return np.asarray(np.minimum(_rank(-_magnitude(initial)), _rank(-_magnitude(final))))


@register_training_criterion("magnitude_increase", "the largest abs(w) - abs(w0)")
def score_magnitude_increase(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by how much the magnitude grew."""
    return np.asarray(_magnitude(final) - _magnitude(initial))


@register_training_criterion("movement", "the largest abs(w - w0)")
def score_movement(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by the way that a weight went."""
    return _magnitude(final - initial)


@register_training_criterion("random", "as many at random")
def score_random(initial: np.ndarray, final: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Score by chance: the control."""
    return rng.random(initial.shape)


@register_training_criterion("large_final_same_sign", "the largest abs(w), or 0 if the sign changed")
def score_large_final_same_sign(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by the final magnitude those whose sign is what it was."""
    return np.where(_is_same_sign(initial, final), _magnitude(final), 0)


@register_training_criterion("large_final_diff_sign", "the largest abs(w), or 0 if the sign is the same")
def score_large_final_diff_sign(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by the final magnitude those whose sign changed."""
    return np.where(_is_same_sign(initial, final), 0, _magnitude(final))


@register_training_criterion("magnitude_increase_same_sign", "the largest abs(w) - abs(w0), or 0 if the sign changed")
def score_magnitude_increase_same_sign(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by how much the magnitude grew those whose sign is what it was."""
    return np.where(_is_same_sign(initial, final), score_magnitude_increase(initial, final), 0)


@register_training_criterion(
    "magnitude_increase_diff_sign", "the largest abs(w) - abs(w0), or 0 if the sign is the same"
)
def score_magnitude_increase_diff_sign(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Score by how much the magnitude grew those whose sign changed."""
    return np.where(_is_same_sign(initial, final), 0, score_magnitude_increase(initial, final))


@register_training_criterion("large_final_same_sign_single", "all whose sign is the same; no sparsity", decides=True)
def choose_same_sign(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Keep what has the sign it had."""
    return _is_same_sign(initial, final)


@register_training_criterion("large_final_diff_sign_single", "all whose sign changed; no sparsity", decides=True)
def choose_diff_sign(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Keep what has another sign than it had."""
    return ~_is_same_sign(initial, final)


def _magnitude(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(values))


def _rank(values: np.ndarray) -> np.ndarray:
    """Return how many values are smaller, for each; the same for equal ones."""
    return np.searchsorted(np.sort(values), values).astype(np.float64)


def _is_same_sign(initial: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Return whether signs agree; 0 has a sign of its own."""
    return np.asarray(np.sign(initial) == np.sign(final))
