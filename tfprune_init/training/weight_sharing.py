"""One weight shared by all connections that masks keep: what a topology is worth without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.batches import Batch, Batches, to_dataset
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.backend.losses import make_loss
from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.replicas import find_replicas
from tfprune_init.backend.trainer import has_compile_settings
from tfprune_init.checks import check_integer, check_number
from tfprune_init.errors import DataError, ModelError, OptionError, ReplicaError, ScoreError
from tfprune_init.masks import Masks
from tfprune_init.scoring.masked_model import label_errors
from tfprune_init.training.shared_kernels import SharedKernels
from tfprune_init.training.shared_values import Measurement, SharedValue, SharedWeights, count_votes, rank_values

SHARED_VALUES = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
"""The values of the paper."""

_STEPS, _LEARNING_RATE = 100, 0.01


def shared_weight(
    model: Model,
    data: Any,
    masks: Masks | None = None,
    *,
    values: Sequence[float] = SHARED_VALUES,
    signs: str = "equal",
    bias: str = "zero",
    train: Any = None,
    tune: bool = False,
    steps: int | None = None,
    learning_rate: float | None = None,
) -> SharedWeights:
    """Measure a masked network in which every weight that is kept has the same value, at each of several values.

    What such a network can do is in its masks and nowhere else. Every variable of the model has the bits it had
    before, afterwards. The network computes as in inference. Batch normalizations are the identity; other variables
    without a mask stay as they are. `SharedWeights.others` says so of each.

    Args:
        model: A built and compiled model, Keras 3 or tf_keras, plain, wrapped, or with masks attached.
        data: What to measure on: a batched dataset, or arrays.
        masks: True where a weight shares the value. By default the masks that the model carries; if it carries masks,
            these may not keep what those prune.
        values: Values of the shared weight, none of them 0.
        signs: "equal" makes every weight the value v itself; "present" makes it v * sign(w), where w is the present
            weight: a w of 0 stays 0.
        bias: "zero" makes biases 0, "shared" gives them the shared weight too, "present" leaves them. Biases that the
            masks name share the weight anyway.
        train: What to choose values by, and to tune on, in the forms of `data`; `data` itself by default. The best
            value is then the one that fits best what it is measured on.
        tune: Whether to train the value too, by gradient descent: Adam, with the loss that the model is compiled with,
            and the batches of `train` in their order, over and over. It starts from the best value at which the loss of
            the first batch has a gradient.
        steps: Steps of tuning; 100 by default.
        learning_rate: Learning rate of tuning; 0.01 by default.

    Returns:
        SharedWeights: loss, metrics and accuracy by value, the best value, the mean over values, the vote of all
        values as an ensemble (ties go to the lower class), the tuned value. Accuracies are None where outputs are not
        a score for each of several classes, or labels are not classes.

    Raises:
        OptionError: If there are no masks, they keep nothing, an option is out of range or has no effect.
        MaskMismatchError: If the masks were made for another model.
        EnforcementError: If weights are frozen, or a layer computes with others than its variables (LoRA).
        ModelError: If the model is not compiled with a loss, or a loss or an output is NaN or Inf.
        ReplicaError: If the model lives on several replicas.
        ScoreError: If no gradient reaches the shared weight at any of the values, or one is NaN or Inf.
        DataError: If the data is no batched dataset or arrays, is empty, or comes in another order at each walk.

    References:
        Gaier & Ha, Weight Agnostic Neural Networks, NeurIPS 2019: their search looks for networks that work at all
        values; they call the best value on training data "tuned". Their biases share the weight. Gradient descent on
        the value is not theirs.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="head")])
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x, y = np.array([[2.0, 1.0], [3.0, 1.0], [1.0, 2.0]]), np.array([0, 0, 1])
        >>> straight = tpi.Masks({"head/kernel": np.eye(2, dtype=bool)})
        >>> found = tpi.shared_weight(model, (x, y), straight, values=(-1, 0.5, 2))
        >>> found.accuracies, found.best.value, found.ensemble_accuracy
        ((0.0, 1.0, 1.0), 2.0, 1.0)
    """
    compat.check_model(model)
    if find_replicas(model).are_several:
        raise ReplicaError(
            f"tpi.shared_weight measures on one device. Received: model {model.name!r} on several replicas; measure a "
            "copy that was built outside of the strategy."
        )
    _check_compiled(model)
    tuning = _check_tuning(tune, steps, learning_rate)
    kernels = SharedKernels(model, masks, signs, bias, _check_values(values))
    measuring, choosing = to_dataset(data, labels=False), None if train is None else to_dataset(train, labels=False)
    with restore_state(model), deterministic_reductions():
        try:
            kernels.prepare()
            sweep = _Sweep(model, kernels, measuring, choosing)
            swept = tuple(sweep.measure(value) for value in kernels.values)
            right = sweep.count_ensemble()
            tuned = None
            if tuning is not None:
                starts = [one.value for one in rank_values(swept)]
                end = _tune(model, kernels, measuring if choosing is None else choosing, starts, tuning)
                tuned = sweep.measure(end)
        finally:
            model.reset_metrics()
    return SharedWeights(swept, tuned, right, kernels.kept, kernels.others)


class _Sweep:
    """Measures a network at one value after the other, and remembers what each votes for."""

    def __init__(self, model: Model, kernels: SharedKernels, data: tf.data.Dataset, train: tf.data.Dataset | None):
        self._model, self._kernels, self._data, self._train = model, kernels, data, train
        self._classify = tf.function(lambda x: compat.call_model(model, x, False), reduce_retracing=True)
        self._votes: list[np.ndarray] = []
        self._labels: np.ndarray | None = None

    def measure(self, value: float) -> SharedValue:
        """Measure the network at one value."""
        self._kernels.write(value)
        measured, classes, labels = self._look(value, self._data)
        if self._labels is not None and (labels is None or not np.array_equal(self._labels, labels)):
            raise DataError(
                "The examples come in another order at each walk, so votes could not be counted. Shuffle with "
                "reshuffle_each_iteration=False, or not at all."
            )
        self._labels = labels
        self._votes += [] if classes is None else [classes]
        return SharedValue(value, measured, measured if self._train is None else self._look(value, self._train)[0])

    def count_ensemble(self) -> int | None:
        """Count what the vote of all values so far gets right."""
        if self._labels is None:
            return None
        return int(np.count_nonzero(count_votes(np.stack(self._votes)) == self._labels))

    def _look(self, value: float, data: tf.data.Dataset) -> tuple[Measurement, np.ndarray | None, np.ndarray | None]:
        read: list[tuple[np.ndarray, np.ndarray] | None] = []
        examples = 0
        for number, element in enumerate(data, start=1):
            x, y, *_ = (*element, None) if isinstance(element, tuple) else (element, None)
            outputs = self._classify(x)
            if not all(np.isfinite(leaf).all() for leaf in tf.nest.flatten(outputs)):
                raise ModelError(
                    f"With all weights {value:g}, outputs of model {self._model.name!r} for batch {number} are NaN or "
                    "Inf. Leave the value out, take a smaller one, or look for NaN in the data."
                )
            examples += int(tf.nest.flatten(x)[0].shape[0])
            read.append(_read_classes(outputs, y))
        if not read:
            raise DataError("The dataset is empty: it gave no batch to measure on. Check its source and its filters.")
        metrics = self._evaluate(value, data)
        classes = [one for one in read if one is not None]
        if not classes or len(classes) < len(read):
            return Measurement(metrics, None, examples), None, None
        votes, labels = (np.concatenate(parts) for parts in zip(*classes, strict=True))
        return Measurement(metrics, int(np.count_nonzero(votes == labels)), examples), votes, labels

    def _evaluate(self, value: float, data: tf.data.Dataset) -> dict[str, float]:
        try:
            measured = self._model.evaluate(data, verbose=0, return_dict=True)
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            raise ModelError(
                f"Model {self._model.name!r} cannot be evaluated on this data: its labels or inputs do not suit the "
                f"compiled loss and metrics. Cause: {error}"
            ) from error
        metrics = {"loss": float(measured.pop("loss")), **{name: float(measured[name]) for name in sorted(measured)}}
        if not np.isfinite(metrics["loss"]):
            raise ModelError(
                f"With all weights {value:g}, the loss of model {self._model.name!r} is {metrics['loss']}. Leave "
                "the value out, or take a smaller one."
            )
        return metrics


def _read_classes(outputs: Any, y: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the class that each example is put into and its true one; None where they are not about classes."""
    if not tf.is_tensor(outputs) or not tf.is_tensor(y) or outputs.shape.rank != 2 or outputs.shape[1] < 2:
        return None
    scores, labels = np.asarray(outputs), np.asarray(y)
    if labels.shape == scores.shape:
        one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()
        return (scores.argmax(axis=1), labels.argmax(axis=1)) if one_hot else None
    whole = labels.size == len(labels) and (labels == np.round(labels)).all() and (labels >= 0).all()
    return (scores.argmax(axis=1), labels.reshape(-1).astype(np.int64)) if whole else None


def _check_values(values: Any) -> tuple[float, ...]:
    kind = "finite numbers other than 0, which passes no signal"
    try:
        given = tuple(check_number("values", value, kind, lambda number: number != 0) for value in values)
    except TypeError as error:
        raise OptionError(f"values must be {kind}: a sequence of them. Received: values={values!r}.") from error
    if not given or len(set(given)) < len(given):
        raise OptionError(f"values must be {kind}, at least one, each once. Received: values={values!r}.")
    return given


def _check_tuning(tune: Any, steps: Any, learning_rate: Any) -> tuple[int, float] | None:
    """Return steps and learning rate; None where nothing is tuned."""
    if not isinstance(tune, bool):
        raise OptionError(f"tune must be True or False. Received: tune={tune!r}.")
    if tune:
        rate = _LEARNING_RATE if learning_rate is None else learning_rate
        return (
            check_integer("steps", _STEPS if steps is None else steps, 1),
            check_number("learning_rate", rate, "a number above 0", lambda number: number > 0),
        )
    for name, given in (("steps", steps), ("learning_rate", learning_rate)):
        if given is not None:
            raise OptionError(f"{name}= has no effect without tune=True. Received: {name}={given!r}.")
    return None


def _check_compiled(model: Model) -> None:
    own = {"compute_loss", "test_step"} & set(compat.find_overridden_methods(model))
    if not has_compile_settings(model) or (not model.loss and not own and not model.losses):
        raise ModelError(
            f"Model {model.name!r} has no loss to be measured by: call model.compile(optimizer, loss=...) first. "
            "Received: a model that is not compiled with a loss."
        )


def _tune(model: Model, kernels: SharedKernels, data: Any, starts: list[float], tuning: tuple[int, float]) -> float:
    """Train the shared weight alone, from the first of several values that has a gradient; return its last value."""
    steps, learning_rate = tuning
    loss = make_loss(model, None)
    batches = Batches(data)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def differentiate(x: Any, y: Any, sample_weight: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(kernels.tensors)
            value = loss.judge(x, y, sample_weight, False)
        return value, kernels.add_up(tape.gradient(value, kernels.tensors))

    def find_gradient(weight: float, batch: Batch) -> float:
        kernels.write(weight)
        with label_errors(batch, loss.advice):
            value, gradient = map(float, differentiate(batch.x, batch.y, batch.sample_weight))
        if not np.isfinite([value, gradient]).all():
            raise ScoreError(
                f"Loss or gradient of the shared weight is NaN or Inf at {weight:g}, on batch {batch.number}. Take a "
                "smaller learning_rate=, or smaller values."
            )
        return gradient

    start = next((value for value in starts if find_gradient(value, batches.peek()) != 0.0), None)
    if start is None:
        raise ScoreError(
            f"No gradient reaches the shared weight of model {model.name!r} on batch 1: it is 0 at each of "
            f"{', '.join(f'{value:g}' for value in starts)}. The masks may let no signal through. Sweep without "
            "tune=True."
        )
    weight = keras.Variable(start, dtype="float64")
    optimizer = keras.optimizers.Adam(learning_rate)
    for batch in (batches.take(1)[0] for _ in range(steps)):
        optimizer.apply([tf.constant(find_gradient(float(weight), batch), tf.float64)], [weight])
    return float(weight)
