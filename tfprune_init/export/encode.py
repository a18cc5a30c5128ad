"""A weight without its zeros: TFLite's sparse encodings of an array, and the bytes each takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 4
"""Inputs in a block of TFLite's sparse kernel for Dense layers: 1x4, its only size for float32."""

_WIDTHS = (("Uint8Vector", np.uint8), ("Uint16Vector", np.uint16), ("Int32Vector", np.int32))


@dataclass(frozen=True, eq=False)
class Encoded:
    """An array in a sparse encoding.

    Attributes:
        parameters: the schema's SparsityParametersT, without the values.
        values: what is stored, flat, in the array's dtype.
        entries: stored blocks, or stored values where there are no blocks: the steps a sparse kernel takes.
        index_bytes: bytes of the arrays that say where the values are.
    """

    parameters: Any
    values: np.ndarray
    entries: int
    index_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of values and indices."""
        return self.values.nbytes + self.index_bytes


def rows(weights: np.ndarray) -> Encoded:
    """The nonzero values row by row, a row running along the last axis: what the sparse kernel reads.

    Args:
        weights: array [..., row].

    Example:
        >>> encoded = rows(np.array([[0, 7, 0, 0], [0, 0, 0, 8]], "float32"))
        >>> encoded.values.tolist(), encoded.index_bytes
        ([7.0, 8.0], 5)
    """
    return _compressed(weights, range(weights.ndim))


def smallest_rows(weights: np.ndarray) -> Encoded:
    """The same along the axis that takes the fewest bytes: what DENSIFY, the operator that unpacks it, reads."""
    axes = [axis for axis, size in enumerate(weights.shape) if size > 1] or [weights.ndim - 1]
    orders = [[*(other for other in range(weights.ndim) if other != axis), axis] for axis in axes[::-1]]
    return min((_compressed(weights, order) for order in orders), key=lambda encoded: encoded.nbytes)


def blocks(weights: np.ndarray) -> Encoded:
    """The blocks of 1x4 that hold a nonzero value, row by row.

    Args:
        weights: array [outputs, inputs], whose inputs divide by 4. TFLite reads past the end if they don't.

    Example:
        >>> blocks(np.array([[0, 0, 0, 0, 0, 7, 0, 0]], "float32")).values.tolist()
        [0.0, 7.0, 0.0, 0.0]
    """
    from tensorflow.lite.python import schema_py_generated as schema

    outputs, inputs = weights.shape
    if inputs % BLOCK:
        raise ValueError(f"The inputs must divide by {BLOCK}. Received: shape {weights.shape}")
    blocked = weights.reshape(outputs, inputs // BLOCK, BLOCK)
    kept = _one_at_least(np.asarray(blocked.any(axis=-1)))
    level, index_bytes = _sparse_level(kept)
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = np.arange(3, dtype=np.int32)
    parameters.blockMap = np.array([1], np.int32)
    parameters.dimMetadata = [_dense_level(outputs), level, _dense_level(BLOCK)]
    return Encoded(parameters, blocked[kept].ravel(), int(kept.sum()), index_bytes)


def _compressed(weights: np.ndarray, order: Sequence[int]) -> Encoded:
    from tensorflow.lite.python import schema_py_generated as schema

    moved = weights.transpose(order)
    matrix = moved.reshape(-1, moved.shape[-1])
    kept = _one_at_least(matrix != 0)
    level, index_bytes = _sparse_level(kept)
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = np.array(order, np.int32)
    parameters.dimMetadata = [*(_dense_level(size) for size in moved.shape[:-1]), level]
    return Encoded(parameters, matrix[kept], int(kept.sum()), index_bytes)


def _one_at_least(kept: np.ndarray) -> np.ndarray:
    """The runtime takes a tensor of no bytes for one that is yet to be computed, so one zero is stored."""
    if not kept.any():
        kept.flat[0] = True
    return kept


def _dense_level(size: int) -> Any:
    from tensorflow.lite.python import schema_py_generated as schema

    level = schema.DimensionMetadataT()
    level.format = schema.DimensionType.DENSE
    level.denseSize = size
    return level


def _sparse_level(kept: np.ndarray) -> tuple[Any, int]:
    """The level that lists, for each row of a boolean matrix, its True columns; and the bytes of its arrays."""
    from tensorflow.lite.python import schema_py_generated as schema

    segments = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    level = schema.DimensionMetadataT()
    level.format = schema.DimensionType.SPARSE_CSR
    level.arraySegmentsType, level.arraySegments = _narrow(segments)
    level.arrayIndicesType, level.arrayIndices = _narrow(np.nonzero(kept)[1])
    return level, level.arraySegments.values.nbytes + level.arrayIndices.values.nbytes


def _narrow(numbers: np.ndarray) -> tuple[int, Any]:
    """A vector in the narrowest type that holds it, after the number of that type in the schema."""
    from tensorflow.lite.python import schema_py_generated as schema

    name, dtype = next((name, dtype) for name, dtype in _WIDTHS if numbers.max(initial=0) <= np.iinfo(dtype).max)
    vector = getattr(schema, f"{name}T")()
    vector.values = numbers.astype(dtype)
    return getattr(schema.SparseIndexVector, name), vector
