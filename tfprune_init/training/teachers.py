"""Teachers of distillation: other networks, and the student's own network with other weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.overrides import override_variables
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.cost import CostModel
from tfprune_init.graph.variables import list_variables
from tfprune_init.graph.weight_copies import check_weights
from tfprune_init.training.inputs import model_fingerprint

MODEL_SUFFIX = ".keras"


class Teacher(Protocol):
    """What gives a student the outputs that it learns from."""

    def compute(self, x: Any) -> tf.Tensor:
        """Compute the outputs of a batch, in inference."""

    def hold(self) -> AbstractContextManager[None]:
        """Keep the teacher as it is while it is asked."""

    def count_multiply_adds(self) -> int | None:
        """Count the multiply-adds of one example; None where they are not known."""


class OtherNetwork:
    """Another model as the teacher.

    Args:
        model: A built model of either Keras.

    Raises:
        ModelError: If it is none.
    """

    def __init__(self, model: Model):
        compat.check_model(model)
        self._model = model

    def compute(self, x: Any) -> tf.Tensor:
        """Compute its outputs, in inference."""
        return compat.call_model(self._model, x, False)

    def hold(self) -> AbstractContextManager[None]:
        """Put back whatever its calls move, such as the states of recurrent layers."""
        return restore_state(self._model)

    def count_multiply_adds(self) -> int | None:
        """Count those of its nonzero weights; None for a subclassed model."""
        if not compat.is_symbolic(self._model):
            return None
        kept = {target.path: target.tensor.numpy() != 0 for target in list_variables(self._model)}
        return CostModel(self._model).count_nonzero(kept).multiply_adds


class OwnNetwork:
    """The network of the student with other weights, such as those before it was pruned.

    Args:
        student: The student. It is read, and not written.
        weights: An array for each of its variables, by path.

    Raises:
        OptionError: If the weights do not fit.
    """

    def __init__(self, student: Model, weights: Mapping[str, Any]):
        self._student = student
        self._variables = list_variables(student)
        checked = check_weights("teacher", weights, student, self._variables)
        self._weights = {one.path: tf.constant(checked[one.path], one.tensor.dtype) for one in self._variables}

    def compute(self, x: Any) -> tf.Tensor:
        """Compute what the network computes with these weights, in inference."""
        with override_variables(self._student, self._variables, self._weights):
            return compat.call_model(self._student, x, False)

    def hold(self) -> AbstractContextManager[None]:
        """Do nothing: there are no variables that a call could move."""
        return nullcontext()

    def count_multiply_adds(self) -> int | None:
        """Count those of the weights that are not zero; None for a subclassed model."""
        if not compat.is_symbolic(self._student):
            return None
        kept = {path: np.asarray(value) != 0 for path, value in self._weights.items()}
        return CostModel(self._student).count_nonzero(kept).multiply_adds


def make_teacher(given: Any, student: Model) -> Teacher:
    """Make a teacher of a model, a .keras file, or weights for the network of the student.

    Args:
        given: A built model of either Keras; the path of a .keras file, which the Keras of the student must have
            written; or a mapping from variable path to an array, as of `tpi.copy_variables`.
        student: The student.

    Raises:
        OptionError: If it is none of these, or the teacher and the student share variables.
        ModelError: If the file cannot be loaded.
    """
    if isinstance(given, Mapping):
        return OwnNetwork(student, given)
    model = load_teacher(given, student) if is_file(given) else given
    if not compat.is_model(model):
        raise OptionError(
            "The teacher is a model, the path of a .keras file, or weights by variable path as of tpi.copy_variables. "
            f"Received: {given!r:.200}."
        )
    teacher = OtherNetwork(model)
    own = {id(target.tensor) for target in list_variables(student)}
    shared = [target.path for target in list_variables(model) if id(target.tensor) in own]
    if shared:
        raise OptionError(
            f"The teacher and the student share variables, so it would change as it teaches: {', '.join(shared[:5])}. "
            "Give teacher=tpi.copy_variables(model), made before, to learn from what the student was."
        )
    return teacher


def identify_teacher(given: Any) -> str:
    """Say which teacher it is, so that runs with different ones can be told apart.

    Args:
        given: A model, the path of a .keras file, or the name of a snapshot.

    Returns:
        The hash of the model's architecture and weights, or of the file; the name of a snapshot as it is.

    Raises:
        OptionError: If it is none of these, or there is no such file.

    Example:
        >>> from tfprune_init.training.teachers import identify_teacher
        >>> identify_teacher("start")
        "snapshot 'start'"
    """
    if is_file(given):
        path = Path(given).expanduser()
        if not path.is_file():
            raise OptionError(f"There is no file of a teacher. Received: teacher={str(given)!r}.")
        return f"file {hashlib.sha256(path.read_bytes()).hexdigest()}"
    if isinstance(given, str):
        return f"snapshot {given!r}"
    if compat.is_model(given):
        compat.check_model(given)
        return f"model {model_fingerprint(given)}"
    raise OptionError(
        "The teacher of a procedure is a model, the path of a .keras file, or the name of a snapshot of the run. "
        f"Received: {given!r:.200}."
    )


def is_file(given: Any) -> bool:
    """Return whether a teacher is given as a file: a path, or a text that ends in .keras."""
    return isinstance(given, os.PathLike) or (isinstance(given, str) and given.endswith(MODEL_SUFFIX))


def load_teacher(given: str | os.PathLike[str], student: Model) -> Model:
    """Load a teacher by the Keras of the student, without its optimizer.

    Raises:
        ModelError: If it cannot be loaded.
    """
    keras = compat.get_keras(student)
    try:
        model: Model = keras.models.load_model(Path(given).expanduser(), compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"The teacher {str(given)!r} cannot be loaded by {compat.get_package_name(student)}: "
            f"{str(error).strip()[:400]}. Load it in Python, and give the model."
        ) from error
    return model
