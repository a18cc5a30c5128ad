"""How a TFLite file leaves out zeros: the name of the encoding, the bytes it takes, and the dense view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune_init.errors import ExportError
from tfprune_init.export.graph import BITS, Tensor, vector

_STORED = {"FLOAT32": "<f4", "FLOAT16": "<f2", "FLOAT64": "<f8", "INT16": "<i2", "INT8": "i1", "UINT8": "u1"}


@dataclass(frozen=True, eq=False)
class Level:
    """One level of the nested storage, the outermost first.

    Attributes:
        dimension: the dimension of the tensor it runs along.
        stride: how far one step goes along that dimension; the block size where blocks are counted.
        in_block: whether it runs inside a block.
        size: steps of a dense level; 0 for a sparse one.
        segments: of a sparse level: where the steps of each parent begin, and the end; None for a dense one.
        indices: of a sparse level: the steps that are stored.
    """

    dimension: int
    stride: int
    in_block: bool
    size: int
    segments: np.ndarray | None
    indices: np.ndarray

    def counts(self) -> np.ndarray:
        """Of a sparse level: how many steps each parent stores, int64."""
        segments = np.zeros(1, np.int64) if self.segments is None else self.segments.astype(np.int64)
        return np.asarray(segments[1:] - segments[:-1])


def encoding_name(tensor: Tensor) -> str:
    """In words: "dense", "CSR", or the block that is kept or left out whole, such as "block 1x4"."""
    if tensor.external:
        return "in another file"
    if tensor.encoding is None:
        return "dense"
    block = block_of(tensor)
    return "block " + "x".join(map(str, block)) if math.prod(block) > 1 else "CSR"


def block_of(tensor: Tensor) -> tuple[int, ...]:
    """Size of a block along each dimension; all 1 where single values are stored."""
    block = [1] * len(tensor.shape)
    for level in levels(tensor):
        if level.in_block:
            block[level.dimension] *= level.size
    return tuple(block)


def index_bytes(tensor: Tensor) -> int:
    """Bytes of the arrays that say where the stored values are."""
    if tensor.encoding is None:
        return 0
    return sum(level.segments.nbytes + level.indices.nbytes for level in levels(tensor) if level.segments is not None)


def zeros(tensor: Tensor) -> int:
    """How many values of the dense view mean 0.0.

    Raises:
        ExportError: as for `dense_view`.
    """
    values = stored_values(tensor)
    if tensor.encoding is not None:
        _places(tensor, values)
    if not tensor.zero_points.any():
        return tensor.size - int(np.count_nonzero(values))
    shape = [1] * len(tensor.shape)
    if tensor.zero_points.size > 1:
        shape[tensor.quantized_dimension] = -1
    return int(np.count_nonzero(dense_view(tensor) == tensor.zero_points.reshape(shape)))


def dense_view(tensor: Tensor) -> np.ndarray:
    """The values in their places, zeros included, still quantized.

    Args:
        tensor: a weight that is kept in the file.

    Returns:
        Array of the tensor's shape; bfloat16 as float32, integers of less than a byte as int8.

    Raises:
        ExportError: the indices don't fit the shape or the values.
    """
    values = stored_values(tensor)
    if tensor.encoding is None:
        return values.reshape(tensor.shape)
    places = _places(tensor, values)
    dense = np.zeros(tensor.size, values.dtype)
    dense[places] = values
    return dense.reshape(tensor.shape)


def stored_values(tensor: Tensor) -> np.ndarray:
    """The values as they are stored, flat."""
    if tensor.dtype in ("INT4", "UINT4", "INT2"):
        return _unpacked(tensor)
    if tensor.dtype == "BFLOAT16":  # the upper half of a float32
        return (np.frombuffer(tensor.data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(tensor.data, _STORED[tensor.dtype])


def _unpacked(tensor: Tensor) -> np.ndarray:
    """Values of less than a byte, the first in the lowest bits."""
    bits = BITS[tensor.dtype]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (tensor.data[:, None] >> shifts) & (2**bits - 1)
    values = fields.reshape(-1)[: tensor.size].astype(np.int8)
    if tensor.dtype.startswith("U"):
        return values
    return np.where(values >= 2 ** (bits - 1), values - 2**bits, values).astype(np.int8)


def levels(tensor: Tensor) -> list[Level]:
    """The levels of an encoded tensor, in the order in which they are nested.

    Raises:
        ExportError: they don't describe this tensor.
    """
    rank = len(tensor.shape)
    blocked = [int(dimension) for dimension in vector(tensor.encoding.blockMap)]
    order = [int(number) for number in vector(tensor.encoding.traversalOrder)]
    described = tensor.encoding.dimMetadata or []
    if sorted(order) != list(range(rank + len(blocked))) or len(described) != len(order):
        raise _damaged(tensor, f"{len(described)} levels, traversed as {order}, with blocks along {blocked}")
    if any(not 0 <= dimension < rank for dimension in blocked):
        raise _damaged(tensor, f"blocks along {blocked}")
    block = dict.fromkeys(range(rank), 1)
    for number, metadata in zip(order, described, strict=True):
        if number >= rank:
            block[blocked[number - rank]] *= metadata.denseSize
    return [
        _level(metadata, blocked[number - rank], 1, True)
        if number >= rank
        else _level(metadata, number, block[number], False)
        for number, metadata in zip(order, described, strict=True)
    ]


def _level(metadata: Any, dimension: int, stride: int, in_block: bool) -> Level:
    from tensorflow.lite.python import schema_py_generated as schema

    if metadata.format == schema.DimensionType.DENSE:
        return Level(dimension, stride, in_block, metadata.denseSize, None, np.zeros(0, np.uint8))
    segments, indices = (
        np.asarray(vector(array.values if array is not None else None))
        for array in (metadata.arraySegments, metadata.arrayIndices)
    )
    return Level(dimension, stride, in_block, 0, segments, indices)


def _places(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """Flat position in the dense view of each stored value, int64."""
    nested = levels(tensor)
    most = values.size + sum(level.segments.size for level in nested if level.segments is not None)
    coordinates = [np.zeros(1, np.int64) for _ in tensor.shape]
    for level in nested:
        parents, steps = _steps(tensor, level, coordinates[0].size, most)
        coordinates = [coordinate[parents] for coordinate in coordinates]
        coordinates[level.dimension] += steps * level.stride
    if coordinates[0].size != values.size:
        raise _damaged(tensor, f"{coordinates[0].size:,} places for {values.size:,} values")
    try:
        return np.ravel_multi_index(coordinates, tensor.shape)
    except ValueError as error:
        raise _damaged(tensor, "an index outside its shape") from error


def _steps(tensor: Tensor, level: Level, parents: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Of all entries of a level: the parent they belong to, and their step along the dimension.

    Entries are values, or have segments of their own: there are never more than `most` of both together.
    """
    if level.segments is None:
        if level.size <= 0 or parents * level.size > most:
            raise _damaged(tensor, f"a level of {level.size} steps")
        return np.repeat(np.arange(parents), level.size), np.tile(np.arange(level.size), parents)
    counts = level.counts()
    if counts.size != parents or (counts < 0).any() or counts.sum() != level.indices.size:
        raise _damaged(tensor, f"{counts.size:,} segments over {level.indices.size:,} indices")
    return np.repeat(np.arange(parents), counts), level.indices.astype(np.int64)


def _damaged(tensor: Tensor, found: str) -> ExportError:
    return ExportError(
        f"The TFLite file is damaged: the sparse encoding of tensor {tensor.name!r}, shape {tensor.shape}, has {found}."
    )
