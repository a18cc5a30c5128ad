"""What a run gives: the model, its masks, and a report of what it reached and cost."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from tfprune_init.backend.protocols import Model
from tfprune_init.files import write_json
from tfprune_init.masks import Masks
from tfprune_init.report import PruningReport
from tfprune_init.training.cost import TrainingCost
from tfprune_init.training.watching import find_smallest_losses


@dataclass(frozen=True)
class RunResult:
    """What a run gives.

    Attributes:
        model: The trained model, with its masks attached; the smaller one after a `Compact`.
        masks: The masks; None if nothing was pruned, or all that was is cut out of the model.
        cost: What the run has cost.
        history: What was measured on the test data, in order: dicts with "event", "place" (how many events were done
            before), "step", "density", and the numbers of `model.evaluate`. The last is of the end.
        epochs: What `fit` logged on the training data, or the loss while masks were learned, epoch by epoch.
        report: What the masks leave of the network; None if nothing was pruned. Its steps are those of the last search.
        snapshots: For each `Snapshot` the variables of the model by path, as `tpi.copy_variables` gives them.
        compactions: For each `Compact` what `Compaction.to_dict` gives: channels and costs before and after.
    """

    model: Model
    masks: Masks | None
    cost: TrainingCost
    history: list[dict[str, Any]]
    epochs: list[dict[str, float]] = field(default_factory=list)
    report: PruningReport | None = None
    snapshots: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    compactions: list[dict[str, Any]] = field(default_factory=list)

    def find_best_steps(self) -> list[dict[str, Any]]:
        """Return the records of the history at the smallest loss of each training that was watched.

        Raises:
            OptionError: If none was watched.
        """
        return find_smallest_losses(self.history)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model, the masks and the snapshots themselves, in types that JSON knows."""
        return {
            "report": None if self.report is None else self.report.to_dict(),
            "cost": asdict(self.cost),
            "history": self.history,
            "epochs": self.epochs,
            "compactions": self.compactions,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict()` as JSON."""
        write_json(path, self.to_dict())

    def print(self, file: IO[str] | None = None) -> None:
        """Print the report, what was measured, and the cost; to standard output if no `file` is given."""
        console = Console(file=file)
        if self.report is not None:
            self.report.print(console.file)
        names = [name for name in self.history[-1] if name not in ("event", "place", "step", "density")]
        table = Table(title=f"{self.model.name} on the test data", title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("")
        for name in ("step", "weights kept", *names):
            table.add_column(name, justify="right")
        for row in self.history:
            measured = [f"{row[name]:.4f}" for name in names]
            table.add_row(str(row["event"]), f"{row['step']:,}", f"{row['density']:.2%}", *measured)
        console.print(table)
        console.print(self.cost.describe(), highlight=False)
