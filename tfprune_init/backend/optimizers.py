"""Optimizers of both Keras versions: where gradients enter, what is kept for each variable, steps within a replica."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras

from tfprune_init.backend.compat import get_class_names
from tfprune_init.backend.contracts import get_private, require
from tfprune_init.backend.thread_overrides import override_for_thread


def get_gradient_method(optimizer: Any) -> str:
    """Return the name of the optimizer's method through which all gradients pass."""
    return "apply" if isinstance(optimizer, keras.optimizers.Optimizer) else "apply_gradients"


def list_trained_variables(optimizer: Any) -> list[Any]:
    """List the variables that a Keras 3 optimizer was built for; empty before, and for tf_keras."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return []
    require("keras BaseOptimizer._trainable_variables")
    return list(optimizer._trainable_variables)


def list_slots(optimizer: Any) -> list[tuple[Any, Any]]:
    """List what a Keras 3 optimizer keeps for each variable: pairs of slot and variable."""
    variables = list_trained_variables(optimizer)
    lists = [
        value
        for name, value in vars(optimizer).items()
        if isinstance(value, list) and name != "_trainable_variables" and len(value) == len(variables)
    ]
    return [pair for slots in lists for pair in zip(slots, variables, strict=True)]


def find_optimizers(optimizer: Any) -> list[Any]:
    """Return an optimizer, and those that it leaves the work to."""
    inner = getattr(optimizer, "inner_optimizer", None)
    parts = getattr(optimizer, "optimizers", []) if inner is None else [inner]
    return [optimizer, *(one for part in parts for one in find_optimizers(part))]


def get_optimizer_variables(optimizer: Any) -> list[Any]:
    """List every variable on which an optimizer's next step depends, also those it does not list."""
    found = []
    for one in find_optimizers(optimizer):
        # Nadam's running product is in no list.
        found += [*one.variables, *(value for value in vars(one).values() if isinstance(value, keras.Variable))]
    return list({id(variable): variable for variable in found}.values())


def is_divided(optimizer: Any) -> bool:
    """Return whether an optimizer leaves each variable to one of several others."""
    return "MultiOptimizer" in get_class_names(optimizer)


def list_factored_moments(optimizer: Any) -> list[Any]:
    """List the second moments that Adafactor computes from rows and columns; empty before it is built."""
    package = "keras" if isinstance(optimizer, keras.optimizers.Optimizer) else "tf_keras"
    require(f"{package} Adafactor._v")
    return [moment for moment in getattr(optimizer, "_v", []) if moment is not None]


@contextmanager
def run_undistributed() -> Iterator[None]:
    """Let Keras 3's optimizers work as on one device while this thread traces their step.

    By itself an optimizer clips and accumulates each replica's gradient before it adds them up. It also asks for other
    replicas inside conditions, where that is impossible, so gradient accumulation and averaged weights that are written
    back every few steps fail. A replica needs none of that if it receives gradients that are added up already and has
    its own copy of each variable. What Keras does on backends without replicas is then right.
    """
    names = (
        "_apply_weight_decay",
        "_backend_update_step",
        "_overwrite_model_variables_with_average_value",
        "_backend_increment_gradient_accumulators",
    )
    with ExitStack() as undo:
        for name in names:
            undo.enter_context(_replace(f"TFOptimizer.{name}", f"BaseOptimizer.{name}"))
        undo.enter_context(_replace("LossScaleOptimizer._tf_apply", "LossScaleOptimizer._common_apply"))
        yield


def _replace(distributed: str, alone: str) -> Any:
    function = get_private(f"keras {alone}")

    def call(original: Any, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return override_for_thread(f"keras {distributed}", call)
