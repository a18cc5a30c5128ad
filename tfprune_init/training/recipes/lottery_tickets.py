"""Lottery tickets: iterative magnitude pruning with rewinding."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.selection.budget import to_fraction
from tfprune_init.training.events import Event, Prune, Reinitialize, Rewind, ShuffleMasks, Snapshot, Train
from tfprune_init.training.recipe_registry import RunPlan, register_recipe
from tfprune_init.training.watching import check_watch

_START = "start"

_REWINDS = ("weights", "learning_rate", "none")


@register_recipe("lottery_ticket")
def lottery_ticket(
    plan: RunPlan,
    *,
    rate: float = 0.2,
    rewind_to: int = 0,
    rewind: str = "weights",
    one_shot: bool = False,
    allocation: Any = "global",
    control: str | None = None,
    watch: int | None = None,
) -> list[Event]:
    """Make the procedure of iterative magnitude pruning: train, prune a share of what is left, rewind, again.

    The density after level l is (1 - rate)^l, and that of the run at the last level; every level trains to the same
    step. Pruned weights do not return. The optimizer starts fresh at every level, Adam's moments too; its step counter,
    and with it a learning rate schedule, and the order of the data go on from the step rewound to.

    Args:
        plan: The run.
        rate: Share of what is left that each level removes, in (0, 1).
        rewind_to: Step k whose weights every level starts from; 0 are the initial ones.
        rewind: "weights" goes back to the weights and the schedule of step k; "learning_rate" keeps the trained weights
            and goes back to step k of the schedule; "none" keeps both and trains on for as many steps past the end
            of the schedule (fine-tuning).
        one_shot: Whether to prune to the density at once, after one training.
        allocation: How a level is shared out among layers: "global", "uniform", or what else `allocation=` takes.
        control: "reinitialized" draws the ticket's weights anew before the last training, "shuffled" moves what is kept
            of each layer to random places.
        watch: Evaluate on the test data after every so many steps of each level; `RunResult.find_best_steps` then says
            where the loss was smallest.

    Raises:
        OptionError: If a value is out of range, or `rewind_to` is not before the end of training.

    Reference:
        Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019; Frankle et al., Linear Mode Connectivity and the
        Lottery Ticket Hypothesis, ICML 2020 (rewinding to step k); Renda et al., Comparing Rewinding and
        Fine-tuning in Neural Network Pruning, ICLR 2020. Exact counts here; facebookresearch/open_lth and
        google-research/lottery-ticket-hypothesis remove one weight more at each level.
    """
    densities = [plan.density] if one_shot else _list_densities(rate, plan.density)
    prunings = [Prune("magnitude", density, {"allocation": allocation}) for density in densities]
    return make_ticket_events(plan, prunings, rewind_to, rewind, control, watch)


def make_ticket_events(
    plan: RunPlan, prunings: Sequence[Event], rewind_to: int, rewind: str, control: str | None, watch: int | None
) -> list[Event]:
    """Make the procedure of levels that each train, prune and go back.

    Args:
        plan: The run.
        prunings: What prunes at each level.
        rewind_to: As in `lottery_ticket`, like all others.
        rewind: See there.
        control: See there.
        watch: See there.

    Raises:
        OptionError: If one is out of range or has no effect.
    """
    rewind_to = check_integer("rewind_to", rewind_to, 0)
    if rewind_to >= plan.steps:
        raise OptionError(f"rewind_to must be before the end of training. Received: {rewind_to}; steps={plan.steps}.")
    if rewind not in _REWINDS:
        raise OptionError(f"rewind must be one of {_REWINDS}. Received: rewind={rewind!r}.")
    if control not in (None, "reinitialized", "shuffled"):
        raise OptionError(f'control must be "reinitialized", "shuffled" or None. Received: control={control!r}.')
    if control is not None and rewind != "weights":
        raise OptionError(f"control={control!r} replaces what rewinding brings back: use rewind='weights'.")
    length = plan.steps - rewind_to
    first = Train(plan.steps, watch=watch)
    again = Train(steps=length, watch=watch) if rewind == "none" else first
    ends = [plan.steps + level * length for level in range(len(prunings) + 1 if rewind == "none" else 1)]
    for end in ends:
        check_watch(watch, end - length, end)
    events: list[Event] = [*([Train(rewind_to)] if rewind_to else []), Snapshot(_START), first]
    for level, pruning in enumerate(prunings, 1):
        events.append(pruning)
        last = level == len(prunings)
        if control == "shuffled" and last:
            events.append(ShuffleMasks())
        if rewind != "none":
            events.append(Rewind(_START, weights=rewind == "weights"))
        if control == "reinitialized" and last:
            events.append(Reinitialize("random"))
        events.append(again)
    return events


def _list_densities(rate: float, final: Fraction) -> list[Fraction]:
    """Return the density after each level, the last of them `final`."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1:
        raise OptionError(
            f"rate is the share of what is left that a level removes, in (0, 1). Received: rate={rate!r}."
        )
    left = 1 - to_fraction(float(rate))
    densities = []
    density = left
    while density > final:
        densities.append(density)
        density *= left
    return [*densities, final]
