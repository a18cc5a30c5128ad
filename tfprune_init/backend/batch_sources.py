"""What users bring as data: arrays of any kind, and Python objects that give one batch after another."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.errors import DataError

_TENSORS = (tf.Tensor, tf.RaggedTensor, tf.SparseTensor)
DATASETS = (tf.data.Dataset, tf.distribute.DistributedDataset)
"""Datasets whose elements are batches."""


def to_arrays(nested: Any) -> Any:
    """Convert nested arrays to NumPy arrays, in tuples and dicts, which tf.data reads as structure.

    Args:
        nested: Arrays, tensors, columns or tables of pandas, lists of numbers or strings, in tuples, lists and dicts.
            Tensors, ragged and sparse ones too, and None stay as they are.

    Raises:
        DataError: If something in it is no array of numbers or strings.

    Example:
        >>> to_arrays({"length": [3.0, 1.0], "colour": ["red", "blue"]})["colour"].shape
        (2,)
    """
    if nested is None or isinstance(nested, _TENSORS):
        return nested
    if isinstance(nested, Mapping):
        return {key: to_arrays(value) for key, value in nested.items()}
    if isinstance(nested, tuple) or (isinstance(nested, list) and any(hasattr(v, "shape") for v in nested)):
        return tuple(to_arrays(value) for value in nested)
    try:
        array = np.asarray(nested)
    except ValueError as error:
        raise DataError(
            f"A list is read as one array, and this one has rows of different lengths: pass tf.ragged.constant(rows). "
            f"Received: {str(nested)[:80]}"
        ) from error
    if array.dtype == object and not all(isinstance(one, (str, bytes)) for one in array.flat):
        kinds = sorted({type(one).__name__ for one in array.flat})
        raise DataError(
            f"An array must hold numbers or strings. Received: {type(nested).__name__} of {', '.join(kinds)}. If all "
            "are numbers, convert them: x.astype('float32'); if columns differ, pass one array each: dict(x)."
        )
    return array


def is_array(data: Any) -> bool:
    """Return whether an object is one array, tensor, column or table."""
    return isinstance(data, _TENSORS) or (hasattr(data, "shape") and hasattr(data, "__array__"))


def find_walk(data: Any) -> Callable[[], Iterator[Any]] | None:
    """Return how to walk through an object that gives one batch after another, from the start.

    Args:
        data: A list of tuples; a PyDataset, Sequence or another object to iterate over, again and again; an iterator,
            whose walk can be had once; or a function of no arguments that returns one of these.

    Returns:
        Function that starts a walk; None for arrays and for what is no source of batches.

    Example:
        >>> batches = [(np.zeros((2, 4)), np.zeros(2)), (np.ones((2, 4)), np.ones(2))]
        >>> len(list(find_walk(batches)()))
        2
    """
    if isinstance(data, list):
        return data.__iter__ if data and all(isinstance(batch, tuple) for batch in data) else None
    if isinstance(data, (tuple, Mapping, str, bytes, *DATASETS)) or is_array(data):
        return None
    if isinstance(data, Iterable):
        return data.__iter__
    return (lambda: _call(data)) if callable(data) else None


def is_spent(data: Any) -> bool:
    """Return whether an object can be walked through once only: a generator, and every other iterator."""
    return isinstance(data, Iterator)


def to_batch(element: Any, number: int) -> tuple[Any, ...]:
    """Convert what a Python object gave as a batch to (x,), (x, y) or (x, y, sample_weight), of tensors.

    Args:
        element: x as an array or dict, or a tuple or list of x, y and weights.
        number: Its place, counted from 1.

    Raises:
        DataError: If it is no batch, or its parts differ in their number of examples.
    """
    parts = to_arrays(tuple(element) if isinstance(element, (tuple, list)) else (element,))
    leaves = [leaf for leaf in tf.nest.flatten(parts) if leaf is not None]
    if not leaves or len(parts) > 3:
        raise DataError(
            f"Batch {number} must be x, (x, y) or (x, y, sample_weight). Received: {len(parts)} parts, "
            f"of which {len(leaves)} arrays."
        )
    lengths = {leaf.shape[0] if len(leaf.shape) else None for leaf in leaves}
    if len(lengths) != 1 or None in lengths:
        raise DataError(
            f"All arrays of batch {number} must have the same number of examples, their first dimension; single "
            "examples are no batch: pass tf.data.Dataset.from_generator(...).batch(128), or stack them. "
            f"Received shapes: {[tuple(leaf.shape) for leaf in leaves]}."
        )
    return tf.nest.map_structure(lambda leaf: leaf if leaf is None else to_tensor(leaf), parts)


def to_tensor(leaf: Any) -> Any:
    """Convert an array to a tensor; ragged and sparse tensors stay as they are."""
    return leaf if isinstance(leaf, _TENSORS) else tf.convert_to_tensor(leaf)


def get_numbers(leaf: Any) -> Any:
    """Return the dense tensor that holds the values of a tensor: those of a ragged or sparse one without structure."""
    return leaf.flat_values if isinstance(leaf, tf.RaggedTensor) else getattr(leaf, "values", leaf)


def _call(function: Callable[[], Any]) -> Iterator[Any]:
    needed = [one.name for one in inspect.signature(function).parameters.values() if _is_needed(one)]
    if needed:
        raise DataError(
            "A function given as data is called without arguments: data=lambda: make_batches(...). "
            f"Received: a function that needs {', '.join(needed)}."
        )
    made = function()
    walk = made.__iter__ if isinstance(made, DATASETS) else find_walk(made)
    if walk is None:
        raise DataError(
            "A function given as data must return batches to iterate over, as a generator function does. "
            f"Received: {type(made).__module__}.{type(made).__qualname__}."
        )
    return walk()


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )
