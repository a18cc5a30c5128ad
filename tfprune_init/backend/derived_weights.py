"""Weights that a layer derives from its variables, in place of computing with the variable itself."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import tensorflow as tf

from tfprune_init.backend.compat import get_tf_variable


def find_derived_weight(layer: Any, variable: Any) -> Any | None:
    """Return what a layer computes with in place of one of its variables; None if it is the variable itself.

    LoRA adds a product to the kernel, other layers standardize it, or read that of another layer: their attribute of
    the variable's name is a property, or holds another variable. A layer that changes weights within `call` is not
    seen.

    Args:
        layer: The layer that created the variable.
        variable: The Keras variable.
    """
    name = variable.name.rsplit("/", 1)[-1].split(":")[0]
    if isinstance(inspect.getattr_static(type(layer), name, None), property):
        # Every layer has some properties, such as `output`, that have nothing to do with a variable of that name.
        found = None if hasattr(keras.layers.Layer, name) else getattr(layer, name)
        is_weight = hasattr(found, "shape")
    else:
        # It may be a tensor of the last call, as under TF-MOT's quantization, which leaves zeros at zero.
        found = vars(layer).get(name)
        is_weight = isinstance(found, (keras.Variable, tf.Variable))
    return found if is_weight and get_tf_variable(found) is not get_tf_variable(variable) else None


def reset_inference_functions(model: Any) -> None:
    """Make the next predict and evaluate build their functions anew: layers derive their weights in another way."""
    model.predict_function = None
    model.test_function = None
