"""Temporary changes to how a model computes; each is undone on leaving, whatever happened.

Other weights in place of the variables, float64 throughout, no activations, statistics that can be differentiated
twice, layers whose calls pass through our hands: what the probe needs beyond a plain forward pass, under both Kerases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import keras
import numpy as np
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.errors import ModelError
from tfprune_init.targets import Target, all_variables

_PURE_ACTIVATIONS = frozenset(["ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU"])

Around = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def substituted(model: Any, tensors: Mapping[str, tf.Tensor]) -> Iterator[None]:
    """Let a model compute with tensors in place of some of its variables.

    Args:
        model: A built model; its variables are neither read nor written for these paths.
        tensors: The values, by variable path; of the dtype the layer computes in, or the variable's.

    Raises:
        ModelError: If a tf_keras layer does not hold the variable as an attribute of its own.
    """
    variables = all_variables(model)
    if kerases.is_keras3(model):
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
                undo.enter_context(_changed(target.layer, _in_attributes(target, tensors[target.path])))
                # Statistics that a tensor stands in for cannot be moved.
                still = {"_assign_moving_average": _nothing} if hasattr(target.layer, "_assign_moving_average") else {}
                undo.enter_context(_changed(target.layer, still))
        yield


def _nothing(*args: Any, **kwargs: Any) -> None:
    """What is done in place of something that must not happen."""


def _in_attributes(target: Target, tensor: tf.Tensor) -> dict[str, tf.Tensor]:
    names = [name for name, value in vars(target.layer).items() if value is target.variable]
    if not names:
        raise ModelError(
            f"Variable {target.path!r} is not an attribute of its layer {type(target.layer).__name__}, so this method "
            "cannot look at other values of it in tf_keras. Use another method, filters=[...], or Keras 3."
        )
    if target.tensor is not target.variable and tensor.dtype != tf.float64:
        tensor = tf.cast(tensor, target.layer.compute_dtype)  # what tf_keras does on reading under mixed precision
    return dict.fromkeys(names, tensor)


@contextmanager
def in_float64(model: Any) -> Iterator[None]:
    """Let every layer compute in float64; give it float64 weights with `substituted`."""
    layers = [model, *kerases.layers_below(model)]
    with ExitStack() as undo:
        for layer in layers:
            # TensorFlow's fused normalization kernels know no float64.
            fused = [] if kerases.is_keras3(layer) else [n for n in ("fused", "_fused") if vars(layer).get(n)]
            undo.enter_context(_changed(layer, {**_computing_in(layer, "float64"), **dict.fromkeys(fused, False)}))
        # Models cast what comes in to the dtype of their input layers and of their symbolic inputs.
        for layer in layers:
            if isinstance(layer, keras.layers.InputLayer) and tf.as_dtype(layer.dtype).is_floating:
                undo.enter_context(_changed(layer, {"_dtype": "float64"}))
        for symbol in tf.nest.flatten([one.inputs for one in layers if kerases.is_symbolic(one)]):
            if tf.as_dtype(symbol.dtype).is_floating:
                undo.enter_context(_changed(symbol, _float64_symbol(symbol)))
        yield


@contextmanager
def in_full_precision(model: Any) -> Iterator[None]:
    """Let layers of mixed precision compute in the dtype of their variables, without casts between layers."""
    with ExitStack() as undo:
        for layer in [model, *kerases.layers_below(model)]:
            dtypes = [getattr(layer, name, None) for name in ("compute_dtype", "variable_dtype")]
            # A quantized layer's policy says how to read its weights.
            quantized = getattr(layer, "quantization_mode", None) is not None
            if not quantized and None not in dtypes and dtypes[0] != dtypes[1]:
                undo.enter_context(_changed(layer, _computing_in(layer, dtypes[1])))
        yield


def _computing_in(layer: Any, dtype: Any) -> dict[str, Any]:
    if kerases.is_keras3(layer):
        return {"_dtype_policy": keras.DTypePolicy(dtype)}
    policy = type(layer._dtype_policy).from_config({"name": dtype})
    return {"_dtype_policy": policy, "_compute_dtype_object": tf.as_dtype(dtype)}


@contextmanager
def unmoved(model: Any) -> Iterator[None]:
    """Put back what calls of the model move: statistics, seeds, metrics, recurrent states."""
    copies = [copy for variable in kerases.changeable_variables(model) for copy in kerases.own_copies(variable)]
    before = [(copy, copy.numpy()) for copy in copies]
    try:
        yield
    finally:
        for copy, value in before:
            copy.assign(value)


def _float64_symbol(symbol: Any) -> dict[str, Any]:
    if isinstance(symbol, keras.KerasTensor):
        return {"_dtype": "float64"}
    return {"_type_spec": tf.TensorSpec(symbol.shape, tf.float64, symbol.name)}


@contextmanager
def _changed(owner: Any, settings: dict[str, Any]) -> Iterator[None]:
    before = {name: vars(owner)[name] for name in settings if name in vars(owner)}
    vars(owner).update(settings)
    try:
        yield
    finally:
        for name in settings:
            del vars(owner)[name]
        vars(owner).update(before)


@contextmanager
def without_activations(model: Any) -> Iterator[None]:
    """Let every activation function pass on what comes in; softmax layers and gates of recurrent cells stay."""
    layers = [model, *kerases.layers_below(model)]
    with ExitStack() as undo:
        for layer in layers:
            if "activation" in vars(layer):
                undo.enter_context(_changed(layer, {"activation": _as_it_is}))
        pure = [layer for layer in layers if kerases.class_names(layer) & _PURE_ACTIVATIONS]
        undo.enter_context(intercepted(pure, lambda layer, call, args, kwargs: args[0]))
        yield


def _as_it_is(x: Any) -> Any:
    return x


@contextmanager
def exact_moments() -> Iterator[None]:
    """Let batch statistics be differentiated twice while a function is traced.

    `tf.nn.moments`, which both Kerases normalize with, stops the gradient at the mean inside the variance. That is
    right for gradients and wrong for Hessians. Without the stop both are right.
    """
    # tf_keras knows the function by another module.
    with patch.object(tf.nn, "moments", _moments), patch.object(tf.compat.v2.nn, "moments", _moments):
        yield


@contextmanager
def across_replicas(model: Any) -> Iterator[None]:
    """Let batch statistics be those of the whole batch while a function that several replicas run is traced.

    Whatever layer takes moments over the examples takes them over the examples of all replicas, each counted once.
    They can be differentiated twice. Losses are not divided by the number of replicas, which is Keras's way to have
    them added up.
    """
    with ExitStack() as undo:
        for layer in kerases.layers_below(model):
            # tf_keras has a kernel of its own for normalization, which knows no other replicas.
            fused = [] if kerases.is_keras3(layer) else [n for n in ("fused", "_fused") if vars(layer).get(n)]
            undo.enter_context(_changed(layer, dict.fromkeys(fused, False)))
        undo.enter_context(patch.object(tf.nn, "moments", _moments_across))
        undo.enter_context(patch.object(tf.compat.v2.nn, "moments", _moments_across))
        undo.enter_context(patch.object(kerases.module_of_losses(model), "scale_loss_for_distribution", _as_it_is))
        yield


def _moments(x: Any, axes: Any, shift: Any = None, keepdims: bool = False, name: str | None = None) -> Any:
    return _moments_by(lambda value: value, x, axes, keepdims)


def _moments_across(x: Any, axes: Any, shift: Any = None, keepdims: bool = False, name: str | None = None) -> Any:
    over_examples = 0 in {int(axis) % x.shape.rank for axis in np.atleast_1d(axes)}
    if not over_examples:
        return _moments(x, axes, keepdims=keepdims)
    replica = tf.distribute.get_replica_context()
    return _moments_by(lambda value: replica.all_reduce(tf.distribute.ReduceOp.SUM, value), x, axes, keepdims)


def _moments_by(add: Callable[[tf.Tensor], tf.Tensor], x: Any, axes: Any, keepdims: bool) -> Any:
    half = x.dtype in (tf.float16, tf.bfloat16)
    values = tf.cast(x, tf.float32) if half else x
    total = tf.reduce_sum(values, axes, keepdims=True)
    count = add(tf.cast(tf.size(values) // tf.size(total), values.dtype))
    mean = add(total) / count
    variance = add(tf.reduce_sum(tf.square(values - mean), axes, keepdims=True)) / count
    if not keepdims:
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    return (tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)) if half else (mean, variance)


@contextmanager
def intercepted(layers: Iterable[Any], around: Around) -> Iterator[None]:
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
            undo.enter_context(_changed(layer, {"call": passing(layer)}))
        yield
