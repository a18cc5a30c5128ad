"""Channels cut out of a trained network, and what is left fine-tuned, or trained from scratch: is pruning worth it?"""

from __future__ import annotations

from typing import Any

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.training.events import Compact, Event, FindChannels, StartOver, Train, TrainAtCost
from tfprune_init.training.recipe_registry import RunPlan, register_recipe


@register_recipe("channels_fine_tune", cuts_channels=True)
def make_channels_fine_tune(
    plan: RunPlan,
    *,
    importance: str = "l1",
    reduction: str = "mean",
    allocation: str = "global",
    normalize: str | None = None,
    round_to: int = 1,
    min_channels: int = 1,
    exclude: Any = (),
    fine_tuning_steps: int | None = None,
    learning_rate_scale: float = 0.1,
) -> list[Event]:
    """Make the procedure of training, cutting the least important channels out, and fine-tuning the smaller network.

    Args:
        plan: The run. Its budget, or its sparsity as a share of the channel groups, says how much stays.
        importance: As in `tpi.find_channels`, and so are the next six.
        reduction: How the numbers of the channels of a group become one.
        allocation: "global" or "uniform".
        normalize: What the numbers of a layer are divided by before layers compete.
        round_to: Number that widths are a multiple of.
        min_channels: Channels that each layer keeps at least.
        exclude: Layers whose channels all stay: names or glob patterns.
        fine_tuning_steps: Steps of fine-tuning; those of a whole training by default.
        learning_rate_scale: What the learning rate is multiplied with while fine-tuning. A schedule goes on from its
            end.

    Raises:
        OptionError: If a value is out of range.

    Reference:
        Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, with one order for all layers in place of shares
        by layer.
    """
    length = plan.steps if fine_tuning_steps is None else check_integer("fine_tuning_steps", fine_tuning_steps, 1)
    options = _gather(reduction, allocation, normalize, round_to, min_channels)
    return [
        Train(plan.steps),
        FindChannels(plan.budget, importance, options, exclude),
        Compact(),
        Train(steps=length, learning_rate_scale=learning_rate_scale),
    ]


@register_recipe("channels_scratch", cuts_channels=True)
def make_channels_scratch(
    plan: RunPlan,
    *,
    importance: str = "l1",
    reduction: str = "mean",
    allocation: str = "global",
    normalize: str | None = None,
    round_to: int = 1,
    min_channels: int = 1,
    exclude: Any = (),
    train_first: bool = True,
    length: str = "E",
) -> list[Event]:
    """Make the procedure of training, cutting channels out, and training the smaller network from scratch.

    All variables of the smaller network are drawn anew, as its layers' initializers say, and training begins at step 0.

    Args:
        plan: The run. Its budget, or its sparsity as a share of the channel groups, says how much stays.
        importance: As in "channels_fine_tune", and so are the next six.
        reduction: As there.
        allocation: As there.
        normalize: As there.
        round_to: As there.
        min_channels: As there.
        exclude: As there.
        train_first: Whether the network is trained before its channels are judged. Without, channels are chosen at
            initialization, and nothing is trained twice.
        length: "E" trains the smaller network for as many steps as the first one; "B" for as many multiply-adds:
            int(steps x cost of the first / cost of the smaller one).

    Raises:
        OptionError: If a value is out of range.

    Reference:
        Liu et al., Rethinking the Value of Network Pruning, ICLR 2019: Scratch-E and Scratch-B. Its code limits
        Scratch-B on ImageNet to twice the epochs; here there is no limit.
    """
    if length not in ("E", "B"):
        raise OptionError(f'length must be "E" or "B". Received: length={length!r}.')
    if not isinstance(train_first, bool):
        raise OptionError(f"train_first must be True or False. Received: train_first={train_first!r}.")
    options = _gather(reduction, allocation, normalize, round_to, min_channels)
    events: list[Event] = [Train(plan.steps)] if train_first else []
    events += [FindChannels(plan.budget, importance, options, exclude), Compact(), StartOver()]
    return [*events, Train(plan.steps) if length == "E" else TrainAtCost(plan.steps)]


def _gather(reduction: str, allocation: str, normalize: str | None, round_to: int, min_channels: int) -> dict[str, Any]:
    return {
        "reduction": reduction,
        "allocation": allocation,
        "normalize": normalize,
        "round_to": round_to,
        "min_channels": min_channels,
    }
