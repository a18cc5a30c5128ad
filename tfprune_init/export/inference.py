"""The function that is exported: inference in float32, from flat inputs to named outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.errors import ExportError
from tfprune_init.export.inputs import ModelSignature


class InferenceFunction:
    """`model(x, training=False)` in float32, which is both converted and compared with the file.

    A mixed-precision model computes in float32 here, whatever its policy. TFLite has no half-precision kernels for most
    operations, and the rounding of half precision would hide conversion errors.

    Args:
        model: A built, plain Keras model.
        signature: The model's inputs.

    Example:
        >>> import keras
        >>> from tfprune_init.export.inputs import find_signature
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> sorted(InferenceFunction(model, find_signature(model))(np.zeros((3, 4), "float32")))
        ['output_0']
    """

    def __init__(self, model: Model, signature: ModelSignature) -> None:
        self.model = model
        self.signature = signature

    def __call__(self, *flat: Any) -> dict[str, Any]:
        """Compute outputs by name.

        Names are the keys of the model's output dict as identifiers, else output_0, output_1...

        Args:
            *flat: One tensor or array an input, [batch, ...], in the order of the signature.
        """
        from tfprune_init.backend.compat import call_model
        from tfprune_init.backend.overrides import compute_in_full_precision

        with compute_in_full_precision(self.model):
            outputs = call_model(self.model, self.signature.pack(flat), training=False)
        return _named(outputs)

    def reference(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the outputs, as arrays, that the file must reproduce.

        Leaves every variable of the model as it was.

        Args:
            arrays: One an input, [examples, ...].

        Raises:
            ExportError: If the model itself gives NaN or Inf.
        """
        import tensorflow as tf

        from tfprune_init.backend.model_state import restore_state

        # A GPU may round float32 to TF32; the file's own platform, the CPU, doesn't.
        with restore_state(self.model), tf.device("/CPU:0"):
            outputs = self._in_batches(arrays)
        for name, values in outputs.items():
            if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
                raise ExportError(
                    f"The Keras model itself gives NaN or Inf in {name!r}, so there is nothing to compare "
                    "the file with. Check its weights and the inputs passed as `verify`."
                )
        return outputs

    def _in_batches(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the outputs of all examples in batches of the model's size.

        The last example is repeated to fill up the last batch.
        """
        total = len(arrays[0])
        size = self.signature.batch or total
        pieces = []
        for start in range(0, total, size):
            chosen = np.minimum(np.arange(start, start + size), total - 1)
            outputs = self(*(array[chosen] for array in arrays))
            pieces.append({name: np.asarray(value)[: total - start] for name, value in outputs.items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _named(outputs: Any) -> dict[str, Any]:
    import tensorflow as tf

    flat = tf.nest.flatten(outputs)
    names = [f"output_{index}" for index in range(len(flat))]
    if isinstance(outputs, Mapping) and len(outputs) == len(flat):
        keys = [re.sub(r"\W", "_", str(key)) for key in sorted(outputs)]
        names = keys if len(set(keys)) == len(keys) else names
    return dict(zip(names, flat, strict=True))
