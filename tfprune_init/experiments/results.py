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

from rich.console import Console

from tfprune_init.errors import OptionError
from tfprune_init.experiments.results_table import print_summary
from tfprune_init.experiments.storage import MASKS_FILE, RESULTS, RUNS
from tfprune_init.files import atomic_write
from tfprune_init.masks import Masks
from tfprune_init.records import check_record, parse_json

_COLUMNS = (
    *("id", "label", "method", "options", "sparsity", "seed", "status", "accuracy", "loss", "guess", "destroyed"),
    *("size", "kept", "epochs", "training_steps", "scoring_steps", "multiply_adds", "prune_seconds", "train_seconds"),
    "error",
)


@dataclass(frozen=True)
class Run:
    """One network: pruned, trained, evaluated.

    Attributes:
        id: Name of its folder, a hash of everything that decides the result.
        label: Name of the method in this comparison.
        method: The method; "dense" for the baseline.
        options: Options of the method.
        sparsity: Sparsity asked for; 0.0 for the baseline, None for a procedure that finds itself how much stays.
        seed: Seed of initial weights, order of examples and method.
        epochs: Passes over the training data of one whole training.
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
        training_steps: Gradient steps that changed weights; None in results of before they were counted.
        scoring_steps: Gradient steps that judged connections, as `tpi.training.TrainingCost` counts them.
        multiply_adds: Multiply-adds of both, zeros not counted; None where those of the model are not known.
    """

    id: str
    label: str
    method: str
    options: dict[str, Any]
    sparsity: float | None
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
    training_steps: int | None = None
    scoring_steps: int | None = None
    multiply_adds: int | None = None

    @property
    def density(self) -> float | None:
        """Share of the prunable weights that was kept; None if masks were not found."""
        return None if self.kept is None or not self.size else self.kept / self.size

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
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


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
        sparsity: Sparsity asked for; None for a procedure that finds itself how much stays.
        runs: Number of runs that did not fail.
        mean: Mean accuracy, in [0, 1]. A collapsed network gives the same outputs for every input, so it counts
            as the guess, unless it was trained. None if all runs failed.
        std: Standard deviation over seeds (n - 1); None for a single run.
        low: Smallest accuracy.
        high: Largest accuracy.
        destroyed: Number of networks not clearly better than guessing, collapsed ones that were not trained included.
        collapsed: Number of networks that pruning cut in two.
        failed: Number of runs that something else stopped.
        density: Mean share of the weights kept; None if no run found masks.
        training_steps: Mean number of gradient steps that changed weights; None where they were not counted.
        scoring_steps: Mean number of gradient steps that judged connections; None where they were not counted.
        multiply_adds: Mean number of multiply-adds; None where they are not known.
    """

    label: str
    sparsity: float | None
    runs: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    destroyed: int
    collapsed: int
    failed: int
    density: float | None
    training_steps: float | None
    scoring_steps: float | None
    multiply_adds: float | None


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
        return sorted({run.sparsity for run in self if run.method != "dense" and run.sparsity is not None})

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
        groups: dict[tuple[str, float | None], list[Run]] = {}
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
        print_summary(self, Console(file=file))


def _summarize(label: str, sparsity: float | None, runs: list[Run]) -> SummaryRow:
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
        density=_average([run.density for run in runs]),
        training_steps=_average([run.training_steps for run in runs]),
        scoring_steps=_average([run.scoring_steps for run in runs]),
        multiply_adds=_average([run.multiply_adds for run in runs]),
    )


def _average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _get_accuracy(run: Run) -> float:
    return run.guess if run.accuracy is None else run.accuracy
