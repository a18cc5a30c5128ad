"""Gradual magnitude pruning: masks that shrink while the network trains."""

from __future__ import annotations

from typing import Any

from tfprune_init.training.events import Event, TrainAndPrune
from tfprune_init.training.recipe_registry import RunPlan, register_recipe


@register_recipe("gradual_pruning")
def make_gradual_pruning(
    plan: RunPlan,
    *,
    every: int = 100,
    begin: int = 0,
    end: int | None = None,
    schedule: str = "cubic",
    allocation: Any = "global",
    exclude: str | tuple[str, ...] | None = None,
    watch: int | None = None,
) -> list[Event]:
    """Make the procedure of gradual magnitude pruning (GMP): the smallest weights go, a few at a time, in training.

    Every few steps the smallest absolute weights of those that are left are set to zero, and stay there. The sparsity
    rises as s (1 - (1 - (t - begin) / (end - begin))^3) with the step t. The rest of the training goes on under the
    last masks, by the same optimizer. The work is that of `tpi.PruneDuringTraining`.

    Args:
        plan: The run.
        every: Steps between two prunings.
        begin: Step from which they are counted: it prunes after steps begin + every, begin + 2 * every, ...
        end: The last pruning is the last one that is not after this step; 75% of the way from `begin` by default.
        schedule: Name of the schedule of densities, from 1 at `begin` to that of the run at the last pruning.
        allocation: How a pruning is shared out among layers: "global", "uniform" (all layers alike, as in the paper),
            or what else `allocation=` takes.
        exclude: What not to prune: a layer's name, a path or glob pattern, or a tuple of these.
        watch: Evaluate on the test data after every so many steps.

    Raises:
        OptionError: If a value is out of range, or no pruning fits in.

    Reference:
        Zhu and Gupta, To prune, or not to prune: exploring the efficacy of pruning for model compression, 2017. It
        prunes every 100 to 1000 steps; TF-MOT every 100 by default. Where the last pruning is in the training is left
        to the user there.
    """
    return [
        TrainAndPrune(
            until=plan.steps,
            every=every,
            begin=begin,
            end=end,
            schedule=schedule,
            density=plan.density,
            exclude=exclude,
            options={"allocation": allocation},
            watch=watch,
        )
    ]
