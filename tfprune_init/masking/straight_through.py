"""Kernels read as something else than they are: through masks, with gradients that reach the dense weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.derived_weights import find_derived_weight, reset_inference_functions
from tfprune_init.backend.instance_methods import get_replacement, replace_method, restore_method
from tfprune_init.backend.overrides import find_attributes, override_attributes
from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.errors import EnforcementError
from tfprune_init.graph.variables import ModelVariable
from tfprune_init.masking.attachment import get_attached_masks

Read = Callable[[str, tf.Tensor], tf.Tensor]


@tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow has no types
def read_through_mask(weight: tf.Tensor, mask: tf.Tensor) -> Any:
    """Return the weight with exactly 0.0 where the mask is False; its whole gradient is that of the result.

    It is `weight + stop_gradient(mask * weight - weight)` in one operation.

    Args:
        weight: A tensor of floats.
        mask: A boolean tensor of its shape.

    Example:
        >>> import tensorflow as tf
        >>> from tfprune_init.masking.straight_through import read_through_mask
        >>> weight = tf.constant([3.0, 5.0])
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(weight)
        ...     product = tf.reduce_sum([2.0, 4.0] * read_through_mask(weight, tf.constant([True, False])))
        >>> float(product), tape.gradient(product, weight).numpy().tolist()
        (6.0, [2.0, 4.0])
    """
    return tf.where(mask, weight, tf.zeros((), weight.dtype)), lambda upstream: (upstream, None)


@dataclass(frozen=True)
class _Reading:
    """How one layer reads one variable: through which attributes, and as what."""

    target: ModelVariable
    attributes: tuple[str, ...]
    read: Read

    def override(self) -> Any:
        """Put what is read in the place of the variable for a while, wherever the variable is."""
        layer = self.target.layer
        names = [name for name in self.attributes if vars(layer)[name] is self.target.variable]
        if not names:
            return nullcontext()
        # Within a call, Keras reads variables of mixed precision in the dtype that the layer computes in.
        weight = self.read(self.target.path, tf.convert_to_tensor(self.target.variable))
        weight.assign = weight.assign_add = weight.assign_sub = functools.partial(_refuse_to_write, layer)
        return override_attributes(layer, **dict.fromkeys(names, weight))


def _refuse_to_write(layer: Layer, *args: Any, **kwargs: Any) -> None:
    """Stand in for the methods by which a layer writes to its kernel when it is called."""
    raise EnforcementError(
        f"Layer {layer.name!r} ({type(layer).__name__}) writes to its kernel when it is called, which cannot be read "
        "through a mask then. Leave it out with exclude=[...], or attach masks that do not change."
    )


class KernelReader:
    """Lets the layers of a model compute with something else than some of their kernels, until `release`.

    The variables stay as they are: optimizers, regularizers, weight files and `get_weights` see them. Layers compute
    with what a function makes of them, in training and inference.

    A kernel is replaced within calls of its own layer, and of recurrent layers around a cell. A model that reads it
    anywhere else, as `tf.matmul(x, self.embedding.kernel)`, reads the variable.

    Args:
        model: A built model, Keras 3 or tf_keras.
        variables: The variables.
        read: Function from the path of a variable and its value, in the dtype that its layer computes in, to the tensor
            that the layer computes with.

    Raises:
        EnforcementError: If the model carries masks already, or a layer computes with something else than its variable,
            as under LoRA. Also when such a layer writes to its kernel in a call.
        ModelError: If a layer does not hold its variable as an attribute of its own.
    """

    def __init__(self, model: Model, variables: Iterable[ModelVariable], read: Read):
        compat.check_model(model)
        targets = list(variables)
        _check_readable(model, targets)
        readings = [_Reading(target, find_attributes(target), read) for target in targets]
        self._model = model
        self._targets = {target.path: target for target in targets}
        self._layers = _find_readers(model, readings)
        self.hold()

    def hold(self) -> None:
        """Let the model read through the masks, as it does from the beginning; after `release` once more."""
        for layer, readings in self._layers:
            replace_method(layer, "call", _make_call(layer, readings))
        self._forget_traces()

    def release(self) -> None:
        """Let the model read its variables as they are again."""
        for layer, _ in self._layers:
            restore_method(layer, "call")
        self._forget_traces()

    def _forget_traces(self) -> None:
        compat.reset_train_function(self._model)
        reset_inference_functions(self._model)


class StraightThrough(KernelReader):
    """Lets a model read some of its kernels through masks, in training and inference, until `release`.

    What layers compute with is 0.0 where the mask is False, and the gradient of it is that of the dense variable,
    pruned weights included. Masks are variables, so new ones take effect without another trace.

    Args:
        model: A built model, Keras 3 or tf_keras.
        variables: The variables to read through masks, which keep all weights at first.

    Raises:
        EnforcementError: As `KernelReader`.
        ModelError: As `KernelReader`.
    """

    def __init__(self, model: Model, variables: Iterable[ModelVariable]):
        super().__init__(model, variables, self._read)
        with model.distribute_strategy.scope():
            self._masks = {path: tf.Variable(tf.ones(one.shape, tf.bool)) for path, one in self._targets.items()}

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """The masks, by path."""
        return {path: mask.numpy() for path, mask in self._masks.items()}

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """Read through other masks from now on; one for each variable."""
        for path, mask in self._masks.items():
            mask.assign(masks[path])

    def read_dense(self) -> dict[str, np.ndarray]:
        """Return copies of the dense weights, by path."""
        return {path: target.tensor.numpy() for path, target in self._targets.items()}

    def _read(self, path: str, weight: tf.Tensor) -> tf.Tensor:
        return read_through_mask(weight, tf.convert_to_tensor(self._masks[path]))


def _check_readable(model: Model, targets: list[ModelVariable]) -> None:
    if get_attached_masks(model) is not None:
        raise EnforcementError(
            f"Model {model.name!r} carries masks, whose pruned weights stay zero, so none of them could return. "
            "Received: a model with masks attached; call tpi.strip(model) first."
        )
    for target in targets:
        if find_derived_weight(target.layer, target.variable) is not None:
            raise EnforcementError(
                f"A mask on {target.path} would not hold: the layer computes with {type(target.layer).__name__}."
                f"{target.name}, which it derives from this variable and others, as with LoRA. Leave it out with "
                "exclude=[...]."
            )
        if get_replacement(target.layer, "call") is not None:
            raise EnforcementError(
                f"Layer {target.layer.name!r} reads its weights through the masks of another training already. Finish "
                "that one first, with finish()."
            )


def _find_readers(model: Model, readings: Iterable[_Reading]) -> list[tuple[Any, list[_Reading]]]:
    """Return the layers in whose calls variables are read, each with how it reads them."""
    own: dict[int, list[_Reading]] = {}
    for reading in readings:
        own.setdefault(id(reading.target.layer), []).append(reading)
    found = []
    for layer in [model, *compat.walk_layers(model)]:
        read = list(own.get(id(layer), []))
        # A recurrent layer may hand the weights of its cell to a fused kernel without calling the cell.
        if "RNN" in compat.get_class_names(layer):
            read += [reading for cell in compat.walk_layers(layer) for reading in own.get(id(cell), [])]
        if read:
            found.append((layer, read))
    return found


def _make_call(layer: Any, readings: list[_Reading]) -> Callable[..., Any]:
    """Return a replacement of the layer's `call` in which variables are read through masks."""

    @functools.wraps(type(layer).call)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as undo:
            for reading in readings:
                undo.enter_context(reading.override())
            return type(self).call(self, *args, **kwargs)

    return call
