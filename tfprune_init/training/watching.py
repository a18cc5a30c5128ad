"""What was measured while a run trained: the step at which each training was best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

from tfprune_init.errors import OptionError


def find_smallest_losses(history: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each event that was watched while it trained, the record of the smallest loss.

    Args:
        history: The history of a run.

    Returns:
        Records of the history in their order, one for each such event: the first of those with the smallest loss. A
        loss that is NaN counts as larger than all others.

    Raises:
        OptionError: If no training was watched.

    Example:
        >>> from tfprune_init.training.watching import find_smallest_losses
        >>> losses = [(100, 0.5), (200, 0.3), (300, 0.3), (400, 0.4)]
        >>> history = [{"event": "watch", "place": 1, "step": step, "loss": loss} for step, loss in losses]
        >>> [record["step"] for record in find_smallest_losses(history)]
        [200]
    """
    watched = [record for record in history if record["event"] == "watch"]
    if not watched:
        raise OptionError(
            "No training was watched, so nobody knows where its loss was smallest. Give the procedure watch=, the "
            "number of steps between two looks."
        )
    trainings = itertools.groupby(watched, lambda record: record["place"])
    return [min(records, key=lambda record: (math.isnan(record["loss"]), record["loss"])) for _, records in trainings]


def check_watch(watch: int | None, start: int, stop: int) -> None:
    """Refuse to watch a training that has no step to be watched at.

    Args:
        watch: Steps between two evaluations, which are after steps that are multiples of it; None for none.
        start: Step at which the training begins.
        stop: Step at which it ends.

    Raises:
        OptionError: If no multiple lies in between.
    """
    if watch is not None and start // watch == stop // watch:
        raise OptionError(
            f"watch= evaluates after steps that are multiples of it, and none lies in the training from step {start} "
            f"to step {stop}. Received: watch={watch}."
        )
