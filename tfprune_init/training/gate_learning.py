"""Gates learned over weights that nobody trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.backend.losses import make_loss
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import DataError, ModelError, ScoreError
from tfprune_init.layers.gates import PlainGate
from tfprune_init.training.feed import Feed
from tfprune_init.training.inputs import ExperimentData


@dataclass(frozen=True, eq=False)
class GateEpoch:
    """Gates after one epoch.

    Attributes:
        loss: Mean over the steps of what was minimized.
        accuracy: Share of the validation examples that are classified right.
        mean: Mean of all factors, which the loss holds at a target.
        open_share: Share of the factors that are not 0.
        factors: Factors of each gate by its name, float64.
    """

    loss: float
    accuracy: float
    mean: float
    open_share: float
    factors: Mapping[str, np.ndarray]


def penalize_mean(factors: Sequence[tf.Tensor], strength: float, target: float) -> tf.Tensor:
    """Return strength * (mean(abs(all factors)) - target) ** 2.

    Args:
        factors: Factors of each gate.
        strength: A number from 0.
        target: What their mean is drawn to.

    Example:
        >>> import tensorflow as tf
        >>> from tfprune_init.training.gate_learning import penalize_mean
        >>> float(penalize_mean([tf.constant([1.0, 0.5]), tf.constant([0.0, 0.5])], 0.5, 0.25))
        0.03125
    """
    mean = tf.reduce_mean(tf.abs(tf.concat([tf.convert_to_tensor(one) for one in factors], 0)))
    return strength * (mean - target) ** 2


def learn_gates(
    model: Model,
    gates: Sequence[PlainGate],
    data: ExperimentData,
    *,
    epochs: int,
    learning_rate: float,
    strength: float,
    target: float,
    seed: int,
    advance: Callable[[int], None],
) -> list[GateEpoch]:
    """Train the gates of a model by Adam, on its loss + strength * (mean(abs(factors)) - target) ** 2.

    The network computes as in training: BatchNorm by the statistics of the batch, which move the moving ones, Dropout
    active. No other variable that trains changes. After every step the factors are clipped to [0, 1].

    Args:
        model: A compiled model.
        gates: Its gates.
        data: Examples to learn from, and as `test` those to validate on.
        epochs: Walks through the examples.
        learning_rate: Rate of Adam.
        strength: As above.
        target: As above.
        seed: Seed of everything random.
        advance: Called with the number of steps that were done.

    Returns:
        The gates after each epoch.

    Raises:
        ModelError: If the model has several outputs, or no loss.
        DataError: If labels are no classes.
        ScoreError: If the loss is not finite.
    """
    feed = Feed(data, seed)
    labels = data.labels()
    loss = make_loss(model, None)
    variables = [gate.factors for gate in gates]
    optimizer = compat.get_keras(model).optimizers.Adam(learning_rate)
    optimizer.build(variables)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def take_step(x: Any, y: Any, sample_weight: Any) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            held = [compat.get_tf_variable(one) for one in variables]
            tape.watch(held)
            judged = loss.judge(x, y, sample_weight, training=True)
            judged += tf.cast(penalize_mean(held, strength, target), judged.dtype)
        optimizer.apply_gradients(zip(tape.gradient(judged, held), variables, strict=True))
        return judged

    compat.set_random_seed(seed)
    found: list[GateEpoch] = []
    for epoch in range(epochs):
        losses = []
        with deterministic_reductions():
            for batch in feed.batches(epoch * feed.steps_per_epoch, (epoch + 1) * feed.steps_per_epoch):
                losses.append(float(take_step(*(*batch, None)[:3])))
                advance(1)
        if not all(map(math.isfinite, losses)):
            raise ScoreError(
                f"The loss of learning gates is not finite in epoch {epoch + 1}, though no weight moves. Check that "
                "the data are finite, and that the initial weights give finite outputs."
            )
        found.append(_look(model, gates, data, labels, float(np.mean(losses))))
    return found


def choose_epoch(epochs: Sequence[GateEpoch], open_share: float) -> int:
    """Return the epoch of the best validation accuracy, the first of several, with few enough open gates.

    Args:
        epochs: The epochs.
        open_share: The largest share of open gates. If it is never reached, the last epoch is chosen.
    """
    among = [number for number, one in enumerate(epochs) if one.open_share <= open_share]
    return max(among, key=lambda number: (epochs[number].accuracy, -number)) if among else len(epochs) - 1


def hold_out(data: Any, share: float) -> ExperimentData:
    """Divide training data: the last ones to validate on, the others to learn from.

    Args:
        data: Arrays, or a batched tf.data.Dataset, of which whole batches are held out.
        share: Share to validate on, in (0, 1).

    Raises:
        DataError: If one of both would be empty.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.training.gate_learning import hold_out
        >>> divided = hold_out((np.arange(10), np.arange(10)), 0.2)
        >>> divided.train[0].tolist(), divided.test[0].tolist()
        ([0, 1, 2, 3, 4, 5, 6, 7], [8, 9])
    """
    if isinstance(data, tf.data.Dataset):
        count = int(data.cardinality())
        count = count if count >= 0 else sum(1 for _ in data)
        learned = count - max(1, round(share * count))
        divided = ExperimentData(data.take(learned), data.skip(learned))
    else:
        arrays = tf.nest.map_structure(np.asarray, tuple(data))
        count = len(tf.nest.flatten(arrays)[0])
        learned = count - max(1, round(share * count))
        divided = ExperimentData(
            tf.nest.map_structure(lambda part: part[:learned], arrays),
            tf.nest.map_structure(lambda part: part[learned:], arrays),
        )
    if learned < 1:
        raise DataError(
            f"Nothing is left to learn gates from: {count} batches or examples, of which {share:g} are held out. Give "
            "smaller batches, or pass validation=."
        )
    return divided


def _look(model: Model, gates: Sequence[PlainGate], data: ExperimentData, labels: np.ndarray, loss: float) -> GateEpoch:
    outputs = model.predict(data.testing(), verbose=0)
    if not isinstance(outputs, np.ndarray) or outputs.ndim != 2 or len(outputs) != len(labels):
        raise ModelError(
            "Gates are judged by classification: the model gives one number for each class. "
            f"Received: outputs of shape {getattr(outputs, 'shape', type(outputs).__name__)}."
        )
    factors = {gate.name: gate.read_factors() for gate in gates}
    every = np.concatenate(list(factors.values()))
    return GateEpoch(
        loss,
        float(np.mean(outputs.argmax(-1) == labels)),
        float(every.mean()),
        float(np.count_nonzero(every) / every.size),
        factors,
    )
