"""The search for widths and depths: weights and logits trained in turn, on two halves of the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.checks import check_integer, check_number
from tfprune_init.errors import OptionError, ScoreError
from tfprune_init.progress import is_progress_shown, make_progress
from tfprune_init.training.cost import TrainingCost
from tfprune_init.width_search.alternating import LogitLearner, WeightLearner
from tfprune_init.width_search.distributions import compute_tau, find_direction
from tfprune_init.width_search.expected_cost import expect_multiply_adds
from tfprune_init.width_search.halves import DataHalves
from tfprune_init.width_search.networks import ResNetSpace, ResNetWidths
from tfprune_init.width_search.searchable import SearchableResNet

_DECAYS = ("cosine", "linear")


@dataclass(frozen=True)
class SearchedWidths:
    """What a search found.

    Attributes:
        network: The network of the likeliest width of each convolution and the likeliest depth of each stage.
        asked: Multiply-adds of one example that were asked for.
        got: Those of the network; never more.
        full: Those of the largest network.
        step: The step of the search after which it was the likeliest, counted from 1.
        probabilities: Of each width and depth after that step, by name.
        history: For each epoch the temperature, the mean losses on both halves (the second without the term of the
            cost), the expected multiply-adds, and those of the network that was the likeliest.
        cost: What the search has cost: gradient steps of weights as training, those of logits as scoring, multiply-adds
            of the full network for both. Interpolation is not counted.
    """

    network: ResNetWidths
    asked: int
    got: int
    full: int
    step: int
    probabilities: dict[str, np.ndarray] = field(repr=False)
    history: list[dict[str, float]] = field(repr=False)
    cost: TrainingCost

    def build(self, seed: int | None = None) -> keras.Model:
        """Build the network, with weights drawn anew, as `ResNetWidths.build`."""
        return self.network.build(seed)

    def describe(self) -> str:
        """Say what was found."""
        return (
            f"{self.network}: {self.got:,} multiply-adds of at most {self.asked:,}, {self.got / self.full:.1%} of the "
            f"largest network. It was the likeliest after step {self.step} of {self.cost.training_steps}."
        )


def search_widths(
    space: ResNetSpace,
    data: Any,
    *,
    epochs: int,
    ratio: float = 0.5,
    batch_size: int = 256,
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    logit_learning_rate: float = 1e-3,
    cost_weight: float = 2.0,
    tolerance: float = 0.05,
    tau: tuple[float, float] = (5.0, 0.1),
    decay: str = "cosine",
    seed: int = 0,
    verbose: str | int | bool = "auto",
) -> SearchedWidths:
    """Search the widths of convolutions and the depths of stages that are worth their cost.

    Each width and depth has a logit. A step computes with two widths of each convolution, drawn by a Gumbel-softmax and
    brought to one size by interpolating channels, and with all depths of each stage. The data are split in two halves
    of each class. In turn, weights learn on one half (SGD with Nesterov's momentum of 0.9, the learning rate falling
    along a cosine), and logits on the other one (Adam, betas 0.5 and 0.999, weight decay 1e-3) by the cross-entropy and
    a term of the cost: plus the logarithm of the expected multiply-adds while the likeliest network costs more than
    `ratio` of the largest, minus it while it costs less than `1 - tolerance` of that, and nothing between.

    The result is the likeliest network after the last step, or, if that costs more than was asked for, after the latest
    step at which it did not. Train it anew, best with `tpi.distill` and the trained largest network as the teacher.

    Args:
        space: The networks to choose among.
        data: Images and integer labels: a pair of arrays, or a batched tf.data.Dataset, which is read into memory.
        epochs: Walks through a half of the data. The paper's code has 600 for CIFAR.
        ratio: Share of the multiply-adds of the largest network that the result may have, in (0, 1).
        batch_size: Examples of a step; those left over at the end of an epoch wait for the next, in a new order.
        learning_rate: Of the weights, at the first step.
        weight_decay: Decay of the weights, as PyTorch's SGD has it.
        logit_learning_rate: Of the logits, constant. That of the paper's code moves a logit by 0.001 in a step and
            needs its thousands of steps.
        cost_weight: Weight of the term of the cost.
        tolerance: Share of what was asked for that may be left unused, in (0, 1).
        tau: Temperature of the draws at the beginning and at the end.
        decay: How it falls: "cosine", as in the code, or "linear".
        seed: Seed of everything random.
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.

    Returns:
        SearchedWidths.

    Raises:
        OptionError: If an option is out of range, or the likeliest network cost more than was asked for at all steps.
        DataError: If images or labels do not fit the space, or there are fewer than two examples of a class.
        ScoreError: If a loss becomes NaN or infinite.

    Example:
        >>> import tfprune_init as tpi
        >>> digits = tpi.datasets.load("digits")
        >>> space = tpi.ResNetSpace(digits.input_shape, digits.classes, stages=((1, 4), (1, 8)))
        >>> found = tpi.search_widths(space, digits.train, epochs=1, ratio=0.6, batch_size=128, verbose=0)
        >>> found.got == found.network.count_multiply_adds(), found.cost.training_steps
        (True, 5)

    Reference:
        Dong and Yang, Network Pruning via Transformable Architecture Search, NeurIPS 2019
    """
    _check_options(ratio, learning_rate, weight_decay, logit_learning_rate, cost_weight, tolerance, tau, decay)
    check_integer("seed", seed, 0)
    halves = DataHalves(space, data, check_integer("batch_size", batch_size, 2), seed)
    steps = check_integer("epochs", epochs, 1) * halves.steps_per_epoch
    full = space.largest.count_multiply_adds()
    asked = int(ratio * full)
    network = SearchableResNet(space, seed)
    weights = WeightLearner(network, learning_rate, weight_decay, steps)
    logits = LogitLearner(network, logit_learning_rate, cost_weight)
    history: list[dict[str, float]] = []
    losses: list[tuple[float, float]] = []
    kept: tuple[int, dict[str, np.ndarray]] | None = None
    chosen = _choose(network).count_multiply_adds()
    with make_progress(shown=is_progress_shown(verbose)) as bar, deterministic_reductions():
        task = bar.add_task("searching", total=steps)
        for step in range(steps):
            now = compute_tau(step / max(1, steps - 1), *tau, decay)
            direction = find_direction(chosen, asked, tolerance)
            entropies = (
                weights.learn(*halves.take(0, step), (seed, 2 * step), now),
                logits.learn(*halves.take(1, step), (seed, 2 * step + 1), now, direction),
            )
            _check_finite(entropies, step, learning_rate, logit_learning_rate)
            losses.append(entropies)
            chosen = _choose(network).count_multiply_adds()
            if chosen <= asked:
                kept = step + 1, {name: np.array(one) for name, one in network.compute_probabilities().items()}
            bar.advance(task)
            if len(losses) == halves.steps_per_epoch:
                history.append(_note(network, now, losses, chosen))
                losses = []
    if kept is None:
        raise OptionError(
            f"The likeliest network cost more than {asked:,} multiply-adds at all {steps} steps, in the end "
            f"{chosen:,}. Search longer, or with a larger logit_learning_rate or cost_weight. "
            f"Received: ratio={ratio:g}, logit_learning_rate={logit_learning_rate:g}, cost_weight={cost_weight:g}."
        )
    step, probabilities = kept
    found = space.choose(probabilities)
    examples = 2 * halves.batch_size * steps
    return SearchedWidths(
        found,
        asked,
        found.count_multiply_adds(),
        full,
        step,
        probabilities,
        history,
        TrainingCost(training_steps=steps, scoring_steps=steps, multiply_adds=3 * examples * full),
    )


def _choose(network: SearchableResNet) -> ResNetWidths:
    return network.space.choose({name: np.array(logits) for name, logits in network.logits.items()})


def _note(network: SearchableResNet, tau: float, losses: list[tuple[float, float]], chosen: int) -> dict[str, float]:
    weight_loss, logit_loss = np.mean(losses, 0)
    return {
        "tau": tau,
        "weight_loss": float(weight_loss),
        "logit_loss": float(logit_loss),
        "expected": float(expect_multiply_adds(network.space, network.compute_probabilities())),
        "chosen": chosen,
    }


def _check_finite(losses: tuple[float, float], step: int, learning_rate: float, logit_learning_rate: float) -> None:
    if not np.isfinite(losses).all():
        raise ScoreError(
            f"The search diverged in step {step}: its losses are {losses[0]} and {losses[1]}. Try lower learning "
            f"rates. Received: learning_rate={learning_rate:g}, logit_learning_rate={logit_learning_rate:g}."
        )


def _check_options(
    ratio: Any,
    learning_rate: Any,
    weight_decay: Any,
    logit_learning_rate: Any,
    cost_weight: Any,
    tolerance: Any,
    tau: Any,
    decay: Any,
) -> None:
    for name, value in (("ratio", ratio), ("tolerance", tolerance)):
        check_number(name, value, "a number between 0 and 1", lambda given: 0 < given < 1)
    for name, value in (("learning_rate", learning_rate), ("logit_learning_rate", logit_learning_rate)):
        check_number(name, value, "a number above 0", lambda given: given > 0)
    for name, value in (("weight_decay", weight_decay), ("cost_weight", cost_weight)):
        check_number(name, value, "a number of at least 0", lambda given: given >= 0)
    if not isinstance(tau, (tuple, list)) or len(tau) != 2:
        raise OptionError(f"tau is a pair of temperatures, the first and the last. Received: tau={tau!r}.")
    for value in tau:
        check_number("tau", value, "two numbers above 0", lambda given: given > 0)
    if decay not in _DECAYS:
        raise OptionError(f"decay must be one of {_DECAYS}. Received: decay={decay!r}.")
