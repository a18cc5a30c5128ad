"""What pruning did: a table to read, a dictionary to compute with."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import asdict, dataclass
from typing import IO, Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tfprune_init.backend import compat
from tfprune_init.files import write_json
from tfprune_init.graph.variables import ModelVariable, SkippedVariable
from tfprune_init.masks import Masks
from tfprune_init.methods.mask_search import PruningStep, SearchResult
from tfprune_init.version import __version__


@dataclass(frozen=True)
class LayerRow:
    """What is left of one variable.

    Attributes:
        path: The variable.
        shape: Its shape.
        size: Number of its weights.
        kept: Number of weights kept.
        inputs: Number of its input units; `dead_inputs` of them keep no weight.
        outputs: Number of its output units; `dead_outputs` of them keep no weight.
    """

    path: str
    shape: tuple[int, ...]
    size: int
    kept: int
    inputs: int
    dead_inputs: int
    outputs: int
    dead_outputs: int

    @property
    def density(self) -> float:
        """Share of weights kept."""
        return self.kept / self.size


@dataclass(frozen=True)
class PruningReport:
    """An account of one pruning at initialization.

    Attributes:
        model: Name of the model.
        method: Name of the method.
        options: What the method ran with: schedule, steps, granularity, allocation, regrow, seed and the rest.
        loss: The loss that judged connections, in words; None for methods that look at none.
        masks: What is kept.
        requested_sparsity: Sparsity asked for; None where a budget was.
        budget: The budget: what it limits, what was asked for, the limit, what the dense network has, what is left, and
            how it was counted; None where a sparsity was asked for.
        layers: One row for each pruned variable, in their fixed order.
        skipped: Every other variable, with its reason.
        steps: The steps of the search, with seconds and objective.
        empty: Paths of variables that keep no weight (in a network that still passes signals).
        connected: Whether every output still answers to the inputs; None if it could not be measured.
        signal: How strongly each output answers (largest absolute derivative of a fixed random projection of
            the output with respect to the inputs), or None.
        seconds: Wall time of the search.
        versions: Versions of what it ran on.
    """

    model: str
    method: str
    options: dict[str, Any]
    loss: str | None
    masks: Masks
    requested_sparsity: float | None
    budget: dict[str, Any] | None
    layers: tuple[LayerRow, ...]
    skipped: tuple[SkippedVariable, ...]
    steps: tuple[PruningStep, ...]
    empty: tuple[str, ...]
    connected: bool | None
    signal: dict[str, float] | None
    seconds: float
    versions: dict[str, str]

    @property
    def sparsity(self) -> float:
        """Sparsity achieved, as a share of the prunable weights."""
        return self.masks.sparsity

    @property
    def density(self) -> float:
        """Density achieved."""
        return self.masks.density

    def to_dict(self) -> dict[str, Any]:
        """Everything but the masks themselves, in types that JSON knows."""
        return {
            "model": self.model,
            "method": self.method,
            "options": self.options,
            "loss": self.loss,
            "requested_sparsity": self.requested_sparsity,
            "budget": self.budget,
            "sparsity": self.sparsity,
            "size": self.masks.size,
            "kept": self.masks.kept,
            "fingerprint": self.masks.fingerprint,
            "layers": [{**asdict(row), "shape": list(row.shape), "density": row.density} for row in self.layers],
            "skipped": [{**asdict(row), "shape": list(row.shape)} for row in self.skipped],
            "steps": [asdict(step) for step in self.steps],
            "empty": list(self.empty),
            "connected": self.connected,
            "signal": self.signal,
            "seconds": self.seconds,
            "versions": self.versions,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict()` as JSON."""
        write_json(path, self.to_dict())

    def print(self, file: IO[str] | None = None) -> None:
        """Print the report as tables; to standard output if no `file` is given."""
        console = Console(file=file)
        console.print(self._layer_table())
        console.print(self._skipped_table())
        for line in self._remarks():
            console.print(line, highlight=False)

    def _layer_table(self) -> Table:
        table = Table(title=f"{self.model} pruned by {self.method}", title_justify="left")
        table.add_column("variable", overflow="fold")
        for name in ("shape", "kept", "of", "density", "dead\ninputs", "dead\noutputs"):
            table.add_column(name, justify="right")
        for row in self.layers:
            table.add_row(
                row.path + (" (empty)" if row.kept == 0 else ""),
                "x".join(map(str, row.shape)),
                f"{row.kept:,}",
                f"{row.size:,}",
                f"{row.density:.2%}",
                f"{row.dead_inputs:,}/{row.inputs:,}",
                f"{row.dead_outputs:,}/{row.outputs:,}",
            )
        table.add_section()
        table.add_row("all", "", f"{self.masks.kept:,}", f"{self.masks.size:,}", f"{self.density:.2%}", "", "")
        return table

    def _skipped_table(self) -> Table:
        reasons: dict[str, list[SkippedVariable]] = {}
        for row in self.skipped:
            reasons.setdefault(row.reason, []).append(row)
        table = Table(title="not pruned", title_justify="left")
        table.add_column("reason", overflow="fold")
        table.add_column("variables", justify="right")
        table.add_column("weights", justify="right")
        table.add_column("e.g.", overflow="fold")
        for reason, rows in reasons.items():
            weights = sum(math.prod(row.shape) for row in rows)
            table.add_row(reason, str(len(rows)), f"{weights:,}", rows[0].path)
        return table

    def _asked(self) -> str:
        if self.budget is None:
            return f"asked for {self.requested_sparsity:.4%}"
        what, got, limit = self.budget["kind"].replace("_", "-"), self.budget["got"], self.budget["limit"]
        return f"budget: {got:,} of at most {limit:,} {what}, {self.budget['counted']}"

    def _remarks(self) -> list[str]:
        verdict = {
            True: "every output still answers to the inputs",
            False: "some output answers to no input, as in the dense network",
            None: "whether the network is still connected was not measured (no data, or nothing to differentiate by)",
        }[self.connected]
        plural = "" if len(self.steps) == 1 else "s"
        lines = [
            f"sparsity {self.sparsity:.4%} ({self._asked()}), {len(self.steps)} step{plural} "
            f"in {self.seconds:.1f} s; {verdict}."
        ]
        if self.loss is not None:
            lines.append(f"Connections were judged by {self.loss}.")
        first, last = self.steps[0], self.steps[-1]
        if last.objective is not None and len(self.steps) > 1:
            lines.append(
                f"Sensitivity of what is kept: {first.objective:.3g} after step 1 ({first.density:.1%} kept), "
                f"{last.objective:.3g} after step {last.number}."
            )
        if self.empty:
            lines.append(f"Empty, bypassed by other paths: {', '.join(self.empty)}.")
        return lines


def build_report(model: Any, found: SearchResult, prune_bias: bool) -> PruningReport:
    """Put a report together from what a search found."""
    left, goal = found.connectivity, found.goal

    def row(target: ModelVariable) -> LayerRow:
        def units(axes: tuple[int, ...]) -> int:
            return int(np.prod([target.shape[axis] for axis in axes], dtype=np.int64)) if axes else 0

        return LayerRow(
            path=target.path,
            shape=target.shape,
            size=target.size,
            kept=int(np.count_nonzero(found.masks[target.path])),
            inputs=units(target.units.inputs),
            dead_inputs=left.dead_inputs[target.path],
            outputs=units(target.units.outputs),
            dead_outputs=left.dead_outputs[target.path],
        )

    return PruningReport(
        model=model.name,
        method=found.resolved.method.name,
        options={**found.resolved.describe(), "prune_bias": prune_bias},
        loss=found.loss,
        masks=found.masks,
        requested_sparsity=None if goal.limit else float(1 - goal.share),
        budget=goal.limit.describe(found.masks) if goal.limit else None,
        layers=tuple(row(target) for target in found.variables.prunable),
        skipped=found.variables.skipped,
        steps=found.steps,
        empty=left.empty,
        connected=left.connected,
        signal=left.signal,
        seconds=found.seconds,
        versions={
            "tfprune_init": __version__,
            "tensorflow": tf.__version__,
            compat.get_package_name(model): compat.get_keras_version(model),
            "keras": keras.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )
