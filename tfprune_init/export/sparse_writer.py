"""TFLite's sparse encodings of an array, and the bytes each takes."""

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
        parameters: The schema's SparsityParametersT, without the values.
        values: Stored values, flat, in the array's dtype.
        entries: Stored blocks, or stored values where there are no blocks: the steps a sparse kernel takes.
        index_bytes: Bytes of the arrays that say where the values are.
    """

    parameters: Any
    values: np.ndarray
    entries: int
    index_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of values and indices."""
        return self.values.nbytes + self.index_bytes


def encode_rows(weights: np.ndarray) -> Encoded:
    """Encode the nonzero values row by row, along the last axis: the form that the sparse kernel reads.

    Args:
        weights: Array [..., row].

    Example:
        >>> encoded = encode_rows(np.array([[0, 7, 0, 0], [0, 0, 0, 8]], "float32"))
        >>> encoded.values.tolist(), encoded.index_bytes
        ([7.0, 8.0], 5)
    """
    return _compress(weights, range(weights.ndim))


def encode_smallest_rows(weights: np.ndarray) -> Encoded:
    """Encode rows along the axis that takes the fewest bytes: for DENSIFY, which unpacks them."""
    axes = [axis for axis, size in enumerate(weights.shape) if size > 1] or [weights.ndim - 1]
    orders = [[*(other for other in range(weights.ndim) if other != axis), axis] for axis in axes[::-1]]
    return min((_compress(weights, order) for order in orders), key=lambda encoded: encoded.nbytes)


def encode_blocks(weights: np.ndarray) -> Encoded:
    """Encode the blocks of 1x4 that hold a nonzero value, row by row.

    Args:
        weights: Array [outputs, inputs], whose inputs divide by 4. TFLite reads past the end if they don't.

    Example:
        >>> encode_blocks(np.array([[0, 0, 0, 0, 0, 7, 0, 0]], "float32")).values.tolist()
        [0.0, 7.0, 0.0, 0.0]
    """
    from tfprune_init.export.tflite_schema import schema

    outputs, inputs = weights.shape
    if inputs % BLOCK:
        raise ValueError(f"The inputs must divide by {BLOCK}. Received: shape {weights.shape}")
    blocked = weights.reshape(outputs, inputs // BLOCK, BLOCK)
    kept = _keep_one(np.asarray(blocked.any(axis=-1)))
    level, index_bytes = _make_sparse_level(kept)
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = np.arange(3, dtype=np.int32)
    parameters.blockMap = np.array([1], np.int32)
    parameters.dimMetadata = [_make_dense_level(outputs), level, _make_dense_level(BLOCK)]
    return Encoded(parameters, blocked[kept].ravel(), int(kept.sum()), index_bytes)


def _compress(weights: np.ndarray, order: Sequence[int]) -> Encoded:
    from tfprune_init.export.tflite_schema import schema

    moved = weights.transpose(order)
    matrix = moved.reshape(-1, moved.shape[-1])
    kept = _keep_one(matrix != 0)
    level, index_bytes = _make_sparse_level(kept)
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = np.array(order, np.int32)
    parameters.dimMetadata = [*(_make_dense_level(size) for size in moved.shape[:-1]), level]
    return Encoded(parameters, matrix[kept], int(kept.sum()), index_bytes)


def _keep_one(kept: np.ndarray) -> np.ndarray:
    """Keep one zero if all are zero: the runtime takes an empty tensor for one yet to be computed."""
    if not kept.any():
        kept.flat[0] = True
    return kept


def _make_dense_level(size: int) -> Any:
    from tfprune_init.export.tflite_schema import schema

    level = schema.DimensionMetadataT()
    level.format = schema.DimensionType.DENSE
    level.denseSize = size
    return level


def _make_sparse_level(kept: np.ndarray) -> tuple[Any, int]:
    """List the True columns of each row of a boolean matrix as a level; return it and its bytes."""
    from tfprune_init.export.tflite_schema import schema

    segments = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    level = schema.DimensionMetadataT()
    level.format = schema.DimensionType.SPARSE_CSR
    level.arraySegmentsType, level.arraySegments = _narrow(segments)
    level.arrayIndicesType, level.arrayIndices = _narrow(np.nonzero(kept)[1])
    return level, level.arraySegments.values.nbytes + level.arrayIndices.values.nbytes


def _narrow(numbers: np.ndarray) -> tuple[int, Any]:
    """Store numbers in the narrowest type that holds them; return its number in the schema, and the vector."""
    from tfprune_init.export.tflite_schema import schema

    name, dtype = next((name, dtype) for name, dtype in _WIDTHS if numbers.max(initial=0) <= np.iinfo(dtype).max)
    vector = getattr(schema, f"{name}T")()
    vector.values = numbers.astype(dtype)
    return getattr(schema.SparseIndexVector, name), vector
