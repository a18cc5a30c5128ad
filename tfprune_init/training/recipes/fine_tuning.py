"""Train, prune, fine-tune: the oldest procedure, and what others are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.selection.schedules import compute_densities
from tfprune_init.training.events import Event, Prune, PruneByThreshold, RescaleDropout, Train
from tfprune_init.training.recipe_registry import RunPlan, register_recipe


@register_recipe("train_prune_fine_tune")
def train_prune_fine_tune(
    plan: RunPlan,
    *,
    iterations: int = 1,
    fine_tuning_steps: int | None = None,
    learning_rate_scale: float = 0.1,
    rescale_dropout: bool | None = None,
    allocation: Any = "uniform",
    exclude: Any = (),
    prune_bias: bool = False,
) -> list[Event]:
    """Make the procedure of training, pruning the smallest weights, and fine-tuning what is left at its values.

    With several iterations, each prunes the same share of what is left and fine-tunes. The density after the last is
    that of the run, exactly.

    Args:
        plan: The run.
        iterations: How often to prune and fine-tune.
        fine_tuning_steps: Steps of each fine-tuning; those of a whole training by default.
        learning_rate_scale: What the learning rate is multiplied with while fine-tuning. A schedule goes on from its
            end.
        rescale_dropout: Whether rates of Dropout follow the masks, as `RescaleDropout`. By default they do where the
            model has Dropout.
        allocation: How a density is shared out among layers: "uniform", about as thresholds of one quality do,
            "global", or what else `allocation=` takes.
        exclude: What not to prune: names of layers or variables, or glob patterns.
        prune_bias: Whether biases are prunable too.

    Raises:
        OptionError: If a value is out of range.

    Reference:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, with a sparsity
        in place of thresholds (those are "threshold_fine_tune"), and 1/10 of the learning rate as for its LeNets.
    """
    densities = compute_densities("exponential", plan.density, check_integer("iterations", iterations, 1))
    options = {"allocation": allocation}
    cuts = [Prune("magnitude", density, options, exclude, prune_bias) for density in densities]
    return _train_and_fine_tune(plan, cuts, fine_tuning_steps, learning_rate_scale, rescale_dropout)


@register_recipe("threshold_fine_tune", decides_sparsity=True)
def threshold_fine_tune(
    plan: RunPlan,
    *,
    quality: float | Mapping[str, float] = 1.0,
    iterations: int = 1,
    fine_tuning_steps: int | None = None,
    learning_rate_scale: float = 0.1,
    rescale_dropout: bool | None = None,
    exclude: Any = (),
    prune_bias: bool = False,
) -> list[Event]:
    """Make the procedure of training, pruning below a share of each layer's standard deviation, and fine-tuning.

    Each iteration prunes what lies below the threshold of what is left then, as `PruneByThreshold` says.

    Args:
        plan: The run.
        quality: Threshold of a layer in units of the standard deviation of its weights: a number, or a dict by layer.
            `tpi.scan_sensitivity` tells which layers take a high one. There is no published value; 1 is this package's.
        iterations: How often to prune and fine-tune.
        fine_tuning_steps: As in "train_prune_fine_tune".
        learning_rate_scale: As in "train_prune_fine_tune".
        rescale_dropout: As in "train_prune_fine_tune".
        exclude: As in "train_prune_fine_tune".
        prune_bias: As in "train_prune_fine_tune".

    Raises:
        OptionError: If a value is out of range.

    Reference:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015.
    """
    cut = PruneByThreshold(quality, exclude, prune_bias)
    cuts = [cut] * check_integer("iterations", iterations, 1)
    return _train_and_fine_tune(plan, cuts, fine_tuning_steps, learning_rate_scale, rescale_dropout)


def _train_and_fine_tune(
    plan: RunPlan, cuts: list[Any], steps: int | None, scale: float, rescale_dropout: bool | None
) -> list[Event]:
    if rescale_dropout is not None and not isinstance(rescale_dropout, bool):
        raise OptionError(f"rescale_dropout must be True, False or None. Received: {rescale_dropout!r}.")
    length = plan.steps if steps is None else check_integer("fine_tuning_steps", steps, 1)
    events: list[Event] = [Train(plan.steps)]
    if rescale_dropout is not False:
        events.append(RescaleDropout(optional=rescale_dropout is None))
    for cut in cuts:
        events += [cut, Train(steps=length, learning_rate_scale=scale)]
    return events
