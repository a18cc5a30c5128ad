"""Learning of masks within a run: scores follow the gradient, and the weights stay as they are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.backend.losses import make_loss
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.replicas import find_replicas
from tfprune_init.errors import ModelError, OptionError, ReplicaError, ScoreError
from tfprune_init.graph.variables import ModelVariable
from tfprune_init.masking.learned_masks import LearnedMasks
from tfprune_init.masking.straight_through import KernelReader
from tfprune_init.scoring import ScoringEngine
from tfprune_init.selection.connectivity import check_connectivity

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


@dataclass(frozen=True)
class ScoreDescent:
    """Stochastic gradient descent as PyTorch defines it, which the papers use.

    With velocity v, momentum m, decay d and rate a: v = m v + g + d r, then r = r - a v. Keras multiplies the rate into
    the velocity, and decays beside it.

    Args:
        learning_rate: Rate a at the first step, positive.
        momentum: Momentum m, in [0, 1).
        weight_decay: Decay d of the scores, not negative.
        cosine: Whether the rate of step t of T is a (1 + cos(pi t / T)) / 2; constant otherwise.

    Raises:
        OptionError: If a number is out of range.
    """

    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    cosine: bool = False

    def __post_init__(self) -> None:
        if not _is_number(self.learning_rate) or self.learning_rate <= 0:
            raise OptionError(
                f"learning_rate must be a positive number. Received: learning_rate={self.learning_rate!r}."
            )
        if not _is_number(self.momentum) or not 0 <= self.momentum < 1:
            raise OptionError(f"momentum must be in [0, 1). Received: momentum={self.momentum!r}.")
        if not _is_number(self.weight_decay) or self.weight_decay < 0:
            raise OptionError(
                f"weight_decay must be a number of at least 0. Received: weight_decay={self.weight_decay!r}."
            )

    def find_rate(self, step: int, steps: int) -> float:
        """Return the rate of a step.

        Example:
            >>> from tfprune_init.training.mask_learning import ScoreDescent
            >>> [ScoreDescent(0.5, cosine=True).find_rate(step, 4) for step in (0, 2)]
            [0.5, 0.25]
        """
        return self.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2 if self.cosine else self.learning_rate

    def move(self, score: tf.Variable, velocity: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor) -> None:
        """Change a score and its velocity by one step."""
        decayed = gradient + self.weight_decay * score if self.weight_decay else gradient
        velocity.assign(self.momentum * velocity + decayed)
        score.assign_sub(tf.cast(rate, score.dtype) * velocity)


def learn_masks(
    run: ProcedureRun, variables: Sequence[ModelVariable], masks: LearnedMasks, descent: ScoreDescent, steps: int
) -> None:
    """Let the scores of masks follow the gradient of the loss, on the next batches of a run.

    The network computes as in training: Dropout is active, and moving statistics move. No weight changes, biases and
    normalization included. What the steps cost is counted as scoring, at all weights.

    Args:
        run: The run; its step goes on.
        variables: The variables that are masked.
        masks: Their scores, which change.
        descent: How they follow.
        steps: Number of steps.

    Raises:
        ModelError: If the network computes in float16, or has no loss.
        ReplicaError: If it lives on several replicas.
        EnforcementError: If it carries masks already, or a layer computes with something else than its variable.
        ScoreError: If the loss does not depend on a variable or is not finite, or scores become NaN or infinite.
    """
    _check_learnable(run.model)
    velocities = {path: tf.Variable(tf.zeros_like(score)) for path, score in masks.scores.items()}
    loss = make_loss(run.model, None)
    factors: dict[str, tf.Tensor] = {}

    def read(path: str, weight: tf.Tensor) -> tf.Tensor:
        return weight * tf.cast(factors[path], weight.dtype)

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def take_step(x: Any, y: Any, sample_weight: Any, step: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(masks.scores.values()))
            factors.update(masks.make_factors(step))
            judged = loss.judge(x, y, sample_weight, training=True)
        gradients = tape.gradient(judged, masks.scores)
        unused = [path for path, gradient in gradients.items() if gradient is None]
        if unused:
            raise ScoreError(
                f"The loss does not depend on {', '.join(unused)}, so there is nothing to learn a mask by. Check that "
                "the model calls the layer, and that the loss looks at what it gives."
            )
        for path, score in masks.scores.items():
            descent.move(score, velocities[path], gradients[path], rate)
        return judged

    def take(number: int, batch: tuple[Any, ...]) -> float:
        x, y, sample_weight = (*batch, None)[:3]
        rate = tf.constant(descent.find_rate(number, steps), tf.float64)
        judged = float(take_step(x, y, sample_weight, tf.constant(number, tf.int64), rate))
        if not math.isfinite(judged):
            raise ScoreError(
                f"The loss of step {number + 1} of learning masks is {judged}, though no weight moves. Check that the "
                "data are finite, and that the initial weights give finite outputs."
            )
        return judged

    reader = KernelReader(run.model, variables, read)
    try:
        with deterministic_reductions():
            _take_steps(run, steps, take)
    finally:
        reader.release()
    broken = [path for path, score in masks.scores.items() if not np.isfinite(score.numpy()).all()]
    if broken:
        raise ScoreError(
            f"Scores of {', '.join(broken)} became NaN or infinite. Try a lower learning rate. "
            f"Received: learning_rate={descent.learning_rate:g}."
        )


def _take_steps(run: ProcedureRun, steps: int, take: Callable[[int, tuple[Any, ...]], float]) -> None:
    """Take the next steps of a run; note the mean loss epoch by epoch, and what they cost."""
    began, first = time.perf_counter(), run.state.step
    while run.state.step < first + steps:
        start = run.state.step
        end = min(first + steps, (start // run.feed.steps_per_epoch + 1) * run.feed.steps_per_epoch)
        losses = []
        for number, batch in enumerate(run.feed.batches(start, end), start - first):
            losses.append(take(number, batch))
            run.progress.advance(1)
        run.state.step = end
        run.state.epochs.append({"loss": float(np.mean(losses))})
        run.count(0, end - start, None, start)
    run.state.seconds["pruning"] += time.perf_counter() - began


@contextmanager
def replaced_weights(variables: Sequence[ModelVariable]) -> Iterator[dict[str, np.ndarray]]:
    """Put the weights of variables back on leaving, bit for bit; gives copies of them, by path."""
    before = {one.path: one.tensor.numpy() for one in variables}
    try:
        yield before
    finally:
        for one in variables:
            one.tensor.assign(before[one.path])


def find_collapse(
    model: Model, variables: tuple[ModelVariable, ...], masks: Mapping[str, np.ndarray], data: Any
) -> str | None:
    """Say how a network collapses under masks; None if every output answers to the inputs that did."""
    with ScoringEngine(model, variables, data=data) as engine:
        engine.mask(masks)
        left = check_connectivity(engine, variables, masks)
    if not left.lost:
        return None
    thinnest = sorted(masks, key=lambda path: int(np.count_nonzero(masks[path])))[:3]
    counts = ", ".join(f"{path} ({int(np.count_nonzero(masks[path]))} kept)" for path in thinnest)
    return (
        f"The network collapsed: no signal from the inputs reaches {', '.join(left.lost)}. Thinnest: {counts}. Try "
        "more steps, a lower learning rate, or to keep more: a lower sparsity, or a higher start."
    )


def _check_learnable(model: Model) -> None:
    if compat.uses_float16(model):
        raise ModelError(
            f"Model {model.name!r} computes in float16, where gradients of scores underflow. Build it in float32 or in "
            "mixed_bfloat16."
        )
    replicas = find_replicas(model)
    if replicas.are_several:
        raise ReplicaError(
            f"Masks are learned on one device. Received: a model on {replicas.count} replicas; build it outside of the "
            "strategy's scope."
        )


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
