"""What pruning did: a table to read, a dictionary to compute with."""

from __future__ import annotations

import math
import os
import platform
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import NetworkCollapseError, NetworkCollapseWarning
from tfprune_init.files import write_json
from tfprune_init.graph.output_kernels import find_output_kernels
from tfprune_init.graph.variables import ModelVariable, SkippedVariable
from tfprune_init.masks import Masks
from tfprune_init.methods.mask_search import PruningStep, SearchResult
from tfprune_init.selection.connectivity import Connectivity
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
        makes_outputs: Whether its output units are outputs of the model, such as classes; False where that is not
            known.
    """

    path: str
    shape: tuple[int, ...]
    size: int
    kept: int
    inputs: int
    dead_inputs: int
    outputs: int
    dead_outputs: int
    makes_outputs: bool

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
        requested_sparsity: Sparsity asked for; None where a budget was, or the method finds itself how much stays.
        budget: The budget: what it limits, what was asked for, the limit, what the dense network has, what is left, and
            how it was counted; None where a sparsity was asked for.
        layers: One row for each pruned variable, in their fixed order.
        skipped: Every other variable, with its reason.
        steps: The steps of the search, with seconds and objective.
        empty: Paths of variables that keep no weight (in a network that still passes signals).
        collapse: How the network collapsed, and what to try; None if it did not.
        connected: Whether every output still answers to the inputs: all that the model returns are measured, and each
            single class keeps a connection; None if it could not be measured.
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
    collapse: str | None
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

    @property
    def unconnected_outputs(self) -> dict[str, tuple[int, int]]:
        """Outputs of the model, such as classes, that keep no connection: their number and that of all, by kernel."""
        return {
            row.path: (row.dead_outputs, row.outputs) for row in self.layers if row.makes_outputs and row.dead_outputs
        }

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
            "collapse": self.collapse,
            "unconnected_outputs": {path: list(counts) for path, counts in self.unconnected_outputs.items()},
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
            return "as it was found" if self.requested_sparsity is None else f"asked for {self.requested_sparsity:.4%}"
        what, got, limit = self.budget["kind"].replace("_", "-"), self.budget["got"], self.budget["limit"]
        return f"budget: {got:,} of at most {limit:,} {what}, {self.budget['counted']}"

    def _remarks(self) -> list[str]:
        verdict = {
            True: "every output still answers to the inputs",
            False: "not every output answers to the inputs",
            None: "whether the network is still connected was not measured (no data, or nothing to differentiate by)",
        }[self.connected]
        plural = "" if len(self.steps) == 1 else "s"
        lines = [
            f"sparsity {self.sparsity:.4%} ({self._asked()}), {len(self.steps)} step{plural} "
            f"in {self.seconds:.1f} s; {verdict}."
        ]
        if self.collapse is not None:
            lines.append(self.collapse)
        elif self.connected is False and not self.unconnected_outputs:
            lines.append("Some output answers to no input, as in the dense network.")
        lines += [
            f"{dead} of {outputs} outputs of {path} keep no connection: they are the same for all inputs."
            for path, (dead, outputs) in self.unconnected_outputs.items()
        ]
        if self.loss is not None:
            lines.append(f"Connections were judged by {self.loss}.")
        if len(self.steps) > 1 and self.steps[-1].objective is not None:
            first, last = self.steps[0], self.steps[-1]
            lines.append(
                f"Sensitivity of what is kept: {first.objective:.3g} after step 1 ({first.density:.1%} kept), "
                f"{last.objective:.3g} after step {last.number}."
            )
        if self.empty and self.collapse is None:
            lines.append(f"Empty, bypassed by other paths: {', '.join(self.empty)}.")
        return lines


def conclude_search(model: Model, found: SearchResult, prune_bias: bool) -> PruningReport:
    """Report what a search found, and judge it.

    Args:
        model: The model it looked at.
        found: What it found.
        prune_bias: Whether biases were prunable.

    Raises:
        NetworkCollapseError: If the network collapsed; a NetworkCollapseWarning in its place, if the caller asked for
            that with on_collapse="warn".
    """
    report = build_report(model, found, prune_bias)
    if found.collapse is not None:
        if found.resolved.on_collapse == "raise":
            raise NetworkCollapseError(found.collapse, found.masks, report)
        warnings.warn(found.collapse, NetworkCollapseWarning, stacklevel=3)
    return report


def build_report(model: Model, found: SearchResult, prune_bias: bool) -> PruningReport:
    """Put a report together from what a search found."""
    left, goal = found.connectivity, found.goal
    layers = list_layers(model, found.variables.prunable, found.masks, left)
    cut = any(one.makes_outputs and one.dead_outputs for one in layers)
    return PruningReport(
        model=model.name,
        method=found.resolved.method.name,
        options={**found.resolved.describe(), "prune_bias": prune_bias},
        loss=found.loss,
        masks=found.masks,
        requested_sparsity=None if goal.limit else float(1 - goal.share),
        budget=goal.limit.describe(found.masks) if goal.limit else None,
        layers=layers,
        skipped=found.variables.skipped,
        steps=found.steps,
        empty=left.empty,
        collapse=found.collapse,
        connected=False if cut or found.collapse else left.connected,
        signal=left.signal,
        seconds=found.seconds,
        versions=list_versions(model),
    )


def list_layers(
    model: Model, targets: Sequence[ModelVariable], masks: Masks, left: Connectivity
) -> tuple[LayerRow, ...]:
    """Say what is left of each pruned variable.

    Args:
        model: The model.
        targets: Its pruned variables.
        masks: What is kept of them.
        left: What is left of the network.
    """
    ends = find_output_kernels(model, targets)

    def row(target: ModelVariable) -> LayerRow:
        def units(axes: tuple[int, ...]) -> int:
            return int(np.prod([target.shape[axis] for axis in axes], dtype=np.int64)) if axes else 0

        return LayerRow(
            path=target.path,
            shape=target.shape,
            size=target.size,
            kept=int(np.count_nonzero(masks[target.path])),
            inputs=units(target.units.inputs),
            dead_inputs=left.dead_inputs[target.path],
            outputs=units(target.units.outputs),
            dead_outputs=left.dead_outputs[target.path],
            makes_outputs=target.path in ends,
        )

    return tuple(row(target) for target in targets)


def list_versions(model: Model) -> dict[str, str]:
    """Return the versions of what a report is made with."""
    return {
        "tfprune_init": __version__,
        "tensorflow": tf.__version__,
        compat.get_package_name(model): compat.get_keras_version(model),
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
