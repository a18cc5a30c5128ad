"""A copy of a layer, with everything that it keeps: in variables or outside of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_state import find_bookkeeping, find_layer_variables
from tfprune_init.errors import ModelError

_HOOKS = ("save_own_variables", "load_own_variables", "save_assets", "load_assets")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.ndarray, np.generic)


def copy_layer(layer: Any) -> Any:
    """Copy a layer, built and with its state, as it may be called otherwise with another state.

    Layers whose parts are built by calls get their state afterwards, from `copy_state`.

    Args:
        layer: A built layer of either Keras, or an operation of Keras 3 that is no layer.

    Raises:
        ModelError: If its class cannot be made from its configuration, or lacks a part of it.
    """
    copy = copy_from_config(layer)
    if compat.is_layer(layer):
        config = None if builds_in_call(layer) else layer.get_build_config()
        if config and not copy.built:
            with tf.name_scope(copy.name):
                copy.build_from_config(config)
        if len(find_layer_variables(layer)) == len(find_layer_variables(copy)):
            copy_state(layer, copy)
    return copy


def builds_in_call(layer: Any) -> bool:
    """Whether a layer has no `build` of its own, so that layers inside it get their weights when it is called."""
    return type(layer).build is compat.get_keras(layer).layers.Layer.build


def copy_from_config(layer: Any, find_changes: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Any:
    """Make a layer of the configuration of another one, without its state.

    Args:
        layer: A layer of either Keras, or an operation of Keras 3 that is no layer.
        find_changes: What to put in place of what the configuration says, given that.

    Raises:
        ModelError: If its class cannot be made from its configuration.
    """
    kind = type(layer)
    try:
        config = kind.get_config(layer)  # by its class: with masks attached a layer of tf_keras refuses it
        config.update({} if find_changes is None else find_changes(config))
        function = getattr(layer, "activation", None)
        if "activation" in config and callable(function) and not compat.get_class_names(function):
            config["activation"] = function  # one that Keras may not know by its name
        # A Lambda's function comes from this process, not from a file that may not be trusted.
        trust = {"safe_mode": False} if "safe_mode" in signature(kind.from_config).parameters else {}
        return kind.from_config(config, **trust)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(
            f"Layer {layer.name!r} ({kind.__name__}) cannot be copied from its config: {error} A layer of your own "
            "needs get_config with all arguments of its constructor."
        ) from error


def copy_state(layer: Any, copy: Any) -> None:
    """Give a copy of a layer all that the layer keeps, in layers inside it too.

    That is: what its class saves by hooks of its own (statistics, vocabularies and other assets), whether it trains,
    attributes that are plain data, and every variable, counted by Keras or not.

    Args:
        layer: A built layer.
        copy: A layer made from its configuration, and built.

    Raises:
        ModelError: If the copy is made of other parts than the layer.
    """
    parts = [[one, *compat.walk_layers(one)] for one in (layer, copy)]
    if [type(part) for part in parts[0]] != [type(part) for part in parts[1]]:
        kinds = [", ".join(type(part).__name__ for part in side[1:]) or "none" for side in parts]
        raise ModelError(
            f"A copy of layer {layer.name!r} ({type(layer).__name__}) holds other layers than it: {kinds[1]} in place "
            f"of {kinds[0]}. A layer of your own must make them in its constructor or in build, by its config."
        )
    for part, twin in zip(*parts, strict=True):
        if part.trainable != twin.trainable:
            twin.trainable = part.trainable
        _copy_saved(part, twin)
        _copy_plain_attributes(part, twin)
    sources, targets = (find_layer_variables(one) for one in (layer, copy))
    if [source.shape for source in sources] != [target.shape for target in targets]:
        raise ModelError(
            f"A copy of layer {layer.name!r} ({type(layer).__name__}) has {len(targets)} variables in place of "
            f"{len(sources)}, or of other shapes. A layer of your own must build them all in its constructor, build or "
            "first call."
        )
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)


def has_saving_hooks(layer: Any) -> bool:
    """Whether a class that is none of Keras, of the layer or of one inside it, saves its state in its own way."""
    for part in [layer, *compat.walk_layers(layer)]:
        for base in type(part).__mro__:
            if base.__module__.split(".")[0] not in ("keras", "tf_keras") and set(_HOOKS) & set(vars(base)):
                return True
    return False


def read_saved(model: Any) -> Iterator[tuple[str, bytes]]:
    """Yield what the layers of a model would save beside the variables that Keras counts: statistics, vocabularies.

    Yields:
        The name of an entry or a file, and what is in it, in the order of the layers.
    """
    for layer in compat.walk_layers(model):
        variables, assets = _find_hooks(layer)
        if variables:
            store: dict[str, Any] = {}
            layer.save_own_variables(store)
            counted = {np.asarray(compat.get_tf_variable(one)).tobytes() for one in compat.get_own_variables(layer)}
            found = [(name, np.asarray(value).tobytes()) for name, value in sorted(store.items())]
            yield from (entry for entry in found if entry[1] not in counted)
        if assets:
            with tempfile.TemporaryDirectory() as folder:
                layer.save_assets(folder)
                files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
                yield from [(str(path.relative_to(folder)), path.read_bytes()) for path in files]


def _find_hooks(layer: Any) -> tuple[bool, bool]:
    """Return whether a layer has a way of its own to save and load variables, and assets."""
    base = compat.get_keras(layer).layers.Layer
    own = [getattr(type(layer), hook, None) is not getattr(base, hook, None) for hook in _HOOKS]
    return any(own[:2]), any(own[2:])


def _copy_saved(layer: Any, copy: Any) -> None:
    """Copy what a layer would write to a file and read from it, where that is more than its variables."""
    variables, assets = _find_hooks(layer)
    try:
        if variables:
            store: dict[str, Any] = {}
            layer.save_own_variables(store)
            copy.load_own_variables({name: np.asarray(value) for name, value in store.items()})
        if assets:
            with tempfile.TemporaryDirectory() as folder:
                layer.save_assets(folder)
                copy.load_assets(folder)
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ModelError(
            f"What layer {layer.name!r} ({type(layer).__name__}) saves could not be loaded by its copy: {error} Its "
            f"{', '.join(_HOOKS)} must fit each other."
        ) from error


def _copy_plain_attributes(layer: Any, copy: Any) -> None:
    """Copy numbers, texts, arrays and containers of them where a layer holds others than its copy."""
    mine, others = vars(layer), vars(copy)
    for name in mine.keys() - find_bookkeeping(compat.get_keras(layer)):
        if _is_plain(mine[name]) and not (name in others and _are_equal(mine[name], others[name])):
            others[name] = _copy_plain(mine[name])


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN) or (isinstance(value, tf.Tensor) and hasattr(value, "numpy"))


def _copy_plain(value: Any) -> Any:
    """Copy plain data; containers without the tracking that Keras adds to them."""
    if isinstance(value, Mapping):
        return {key: _copy_plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(map(_copy_plain, value))
    return value.copy() if isinstance(value, np.ndarray) else value


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        alike = isinstance(other, Mapping) and one.keys() == other.keys()
        return alike and all(_are_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        alike = isinstance(other, (list, tuple)) and len(one) == len(other)
        return alike and all(map(_are_equal, one, other))
    if isinstance(one, (np.ndarray, np.generic, tf.Tensor)):
        if not isinstance(other, (np.ndarray, np.generic, tf.Tensor)):
            return False
        arrays = np.asarray(one), np.asarray(other)
        return arrays[0].dtype == arrays[1].dtype and arrays[0].tobytes() == arrays[1].tobytes()
    return type(one) is type(other) and bool(one == other or one != one)
