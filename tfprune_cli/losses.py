"""The loss that `--loss` names, and whether a model's outputs suit it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model
from tfprune_init.checks import suggest
from tfprune_init.errors import ModelError, OptionError

_OF_PROBABILITIES = {
    "binary_crossentropy": "BinaryCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
}
_OPTIMIZER = "adam"


def check_loss_options(loss: str | None, from_logits: bool) -> None:
    """Refuse `--from-logits` where it has no effect.

    Raises:
        OptionError: If there is no loss it is for.
    """
    if from_logits and loss not in _OF_PROBABILITIES:
        raise OptionError(
            f"--from-logits is for --loss {', '.join(_OF_PROBABILITIES)}. Received: --loss {loss or 'not given'}."
        )


def compile_for(model: Model, outputs: Any, loss: str | None, from_logits: bool) -> None:
    """Make sure that a model has a loss that suits what it gives.

    Args:
        model: A built model.
        outputs: What it gives for some examples.
        loss: Keras's name of the loss to compile it with; None for the loss that it has.
        from_logits: Whether the outputs are logits, for that loss.

    Raises:
        ModelError: If there is no loss, or the outputs are logits and the loss wants probabilities, or the reverse.
        OptionError: If Keras has no such loss.
    """
    if loss is not None:
        if loss in _OF_PROBABILITIES and isinstance(outputs, tf.Tensor):
            _check_outputs(outputs.numpy(), loss, from_logits)
        metrics = ["accuracy"] if loss in _OF_PROBABILITIES else None
        model.compile(_OPTIMIZER, find_loss(compat.get_keras(model), loss, from_logits), metrics=metrics)
    elif getattr(model, "loss", None) is None:
        raise ModelError(
            f"Model {model.name!r} was saved without a loss: say which with --loss. For classes given as integers that "
            "is --loss sparse_categorical_crossentropy, with --from-logits if the model ends without a softmax."
        )


def _check_outputs(outputs: np.ndarray, loss: str, from_logits: bool) -> None:
    probable = bool(((outputs >= 0) & (outputs <= 1)).all())
    if loss != "binary_crossentropy":
        probable = probable and np.allclose(outputs.sum(axis=-1), 1, atol=1e-2)
    if probable and from_logits:
        raise ModelError("The model's outputs are probabilities, not logits: leave --from-logits out.")
    if not probable and not from_logits:
        raise ModelError(
            f"{loss} wants probabilities, and the model's outputs go from {outputs.min():.3g} to {outputs.max():.3g}: "
            "say --from-logits if they are logits."
        )


def find_loss(package: Any, name: str, from_logits: bool) -> Any:
    """Find the loss of Keras or tf_keras of a name.

    Raises:
        OptionError: If it has none of that name.
    """
    if name in _OF_PROBABILITIES:
        return getattr(package.losses, _OF_PROBABILITIES[name])(from_logits=from_logits)
    try:
        return package.losses.get(name)
    except ValueError as error:
        known = [key for key in dir(package.losses) if key.islower() and not key.startswith("_")]
        raise OptionError(f"Keras has no loss {name!r}. {suggest(name, known)}") from error
