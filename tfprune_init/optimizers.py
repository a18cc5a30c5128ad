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
            gradient = constraint.masked(gradient)
        masked.append(gradient)
    return masked


def guard_optimizer(optimizer: Any) -> None:
    """Make an optimizer mask gradients first, if it shares statistics between weights.

    That is: clipnorm, global_clipnorm, LAMB's trust ratio and Muon's orthogonalization. What it remembers of
    pruned connections from earlier steps is set to zero. Without sharing, the kept weights' updates do not
    depend on the pruned ones and nothing is changed.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if _divides(inner):
        vars(inner)["apply"] = MethodType(_apply_divided, inner)
        for part in inner.optimizers:
            guard_optimizer(part)
    elif _shares_statistics(inner):
        _forget_pruned(inner)
        entry = kerases.gradient_entry(optimizer)
        vars(optimizer)[entry] = MethodType(_apply if entry == "apply" else _apply_gradients, optimizer)


def release_optimizer(optimizer: Any) -> None:
    """Undo `guard_optimizer`."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for one in [optimizer, inner, *(inner.optimizers if _divides(inner) else [])]:
        vars(one).pop(kerases.gradient_entry(one), None)


def _shares_statistics(optimizer: Any) -> bool:
    clips = getattr(optimizer, "clipnorm", None) is not None or getattr(optimizer, "global_clipnorm", None) is not None
    return clips or bool(kerases.class_names(optimizer) & _SHARING)


def _divides(optimizer: Any) -> bool:
    """Whether the optimizer leaves each variable to one of several others."""
    return "MultiOptimizer" in kerases.class_names(optimizer)


def _forget_pruned(optimizer: Any) -> None:
    variables = getattr(optimizer, "_trainable_variables", [])
    for slots in vars(optimizer).values():
        if isinstance(slots, list) and slots is not variables and len(slots) == len(variables):
            for slot, variable in zip(slots, variables, strict=True):
                constraint = constraint_of(variable)
                if constraint is not None and getattr(slot, "shape", None) == variable.shape:
                    slot.assign(constraint.project(tf.convert_to_tensor(slot)))


def _apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
    variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
    masked = mask_gradients(grads, variables)
    return type(self).apply(self, masked, None if trainable_variables is None else variables)


def _apply_divided(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
    # It may choose its optimizers only when it is built.
    if not self.built:
        self.build(list(trainable_variables))
        self.built = True
    for part in self.optimizers:
        if "apply" not in vars(part):
            guard_optimizer(part)
    return type(self).apply(self, grads, trainable_variables)


def _apply_gradients(self: Any, grads_and_vars: Any, *args: Any, **kwargs: Any) -> Any:
    gradients, variables = zip(*grads_and_vars, strict=True)
    pairs = zip(mask_gradients(gradients, variables), variables, strict=True)
    return type(self).apply_gradients(self, list(pairs), *args, **kwargs)
