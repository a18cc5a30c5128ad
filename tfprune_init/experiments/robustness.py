"""Are all layers equal? What is left of a trained network when one layer forgets what it has learned."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.protocols import Model
from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.experiments.error_rate import ErrorRate
from tfprune_init.experiments.layer_groups import LayerGroup, Layers, find_layer_groups
from tfprune_init.graph.variables import SkippedVariable
from tfprune_init.graph.weight_copies import check_weights
from tfprune_init.progress import is_progress_shown, track

RANDOM, TRAINED = "random", "trained"
"""Names of the columns that are no checkpoint: weights drawn anew, and the trained ones."""


@dataclass(frozen=True)
class RobustnessRow:
    """One layer with other weights in place of those it has learned.

    Attributes:
        layer: Path of the layer, or the name of the layers that were replaced together.
        checkpoint: Name of the checkpoint whose weights the layer has; "random" if they were drawn anew, "trained" for
            the network as it is.
        error: Share of the examples put into a wrong class, in [0, 1]; the mean of all draws.
        deviation: Standard deviation over the draws (n - 1); None where there is only one error.
        errors: The errors it is the mean of: one for a checkpoint, one for each draw.
        parameters: Number of the layer's parameters that masks do not prune.
        l2: Euclidean norm of what training has changed up to there, the parameters of the checkpoint less those of the
            first checkpoint; None for "random", and for a layer without parameters.
        normalized_l2: `l2` / sqrt(`parameters`).
        linf: Largest absolute change of one parameter.
    """

    layer: str
    checkpoint: str
    error: float
    deviation: float | None
    errors: tuple[float, ...]
    parameters: int
    l2: float | None
    normalized_l2: float | None
    linf: float | None


@dataclass(frozen=True)
class LayerRobustness:
    """What is left of a trained network when its layers, one at a time, have other weights.

    Attributes:
        rows: One row a layer and a column, layer by layer: "random" if there are draws, the checkpoints, "trained".
        error: Share of the examples that the trained network puts into a wrong class.
        examples: Number of examples.
        skipped: Variables that belong to no row, with the reason.
    """

    rows: tuple[RobustnessRow, ...]
    error: float
    examples: int
    skipped: tuple[SkippedVariable, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, in the order of the model."""
        return tuple(dict.fromkeys(row.layer for row in self.rows))

    @property
    def columns(self) -> tuple[str, ...]:
        """What the layers had: "random", the checkpoints, "trained"."""
        return tuple(dict.fromkeys(row.checkpoint for row in self.rows))

    def get(self, layer: str, checkpoint: str) -> RobustnessRow:
        """Get the row of a layer and a column.

        Raises:
            OptionError: If there is none.
        """
        for row in self.rows:
            if (row.layer, row.checkpoint) == (layer, checkpoint):
                return row
        raise OptionError(
            f"There is no row of layer {layer!r} at {checkpoint!r}. Layers: {', '.join(self.layers)}; columns: "
            f"{', '.join(self.columns)}."
        )

    def to_csv(self) -> str:
        """Format the rows as CSV: a header, then one line a row, the errors of all draws in one cell."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(RobustnessRow)], lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({**asdict(row), "errors": " ".join(map(str, row.errors))})
        return text.getvalue()


def measure_layer_robustness(
    model: Model,
    data: Any,
    checkpoints: Mapping[str, Mapping[str, Any]],
    *,
    layers: Layers | None = None,
    with_normalization: bool = False,
    draws: int = 3,
    seed: int = 0,
    verbose: str | int | bool = "auto",
) -> LayerRobustness:
    """Measure how much a trained network needs what each of its layers has learned.

    One layer at a time gets the weights that it had at a checkpoint (re-initialization, if that is the start), or a
    fresh draw from its own initializers (re-randomization). All others keep their trained weights, nothing is
    trained, and the network is judged in inference mode. The network is robust to that layer if the error hardly
    moves; else the layer is critical. The model has the bits it had afterwards, also after an exception.

    A layer is whatever creates variables of floating point, such as one dense layer, one convolution, or one projection
    of an attention: its kernel and bias together. A normalization is a layer of its own, with its parameters and
    moving statistics. Attached masks hold: pruned weights stay at exactly 0.0, whatever is put in. On a model that was
    stripped, attach the masks first, `tpi.attach(model, tpi.Masks.from_zeros(model))`.

    An example of which some output is not finite counts as wrong, unless the trained network gives it.

    Args:
        model: A built, trained classifier, Keras 3 or tf_keras: an output (batch, classes).
        data: Test examples with integer or one-hot labels: arrays, or a batched dataset.
        checkpoints: Mapping from name to all variables of the model at that time, as `tpi.copy_variables(model)`,
            `tpi.KeepCheckpoints` or `tpi.run(...).snapshots` give them. Distances are those from the first one.
        layers: Glob patterns of the layers to judge, by default all that have weights; or a mapping from a name to the
            patterns of layers that are replaced together, {"block 1": "block1_*"}.
        with_normalization: Whether a normalization is replaced together with the layer whose output it takes, where
            the model's graph shows that.
        draws: How many draws for each layer; 0 leaves them out.
        seed: Seed of the draws. What a layer draws does not depend on `layers`.
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.

    Returns:
        A LayerRobustness; `tpi.plots.layer_robustness` draws it.

    Raises:
        OptionError: If there is no checkpoint, one does not fit the model or has a name that is taken, a pattern names
            no layer with weights, or an option is out of range or has no effect.
        ModelError: If the model is no built classifier whose outputs are finite, or a layer does not say what a weight
            is initialized with.
        DataError: If the data is empty, lacks labels, has sample weights, or gives other numbers of examples at each
            walk.

    References:
        Zhang, Bengio & Singer, "Are All Layers Created Equal?", JMLR 2022, https://arxiv.org/abs/1902.01996. What it
        does with batch normalization, and by what it divides its L2 distances, is not known here.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
        >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x, y = np.eye(2), np.arange(2)
        >>> keep = tpi.KeepCheckpoints(epochs=[0, 1])
        >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[keep])
        >>> result = tpi.measure_layer_robustness(model, (x, y), keep.checkpoints, layers="hidden")
        >>> result.columns, result.get("hidden", "epoch 0").l2
        (('random', 'epoch 0', 'epoch 1', 'trained'), 0.0)
    """
    compat.check_model(model)
    seed, draws = check_integer("seed", seed, 0), check_integer("draws", draws, 0)
    shown = is_progress_shown(verbose)
    groups, skipped = find_layer_groups(model, layers, with_normalization)
    values = _check_checkpoints(checkpoints, model, groups)
    # All that is drawn, before anything is measured: it may be refused.
    drawn = {
        one.path: [one.draw(seed, number) for number in range(draws)] for group in groups for one in group.variables
    }
    rate = ErrorRate(model, data)
    rows: list[RobustnessRow] = []
    with restore_state(model), deterministic_reductions():
        error = rate.measure({})
        for group in track(groups, "layers", shown=shown):
            rows += _measure_group(group, rate, values, drawn, draws, error)
    return LayerRobustness(tuple(rows), error, rate.examples or 0, tuple(skipped))


def _check_checkpoints(checkpoints: Any, model: Model, groups: list[LayerGroup]) -> dict[str, dict[str, np.ndarray]]:
    """Return the values of the variables that are judged, by checkpoint and path."""
    if not isinstance(checkpoints, Mapping) or not checkpoints:
        raise OptionError(
            "checkpoints= is a mapping from name to the weights of that time, at least one: "
            f'{{"start": tpi.copy_variables(model)}}, copied before training. Received: {checkpoints!r:.200}'
        )
    for name in checkpoints:
        if not isinstance(name, str) or name in (RANDOM, TRAINED):
            raise OptionError(
                f"A checkpoint is named by a string, other than the columns {RANDOM!r} and {TRAINED!r}. "
                f"Received: {name!r}."
            )
    targets = {one.path: one.target for group in groups for one in group.variables}
    return {
        name: check_weights(f"checkpoints[{name!r}]", values, model, targets.values())
        for name, values in checkpoints.items()
    }


def _measure_group(
    group: LayerGroup,
    rate: ErrorRate,
    values: Mapping[str, Mapping[str, np.ndarray]],
    drawn: Mapping[str, list[np.ndarray | None]],
    draws: int,
    trained: float,
) -> list[RobustnessRow]:
    """Return the rows of one layer."""
    parameters = sum(int(np.count_nonzero(one.kept)) for one in group.variables if one.is_trained)
    rows = []
    if draws:
        errors = [
            rate.measure({one: value for one in group.variables if (value := drawn[one.path][i]) is not None})
            for i in range(draws)
        ]
        spread = statistics.stdev(errors) if draws > 1 else None
        rows.append(
            RobustnessRow(
                group.name, RANDOM, statistics.fmean(errors), spread, tuple(errors), parameters, None, None, None
            )
        )
    first = next(iter(values.values()))
    for name, checkpoint in values.items():
        error = rate.measure({one: checkpoint[one.path] for one in group.variables})
        distances = _compute_distances(group, first, checkpoint, parameters)
        rows.append(RobustnessRow(group.name, name, error, None, (error,), parameters, *distances))
    distances = _compute_distances(group, first, {one.path: one.read() for one in group.variables}, parameters)
    rows.append(RobustnessRow(group.name, TRAINED, trained, None, (trained,), parameters, *distances))
    return rows


def _compute_distances(
    group: LayerGroup, first: Mapping[str, np.ndarray], then: Mapping[str, np.ndarray], parameters: int
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Return the L2 distance of a layer's parameters, the same by the root of their number, and the largest one."""
    changes = [
        (np.asarray(then[one.path], np.float64) - first[one.path])[one.kept]
        for one in group.variables
        if one.is_trained
    ]
    change = np.concatenate(changes) if changes else np.zeros(0)
    if not change.size:
        return None, None, None
    l2 = float(np.sqrt(np.sum(change**2)))
    return l2, l2 / parameters**0.5, float(np.abs(change).max())
