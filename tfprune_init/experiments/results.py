"""Results of a comparison: one row per run, and their summary over seeds."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, TypedDict, overload

from rich import box
from rich.console import Console
from rich.table import Table

from tfprune_init.errors import OptionError
from tfprune_init.experiments.storage import MASKS_FILE, RESULTS, RUNS, parse_json
from tfprune_init.files import atomic_write
from tfprune_init.masks import Masks
from tfprune_init.records import check_record

_COLUMNS = (
    *("id", "label", "method", "options", "sparsity", "seed", "status", "accuracy", "loss", "guess", "destroyed"),
    *("size", "kept", "epochs", "prune_seconds", "train_seconds", "error"),
)


@dataclass(frozen=True)
class Run:
    """One network: pruned, trained, evaluated.

    Attributes:
        id: Name of its folder, a hash of everything that decides the result.
        label: Name of the method in this comparison.
        method: The method; "dense" for the baseline.
        options: Options of the method.
        sparsity: Sparsity asked for; 0.0 for the baseline.
        seed: Seed of initial weights, order of examples and method.
        epochs: Passes over the training data.
        status: "trained"; "collapsed", if pruning cut the outputs off from the inputs; "failed", if anything else
            stopped it.
        error: Reason, if it collapsed or failed.
        size: Number of prunable weights.
        kept: Number of weights kept; None if masks were not found.
        accuracy: Share of the test examples put into the right class, in [0, 1]; None if it was not trained. A
            collapsed network is trained only with on_collapse="warn".
        loss: Loss on the test examples; None if it was not trained, or is not finite.
        guess: Share of the most frequent class among the test examples.
        destroyed: Whether the trained network is not clearly better than the guess (by 5 standard errors), or
            collapsed and was not trained; None if it failed.
        history: For each epoch what `fit` logs: loss and accuracy on the training data.
        steps: For each step of the search its number, density, weights kept and objective.
        layers: For each pruned variable its path, size and weights kept.
        prune_seconds: Wall time of finding masks.
        train_seconds: Wall time of training.
    """

    id: str
    label: str
    method: str
    options: dict[str, Any]
    sparsity: float
    seed: int
    epochs: int
    status: str
    error: str | None
    size: int | None
    kept: int | None
    accuracy: float | None
    loss: float | None
    guess: float
    destroyed: bool | None
    history: list[dict[str, float | None]]
    steps: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    prune_seconds: float
    train_seconds: float

    @classmethod
    def from_dict(cls, values: dict[str, Any], place: str = "the run") -> Run:
        """Make a run from the output of `dataclasses.asdict`.

        Args:
            values: What `asdict` gave, perhaps read from a file.
            place: Where it is from, to begin messages with.

        Raises:
            OptionError: If a field is missing, has another type or is no share, or a trained run has not reached
                anything.
        """
        check_record(values, cls, place)
        check_record(values["steps"], list[_Step], f"{place}, steps")
        check_record(values["layers"], list[_Layer], f"{place}, layers")
        for name in ("sparsity", "accuracy", "guess"):
            share = values[name]
            if share is not None and (not 0 <= share <= 1 or (name == "sparsity" and share == 1)):
                raise OptionError(f"{place}: {name} is no share. Received: {share!r}")
        if values["status"] == "trained" and (values["accuracy"] is None or not values["history"]):
            raise OptionError(f"{place}: it is trained, and has no accuracy or no history.")
        return cls(**{field.name: values[field.name] for field in fields(cls)})


class _Step(TypedDict):
    number: int
    density: float
    kept: int
    objective: float | None


class _Layer(TypedDict):
    path: str
    size: int
    kept: int


@dataclass(frozen=True)
class SummaryRow:
    """A method at one sparsity, over its seeds.

    Attributes:
        label: The method.
        sparsity: Sparsity asked for.
        runs: Number of runs that did not fail.
        mean: Mean accuracy, in [0, 1]. A collapsed network gives the same outputs for every input, so it counts
            as the guess, unless it was trained. None if all runs failed.
        std: Standard deviation over seeds (n - 1); None for a single run.
        low: Smallest accuracy.
        high: Largest accuracy.
        destroyed: Number of networks not clearly better than guessing, collapsed ones that were not trained included.
        collapsed: Number of networks that pruning cut in two.
        failed: Number of runs that something else stopped.
    """

    label: str
    sparsity: float
    runs: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    destroyed: int
    collapsed: int
    failed: int


class Results(Sequence[Run]):
    """The runs of a comparison, in the order they were asked for.

    Args:
        runs: The runs.
        out: The folder of the comparison.

    Example:
        >>> import tfprune_init as tpi
        >>> results = tpi.Results.load("runs/")  # doctest: +SKIP
        >>> results.print()  # doctest: +SKIP
    """

    def __init__(self, runs: Iterable[Run], out: str | os.PathLike[str]):
        self._runs = list(runs)
        self.out = Path(out)

    @classmethod
    def load(cls, out: str | os.PathLike[str]) -> Results:
        """Read the results of the last comparison in a folder, finished or not.

        Raises:
            OptionError: If no comparison wrote to that folder, or its file is damaged.
        """
        path = Path(out) / RESULTS
        if not path.is_file():
            raise OptionError(f"No comparison is in this folder: it has no {RESULTS}. Received: {os.fspath(out)!r}.")
        runs = []
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if line.strip():
                place = f"{path} is damaged: line {number}"
                runs.append(Run.from_dict(parse_json(line, dict, place), place))
        return cls(runs, out)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> list[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | list[Run]:
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return f"Results({len(self)} runs in {str(self.out)!r})"

    @property
    def labels(self) -> list[str]:
        """The methods, in their order."""
        return list(dict.fromkeys(run.label for run in self))

    @property
    def sparsities(self) -> list[float]:
        """The sparsities, ascending; the baseline's 0.0 is none."""
        return sorted({run.sparsity for run in self if run.method != "dense"})

    def masks(self, run: Run) -> Masks:
        """Load the masks of one run.

        Raises:
            OptionError: If it found none: it is the baseline, or failed.
        """
        path = self.out / RUNS / run.id / MASKS_FILE
        if not path.is_file():
            raise OptionError(f"Run {run.id} ({run.label}, {run.status}) has no masks.")
        return Masks.load(path)

    def summary(self) -> list[SummaryRow]:
        """Summarize each method at each sparsity over its seeds, in the order of the runs."""
        groups: dict[tuple[str, float], list[Run]] = {}
        for run in self:
            groups.setdefault((run.label, run.sparsity), []).append(run)
        return [_summarize(label, sparsity, runs) for (label, sparsity), runs in groups.items()]

    def to_csv(self) -> str:
        """Format the runs as CSV: a header, then one line per run."""
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        for run in self:
            row = asdict(run)
            writer.writerow({name: json.dumps(row[name]) if name == "options" else row[name] for name in _COLUMNS})
        return text.getvalue()

    def save(self) -> None:
        """Write `results.jsonl` and `results.csv` into the folder, each atomically."""
        lines = "".join(json.dumps(asdict(run)) + "\n" for run in self)
        for name, text in ((RESULTS, lines), ("results.csv", self.to_csv())):
            with atomic_write(self.out / name) as part:
                part.write_text(text, encoding="utf-8")

    def print(self, file: IO[str] | None = None) -> None:
        """Print accuracies by method and sparsity; to standard output if no `file` is given."""
        console = Console(file=file)
        rows = {(row.label, row.sparsity): row for row in self.summary()}
        console.print("test accuracy in %, mean and standard deviation over seeds", style="italic")
        table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        table.add_column("method", overflow="fold")
        columns = sorted({sparsity for _, sparsity in rows})
        for sparsity in columns:
            name = "dense" if sparsity == 0 else f"{100 * sparsity:.10g}%"
            table.add_column(name, justify="right", overflow="fold")
        for label in self.labels:
            cells = [rows.get((label, sparsity)) for sparsity in columns]
            table.add_row(label, *["" if row is None else _format_cell(row) for row in cells])
        console.print(table)
        destroyed = sum(row.destroyed for row in rows.values())
        collapsed = sum(row.collapsed for row in rows.values())
        failed = sum(row.failed for row in rows.values())
        console.print(
            f"{len(self)} runs; {destroyed} networks lost (destroyed: not clearly better than guessing); {collapsed} "
            f"cut in two by pruning; {failed} failed.",
            highlight=False,
        )
        for reason in dict.fromkeys(run.error for run in self if run.status == "failed"):
            console.print(f"Failed: {reason}", highlight=False, markup=False)


def _summarize(label: str, sparsity: float, runs: list[Run]) -> SummaryRow:
    accuracies = [_get_accuracy(run) for run in runs if run.status != "failed"]
    return SummaryRow(
        label=label,
        sparsity=sparsity,
        runs=len(accuracies),
        mean=statistics.fmean(accuracies) if accuracies else None,
        std=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        low=min(accuracies, default=None),
        high=max(accuracies, default=None),
        destroyed=sum(bool(run.destroyed) for run in runs),
        collapsed=sum(run.status == "collapsed" for run in runs),
        failed=sum(run.status == "failed" for run in runs),
    )


def _get_accuracy(run: Run) -> float:
    return run.guess if run.accuracy is None else run.accuracy


def _format_cell(row: SummaryRow) -> str:
    if row.mean is None:
        return "failed"
    spread = "" if row.std is None else f"±{100 * row.std:.1f}"
    lost = f"\n{row.destroyed} lost" if row.destroyed else ""
    failed = f"\n{row.failed} failed" if row.failed else ""
    return f"{100 * row.mean:.1f}{spread}{lost}{failed}"
