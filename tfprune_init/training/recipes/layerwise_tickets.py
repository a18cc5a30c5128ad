"""Lottery tickets whose layers lose shares of their own at each level."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from tfprune_init.checks import check_integer, check_number
from tfprune_init.errors import OptionError
from tfprune_init.selection.budget import to_fraction
from tfprune_init.training.events import Event, Prune
from tfprune_init.training.recipe_registry import RunPlan, register_recipe
from tfprune_init.training.recipes.lottery_tickets import make_ticket_events

_ALL_LAYERS: Mapping[str, float] = {"*": 0.2}


@register_recipe("layerwise_lottery_ticket", decides_sparsity=True)
def make_layerwise_ticket(
    plan: RunPlan,
    *,
    rates: Mapping[str, float] = _ALL_LAYERS,
    levels: int = 9,
    rewind_to: int = 0,
    rewind: str = "weights",
    control: str | None = None,
    watch: int | None = None,
) -> list[Event]:
    """Make the procedure of iterative magnitude pruning with a rate for each layer and a number of levels.

    After level l a layer of n weights with rate p keeps floor(n (1 - p)^l) of them, the largest. All else is as in
    "lottery_ticket". Rates and levels say how much stays, so it takes no sparsity. A layer without rate stays whole.

    Args:
        plan: The run.
        rates: Share of what is left that each level removes, in (0, 1), by layer name, variable path or glob pattern;
            the first that matches counts. 20% of every layer by default. For the fully connected network of the paper
            `{"head": 0.1, "*": 0.2}`; for its Conv-2, Conv-4 and Conv-6 10%, 10% and 15% for convolutions, 20% for
            dense layers, and 10% for the output.
        levels: Number of levels, each of which prunes and trains again.
        rewind_to: As in "lottery_ticket".
        rewind: As in "lottery_ticket".
        control: As in "lottery_ticket".
        watch: As in "lottery_ticket".

    Raises:
        OptionError: If a value is out of range, or a rate names no layer.

    Reference:
        Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019, whose output layers lose half the share that other
        dense layers lose.
    """
    levels = check_integer("levels", levels, 1)
    if not isinstance(rates, Mapping) or not rates:
        raise OptionError(f'rates is a dict from layers to rates, such as {{"*": 0.2}}. Received: rates={rates!r}.')
    left: dict[str, Fraction] = {}
    for name, rate in rates.items():
        share = check_number(f"rates[{name!r}]", rate, "a number in (0, 1)", lambda share: 0 < share < 1)
        left[name] = 1 - to_fraction(share)
    prunings = [
        Prune("magnitude", None, {"allocation": {name: 1 - share**level for name, share in left.items()}})
        for level in range(1, levels + 1)
    ]
    return make_ticket_events(plan, prunings, rewind_to, rewind, control, watch)
