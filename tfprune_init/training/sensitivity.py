"""How much each layer alone can lose: a trained model evaluated with one variable pruned at a time."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.batches import to_dataset
from tfprune_init.backend.derived_weights import find_derived_weight
from tfprune_init.backend.model_state import StateSnapshot, find_state_variables
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import DataError, ModelError, OptionError
from tfprune_init.files import atomic_write
from tfprune_init.graph.variables import Exclusion, ModelVariable, find_prunable_variables
from tfprune_init.masking.attachment import check_unfrozen, get_attached_masks
from tfprune_init.progress import is_progress_shown, track
from tfprune_init.selection import count_kept, keep_top
from tfprune_init.selection.budget import parse_sparsity

DEFAULT_SPARSITIES = (0.25, 0.5, 0.75, 0.875, 0.9375)


@dataclass(frozen=True)
class SensitivityPoint:
    """The network with one variable pruned.

    Attributes:
        path: The variable.
        sparsity: Share of its weights that is removed.
        kept: Number of its weights that stay.
        size: Number of its weights.
        metrics: What `model.evaluate` gives, by name: the loss and the metrics that it was compiled with.
    """

    path: str
    sparsity: float
    kept: int
    size: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class SensitivityScan:
    """What a scan found.

    Attributes:
        baseline: What `model.evaluate` gives of the model as it is, by name.
        points: One for each variable and sparsity, in the order of the variables, from the lowest sparsity on.
    """

    baseline: dict[str, float]
    points: tuple[SensitivityPoint, ...]

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """Format the points as CSV, the model as it is first, with an empty path.

        Args:
            path: A file to write it to, too.

        Returns:
            A header, then one line for each point.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "sparsity", "kept", "size", *self.baseline])
        writer.writerow(["", "", "", "", *self.baseline.values()])
        for point in self.points:
            writer.writerow([point.path, point.sparsity, point.kept, point.size, *point.metrics.values()])
        if path is not None:
            with atomic_write(path) as part:
                part.write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()


def scan_sensitivity(
    model: Model,
    data: Any,
    *,
    sparsities: Iterable[float] = DEFAULT_SPARSITIES,
    exclude: Exclusion | Iterable[Exclusion] | None = None,
    prune_bias: bool = False,
    verbose: str | int | bool = "auto",
) -> SensitivityScan:
    """Evaluate a trained model with each layer alone pruned to each sparsity, by magnitude, without training.

    Of the n weights of a variable the floor(n * (1 - sparsity)) largest stay, ties go to the lower position. The model
    has the bits it had afterwards, its metrics too. It is evaluated once for each variable and sparsity.

    Args:
        model: A built and compiled model, Keras 3 or tf_keras, mostly a trained one. With masks attached, a layer is
            pruned further; the sparsity still counts all its weights.
        data: Examples to evaluate on: a batched dataset or arrays, as in `find_masks`.
        sparsities: Shares to remove, in [0, 1).
        exclude: What not to prune.
        prune_bias: Whether biases are prunable too.
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.

    Returns:
        SensitivityScan; `tpi.plots.sensitivity` draws it.

    Raises:
        OptionError: If a sparsity is out of range, given twice, or lower than what the masks of a layer removed
            already.
        ModelError: If the model is not compiled, or a layer does not compute with its variable but with something that
            it derives from it.
        EnforcementError: If weights are frozen at values of their own.
        DataError: If a number that the model as it is evaluates to is NaN or infinite.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> digits = tpi.datasets.load("digits")
        >>> model = tpi.models.lenet_300_100(digits.input_shape, digits.classes, seed=0)
        >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        >>> history = model.fit(digits.train, shuffle=False, verbose=0)
        >>> scan = tpi.scan_sensitivity(model, digits.test, sparsities=[0.5, 0.99], verbose=0)
        >>> [(point.path, point.sparsity, point.kept) for point in scan.points if point.path == "head/kernel"]
        [('head/kernel', 0.5, 500), ('head/kernel', 0.99, 10)]

    Reference:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, which chooses the
        threshold of each layer by such a scan.
    """
    targets = find_prunable_variables(model, exclude=exclude, prune_bias=prune_bias).prunable
    if not compat.is_compiled(model):
        raise ModelError(
            f"A scan evaluates the model, so it needs a loss. Received: model {model.name!r}, not compiled; call "
            "model.compile(loss=..., metrics=[...])."
        )
    check_unfrozen(model)
    derived = [target.path for target in targets if find_derived_weight(target.layer, target.variable) is not None]
    if derived:
        raise ModelError(
            f"Layers of {', '.join(derived)} compute with something that they derive from these variables (LoRA, a "
            "standardized kernel), so pruning the variables would say nothing. Leave them alone with exclude=[...]."
        )
    shares = _read_sparsities(sparsities)
    shown = is_progress_shown(verbose)
    examples = to_dataset(data)
    masks: Mapping[str, np.ndarray] = get_attached_masks(model) or {}
    cases = [(target, share) for target in targets for share in shares]
    pruned = [_prune(target, share, masks.get(target.path)) for target, share in cases]
    points = []
    before = StateSnapshot(find_state_variables(model))
    try:
        baseline = _evaluate(model, examples)
        if not all(map(math.isfinite, baseline.values())):
            raise DataError(
                f"The model as it is evaluates to {baseline}, so nothing could be compared with it. Check its weights "
                "and the data."
            )
        trials = list(zip(cases, pruned, strict=True))
        for (target, share), mask in track(trials, "scan", shown=shown):
            whole = target.tensor.read_value()
            target.tensor.assign(tf.where(mask, whole, tf.zeros((), whole.dtype)))
            metrics = _evaluate(model, examples)
            target.tensor.assign(whole)
            points.append(SensitivityPoint(target.path, float(share), int(mask.sum()), target.size, metrics))
    finally:
        model.reset_metrics()  # those that the first evaluation made; the others are put back
        before.put_back()
    return SensitivityScan(baseline, tuple(points))


def _read_sparsities(sparsities: Iterable[float]) -> list[Any]:
    given = [sparsities] if isinstance(sparsities, (int, float)) else list(sparsities)
    shares = sorted(map(parse_sparsity, given))
    if not shares or len(set(shares)) < len(shares):
        raise OptionError(f"sparsities= needs numbers in [0, 1), each once. Received: {given!r}.")
    return shares


def _prune(target: ModelVariable, share: Any, left: np.ndarray | None) -> np.ndarray:
    """Return where the largest weights of a variable are, among what its masks left."""
    keep = count_kept(target.size, 1 - share)
    if left is not None and keep > np.count_nonzero(left):
        raise OptionError(
            f"The masks of {target.path} leave {np.count_nonzero(left):,} of {target.size:,} weights, fewer than the "
            f"{keep:,} that are to stay. Received: a sparsity of {float(share):g}; use higher ones."
        )
    scores = {target.path: np.abs(target.tensor.numpy())}
    return keep_top(scores, keep, None if left is None else {target.path: left})[target.path]


def _evaluate(model: Model, examples: tf.data.Dataset) -> dict[str, float]:
    measured = model.evaluate(examples, verbose=0, return_dict=True)
    return {name: float(value) for name, value in measured.items()}
