"""Inputs of a model for export: names, shapes and dtypes, and real or synthetic examples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.errors import DataError, ModelError


@dataclass(frozen=True)
class Input:
    """One input of the model.

    Attributes:
        key: Its name in the data: the key of the model's input dict, else the name of the Keras input.
        name: Its name in the TFLite signature: the key as an identifier.
        shape: Without the batch dimension; None where it is open.
        dtype: NumPy name of the dtype the model expects.
    """

    key: str
    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class ModelSignature:
    """The inputs of a model as a flat, named list, and the structure in which the model takes them.

    Attributes:
        inputs: In the order of `tf.nest.flatten`.
        structure: A nest with one leaf an input: a dict, list or tuple, or a single leaf.
        batch: Examples the model takes at a time; None for any number, as usual.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> find_signature(model).synthetic(3)[0].shape
        (3, 4)
    """

    inputs: tuple[Input, ...]
    structure: Any
    batch: int | None = None

    def pack(self, flat: Sequence[Any]) -> Any:
        """Arrange `flat`, one tensor per input, in the structure in which the model is called."""
        import tensorflow as tf

        return tf.nest.pack_sequence_as(self.structure, list(flat))

    def align(self, x: Any, origin: str) -> list[np.ndarray]:
        """Convert one batch of data to arrays, one per input, in the model's order and dtypes.

        Args:
            x: An array, a dict, or a list or tuple of arrays, each [batch, ...].
            origin: The argument the data came from, for messages.

        Raises:
            DataError: If an input is missing, has the wrong shape, or holds NaN or Inf.
        """
        arrays = self._flatten(x, origin)
        return [_checked(array, spec, origin) for array, spec in zip(arrays, self.inputs, strict=True)]

    def synthetic(self, examples: int) -> list[np.ndarray]:
        """Make deterministic inputs: floats uniform in [0, 1), integers and bools 0 or 1.

        Returns one array per input.

        Raises:
            DataError: If an input has an open dimension besides the batch, so its size is unknown.
        """
        random = np.random.default_rng(0)
        arrays = []
        for spec in self.inputs:
            if None in spec.shape:
                raise DataError(
                    f"Input {spec.key!r} has open dimensions, so no synthetic inputs can be made for it. Pass "
                    f"real ones as `verify`. Received: shape {('batch', *spec.shape)}"
                )
            shape = (examples, *(size for size in spec.shape if size is not None))
            floating = np.issubdtype(np.dtype(spec.dtype), np.floating)
            values = random.random(shape) if floating else random.integers(0, 2, shape)
            arrays.append(values.astype(spec.dtype))
        return arrays

    def _flatten(self, x: Any, origin: str) -> list[Any]:
        keys = [spec.key for spec in self.inputs]
        if isinstance(x, Mapping):
            missing = [key for key in keys if key not in x]
            if missing:
                raise DataError(f"`{origin}` lacks inputs {missing} of the model. Received keys: {sorted(x)}")
            return [x[key] for key in keys]
        if isinstance(self.structure, Mapping):
            raise DataError(
                f"The model takes a dict with keys {keys}, and so must be `{origin}`. Received: {type(x).__name__}"
            )
        arrays = list(x) if isinstance(x, (list, tuple)) else [x]
        if len(arrays) != len(keys):
            raise DataError(
                f"The model has {len(keys)} input(s) {keys}; `{origin}` holds {len(arrays)}. A list is one "
                "array an input, a tuple is (x, y) or (x, y, sample_weight)."
            )
        return arrays


def find_signature(model: Model, example: Any = None) -> ModelSignature:
    """Find the inputs of a built model.

    Args:
        model: A Keras model; functional and Sequential models declare their inputs.
        example: One batch of data. It declares the inputs of a subclassed model, which itself remembers no
            more than the shapes it was built with (they are used, as float32, when there is no example).

    Raises:
        ModelError: If a subclassed model doesn't know its input and there is no example to learn it from.

    Example:
        >>> import keras
        >>> find_signature(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])).inputs[0].shape
        (4,)
    """
    import tensorflow as tf

    from tfprune_init.backend.compat import get_class_names

    declared = getattr(model, "inputs", None)
    if declared:
        structure = declared[0] if "Sequential" in get_class_names(model) else model.input
        leaves = tf.nest.flatten(structure)
        return replace(_signature(structure, leaves), batch=leaves[0].shape[0])
    if example is not None:
        return _signature(example, [tf.TensorSpec(np.shape(leaf), leaf.dtype) for leaf in tf.nest.flatten(example)])
    built: dict[str, Any] = getattr(model, "get_build_config", dict)() or {}
    if "input_shape" not in built:
        raise ModelError(
            f"The inputs of model {model.name!r} are unknown: it is subclassed and wasn't built from one "
            "argument. Pass inputs as `verify`, a dict or list if it takes several in one argument."
        )
    structure = _make_specs(built["input_shape"])
    return _signature(structure, tf.nest.flatten(structure))


def collect(data: Any, examples: int, origin: str) -> list[Any]:
    """Collect the first batches of inputs in `data`, as many as hold `examples`, in the caller's structure.

    Args:
        data: A batched tf.data.Dataset of x, (x, y) or (x, y, sample_weight); or x as an array, dict or list
            of arrays; or a tuple (x, y) or (x, y, sample_weight) of these; or a generator of such batches, a function
            that makes one, a PyDataset, a list of tuples.
        examples: Number of examples wanted; fewer if the data ends earlier.
        origin: The argument the data came from, for messages.

    Raises:
        DataError: If the data is empty, unbatched, or not data at all.

    Example:
        >>> len(collect(np.zeros((10, 4), "float32"), 3, "verify")[0])
        3
    """
    import tensorflow as tf

    collected: list[Any] = []
    missing = examples
    for x in _batches(data, origin):
        leaves = tf.nest.flatten(x)
        sizes = {len(leaf) if np.ndim(leaf) else None for leaf in leaves}
        if len(sizes) != 1 or None in sizes:
            raise DataError(
                f"The arrays in a batch of `{origin}` must share their first dimension, the batch; a dataset "
                f"must be batched: `.batch(64)`. Received shapes: {[np.shape(leaf) for leaf in leaves]}"
            )
        collected.append(tf.nest.map_structure(lambda leaf, n=missing: np.asarray(leaf[:n]), x))
        missing -= len(tf.nest.flatten(collected[-1])[0])
        if missing <= 0:
            break
    if missing == examples:
        raise DataError(f"`{origin}` is empty: it needs at least one example. Received: {type(data).__name__}")
    return collected


def stack(signature: ModelSignature, batches: Sequence[Any], origin: str) -> list[np.ndarray]:
    """Concatenate collected batches to one array per input.

    If batches differ in an open dimension (padded sequences), those shaped like the first are used.
    """
    aligned = [signature.align(batch, origin) for batch in batches]
    first = [array.shape[1:] for array in aligned[0]]
    alike = [arrays for arrays in aligned if [array.shape[1:] for array in arrays] == first]
    return [np.concatenate(column) for column in zip(*alike, strict=True)]


def _batches(data: Any, origin: str) -> Iterator[Any]:
    import tensorflow as tf

    from tfprune_init.backend.batch_sources import find_walk

    if isinstance(data, tf.data.Dataset):
        for element in data:
            yield element[0] if isinstance(element, tuple) else element
        return
    walk = find_walk(data)
    if walk is not None:
        for element in walk():
            yield from _batches(element, origin)
        return
    x = data[0] if isinstance(data, tuple) and data else data
    leaves = tf.nest.flatten(x)
    if not leaves or not all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves):
        raise DataError(
            f"`{origin}` must be a batched tf.data.Dataset or arrays: x as an array, dict or list of arrays, "
            "or a tuple (x, y); or what gives one of these after another, as a generator function does. "
            f"Received: {type(data).__name__}"
        )
    yield x


def _checked(array: Any, spec: Input, origin: str) -> np.ndarray:
    values = np.asarray(array)
    sizes = zip(values.shape[1:], spec.shape, strict=False)
    if values.ndim != len(spec.shape) + 1 or any(size not in (got, None) for got, size in sizes):
        raise DataError(
            f"`{origin}` doesn't fit input {spec.key!r} of the model, shape {('batch', *spec.shape)}; a "
            f"dataset must be batched. Received: shape {values.shape}"
        )
    values = values.astype(spec.dtype)
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise DataError(f"`{origin}` holds NaN or Inf in input {spec.key!r}: remove these examples.")
    return values


def _signature(structure: Any, flat: Sequence[Any]) -> ModelSignature:
    """Make the signature of nested tensors or specs whose leaves, in order, are `flat`."""
    import tensorflow as tf

    if isinstance(structure, Mapping) and len(structure) == len(flat):
        keys = sorted(structure)
    else:
        keys = [_get_given_name(leaf) or f"input_{index}" for index, leaf in enumerate(flat)]
    names = [re.sub(r"\W", "_", str(key)) for key in keys]
    if len(set(names)) != len(names):
        names = [f"input_{index}" for index in range(len(flat))]
    dtypes = [tf.as_dtype(leaf.dtype) for leaf in flat]
    specs = tuple(
        # Keras casts floats to the precision it computes in; here that is float32.
        Input(key, name, tuple(leaf.shape[1:]), "float32" if dtype.is_floating else dtype.name)
        for key, name, leaf, dtype in zip(keys, names, flat, dtypes, strict=True)
    )
    return ModelSignature(specs, tf.nest.map_structure(lambda leaf: 0, structure))


def _get_given_name(leaf: Any) -> str | None:
    """Get the name that the user gave the input, not Keras's counter, which differs from run to run."""
    name = getattr(leaf, "name", None)
    return None if name is None or name.startswith("keras_tensor") else name


def _make_specs(shapes: Any) -> Any:
    """Convert nested shapes, tuples of sizes, to nested float32 specs."""
    import tensorflow as tf

    if isinstance(shapes, Mapping):
        return {key: _make_specs(shape) for key, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return tf.TensorSpec(shapes, tf.float32)
    return [_make_specs(shape) for shape in shapes]
