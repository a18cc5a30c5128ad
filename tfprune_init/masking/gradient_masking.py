"""Keep pruned connections out of what an optimizer shares between weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.instance_methods import get_replacement, replace_method, restore_method
from tfprune_init.backend.optimizers import get_gradient_method, is_divided, list_slots, list_trained_variables
from tfprune_init.masking.constraint import get_holding_constraint
from tfprune_init.masking.finite_steps import check_divisions, guard_moments, release_moments

# Their update of one weight depends on the gradients of the whole array. Adafactor's does too, but what it
# knows of a row comes from all gradients in the row, so it sees those of pruned connections as well.
_SHARING = frozenset(["Lamb", "Muon"])


def mask_gradients(gradients: Iterable[Any], variables: Iterable[Any]) -> list[Any]:
    """Gradients with 0 at pruned connections, and at frozen ones.

    Args:
        gradients: One tensor, or None, for each variable.
        variables: The variables; those without masks keep their gradient.

    Returns:
        A list of tensors, for a training loop of one's own that clips or averages gradients.
    """
    masked = []
    for gradient, variable in zip(gradients, variables, strict=True):
        constraint = get_holding_constraint(variable)
        if constraint is not None and gradient is not None:
            gradient = constraint.masked(gradient)
        masked.append(gradient)
    return masked


def intercept_optimizer(optimizer: Any) -> None:
    """Make an optimizer mask gradients first, if it shares statistics between weights.

    That is: clipnorm, global_clipnorm, LAMB's trust ratio and Muon's orthogonalization. What it remembers of
    pruned connections from earlier steps is set to zero. Without sharing, the kept weights' updates do not
    depend on the pruned ones and nothing is changed. No step is to be 0/0 where gradients are 0, see `finite_steps`.

    Raises:
        EnforcementError: If the optimizer divides 0 by 0 for weights without a gradient.
    """
    check_divisions(optimizer)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    guard_moments(inner)
    if is_divided(inner):
        replace_method(inner, "apply", _apply_divided)
        for part in inner.optimizers:
            intercept_optimizer(part)
    elif _shares_statistics(inner):
        _forget_pruned(inner)
        entry = get_gradient_method(optimizer)
        replace_method(optimizer, entry, _apply if entry == "apply" else _apply_gradients)


def restore_optimizer(optimizer: Any) -> None:
    """Undo `intercept_optimizer`."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for one in [optimizer, inner, *(inner.optimizers if is_divided(inner) else [])]:
        restore_method(one, get_gradient_method(one))
        release_moments(one)


def _shares_statistics(optimizer: Any) -> bool:
    clips = getattr(optimizer, "clipnorm", None) is not None or getattr(optimizer, "global_clipnorm", None) is not None
    return clips or bool(compat.get_class_names(optimizer) & _SHARING)


def _forget_pruned(optimizer: Any) -> None:
    for slot, variable in list_slots(optimizer):
        constraint = get_holding_constraint(variable)
        if constraint is not None and getattr(slot, "shape", None) == variable.shape:
            slot.assign(constraint.masked(tf.convert_to_tensor(slot)))


def _apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
    variables = list_trained_variables(self) if trainable_variables is None else list(trainable_variables)
    masked = mask_gradients(grads, variables)
    return type(self).apply(self, masked, None if trainable_variables is None else variables)


def _apply_divided(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
    # It may choose its optimizers only when it is built.
    if not self.built:
        self.build(list(trainable_variables))
        self.built = True
    for part in self.optimizers:
        if get_replacement(part, "apply") is None:
            intercept_optimizer(part)
    return type(self).apply(self, grads, trainable_variables)


def _apply_gradients(self: Any, grads_and_vars: Any, *args: Any, **kwargs: Any) -> Any:
    gradients, variables = zip(*grads_and_vars, strict=True)
    pairs = zip(mask_gradients(gradients, variables), variables, strict=True)
    return type(self).apply_gradients(self, list(pairs), *args, **kwargs)
