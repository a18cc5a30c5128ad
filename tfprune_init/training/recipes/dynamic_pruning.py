"""Dynamic pruning with feedback: masks that change while all weights train."""

from __future__ import annotations

from typing import Any

from tfprune_init.training.events import Event, TrainDynamically
from tfprune_init.training.recipe_registry import RunPlan, register_recipe


@register_recipe("dynamic_pruning")
def make_dynamic_pruning(
    plan: RunPlan,
    *,
    every: int = 16,
    begin: int = 0,
    end: int | None = None,
    schedule: str = "cubic",
    allocation: Any = "global",
    exclude: str | tuple[str, ...] | None = None,
    watch: int | None = None,
) -> list[Event]:
    """Make the procedure of dynamic pruning with feedback (DPF): pruned weights go on training, and may return.

    The network computes with m * w, and the gradient there changes all dense weights w. Every few steps the masks m are
    chosen anew: the largest absolute dense weights stay. After the last choice the masks are attached, and the rest of
    the training is fine-tuning by the same optimizer. The work is that of `tpi.DynamicPruning`.

    Args:
        plan: The run.
        every: Steps between two choices of masks.
        begin: Step from which they are counted: masks are chosen after steps begin + every, begin + 2 * every, ...
        end: The last choice is the last one that is not after this step; 75% of the way from `begin` by default.
        schedule: Name of the schedule of densities, from 1 at `begin` to that of the run at the last choice.
        allocation: How a choice is shared out among layers: "global", "uniform", or what else `allocation=` takes.
        exclude: What not to prune: a layer's name, a path or glob pattern, or a tuple of these.
        watch: Evaluate on the test data after every so many steps.

    Raises:
        OptionError: If a value is out of range, or no choice of masks fits in.

    Reference:
        Lin, Stich, Barba, Dmitriev, Jaggi, Dynamic Model Pruning with Feedback, ICLR 2020: cubic sparsity, masks every
        16 steps. Until when masks change is open there.
    """
    return [
        TrainDynamically(
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
