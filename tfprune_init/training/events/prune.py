"""Masks that are found, and masks that are moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tfprune_init.errors import OptionError
from tfprune_init.masking.attachment import attach
from tfprune_init.training.events.event import Event, RunOutline
from tfprune_init.training.pruning import check_pruning, prune

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


@dataclass(frozen=True)
class Prune(Event):
    """Find masks among what is left, and attach them.

    Args:
        method: A method of `tpi.list_methods()`.
        density: Share of the prunable weights that stays, in (0, 1]; that of the run by default.
        options: Options of the method, as `tpi.find_masks` takes them; exclude and prune_bias too.
    """

    method: str
    density: Fraction | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def outline(self, outline: RunOutline) -> None:
        """Say that there are masks."""
        outline.is_pruned = True

    def check(self, run: ProcedureRun) -> None:
        """Refuse options that the method does not take, and names of layers that the network does not have."""
        check_pruning(run, self.method, self.options)

    def apply(self, run: ProcedureRun) -> None:
        """Find the masks, and attach them."""
        prune(run, self.method, self.density, self.options)


@dataclass(frozen=True)
class ShuffleMasks(Event):
    """Move what each variable keeps to random places. Weights that come back are 0 until a `Rewind`."""

    def outline(self, outline: RunOutline) -> None:
        """Refuse to shuffle nothing."""
        if not outline.is_pruned:
            raise OptionError("There are no masks to shuffle. Put a Prune before.")

    def apply(self, run: ProcedureRun) -> None:
        """Shuffle the masks."""
        assert run.state.masks is not None  # the outline refused that
        run.state.masks = run.state.masks.shuffled(run.seed)
        attach(run.model, run.state.masks)
