"""Fine-tuning with the dense network as the teacher."""

from __future__ import annotations

from typing import Any

from tfprune_init.checks import check_integer
from tfprune_init.training.events import Distill, Event, Prune, Snapshot, Train
from tfprune_init.training.recipe_registry import RunPlan, register_recipe


@register_recipe("distill_fine_tune")
def distill_fine_tune(
    plan: RunPlan,
    *,
    temperature: float = 4.0,
    weight: float = 0.9,
    fine_tuning_steps: int | None = None,
    learning_rate_scale: float = 0.1,
    allocation: Any = "uniform",
    exclude: Any = (),
) -> list[Event]:
    """Make the procedure of training, pruning the smallest weights, and teaching what is left by the dense network.

    It is "train_prune_fine_tune" with one pruning, whose fine-tuning is a distillation.

    Args:
        plan: The run.
        temperature: As in `tpi.distill`.
        weight: As in `tpi.distill`.
        fine_tuning_steps: Steps of distillation; those of a whole training by default.
        learning_rate_scale: What the learning rate is multiplied with while it distills.
        allocation: As in "train_prune_fine_tune".
        exclude: As in "train_prune_fine_tune".

    Raises:
        OptionError: If a value is out of range.

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531
    """
    length = plan.steps if fine_tuning_steps is None else check_integer("fine_tuning_steps", fine_tuning_steps, 1)
    return [
        Train(plan.steps),
        Snapshot("dense"),
        Prune("magnitude", plan.density, {"allocation": allocation}, exclude),
        Distill(
            "dense",
            steps=length,
            temperature=temperature,
            weight=weight,
            learning_rate_scale=learning_rate_scale,
        ),
    ]
