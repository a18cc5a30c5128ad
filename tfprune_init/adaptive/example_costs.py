"""What each example costs in a model with decisions: multiply-adds, never time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import keras
import numpy as np
import tensorflow as tf
from rich import box
from rich.console import Console
from rich.table import Table

from tfprune_init.adaptive.budget_schedule import find_decision_cost
from tfprune_init.backend import compat
from tfprune_init.backend.batches import to_dataset
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import DataError, ModelError
from tfprune_init.graph.trace import list_calls
from tfprune_init.layers import ChannelDecisions


@dataclass(frozen=True)
class CostSummary:
    """Multiply-adds of some examples.

    Attributes:
        examples: Number of examples.
        mean: Mean of their multiply-adds.
        least: Those of the cheapest one.
        most: Those of the dearest one.
    """

    examples: int
    mean: float
    least: int
    most: int


@dataclass(frozen=True, eq=False)
class AdaptiveCost:
    """Multiply-adds of each example, by the decisions that are made for it in inference.

    They say what a program that leaves out closed channels multiplies. TensorFlow and TFLite compute all channels, and
    then multiply them with the decisions: this is no measure of time.

    Attributes:
        multiply_adds: int64 of shape (examples,): those of the network, without the modules that decide.
        dense: Those of the network with all channels open.
        modules: Those of the modules, for each example in addition.
        labels: int64 of shape (examples,): classes of the examples; None where the data has none.
        open_shares: Mean share of open channels, by the path of the kernel that makes them.
        left_alone: Convolutions without decisions, and kernels whose multiply-adds are not counted, with the reason.
    """

    multiply_adds: np.ndarray
    dense: int
    modules: int
    labels: np.ndarray | None
    open_shares: Mapping[str, float]
    left_alone: Mapping[str, str]

    @property
    def summary(self) -> CostSummary:
        """All examples together."""
        return _summarize(self.multiply_adds)

    @property
    def share(self) -> float:
        """Mean of the multiply-adds, as a share of the dense ones: what is to meet the budget."""
        return self.summary.mean / self.dense

    def summarize_classes(self) -> dict[int, CostSummary]:
        """Return the multiply-adds of the examples of each class.

        Raises:
            DataError: If the data has no classes.
        """
        if self.labels is None:
            raise DataError(
                "Multiply-adds by class need data with labels that are integers, one for each example. Received: none."
            )
        return {int(label): _summarize(self.multiply_adds[self.labels == label]) for label in np.unique(self.labels)}

    def to_dict(self) -> dict[str, Any]:
        """Return all of it but single examples, in types that JSON knows."""
        classes = {} if self.labels is None else self.summarize_classes()
        return {
            "dense_multiply_adds": self.dense,
            "module_multiply_adds": self.modules,
            "share": self.share,
            "all": vars(self.summary),
            "classes": {str(label): vars(summary) for label, summary in classes.items()},
            "open_shares": dict(self.open_shares),
            "left_alone": dict(self.left_alone),
        }

    def print(self, file: IO[str] | None = None) -> None:
        """Print it as tables; to standard output if no `file` is given."""
        table = Table(title="multiply-adds of an example", title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("examples")
        for name in ("number", "mean", "of dense", "least", "most"):
            table.add_column(name, justify="right")
        classes = {} if self.labels is None else self.summarize_classes()
        for name, one in (("all", self.summary), *((f"class {label}", one) for label, one in classes.items())):
            share = f"{one.mean / self.dense:.1%}"
            table.add_row(name, f"{one.examples:,}", f"{one.mean:,.0f}", share, f"{one.least:,}", f"{one.most:,}")
        layers = Table(title="channels that are open", title_justify="left", box=box.SIMPLE_HEAD)
        layers.add_column("kernel", overflow="fold")
        layers.add_column("mean share", justify="right")
        for path, opened in self.open_shares.items():
            layers.add_row(path, f"{opened:.1%}")
        console = Console(file=file)
        console.print(table, layers)
        for path, why in self.left_alone.items():
            console.print(f"{path}: {why}", highlight=False)
        console.print(
            f"Dense: {self.dense:,} multiply-adds. The modules that decide add {self.modules:,} to each example.",
            highlight=False,
        )


def measure_adaptive_cost(model: Model, data: Any) -> AdaptiveCost:
    """Count the multiply-adds of each example in a model with decisions, as they are made in inference.

    Args:
        model: A model of `tpi.insert_saliency`, trained or not, also one that was saved and loaded.
        data: A batched dataset, or arrays; labels that are integers give the costs of each class.

    Returns:
        AdaptiveCost.

    Raises:
        ModelError: If the model has no decisions.
        DataError: If the data is empty or malformed.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> L = keras.layers
        >>> layers = [L.Conv2D(4, 3, name="one"), L.Conv2D(4, 3, name="two"), L.GlobalMaxPooling2D(), L.Dense(2)]
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
        >>> adaptive = tpi.insert_saliency(model, kernel_initializer="zeros")
        >>> _ = adaptive.get_layer("one_decisions").decision_bias.assign([1.0, 1.0, -1.0, -1.0])
        >>> cost = tpi.measure_adaptive_cost(adaptive, np.ones((3, 8, 8, 1), "float32"))
        >>> cost.dense, cost.multiply_adds.tolist()  # 1,296 of the first convolution, 2,304 of the second, 8
        (3608, [1808, 1808, 1808])
    """
    compat.check_model(model)
    cost = find_decision_cost(model)
    if cost is None:
        raise ModelError(
            f"Model {model.name!r} has no decisions, so all its examples cost the same. Received: a model without a "
            "DecisionCost layer; make one with tpi.insert_saliency(model)."
        )
    (call,) = [one for one in list_calls(model) if one.layer is cost]
    compute = keras.Model(model.input, list(call.inputs[1:]))
    decide: Any = None
    counted: list[np.ndarray] = []
    labels: list[np.ndarray | None] = []
    sums = np.zeros(len(call.inputs) - 1)
    for element in to_dataset(data, labels=False):
        x, y, *_ = (*element, None) if isinstance(element, tuple) else (element, None)
        decide = decide or _trace(compute, x)
        decisions = [np.asarray(one) for one in tf.nest.flatten(decide(x))]
        examples = len(decisions[0])
        counted.append(np.zeros(examples, np.int64) + sum(term.count(decisions) for term in cost.terms))
        labels.append(_read_labels(y, examples))
        sums += [one.mean(axis=1, dtype=np.float64).sum() for one in decisions]
    if not counted:
        raise DataError("The dataset is empty: it gave no batch to count. Check its source and its filters.")
    multiply_adds = np.concatenate(counted)
    known = [one for one in labels if one is not None]
    modules = [layer for layer in compat.walk_layers(model) if isinstance(layer, ChannelDecisions)]
    return AdaptiveCost(
        multiply_adds,
        cost.dense_multiply_adds,
        sum(module.count_multiply_adds() for module in modules),
        np.concatenate(known) if len(known) == len(labels) else None,
        {term.kernel: float(sums[term.made] / len(multiply_adds)) for term in cost.terms if term.made is not None},
        cost.left_alone,
    )


def _trace(model: Any, x: Any) -> Any:
    """Return what computes a model in inference, traced once for batches of any size."""
    size = model.inputs[0].shape[0]
    specs = tf.nest.map_structure(lambda leaf: tf.TensorSpec((size, *leaf.shape[1:]), leaf.dtype), x)
    return tf.function(lambda batch: compat.call_model(model, batch, False)).get_concrete_function(specs)


def _summarize(multiply_adds: np.ndarray) -> CostSummary:
    return CostSummary(
        len(multiply_adds), float(multiply_adds.mean()), int(multiply_adds.min()), int(multiply_adds.max())
    )


def _read_labels(y: Any, examples: int) -> np.ndarray | None:
    """Return the classes of a batch; None where its labels are not integers, one for each example."""
    if y is None or isinstance(y, (Mapping, list, tuple)):
        return None
    labels = np.asarray(y)
    if labels.dtype.kind not in "iu" or labels.size != examples:
        return None
    return labels.astype(np.int64).reshape(-1)
