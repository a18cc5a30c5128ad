"""What `find_channels` gives: masks, and the account of how wide each layer is and why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any

from tfprune_init.channels.budget_search import BudgetAccount, name_kind
from tfprune_init.files import write_json
from tfprune_init.graph.variables import SkippedVariable
from tfprune_init.masks import Masks


@dataclass(frozen=True)
class LayerWidth:
    """The channels of one kernel.

    Attributes:
        path: The kernel.
        before: Number of its channels; heads of attention and recurrent units count as channels.
        after: Number of those that stay.
        stay: Number of those that could not go, whatever the budget, by the reason.
    """

    path: str
    before: int
    after: int
    stay: dict[str, int]


@dataclass(frozen=True, eq=False)
class FoundChannels:
    """Which channels stay.

    Attributes:
        masks: The masks: what belongs to channels that go is pruned. `tpi.compact(model, masks)` cuts it out.
        budget: What was asked for, what there is, and why it is not the same.
        layers: Every kernel with channels, in the order of the model.
        skipped: Every other variable, with the reason why none of it is pruned.
        options: What the channels were found with.
        kept_below: Channel groups that stay as the least of a layer, though they rank below one that goes.
    """

    masks: Masks
    budget: BudgetAccount
    layers: tuple[LayerWidth, ...]
    skipped: tuple[SkippedVariable, ...]
    options: Mapping[str, Any]
    kept_below: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the masks, in types that JSON knows."""
        return {
            "budget": asdict(self.budget),
            "layers": [asdict(layer) for layer in self.layers],
            "skipped": [{**asdict(one), "shape": list(one.shape)} for one in self.skipped],
            "options": dict(self.options),
            "kept_below": self.kept_below,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict()` as JSON."""
        write_json(path, self.to_dict())

    def describe(self) -> str:
        """Say what was asked for and what there is."""
        one = self.budget
        number = ".4g" if one.kind == "latency" else ","
        said = (
            f"Asked for {one.asked!r}: at most {one.limit:{number}} of {one.dense:{number}} {name_kind(one.kind)}. "
            f"Got {one.got:{number}}. {one.why}"
        )
        if self.kept_below:
            said += f" {self.kept_below:,} channel groups stay as the least of a layer, though they rank below it."
        return said

    def print(self, file: IO[str] | None = None) -> None:
        """Print the account as tables; to standard output if no `file` is given."""
        from rich.console import Console
        from rich.table import Table

        console = Console(file=file)
        table = Table(title="channels", title_justify="left")
        table.add_column("kernel", overflow="fold")
        for name in ("channels", "stay"):
            table.add_column(name, justify="right")
        table.add_column("could not go", overflow="fold")
        for layer in self.layers:
            reasons = "; ".join(f"{count:,}: {why}" for why, count in layer.stay.items())
            table.add_row(layer.path, f"{layer.before:,}", f"{layer.after:,}", reasons)
        console.print(table)
        if self.skipped:
            others = Table(title="left whole", title_justify="left")
            others.add_column("variable", overflow="fold")
            others.add_column("reason", overflow="fold")
            for one in self.skipped:
                others.add_row(one.path, one.reason)
            console.print(others)
        console.print(self.describe(), highlight=False)
