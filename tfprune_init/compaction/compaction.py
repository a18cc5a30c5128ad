"""What compaction did: the smaller model, its masks, which channel went where, and why others stayed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np

from tfprune_init import kerases
from tfprune_init.compaction.folding import Decision
from tfprune_init.compaction.groups import STAYS
from tfprune_init.compaction.network import Network, Step
from tfprune_init.errors import OptionError
from tfprune_init.masks import Masks


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        parameters: Number of its weights, trainable or not.
        multiply_adds: Multiplications with weights of Dense and convolutions, for one example; None where the model
            leaves sizes open. Layers that are not understood are not counted.
    """

    parameters: int
    multiply_adds: int | None


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
        channels: For each layer with channels of its own, the old index of each channel that stays.
        layers: The same as numbers, with the reasons of dead channels that stay.
        left_whole: Layers that are not understood, with the reason. All channels that enter one stay.
        before: Size of the given model.
        after: Size of the smaller model.
        compiled: Whether the smaller model is compiled, as the given one was.
    """

    model: Any
    masks: Masks | None
    channels: dict[str, np.ndarray]
    layers: tuple[LayerChannels, ...]
    left_whole: dict[str, str]
    before: Size
    after: Size
    compiled: bool

    def new_index(self, path: str) -> np.ndarray:
        """Where each channel of a layer went.

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
        """Everything but model and masks, in types that JSON knows."""
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


def account(
    source: Any, network: Network, decision: Decision, model: Any, masks: Masks | None, compiled: bool
) -> Compaction:
    """Put the account of a compaction together."""
    calls: dict[str, list[Step]] = {}
    for step in network.steps:
        if step.use.variables and step.output.axis is not None:
            calls.setdefault(step.use.path, []).append(step)
    return Compaction(
        model=model,
        masks=masks,
        channels={path: decision.kept(steps[0].output.channels) for path, steps in calls.items()},
        layers=tuple(_layer(network, decision, path, steps) for path, steps in calls.items()),
        left_whole=dict(network.book.left_whole),
        before=Size(source.count_params(), _multiply_adds(network, None)),
        after=Size(model.count_params(), _multiply_adds(network, decision)),
        compiled=compiled,
    )


def _layer(network: Network, decision: Decision, path: str, steps: list[Step]) -> LayerChannels:
    channels = steps[0].output.channels
    dead = np.all([network.dead(step.output) for step in steps], axis=0)
    stay = dead & ~decision.gone[channels]
    whys = {STAYS: "comes from an input or a layer that is left whole", **decision.reasons}
    tied = "goes only together with channels that live"
    reasons = Counter(whys.get(root, tied) for root in decision.roots[channels[stay]].tolist())
    return LayerChannels(path, len(channels), decision.kept(channels).size, dict(sorted(reasons.items())))


def _multiply_adds(network: Network, decision: Decision | None) -> int | None:
    """Multiplications with weights of kernels; of the smaller model where there is a decision."""
    total = 0
    for step in network.steps:
        kernels = [target for name, target in step.use.variables.items() if name.endswith("kernel")]
        if not kernels:
            continue
        # A transposed convolution multiplies each number that comes in, the others those that go out.
        transposed = any(name.endswith("Transpose") for name in kerases.class_names(step.use.layer))
        signal = step.use.first if transposed else step.output
        if signal.unsized:
            return None
        positions = signal.varies.size // signal.shape[step.use.channel_axis(len(signal.shape))]
        for kernel in kernels:
            shape = list(kernel.shape)
            for axis, channels in network.book.slices[id(kernel.variable)].items():
                shape[axis] = shape[axis] if decision is None else decision.kept(channels).size
            total += positions * math.prod(shape)
    return total
