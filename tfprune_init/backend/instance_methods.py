"""Methods replaced on one object, which stays of its class: how masks take part in what Keras does with a model.

Keras calls `call`, `train_step`, `compile`, `fit`, `get_config`, `apply`, `build` and `assign` through the object, so a
function in the object's own namespace is called in place of the method of its class.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import keras
import tensorflow as tf

from tfprune_init.backend.contracts import require

# Classes of Keras 3 and of tf_keras that have the methods, by their last part in `contracts`.
_OWNERS = {
    "compile": ("Trainer", "Model"),
    "fit": ("TensorFlowTrainer", "Model"),
    "get_config": ("Layer", "Layer"),
    "apply": ("BaseOptimizer", None),
    "apply_gradients": (None, "Optimizer"),
    "build": ("BaseOptimizer", "Optimizer"),
    "_check_quantize_args": ("Layer", None),
    "enable_lora": (None, None),
    "call": (None, None),
    "train_step": (None, None),
}


def replace_method(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Let a function be called in place of a method of one object.

    Args:
        owner: A layer, model or optimizer of either Keras.
        name: One of those in `_OWNERS`.
        function: Called as `function(owner, *args, **kwargs)`; `type(owner)` has the original.

    Raises:
        BackendError: If Keras's method is not what it was.
    """
    is_keras3 = isinstance(owner, (keras.layers.Layer, keras.optimizers.Optimizer))
    package, kind = ("keras", _OWNERS[name][0]) if is_keras3 else ("tf_keras", _OWNERS[name][1])
    if kind is not None:
        require(f"{package} {kind}.{name}")
    vars(owner)[name] = MethodType(function, owner)


def get_replacement(owner: Any, name: str) -> Callable[..., Any] | None:
    """Return the function that replaces a method of an object; None if none does."""
    return getattr(vars(owner).get(name), "__func__", None)


def restore_method(owner: Any, name: str) -> None:
    """Let the object have the method of its class again."""
    vars(owner).pop(name, None)


def guard_values(holder: tf.Variable, project: Callable[[tf.Tensor], tf.Tensor]) -> None:
    """Pass each tensor that is assigned to a variable, or restored into it from a checkpoint, through a function.

    Does nothing to a variable that is guarded already.

    Args:
        holder: The variable.
        project: Function from a tensor of the variable's shape and dtype to another.

    Raises:
        BackendError: If TensorFlow's methods are not what they were.
    """
    if is_guarded(holder):
        return
    require("tensorflow BaseResourceVariable.assign", "tensorflow BaseResourceVariable._restore_from_tensors")

    def assign(value: Any, *args: Any, **kwargs: Any) -> Any:
        tensor = tf.convert_to_tensor(value, dtype=holder.dtype)
        return type(holder).assign(holder, project(tensor), *args, **kwargs)

    def restore(tensors: dict[str, tf.Tensor]) -> Any:
        projected = {key: project(tf.convert_to_tensor(tensor)) for key, tensor in tensors.items()}
        return type(holder)._restore_from_tensors(holder, projected)

    vars(holder).update(assign=assign, _restore_from_tensors=restore)


def is_guarded(holder: tf.Variable) -> bool:
    """Return whether `guard_values` guards a variable."""
    return "assign" in vars(holder)


def unguard_values(holder: tf.Variable) -> None:
    """Undo `guard_values`."""
    vars(holder).pop("assign", None)
    vars(holder).pop("_restore_from_tensors", None)
