"""Read sparse weights of a TFLite file: name of the encoding, bytes, and the dense view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune_init.errors import ExportError
from tfprune_init.export.tflite_graph import BITS, Tensor, read_vector

_STORED = {"FLOAT32": "<f4", "FLOAT16": "<f2", "FLOAT64": "<f8", "INT16": "<i2", "INT8": "i1", "UINT8": "u1"}


@dataclass(frozen=True, eq=False)
class Level:
    """One level of the nested storage, the outermost first.

    Attributes:
        dimension: The dimension of the tensor it runs along.
        stride: Length of one step along that dimension; the block size where blocks are counted.
        in_block: Whether it runs inside a block.
        size: Steps of a dense level; 0 for a sparse one.
        segments: Of a sparse level: where the steps of each parent begin, and the end; None for a dense one.
        indices: Of a sparse level: the steps that are stored.
    """

    dimension: int
    stride: int
    in_block: bool
    size: int
    segments: np.ndarray | None
    indices: np.ndarray

    def counts(self) -> np.ndarray:
        """Count the steps that each parent stores, int64; of a sparse level only."""
        segments = np.zeros(1, np.int64) if self.segments is None else self.segments.astype(np.int64)
        return np.asarray(segments[1:] - segments[:-1])


def name_encoding(tensor: Tensor) -> str:
    """Name the encoding: "dense", "CSR", or the block that is kept or left out whole, e.g. "block 1x4"."""
    if tensor.external:
        return "in another file"
    if tensor.encoding is None:
        return "dense"
    block = get_block(tensor)
    return "block " + "x".join(map(str, block)) if math.prod(block) > 1 else "CSR"


def get_block(tensor: Tensor) -> tuple[int, ...]:
    """Get the size of a block along each dimension; all 1 where single values are stored."""
    block = [1] * len(tensor.shape)
    for level in read_levels(tensor):
        if level.in_block:
            block[level.dimension] *= level.size
    return tuple(block)


def count_index_bytes(tensor: Tensor) -> int:
    """Count the bytes of the arrays that say where the stored values are."""
    if tensor.encoding is None:
        return 0
    return sum(
        level.segments.nbytes + level.indices.nbytes for level in read_levels(tensor) if level.segments is not None
    )


def count_zeros(tensor: Tensor) -> int:
    """Count the values of the dense view that mean 0.0.

    Raises:
        ExportError: If indices, zero points or bytes don't fit the shape.
    """
    values = read_stored_values(tensor)
    places = np.arange(values.size) if tensor.encoding is None else _compute_positions(tensor, values)
    if not tensor.zero_points.any():
        return tensor.size - int(np.count_nonzero(values))
    # Not from the dense view: a damaged shape could make that larger than all memory.
    points = tensor.zero_points
    channels = np.zeros(places.size, np.int64)
    if points.size > 1:
        dimension = tensor.quantized_dimension
        if not 0 <= dimension < len(tensor.shape) or points.size != tensor.shape[dimension]:
            raise _make_error(tensor, f"{points.size:,} zero points along dimension {dimension}")
        channels = np.unravel_index(places, tensor.shape)[dimension]
    left_out = tensor.size // points.size - np.bincount(channels, minlength=points.size)
    return int(np.count_nonzero(values == points[channels]) + left_out[points == 0].sum())


def to_dense(tensor: Tensor) -> np.ndarray:
    """Put the values in their places, zeros included; they stay quantized.

    Args:
        tensor: A weight that is kept in the file.

    Returns:
        Array of the tensor's shape; bfloat16 as float32, integers of less than a byte as int8.

    Raises:
        ExportError: If the indices don't fit the shape or the values.
    """
    values = read_stored_values(tensor)
    if tensor.encoding is None:
        return values.reshape(tensor.shape)
    places = _compute_positions(tensor, values)
    dense = np.zeros(tensor.size, values.dtype)
    dense[places] = values
    return dense.reshape(tensor.shape)


def read_stored_values(tensor: Tensor) -> np.ndarray:
    """Read the values as they are stored, flat.

    Raises:
        ExportError: If the last one is incomplete.
    """
    if tensor.dtype in ("INT4", "UINT4", "INT2"):
        return _unpack(tensor)
    if tensor.data.size % (BITS[tensor.dtype] // 8):
        raise _make_error(tensor, f"{tensor.data.size:,} bytes of {tensor.dtype}")
    if tensor.dtype == "BFLOAT16":  # the upper half of a float32
        return (np.frombuffer(tensor.data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(tensor.data, _STORED[tensor.dtype])


def _unpack(tensor: Tensor) -> np.ndarray:
    """Unpack values of less than a byte, the first in the lowest bits."""
    bits = BITS[tensor.dtype]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (tensor.data[:, None] >> shifts) & (2**bits - 1)
    values = np.asarray(fields.reshape(-1)[: tensor.size], np.int8)
    if tensor.dtype.startswith("U"):
        return values
    return np.asarray(np.where(values >= 2 ** (bits - 1), values - 2**bits, values), np.int8)


def read_levels(tensor: Tensor) -> list[Level]:
    """Read the levels of an encoded tensor, in the order in which they are nested.

    Raises:
        ExportError: If they don't describe this tensor.
    """
    rank = len(tensor.shape)
    blocked = [int(dimension) for dimension in read_vector(tensor.encoding.blockMap)]
    order = [int(number) for number in read_vector(tensor.encoding.traversalOrder)]
    described = tensor.encoding.dimMetadata or []
    if sorted(order) != list(range(rank + len(blocked))) or len(described) != len(order):
        raise _make_error(tensor, f"{len(described)} levels, traversed as {order}, with blocks along {blocked}")
    if any(not 0 <= dimension < rank for dimension in blocked):
        raise _make_error(tensor, f"blocks along {blocked}")
    block = dict.fromkeys(range(rank), 1)
    for number, metadata in zip(order, described, strict=True):
        if number >= rank:
            block[blocked[number - rank]] *= metadata.denseSize
    return [
        _read_level(metadata, blocked[number - rank], 1, True)
        if number >= rank
        else _read_level(metadata, number, block[number], False)
        for number, metadata in zip(order, described, strict=True)
    ]


def _read_level(metadata: Any, dimension: int, stride: int, in_block: bool) -> Level:
    from tfprune_init.export.tflite_schema import schema

    if metadata.format == schema.DimensionType.DENSE:
        return Level(dimension, stride, in_block, metadata.denseSize, None, np.zeros(0, np.uint8))
    segments, indices = (
        np.asarray(read_vector(array.values if array is not None else None))
        for array in (metadata.arraySegments, metadata.arrayIndices)
    )
    return Level(dimension, stride, in_block, 0, segments, indices)


def _compute_positions(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """Compute the flat position in the dense view of each stored value, int64."""
    nested = read_levels(tensor)
    most = values.size + sum(level.segments.size for level in nested if level.segments is not None)
    coordinates = [np.zeros(1, np.int64) for _ in tensor.shape]
    for level in nested:
        parents, steps = _compute_steps(tensor, level, coordinates[0].size, most)
        coordinates = [coordinate[parents] for coordinate in coordinates]
        coordinates[level.dimension] += steps * level.stride
    if coordinates[0].size != values.size:
        raise _make_error(tensor, f"{coordinates[0].size:,} places for {values.size:,} values")
    try:
        return np.ravel_multi_index(coordinates, tensor.shape)
    except ValueError as error:
        raise _make_error(tensor, "an index outside its shape") from error


def _compute_steps(tensor: Tensor, level: Level, parents: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute for each entry of a level its parent and its step along the dimension.

    Entries are values, or have segments of their own: there are never more than `most` of both together.
    """
    if level.segments is None:
        if level.size <= 0 or parents * level.size > most:
            raise _make_error(tensor, f"a level of {level.size} steps")
        return np.repeat(np.arange(parents), level.size), np.tile(np.arange(level.size), parents)
    counts = level.counts()
    if counts.size != parents or (counts < 0).any() or counts.sum() != level.indices.size:
        raise _make_error(tensor, f"{counts.size:,} segments over {level.indices.size:,} indices")
    return np.repeat(np.arange(parents), counts), level.indices.astype(np.int64)


def _make_error(tensor: Tensor, found: str) -> ExportError:
    return ExportError(
        f"The TFLite file is damaged: what is stored of tensor {tensor.name!r}, shape {tensor.shape}, has {found}."
    )
