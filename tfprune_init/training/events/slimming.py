"""Training under a penalty on the scales of BatchNorm, and pruning of channels by them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tfprune_init.backend import compat
from tfprune_init.backend.batches import Batches
from tfprune_init.checks import check_number
from tfprune_init.gates.slimming import check_scales, find_slimming_masks, penalize_scales
from tfprune_init.masking.attachment import attach
from tfprune_init.masks import Masks
from tfprune_init.training.events.event import Event, RunOutline
from tfprune_init.training.events.train import Train

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


@dataclass(frozen=True)
class TrainScales(Train):
    """Train as `Train` does, with strength * sum(abs(scale)) of all BatchNorm layers in the loss.

    Args:
        until: As in `Train`.
        steps: As in `Train`.
        watch: As in `Train`; the loss that is measured has the penalty in it.
        learning_rate_scale: As in `Train`.
        strength: A positive number.

    Raises:
        OptionError: If a value is out of range.
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("strength", self.strength, "a number above 0", lambda strength: strength > 0)

    def check(self, run: ProcedureRun) -> None:
        """Refuse a network without scales."""
        with penalize_scales(run.model, self.strength):
            pass

    def apply(self, run: ProcedureRun) -> None:
        """Train."""
        with penalize_scales(run.model, self.strength):
            super().apply(run)


@dataclass(frozen=True)
class PruneScales(Event):
    """Prune the channels with the smallest scales in BatchNorm, as `tpi.find_slimming_masks`, and attach the masks.

    Args:
        density: Share of the channels with scales that stays, in (0, 1]; that of the run by default.
    """

    density: Fraction | None = None

    def outline(self, outline: RunOutline) -> None:
        """Say that there are masks."""
        outline.is_pruned = True

    def check(self, run: ProcedureRun) -> None:
        """Refuse a network without channels that could be pruned by their scales."""
        check_scales(run.model, _find_example(run))

    def apply(self, run: ProcedureRun) -> None:
        """Find the masks, and attach them."""
        began = time.perf_counter()
        density = run.goal.density if self.density is None else self.density
        found = find_slimming_masks(run.model, 1 - density, example=_find_example(run)).masks
        before = dict(run.state.masks or {})
        both = {path: mask & before[path] if path in before else mask for path, mask in found.items()}
        run.state.masks = Masks({**before, **both})
        attach(run.model, run.state.masks)
        run.state.seconds["pruning"] += time.perf_counter() - began


def _find_example(run: ProcedureRun) -> Any:
    """Return a batch to run a subclassed model on; None for others, whose graph is read."""
    return None if compat.is_symbolic(run.model) else Batches.of(run.data.train).peek().x
