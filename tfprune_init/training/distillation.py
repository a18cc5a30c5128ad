"""Knowledge distillation: a network learns from the outputs of another one, beside the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.backend.instance_methods import get_replacement, replace_method, restore_method
from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.overrides import override_attributes
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.replicas import find_replicas
from tfprune_init.checks import check_integer, check_number
from tfprune_init.errors import ModelError, OptionError, ReplicaError
from tfprune_init.training.feed import Feed
from tfprune_init.training.inputs import compile_model, prepare_data
from tfprune_init.training.teachers import Teacher, make_teacher


def distill(
    student: Model,
    teacher: Any,
    data: Any,
    *,
    temperature: float = 4.0,
    weight: float = 0.9,
    epochs: int = 1,
    optimizer: Any = None,
    loss: Any = None,
    seed: int = 0,
    callbacks: Sequence[Any] = (),
    validation_data: Any = None,
    verbose: int = 0,
) -> dict[str, list[float]]:
    """Train a network on its own loss and on the softened outputs of a teacher.

    The loss is (1 - weight) * (the loss of the student) + weight * T^2 * KL(softmax(teacher / T) || softmax(student /
    T)), the divergence a mean over the examples, which their sample weights multiply. Regularizers and losses that
    layers add count in full. What masks attached to the student prune stays exactly 0.0. The teacher computes in
    inference, and no variable of it changes.

    Args:
        student: A built model of either Keras, whose one output holds logits, shape (batch, classes).
        teacher: A model of either Keras with the same logits; the path of a .keras file; or weights by variable path
            for the network of the student, as `tpi.copy_variables(student)` gave them before it was pruned.
        data: A batched tf.data.Dataset of (x, y), or a pair of arrays, drawn in a new order for every epoch.
        temperature: T, positive; the larger, the more the student learns of unlikely classes.
        weight: Weight of the teacher, in (0, 1].
        epochs: Walks through the data.
        optimizer: For a student that is not compiled; Adam by default.
        loss: For a student that is not compiled; sparse categorical cross-entropy of logits by default.
        seed: Decides the order of arrays, and what layers such as Dropout draw.
        callbacks: Callbacks of Keras.
        validation_data: What to evaluate on after each epoch, as `fit` takes it: by the loss of the student alone.
        verbose: As in `fit`.

    Returns:
        What `fit` logged, epoch by epoch. Keras 3 logs as "loss" the loss of distillation, tf_keras that of the student
        alone, which its compiled loss counts.

    Raises:
        OptionError: If an option is out of range or has no effect, or teacher and student share variables.
        DataError: If the data are neither a batched dataset nor arrays, or have no labels.
        ModelError: If outputs are no logits or do not match, or the student trains by a `train_step` of its own.
        ReplicaError: If the student is on several replicas.

    Example:
        >>> import tfprune_init as tpi
        >>> digits = tpi.datasets.load("digits")
        >>> teacher = tpi.models.lenet_300_100(digits.input_shape, digits.classes, seed=0)
        >>> student = tpi.models.lenet_300_100(digits.input_shape, digits.classes, seed=1)
        >>> tpi.attach(student, tpi.find_masks(student, None, sparsity=0.9, method="random"))
        >>> history = tpi.distill(student, teacher, digits.train)
        >>> sorted(history)
        ['accuracy', 'loss']

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531
    """
    compat.check_model(student)
    temperature, weight = check_settings(temperature, weight)
    count = check_integer("epochs", epochs, 1)
    feed = Feed(prepare_data((data, data)), check_integer("seed", seed, 0))
    found = make_teacher(teacher, student)
    check_student(student, feed)
    check_outputs(student, found, feed)
    compile_model(student, optimizer, loss)
    compat.set_random_seed(seed)
    with learn_from(student, found, temperature, weight), deterministic_reductions():
        history: dict[str, list[float]] = student.fit(
            feed.batches(0, count * feed.steps_per_epoch),
            epochs=count,
            steps_per_epoch=feed.steps_per_epoch,
            shuffle=False,
            callbacks=list(callbacks),
            validation_data=validation_data,
            verbose=verbose,
        ).history
    return history


def compute_divergence(
    student: tf.Tensor, teacher: tf.Tensor, temperature: float, sample_weight: tf.Tensor | None = None
) -> tf.Tensor:
    """Compute T^2 * KL(softmax(teacher / T) || softmax(student / T)), the mean over the examples.

    Args:
        student: Logits, shape (batch, classes).
        teacher: Logits of the same shape; no gradient reaches them.
        temperature: T.
        sample_weight: What the divergence of each example is multiplied by, shape (batch,) or (batch, 1).

    Example:
        >>> import tensorflow as tf
        >>> from tfprune_init.training.distillation import compute_divergence
        >>> round(float(compute_divergence(tf.constant([[1.0, 0, -1]]), tf.constant([[2.0, 0, 0]]), 4.0)), 4)
        0.1031
    """
    # Nearly equal distributions differ by what float32 rounds away.
    own = tf.nn.log_softmax(tf.cast(student, tf.float64) / temperature)
    other = tf.nn.log_softmax(tf.cast(tf.stop_gradient(teacher), tf.float64) / temperature)
    each = tf.reduce_sum(tf.exp(other) * (other - own), -1)
    if sample_weight is not None:
        each *= tf.reshape(tf.cast(sample_weight, tf.float64), tf.shape(each))
    return temperature**2 * tf.reduce_mean(each)


@contextmanager
def learn_from(student: Model, teacher: Teacher, temperature: float, weight: float) -> Iterator[None]:
    """Let every training step of a compiled model minimize the loss of distillation; evaluation stays as it is.

    Args:
        student: The model.
        teacher: Whose outputs it learns from.
        temperature: As in `distill`.
        weight: As in `distill`.
    """
    overridden = "compute_loss" in compat.find_overridden_methods(student)

    def compute_loss(
        self: Any, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, **options: Any
    ) -> tf.Tensor:
        own = type(self).compute_loss(self, x, y, y_pred, sample_weight, **options)
        # A compute_loss of the user's own may leave out what layers add.
        added = [] if overridden else [tf.cast(tf.reduce_sum(one), own.dtype) for one in self.losses]
        (logits,) = tf.nest.flatten(y_pred)
        (taught,) = tf.nest.flatten(teacher.compute(x))
        learned = tf.cast(compute_divergence(logits, taught, temperature, sample_weight), own.dtype)
        return (1 - weight) * own + weight * tf.add_n([learned, *added])

    def train_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as undo:
            undo.enter_context(override_attributes(self, compute_loss=compute_loss.__get__(self)))
            return type(self).train_step(self, *args, **kwargs)

    replace_method(student, "train_step", train_step)
    compat.reset_train_function(student)
    try:
        with teacher.hold():
            yield
    finally:
        restore_method(student, "train_step")
        compat.reset_train_function(student)


def check_settings(temperature: float, weight: float) -> tuple[float, float]:
    """Return temperature and weight of a distillation.

    Raises:
        OptionError: If one is out of range.
    """
    return (
        check_number("temperature", temperature, "a number above 0", lambda value: value > 0),
        check_number("weight", weight, "a number above 0 and at most 1", lambda value: 0 < value <= 1),
    )


def check_student(student: Model, feed: Feed) -> None:
    """Refuse a model that cannot learn from the outputs of another one.

    Raises:
        ModelError: If its outputs are no logits, or it trains by a `train_step` of its own.
        ReplicaError: If it is on several replicas.
        OptionError: If it learns from a teacher already.
    """
    if "train_step" in compat.find_overridden_methods(student):
        raise ModelError(
            f"Model {student.name!r} trains by the train_step of {type(student).__name__}, which may not use the loss "
            "that a teacher is part of. Override compute_loss instead."
        )
    if get_replacement(student, "train_step") is not None:
        raise OptionError(f"Model {student.name!r} learns from a teacher already. Finish that training first.")
    replicas = find_replicas(student)
    if replicas.are_several:
        raise ReplicaError(
            f"Distillation trains on one device. Received: a model on {replicas.count} replicas; build it outside of "
            "the strategy's scope."
        )
    with restore_state(student):
        _read_logits(compat.call_model(student, _take_inputs(feed), False), "student")


def check_outputs(student: Model, teacher: Teacher, feed: Feed) -> None:
    """Refuse a teacher whose outputs on the first batch are no logits, or not those of as many classes.

    Raises:
        ModelError: If they are not.
    """
    x = _take_inputs(feed)
    with teacher.hold(), restore_state(student):
        taught = _read_logits(teacher.compute(x), "teacher")
        own = _read_logits(compat.call_model(student, x, False), "student")
    if own.shape != taught.shape:
        raise ModelError(
            "Student and teacher must have a logit for each class, as many classes each. Received: outputs of shapes "
            f"{own.shape} and {taught.shape}."
        )


def _take_inputs(feed: Feed) -> Any:
    return next(iter(feed.batches(0, 1)))[0]


def _read_logits(outputs: Any, name: str) -> np.ndarray:
    leaves = tf.nest.flatten(outputs)
    shapes = [tuple(leaf.shape) for leaf in leaves]
    if len(leaves) != 1 or len(shapes[0]) != 2 or shapes[0][1] < 2:
        raise ModelError(
            f"Distillation needs a {name} with one output of logits, shape (batch, classes), of two classes and more. "
            f"Received: outputs of shapes {shapes}."
        )
    logits = np.asarray(tf.cast(leaves[0], tf.float64))
    if not np.isfinite(logits).all():
        raise ModelError(f"The outputs of the {name} on the first batch hold NaN or Inf. Give it other weights.")
    if (logits >= 0).all() and np.allclose(logits.sum(-1), 1, atol=1e-3):
        raise ModelError(
            f"The outputs of the {name} are probabilities, which a temperature does not soften. Use a model that ends "
            "before its softmax, and a loss with from_logits=True."
        )
    return logits
