"""TF-MOT itself, imported so that nothing outside it changes."""

from __future__ import annotations

import os

import tensorflow as tf

from tfprune_init.errors import MissingDependencyError

_NEEDS = ("tfprune_init.tfmot", "tensorflow-model-optimization tf_keras", None)
_SWITCH = "TF_USE_LEGACY_KERAS"

try:
    import tf_keras  # first: TF-MOT without it leaves TensorFlow's own name `keras` broken
except ImportError as error:
    raise MissingDependencyError(*_NEEDS, str(error)) from error

# Importing TF-MOT sets the switch, for this process and those it starts, and thereby decides which Keras TensorFlow's
# own name `keras` stands for. It looks at both only while it is imported, so they can be put back.
_before = os.environ.get(_SWITCH)
_name = vars(tf).get("keras")
try:
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import PruneLowMagnitude
except ImportError as error:
    raise MissingDependencyError(*_NEEDS, str(error)) from error
finally:
    if _before is None:
        os.environ.pop(_SWITCH, None)
    else:
        os.environ[_SWITCH] = _before
    if _name is not None and vars(tf)["keras"] is not _name:
        vars(tf)["keras"] = type(_name)(vars(tf))

sparsity = tfmot.sparsity.keras

__all__ = [
    "PruneLowMagnitude",
    "Pruning",
    "sparsity",
    "tf_keras",
]
