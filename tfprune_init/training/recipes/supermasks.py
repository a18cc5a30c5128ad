"""Supermasks: masks for weights that stay as they were drawn."""

from __future__ import annotations

from typing import Any

from tfprune_init.errors import OptionError
from tfprune_init.scoring.training_criteria import TRAINING_CRITERIA
from tfprune_init.training.events import (
    Event,
    LearnBernoulliMasks,
    LearnTopScores,
    PruneByTraining,
    Reinitialize,
    Rewind,
    Snapshot,
    Train,
)
from tfprune_init.training.recipe_registry import RunPlan, register_recipe

_START = "start"


@register_recipe("supermask", decides_sparsity=True, trains_weights=False)
def supermask(
    plan: RunPlan,
    *,
    weights: str = "initial",
    learning_rate: float = 100.0,
    momentum: float = 0.9,
    start: float = 0.0,
    rescale: bool = False,
    choose: str = "likely",
    draws: int = 10,
) -> list[Event]:
    """Make the procedure of learning which of the initial weights are kept, each with a probability of its own.

    No weight is trained: kernels, biases and normalization stay as they were drawn, and what is kept has its bits, or
    with `rescale` one multiple of them a kernel. How many are kept is what the scores come to; `start` moves it. A
    weight whose gradient is always 0, as behind a pixel that is always 0, keeps the score it began with.

    Args:
        plan: The run.
        weights: "initial" keeps the initial weights; "signed_constant" replaces them first by sign(w) * std(w), the
            standard deviation of each kernel.
        learning_rate: As in `LearnBernoulliMasks`.
        momentum: As in `LearnBernoulliMasks`.
        start: As in `LearnBernoulliMasks`.
        rescale: As in `LearnBernoulliMasks`.
        choose: As in `LearnBernoulliMasks`.
        draws: As in `LearnBernoulliMasks`.

    Raises:
        OptionError: If a value is out of range.

    Reference:
        Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask, NeurIPS 2019, who measure networks
        with masks drawn anew at test time ("sampled" in the history), and train for 2000 epochs of MNIST in batches of
        250 with these settings.
    """
    learn = LearnBernoulliMasks(plan.steps, learning_rate, momentum, start, rescale, choose, draws)
    return [*_choose_weights(weights, "weights"), learn]


@register_recipe("edge_popup", trains_weights=False)
def edge_popup(
    plan: RunPlan,
    *,
    weights: str = "initial",
    allocation: Any = "uniform",
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
) -> list[Event]:
    """Make the procedure of edge-popup: learn a score for each initial weight, and keep the largest absolute scores.

    No weight is trained: kernels, biases and normalization stay as they were drawn, and what is kept has its bits.

    Args:
        plan: The run.
        weights: "initial" keeps the initial weights; "signed_constant" replaces them first by sign(w) times the
            standard deviation of their initializer, sqrt(2 / fan_in) for He's.
        allocation: As in `LearnTopScores`.
        learning_rate: As in `LearnTopScores`.
        momentum: As in `LearnTopScores`.
        weight_decay: As in `LearnTopScores`.

    Raises:
        OptionError: If a value is out of range.

    Reference:
        Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?, CVPR 2020, with batches of 128 over 100
        epochs of CIFAR-10, He's initial weights and no biases. Exact counts here; its code rounds each layer's up.
    """
    learn = LearnTopScores(plan.steps, plan.density, allocation, learning_rate, momentum, weight_decay)
    return [*_choose_weights(weights, None), learn]


@register_recipe("supermask_from_training", trains_weights=False)
def supermask_from_training(
    plan: RunPlan, *, criterion: str = "large_final", weights: str = "initial", allocation: Any = "uniform"
) -> list[Event]:
    """Make the procedure of a supermask from a training: train, find masks by what it did, go back to the start.

    The network that is left has not been trained: what is kept has its initial weights, or their signed constants.

    Args:
        plan: The run.
        criterion: As in `tpi.find_masks_from_training`; one that is given a sparsity.
        weights: "initial" goes back to the initial weights, "signed_constant" to sign(w) * std(w) of those, the
            standard deviation of each kernel, pruned weights included.
        allocation: How the weights that stay are shared out among kernels, as in `find_masks`.

    Raises:
        OptionError: If there is no such criterion, it decides itself how many weights stay, or `weights` is unknown.

    Reference:
        Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask, NeurIPS 2019.
    """
    if TRAINING_CRITERIA.find(criterion).decides:
        raise OptionError(
            f"Criterion {criterion!r} decides itself how many weights stay, and this procedure prunes to a sparsity. "
            f"Use {criterion.removesuffix('_single')!r}, or a list of events with PruneByTraining. "
            f"Received: criterion={criterion!r}."
        )
    prune = PruneByTraining(criterion, _START, plan.density, allocation)
    after = _choose_weights(weights, "weights", _START)
    return [Snapshot(_START), Train(plan.steps), prune, Rewind(_START, step=False), *after]


def _choose_weights(weights: str, deviation_of: str | None, snapshot: str | None = None) -> list[Event]:
    """Return the events that replace the initial weights."""
    if weights not in ("initial", "signed_constant"):
        raise OptionError(f'weights must be "initial" or "signed_constant". Received: weights={weights!r}.')
    return [] if weights == "initial" else [Reinitialize("constant_same_sign", deviation_of, snapshot)]
