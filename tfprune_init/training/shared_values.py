"""What a masked network is worth when all its weights are one number: the result, value by value."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfprune_init.errors import OptionError


@dataclass(frozen=True)
class Measurement:
    """What one value gives on one set of data.

    Attributes:
        metrics: The loss and the metrics of the compiled model, as its `evaluate` names them.
        right: Number of examples put into the right class; None where the model does not tell classes apart.
        examples: Number of examples.
    """

    metrics: Mapping[str, float]
    right: int | None
    examples: int

    @property
    def accuracy(self) -> float | None:
        """Share of the examples put into the right class."""
        return None if self.right is None else self.right / self.examples


@dataclass(frozen=True)
class SharedValue:
    """One value of the shared weight, and what it gives.

    Attributes:
        value: What every weight is.
        measured: On the data that was asked about.
        chosen_by: On the data that values are chosen by, `train=`; the same as `measured` without.
    """

    value: float
    measured: Measurement
    chosen_by: Measurement


@dataclass(frozen=True)
class SharedWeights:
    """A masked network at each value of the weight that all its connections share.

    Attributes:
        swept: The values, in the order in which they were given.
        tuned: The value that gradient descent ended at; None without `tune=True`.
        ensemble_right: Number of examples put into the right class by the vote of all values; None where the model
            does not tell classes apart.
        kept: Number of weights that share the value.
        others: What became of each variable that does not share it, by path.
    """

    swept: tuple[SharedValue, ...]
    tuned: SharedValue | None
    ensemble_right: int | None
    kept: int
    others: Mapping[str, str]

    @property
    def values(self) -> tuple[float, ...]:
        """The values, in the order in which they were given."""
        return tuple(one.value for one in self.swept)

    @property
    def accuracies(self) -> tuple[float | None, ...]:
        """Share of the examples put into the right class, by value."""
        return tuple(one.measured.accuracy for one in self.swept)

    @property
    def best(self) -> SharedValue:
        """The value with the most examples right on what values are chosen by, then the least loss, then the first."""
        return rank_values(self.swept)[0]

    @property
    def ensemble_accuracy(self) -> float | None:
        """Share of the examples put into the right class by the vote of all values."""
        return None if self.ensemble_right is None else self.ensemble_right / self.swept[0].measured.examples

    @property
    def mean_accuracy(self) -> float | None:
        """Mean accuracy over the values."""
        if self.swept[0].measured.right is None:
            return None
        return float(np.mean(np.array(self.accuracies, np.float64)))

    def compute_mean(self, metric: str) -> float:
        """Average a metric over the values.

        Args:
            metric: Its name, as `evaluate` gives it, such as "loss".

        Raises:
            OptionError: If the model was not compiled with it.
        """
        known = self.swept[0].measured.metrics
        if metric not in known:
            raise OptionError(f"There is no metric {metric!r}. There is: {', '.join(known)}.")
        return float(np.mean([one.measured.metrics[metric] for one in self.swept]))

    def to_csv(self) -> str:
        """Return a table with a row for each value, the tuned one last.

        Columns are `kind` ("swept" or "tuned"), `value`, the metrics, `right` and `examples`, and the same on the data
        that values were chosen by, where these are others, with "train_" before their names.
        """
        rows = [("swept", one) for one in self.swept] + ([] if self.tuned is None else [("tuned", self.tuned)])
        text = io.StringIO()
        writer: csv.DictWriter[str] | None = None
        for kind, one in rows:
            row = {"kind": kind, "value": one.value, **_list_cells("", one.measured)}
            if one.chosen_by is not one.measured:
                row |= _list_cells("train_", one.chosen_by)
            if writer is None:
                writer = csv.DictWriter(text, row, lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
        return text.getvalue()


def rank_values(swept: tuple[SharedValue, ...]) -> list[SharedValue]:
    """Return the values from best to worst: the most examples right, then the least loss, then the first."""
    return sorted(swept, key=lambda one: (-(one.chosen_by.right or 0), one.chosen_by.metrics["loss"]))


def count_votes(classes: np.ndarray) -> np.ndarray:
    """Return the class that most networks vote for; the lowest one where several have as many votes.

    Args:
        classes: What each network votes for, integers of shape (networks, examples).

    Returns:
        Integers of shape (examples,).

    Example:
        >>> import numpy as np
        >>> from tfprune_init.training.shared_values import count_votes
        >>> count_votes(np.array([[2, 1, 0], [2, 0, 3], [1, 1, 2]])).tolist()
        [2, 1, 0]
    """
    votes = np.zeros((classes.shape[1], int(classes.max()) + 1), np.int64)
    for each in classes:
        votes[np.arange(len(each)), each] += 1
    return np.asarray(votes.argmax(axis=1))


def _list_cells(prefix: str, measured: Measurement) -> dict[str, float | int | None]:
    cells = {**measured.metrics, "right": measured.right, "examples": measured.examples}
    return {prefix + name: value for name, value in cells.items()}
