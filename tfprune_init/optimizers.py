"""Keep pruned connections out of what an optimizer shares between weights."""

from __future__ import annotations

from collections.abc import Iterable
from types import MethodType
from typing import Any

import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.constraint import constraint_of

# Their update of one weight depends on the gradients of the whole array. Adafactor's does too, but its
# factored second moments divide by zero where whole rows are masked, so it sees all gradients.
_SHARING = frozenset(["Lamb", "Muon"])


def mask_gradients(gradients: Iterable[Any], variables: Iterable[Any]) -> list[Any]:
    """Gradients with 0 at pruned connections.

    Args:
        gradients: One tensor, or None, for each variable.
        variables: The variables; those without masks keep their gradient.

    Returns:
        A list of tensors, for a training loop of one's own that clips or averages gradients.
    """
    masked = []
    for gradient, variable in zip(gradients, variables, strict=True):
        constraint = constraint_of(variable)
        if constraint is not None and gradient is not None:
            gradient = tf.where(constraint.tensor, gradient, tf.zeros((), gradient.dtype))
        masked.append(gradient)
    return masked


def guard_optimizer(optimizer: Any) -> None:
    """Make an optimizer mask gradients first, if it shares statistics between weights.

    That is: clipnorm, global_clipnorm, LAMB's trust ratio and Muon's orthogonalization. Without sharing,
    the kept weights' updates do not depend on the pruned ones and nothing is changed.
    """
    entry = kerases.gradient_entry(optimizer)
    if entry in vars(optimizer) or not _shares_statistics(optimizer):
        return
    vars(optimizer)[entry] = MethodType(_apply if entry == "apply" else _apply_gradients, optimizer)


def release_optimizer(optimizer: Any) -> None:
    """Undo `guard_optimizer`."""
    vars(optimizer).pop(kerases.gradient_entry(optimizer), None)


def _shares_statistics(optimizer: Any) -> bool:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    clips = getattr(inner, "clipnorm", None) is not None or getattr(inner, "global_clipnorm", None) is not None
    return clips or bool(kerases.class_names(inner) & _SHARING)


def _apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
    variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
    return type(self).apply(self, mask_gradients(grads, variables), trainable_variables and variables)


def _apply_gradients(self: Any, grads_and_vars: Any, *args: Any, **kwargs: Any) -> Any:
    gradients, variables = zip(*grads_and_vars, strict=True)
    pairs = zip(mask_gradients(gradients, variables), variables, strict=True)
    return type(self).apply_gradients(self, list(pairs), *args, **kwargs)
