"""Masks that are learned, or taken from a training, for weights that nobody trains: supermasks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.checks import check_integer
from tfprune_init.errors import NetworkCollapseError, NetworkCollapseWarning, OptionError
from tfprune_init.graph.variables import ModelVariable, PrunableVariables, find_prunable_variables
from tfprune_init.masking.attachment import attach
from tfprune_init.masking.learned_masks import BernoulliMasks, TopScoreMasks
from tfprune_init.masking.reinitialization import reinitialize
from tfprune_init.masks import Masks
from tfprune_init.methods.mask_selector import MaskSelector
from tfprune_init.scoring.training_criteria import TRAINING_CRITERIA
from tfprune_init.selection import GRANULARITIES, Layout, find_allocation
from tfprune_init.selection.granularity import Share
from tfprune_init.training.events.event import Event, RunOutline
from tfprune_init.training.final_report import report_masks
from tfprune_init.training.mask_learning import ScoreDescent, find_collapse, learn_masks, replaced_weights
from tfprune_init.training.trained_masks import find_masks_from_training

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun

_CHOICES = ("likely", "sampled")


@dataclass(frozen=True)
class LearnBernoulliMasks(Event):
    """Learn how likely each weight is kept, with the weights as they are; attach the masks that this says.

    Each step draws masks: a weight is kept with probability sigmoid(score), its score follows the gradient straight
    through the draw. Two networks are measured at the end, beside the one that is left with its masks attached:
    "sampled", the mean over networks whose masks are drawn, and "expected", whose weights are multiplied by their
    probability, so that none is 0.

    Args:
        steps: Number of steps.
        learning_rate: Learning rate of the scores, constant.
        momentum: Momentum of the scores.
        start: Score that all weights begin with; 0 is a probability of a half.
        rescale: Whether what is kept of a kernel is multiplied by n / k, where k of its n weights are: in each step,
            and in the network that is left.
        choose: "likely" attaches what is kept with a probability of at least a half, "sampled" one more draw.
        draws: Number of draws for "sampled"; 0 measures neither of the two networks.

    Raises:
        OptionError: If a value is out of range.
    """

    steps: int
    learning_rate: float = 100.0
    momentum: float = 0.9
    start: float = 0.0
    rescale: bool = False
    choose: str = "likely"
    draws: int = 10

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, 1)
        check_integer("draws", self.draws, 0)
        if isinstance(self.start, bool) or not isinstance(self.start, (int, float)) or not np.isfinite(self.start):
            raise OptionError(f"start must be a number. Received: start={self.start!r}.")
        if not isinstance(self.rescale, bool):
            raise OptionError(f"rescale must be True or False. Received: rescale={self.rescale!r}.")
        if self.choose not in _CHOICES:
            raise OptionError(f"choose must be one of {_CHOICES}. Received: choose={self.choose!r}.")
        self._make_descent()

    def outline(self, outline: RunOutline) -> None:
        """Count the steps, which train no weight, and refuse masks that are there already."""
        _outline_learning(outline, self.steps)

    def apply(self, run: ProcedureRun) -> None:
        """Learn the masks, and attach them."""
        variables = find_prunable_variables(run.model).prunable
        masks = BernoulliMasks(variables, start=self.start, seed=run.seed, rescale=self.rescale)
        learn_masks(run, variables, masks, self._make_descent(), self.steps)
        if self.draws:
            _measure_draws(run, variables, masks, range(self.steps, self.steps + self.draws))
            probabilities = masks.compute_probabilities()
            with replaced_weights(variables) as weights:
                _write_scaled(variables, weights, probabilities, self.rescale)
                run.state.note("expected", run.measure(), 1.0)
        chosen = masks.choose() if self.choose == "likely" else masks.sample(self.steps + self.draws)
        _attach_learned(run, variables, chosen, type(self).__name__)
        if self.rescale and not all(mask.all() for mask in chosen.values()):
            reinitialize(run.model, "unchanged", rescale=True)

    def _make_descent(self) -> ScoreDescent:
        return ScoreDescent(self.learning_rate, self.momentum)


@dataclass(frozen=True)
class LearnTopScores(Event):
    """Learn a score for each weight, with the weights as they are; attach masks of the largest absolute scores.

    This is edge-popup. Each step computes with the masks of its scores, which follow the gradient straight through the
    choice; the rate falls to 0 along a cosine.

    Args:
        steps: Number of steps.
        density: Share of the prunable weights that stays, in (0, 1); that of the run by default.
        allocation: How it is shared out among layers, as in `find_masks`.
        learning_rate: Learning rate of the scores at the first step.
        momentum: Momentum of the scores.
        weight_decay: Decay of the scores, as PyTorch's SGD has it.

    Raises:
        OptionError: If a value is out of range.
    """

    steps: int
    density: Fraction | None = None
    allocation: Any = "uniform"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, 1)
        find_allocation(self.allocation)
        self._make_descent()

    def outline(self, outline: RunOutline) -> None:
        """Count the steps, which train no weight, and refuse masks that are there already."""
        _outline_learning(outline, self.steps)

    def check(self, run: ProcedureRun) -> None:
        """Refuse what leaves nothing to learn, or nothing of a layer."""
        self._share_out(run, find_prunable_variables(run.model))

    def apply(self, run: ProcedureRun) -> None:
        """Learn the scores, and attach their masks."""
        found = find_prunable_variables(run.model)
        masks = TopScoreMasks(found.prunable, self._share_out(run, found), seed=run.seed)
        learn_masks(run, found.prunable, masks, self._make_descent(), self.steps)
        _attach_learned(run, found.prunable, masks.choose(), type(self).__name__)

    def _share_out(self, run: ProcedureRun, variables: PrunableVariables) -> list[Share]:
        return _share_out(variables, self.allocation, run.goal.density if self.density is None else self.density)

    def _make_descent(self) -> ScoreDescent:
        return ScoreDescent(self.learning_rate, self.momentum, self.weight_decay, cosine=True)


@dataclass(frozen=True)
class PruneByTraining(Event):
    """Find masks from what training did to the weights since a snapshot, and attach them.

    Args:
        criterion: As in `tpi.find_masks_from_training`.
        initial: The snapshot with the weights before training.
        density: Share of the prunable weights that stays, in (0, 1]; that of the run by default. A criterion that
            decides itself how many stay takes none.
        allocation: As in `tpi.find_masks_from_training`; for criteria that decide themselves, None.
    """

    criterion: str
    initial: str
    density: Fraction | None = None
    allocation: Any = None

    def outline(self, outline: RunOutline) -> None:
        """Say that there are masks; refuse a snapshot that nobody kept."""
        outline.check_snapshot(self.initial)
        outline.is_pruned = True

    def apply(self, run: ProcedureRun) -> None:
        """Find the masks, and attach them."""
        criterion = TRAINING_CRITERIA.find(self.criterion)
        density = run.goal.density if self.density is None and not criterion.decides else self.density
        masks = find_masks_from_training(
            run.model,
            run.list_snapshots()[self.initial],
            criterion=self.criterion,
            sparsity=None if density is None else 1 - density,
            allocation=self.allocation,
            seed=run.seed if criterion.is_random else None,
        )
        attach(run.model, masks)
        run.state.masks = masks


def _outline_learning(outline: RunOutline, steps: int) -> None:
    if outline.is_pruned:
        raise OptionError("Masks are learned among all weights. Put the event before any that prunes.")
    outline.step += steps
    outline.learning_steps += steps
    outline.is_pruned = True


def _share_out(variables: PrunableVariables, allocation: Any, density: Fraction) -> list[Share]:
    """Return how many weights of which kernels are kept."""
    layouts = {one.path: Layout(one.shape, one.units) for one in variables.prunable}
    how = find_allocation(allocation)
    selector = MaskSelector(variables, layouts, GRANULARITIES["weights"], how, {}, None)
    resolved = selector.resolve_density(1 - density)
    sizes = {path: pool.size for path, pool in selector.pools.items()}
    shares = how.share_out(selector.pools, sizes, resolved, layouts, resolved)
    empty = [path for share in shares for path in share.pools if share.keep == 0]
    if empty:
        raise OptionError(
            f"No weight would stay of {', '.join(empty)}. Choose a lower sparsity, or another allocation. "
            f"Received: density={float(density):g}, allocation={allocation!r}."
        )
    if all(share.keep == sum(sizes[path] for path in share.pools) for share in shares):
        raise OptionError("All weights would stay, so there is nothing to learn. Ask for a sparsity above 0.")
    return shares


def _measure_draws(
    run: ProcedureRun, variables: Sequence[ModelVariable], masks: BernoulliMasks, numbers: range
) -> None:
    """Note the mean over networks whose masks are drawn."""
    measured, kept = [], []
    with replaced_weights(variables) as weights:
        for number in numbers:
            drawn = masks.sample(number)
            factors = {path: mask.astype(weights[path].dtype) for path, mask in drawn.items()}
            _write_scaled(variables, weights, factors, masks.rescale)
            measured.append(run.measure())
            kept.append(Masks(drawn).density)
    means = {key: float(np.mean([one[key] for one in measured])) for key in measured[0]}
    run.state.note("sampled", means, float(np.mean(kept)))


def _write_scaled(
    variables: Sequence[ModelVariable],
    weights: Mapping[str, np.ndarray],
    factors: Mapping[str, np.ndarray],
    rescale: bool,
) -> None:
    """Write weights times factors into the variables; rescaled, times the number of weights over the factors' sum."""
    for one in variables:
        factor = factors[one.path].astype(np.float64)
        total = factor.sum()
        if rescale and total > 0:
            factor *= factor.size / total
        one.tensor.assign((weights[one.path] * factor).astype(weights[one.path].dtype))


def _attach_learned(
    run: ProcedureRun, variables: tuple[ModelVariable, ...], chosen: Mapping[str, np.ndarray], event: str
) -> None:
    """Attach masks that were learned to a run's model, if they leave a network.

    Raises:
        NetworkCollapseError: If they do not, and the run does not go on with a warning then.
    """
    collapse = find_collapse(run.model, variables, chosen, run.data.train)
    run.state.masks = masks = Masks(chosen, collapse=collapse)
    if collapse is not None:
        if run.on_collapse == "raise":
            raise NetworkCollapseError(collapse, masks, report_masks(run, event, {}))
        warnings.warn(collapse, NetworkCollapseWarning, stacklevel=2)
    attach(run.model, masks)
