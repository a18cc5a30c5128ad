"""What compaction did: the smaller model, its masks, which channel went where, and why others stayed."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.compaction.folding import Decision
from tfprune_init.compaction.network import Propagation
from tfprune_init.errors import OptionError
from tfprune_init.graph.channel_groups import NO_LABEL
from tfprune_init.graph.cost import CostModel, ModelCost
from tfprune_init.graph.signals import Signal
from tfprune_init.masks import Masks


@dataclass(frozen=True)
class LayerChannels:
    """The channels that one layer gives.

    Attributes:
        path: The layer.
        before: Number of its channels.
        after: Number of those that stay.
        dead: Number of those that stay although they are dead, by the reason.
    """

    path: str
    before: int
    after: int
    dead: dict[str, int]


@dataclass(frozen=True, eq=False)
class Compaction:
    """A smaller model, and the account of how it came about.

    Attributes:
        model: The smaller model.
        masks: Its masks; None if there were none.
        channels: For each layer with channels of its own, the old index of each channel that stays; heads of attention
            are under "attention/heads".
        layers: The same as numbers, with the reasons of dead channels that stay.
        left_whole: Layers that are not understood, with the reason. All channels that enter one stay.
        before: Size of the given model.
        after: Size of the smaller model.
        compiled: Whether the smaller model is compiled, as the given one was.
    """

    model: Model
    masks: Masks | None
    channels: dict[str, np.ndarray]
    layers: tuple[LayerChannels, ...]
    left_whole: dict[str, str]
    before: ModelCost
    after: ModelCost
    compiled: bool

    def new_index(self, path: str) -> np.ndarray:
        """Return where each channel of a layer went.

        Args:
            path: A layer.

        Returns:
            For each old channel its new index, or -1 if it was removed.

        Raises:
            OptionError: If the layer has no channels of its own.
        """
        if path not in self.channels:
            raise OptionError(
                f"No layer {path!r} with channels of its own is known here. Received: {path!r}; there are "
                f"{', '.join(self.channels) or 'none'}."
            )
        before = next(layer.before for layer in self.layers if layer.path == path)
        places = np.full(before, -1)
        places[self.channels[path]] = np.arange(len(self.channels[path]))
        return places

    def to_dict(self) -> dict[str, Any]:
        """Return everything but model and masks, in types that JSON knows."""
        return {
            "model": self.model.name,
            "before": asdict(self.before),
            "after": asdict(self.after),
            "layers": [asdict(layer) for layer in self.layers],
            "channels": {path: kept.tolist() for path, kept in self.channels.items()},
            "left_whole": self.left_whole,
            "compiled": self.compiled,
        }

    def print(self, file: IO[str] | None = None) -> None:
        """Print the account as tables; to standard output if no `file` is given."""
        from rich.console import Console
        from rich.table import Table

        console = Console(file=file)
        table = Table(title=f"{self.model.name}, compacted", title_justify="left")
        table.add_column("layer", overflow="fold")
        for name in ("channels", "stay"):
            table.add_column(name, justify="right")
        table.add_column("dead, but stay", overflow="fold")
        for layer in self.layers:
            reasons = "; ".join(f"{count:,}: {why}" for why, count in layer.dead.items())
            table.add_row(layer.path, f"{layer.before:,}", f"{layer.after:,}", reasons)
        console.print(table)
        if self.left_whole:
            whole = Table(title="left whole", title_justify="left")
            whole.add_column("layer", overflow="fold")
            whole.add_column("reason", overflow="fold")
            for path, why in self.left_whole.items():
                whole.add_row(path, why)
            console.print(whole)
        console.print(self._sizes(), highlight=False)

    def _sizes(self) -> str:
        lines = [f"{self.before.parameters:,} parameters became {self.after.parameters:,}"]
        if self.before.multiply_adds is not None:
            lines.append(
                f"{self.before.multiply_adds:,} multiply-adds for one example became {self.after.multiply_adds:,}"
            )
        return ", ".join(lines) + "."


def build_compaction(
    source: Any, network: Propagation, decision: Decision, model: Model, masks: Masks | None, compiled: bool
) -> Compaction:
    """Put the account of a compaction together."""
    given: dict[str, list[Signal]] = {}
    for step in network.steps:
        if step.use.variables and step.output.axis is not None:
            given.setdefault(step.use.path, []).append(step.output)
        for name, signal in step.use.inner.items():
            given.setdefault(f"{step.use.path}/{name}", []).append(signal)
    return Compaction(
        model=model,
        masks=masks,
        channels={path: decision.kept(signals[0].channels) for path, signals in given.items()},
        layers=tuple(_layer(network, decision, path, signals) for path, signals in given.items()),
        left_whole=dict(network.record.left_whole),
        before=CostModel(source).count(),
        after=CostModel(model).count(),
        compiled=compiled,
    )


def _layer(network: Propagation, decision: Decision, path: str, signals: list[Signal]) -> LayerChannels:
    channels = signals[0].channels
    dead = np.all([network.dead(signal) for signal in signals], axis=0)
    stay = dead & ~decision.gone[channels]
    whys = {NO_LABEL: "comes from an input or a layer that is left whole", **decision.reasons}
    tied = "goes only together with channels that live"
    reasons = Counter(whys.get(root, tied) for root in decision.roots[channels[stay]].tolist())
    return LayerChannels(path, len(channels), decision.kept(channels).size, dict(sorted(reasons.items())))
