"""Network Slimming: scales of BatchNorm are driven to zero, and channels go by them."""

from __future__ import annotations

from tfprune_init.checks import check_integer
from tfprune_init.training.events import Event, PruneScales, Train, TrainScales
from tfprune_init.training.recipe_registry import RunPlan, register_recipe


@register_recipe("network_slimming")
def network_slimming(
    plan: RunPlan,
    *,
    strength: float = 1e-4,
    fine_tuning_steps: int | None = None,
    learning_rate_scale: float = 1.0,
    watch: int | None = None,
) -> list[Event]:
    """Make the procedure of training with an L1 penalty on BatchNorm scales, pruning channels by them, and fine-tuning.

    The sparsity of the run is the share of channels that goes, among those that a scale of their own can tell: not of
    weights, as the paper counts. How many weights go follows. `tpi.compact` of the trained model makes it small.

    Args:
        plan: The run.
        strength: What the sum of the absolute scales is multiplied with in the loss. The paper has 1e-4 for VGG,
            and 1e-5 for ResNet-164, DenseNet-40 and ImageNet.
        fine_tuning_steps: Steps of fine-tuning; those of a whole training by default, as in the paper.
        learning_rate_scale: What the learning rate is multiplied with while fine-tuning. Its schedule goes on from its
            end.
        watch: Evaluates on the test data after every so many steps; while scales are trained, the loss has the penalty.

    Raises:
        OptionError: If a value is out of range.

    Reference:
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017. Its code penalizes by
        adding strength * sign(scale) to the gradient, which is the same but for what the loss shows; and keeps scales
        strictly above the one at the percentile, which removes one channel more, and can empty a layer.
    """
    steps = plan.steps if fine_tuning_steps is None else check_integer("fine_tuning_steps", fine_tuning_steps, 1)
    return [
        TrainScales(plan.steps, watch=watch, strength=strength),
        PruneScales(plan.density),
        Train(steps=steps, watch=watch, learning_rate_scale=learning_rate_scale),
    ]
