"""Temporary changes to how a model computes; each is undone on leaving, whatever happened.

Other weights in place of the variables, float64 throughout, no activations, layers whose `call` is intercepted: what
scoring needs beyond a plain forward pass, under both Keras versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import keras
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.contracts import require
from tfprune_init.errors import ModelError

_MOVING_AVERAGES = frozenset(["BatchNormalizationBase"])
_PURE_ACTIVATIONS = frozenset(["ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU"])

CallInterceptor = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Placed(Protocol):
    """A variable with its place in a model."""

    @property
    def path(self) -> str:
        """Unique name of the variable."""
        ...

    @property
    def variable(self) -> Any:
        """The Keras variable."""
        ...

    @property
    def layer(self) -> Any:
        """The layer that created it."""
        ...

    @property
    def tensor(self) -> tf.Variable:
        """The tf.Variable that holds the value."""
        ...


@contextmanager
def override_variables(model: Any, variables: Sequence[Placed], tensors: Mapping[str, tf.Tensor]) -> Iterator[None]:
    """Let a model compute with tensors in place of some of its variables.

    Args:
        model: A built model; its variables are neither read nor written for these paths.
        variables: All variables of the model.
        tensors: The values, by variable path; of the dtype the layer computes in, or the variable's.

    Raises:
        ModelError: If a tf_keras layer does not hold the variable as an attribute of its own.
    """
    if compat.is_keras3(model):
        # Every variable has a value here: Keras asks the scope for those it regularizes.
        scope = keras.StatelessScope(collect_losses=True)
        for target in variables:
            scope.state_mapping[id(target.variable)] = tensors.get(target.path, target.tensor)
        with scope:
            yield
        return
    with ExitStack() as undo:
        for target in variables:
            if target.path in tensors:
                values: dict[str, Any] = _in_attributes(target, tensors[target.path])
                if compat.get_class_names(target.layer) & _MOVING_AVERAGES:
                    # Statistics that a tensor stands in for cannot be moved.
                    require("tf_keras BatchNormalizationBase._assign_moving_average")
                    values["_assign_moving_average"] = _do_nothing
                undo.enter_context(override_attributes(target.layer, **values))
        yield


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for a method that must have no effect."""


def find_attributes(target: Placed) -> tuple[str, ...]:
    """Return the names of the attributes through which a layer reads a variable of its own.

    Raises:
        ModelError: If there is none.
    """
    names = tuple(name for name, value in vars(target.layer).items() if value is target.variable)
    if not names:
        raise ModelError(
            f"Variable {target.path!r} is not an attribute of its layer {type(target.layer).__name__}, so nothing can "
            "stand in for it when the layer is called. Use exclude=[...], or, to score it, another method or Keras 3."
        )
    return names


def _in_attributes(target: Placed, tensor: tf.Tensor) -> dict[str, tf.Tensor]:
    names = find_attributes(target)
    tensor = tf.convert_to_tensor(tensor)  # a cast to the dtype that a variable has gives the variable itself
    if target.tensor is not target.variable and tensor.dtype != tf.float64:
        tensor = tf.cast(tensor, target.layer.compute_dtype)  # what tf_keras does on reading under mixed precision
    return dict.fromkeys(names, _make_assignable(tensor, target.layer, names))


def _make_assignable(tensor: tf.Tensor, layer: Any, names: Sequence[str]) -> tf.Tensor:
    """Let a layer write to a tensor that stands in for a variable: from then on another tensor stands in for it.

    The tensor itself is changed, as a tape may watch it already.
    """

    def assign(value: Any, *args: Any, **kwargs: Any) -> tf.Tensor:
        written = _make_assignable(tf.cast(value, tensor.dtype), layer, names)
        vars(layer).update(dict.fromkeys(names, written))
        return written

    tensor.assign = assign
    tensor.assign_add = lambda value, *args, **kwargs: assign(tensor + tf.cast(value, tensor.dtype))
    tensor.assign_sub = lambda value, *args, **kwargs: assign(tensor - tf.cast(value, tensor.dtype))
    return tensor


@contextmanager
def compute_in_float64(model: Any) -> Iterator[None]:
    """Let every layer compute in float64; give it float64 weights with `override_variables`."""
    layers = [model, *compat.walk_layers(model)]
    with ExitStack() as undo:
        for layer in layers:
            # TensorFlow's fused normalization kernels know no float64.
            undo.enter_context(disable_fused_normalization(layer))
            undo.enter_context(override_attributes(layer, **_dtype_attributes(layer, "float64")))
        # Models cast what comes in to the dtype of their input layers and of their symbolic inputs.
        for layer in layers:
            if isinstance(layer, keras.layers.InputLayer) and tf.as_dtype(layer.dtype).is_floating:
                require("keras InputLayer._dtype")
                undo.enter_context(override_attributes(layer, _dtype="float64"))
        for symbol in tf.nest.flatten([one.inputs for one in layers if compat.is_symbolic(one)]):
            if tf.as_dtype(symbol.dtype).is_floating:
                undo.enter_context(override_attributes(symbol, **_float64_attributes(symbol)))
        yield


@contextmanager
def compute_in_full_precision(model: Any) -> Iterator[None]:
    """Let layers of mixed precision compute in the dtype of their variables, without casts between layers."""
    with ExitStack() as undo:
        for layer in [model, *compat.walk_layers(model)]:
            dtypes = [getattr(layer, name, None) for name in ("compute_dtype", "variable_dtype")]
            # A quantized layer's policy says how to read its weights.
            quantized = getattr(layer, "quantization_mode", None) is not None
            if not quantized and None not in dtypes and dtypes[0] != dtypes[1]:
                undo.enter_context(override_attributes(layer, **_dtype_attributes(layer, dtypes[1])))
        yield


def _dtype_attributes(layer: Any, dtype: Any) -> dict[str, Any]:
    if compat.is_keras3(layer):
        require("keras Layer._dtype_policy")
        return {"_dtype_policy": keras.DTypePolicy(dtype)}
    require("tf_keras Layer._dtype_policy", "tf_keras Layer._compute_dtype_object")
    policy = type(layer._dtype_policy).from_config({"name": dtype})
    return {"_dtype_policy": policy, "_compute_dtype_object": tf.as_dtype(dtype)}


def _float64_attributes(symbol: Any) -> dict[str, Any]:
    if isinstance(symbol, keras.KerasTensor):
        require("keras KerasTensor._dtype")
        return {"_dtype": "float64"}
    require("tf_keras KerasTensor._type_spec")
    return {"_type_spec": tf.TensorSpec(symbol.shape, tf.float64, symbol.name)}


@contextmanager
def override_attributes(owner: Any, **values: Any) -> Iterator[None]:
    """Set attributes of an object for a while, past any property or hook of its class.

    Args:
        owner: A layer, model, loss or symbolic tensor, used by this thread alone. For attributes of modules and classes
            there is `thread_overrides.override_for_thread`.
        **values: The values, by name of the attribute.
    """
    before = {name: vars(owner)[name] for name in values if name in vars(owner)}
    vars(owner).update(values)
    try:
        yield
    finally:
        for name in values:
            del vars(owner)[name]
        vars(owner).update(before)


def disable_fused_normalization(layer: Any) -> Any:
    """Let a normalization layer of tf_keras compute with plain operations; does nothing to other layers."""
    if compat.is_keras3(layer):
        return nullcontext()
    fused = [name for name in ("fused", "_fused") if vars(layer).get(name)]
    if fused:
        require("tf_keras BatchNormalizationBase.fused", "tf_keras LayerNormalization._fused")
    return override_attributes(layer, **dict.fromkeys(fused, False))


@contextmanager
def disable_activations(model: Any) -> Iterator[None]:
    """Let every activation function pass on what comes in; softmax layers and gates of recurrent cells stay."""
    layers = [model, *compat.walk_layers(model)]
    with ExitStack() as undo:
        for layer in layers:
            if "activation" in vars(layer):
                undo.enter_context(override_attributes(layer, activation=_identity))
        pure = [layer for layer in layers if compat.get_class_names(layer) & _PURE_ACTIVATIONS]
        undo.enter_context(intercept_calls(pure, lambda layer, call, args, kwargs: args[0]))
        yield


def _identity(x: Any) -> Any:
    return x


@contextmanager
def intercept_calls(layers: Iterable[Any], around: CallInterceptor) -> Iterator[None]:
    """Let calls of layers pass through a function.

    Args:
        layers: The layers to watch.
        around: Called as `around(layer, call, args, kwargs)` in place of `layer.call`; `call` is the original.
    """

    def passing(layer: Any) -> Callable[..., Any]:
        original = layer.call

        @tf.autograph.experimental.do_not_convert
        def call(*args: Any, **kwargs: Any) -> Any:
            return around(layer, original, args, kwargs)

        return call

    with ExitStack() as undo:
        for layer in layers:
            undo.enter_context(override_attributes(layer, call=passing(layer)))
        yield
