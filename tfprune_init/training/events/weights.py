"""Weights that are kept, brought back, or drawn anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfprune_init.masking.reinitialization import reinitialize
from tfprune_init.training.events.event import Event, RunOutline

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


@dataclass(frozen=True)
class Snapshot(Event):
    """Keep the values of all variables of the model, moving statistics too, and the step, under a name."""

    name: str

    def outline(self, outline: RunOutline) -> None:
        """Note the step."""
        outline.snapshots[self.name] = outline.step

    def apply(self, run: ProcedureRun) -> None:
        """Keep them."""
        run.state.snapshots[self.name] = (run.state.step, run.read_model())


@dataclass(frozen=True)
class Rewind(Event):
    """Go back to a snapshot; pruned weights stay exactly 0.0.

    Args:
        name: The snapshot.
        weights: Whether the variables go back.
        step: Whether the step goes back, and with it schedules and the order of the data.
    """

    name: str
    weights: bool = True
    step: bool = True

    def outline(self, outline: RunOutline) -> None:
        """Go back to its step; refuse a snapshot that nobody kept."""
        outline.check_snapshot(self.name)
        if self.step:
            outline.step = outline.snapshots[self.name]

    def apply(self, run: ProcedureRun) -> None:
        """Go back."""
        step, values = run.state.snapshots[self.name]
        if self.weights:
            run.write_model(values)
        if self.step:
            run.state.step = step


@dataclass(frozen=True)
class Reinitialize(Event):
    """Give the kernels other weights under the same masks, as `tpi.reinitialize` does.

    Args:
        kind: As in `tpi.reinitialize`.
        deviation_of: As in `tpi.reinitialize`.
        weights: The snapshot whose weights count as the present ones; those of the model by default.
    """

    kind: str = "random"
    deviation_of: str | None = None
    weights: str | None = None

    def outline(self, outline: RunOutline) -> None:
        """Refuse a snapshot that nobody kept."""
        if self.weights is not None:
            outline.check_snapshot(self.weights)

    def apply(self, run: ProcedureRun) -> None:
        """Draw them."""
        given = None if self.weights is None else run.list_snapshots()[self.weights]
        reinitialize(run.model, self.kind, seed=run.seed, weights=given, deviation_of=self.deviation_of)
