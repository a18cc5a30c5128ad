"""The graph inside a TFLite file as plain values: its tensors, operators and signatures."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tfprune_init.errors import ExportError

IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of every TFLite file."""

BITS = {
    "FLOAT32": 32,
    "FLOAT16": 16,
    "BFLOAT16": 16,
    "FLOAT64": 64,
    "INT16": 16,
    "INT8": 8,
    "UINT8": 8,
    "INT4": 4,
    "UINT4": 4,
    "INT2": 2,
}
"""Bits of a stored value, by the types that weights have."""

_DAMAGED = (struct.error, ValueError, IndexError, TypeError, OverflowError, KeyError, AttributeError, MemoryError)
"""Exceptions raised by reading a flatbuffer with wrong offsets, or a graph whose operators lack what they need."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of a subgraph.

    Attributes:
        name: Its name in the file.
        shape: Its shape, 1 for dimensions left open.
        open_shape: The same with None for dimensions left open.
        dtype: Name of the type in the schema, such as "FLOAT32".
        buffer: Index of the buffer that stores it; tensors may share one.
        data: Stored bytes, uint8 [bytes]; empty for values that are computed or kept in another file.
        external: Whether its values are kept in another file.
        scales: Difference between two neighboring stored values; empty for unquantized tensors.
        zero_points: The stored values that mean 0.0, int64; empty for unquantized tensors.
        quantized_dimension: The dimension that several zero points run along.
        encoding: Encoding that leaves zeros out (the schema's SparsityParametersT); None for a dense tensor.
    """

    name: str
    shape: tuple[int, ...]
    open_shape: tuple[int | None, ...]
    dtype: str
    buffer: int
    data: np.ndarray
    external: bool
    scales: np.ndarray
    zero_points: np.ndarray
    quantized_dimension: int
    encoding: Any

    @property
    def size(self) -> int:
        """Number of values in the dense view."""
        return math.prod(self.shape)

    @property
    def is_constant(self) -> bool:
        """Whether its values are stored."""
        # An encoded tensor may have no value left to store.
        return self.external or self.data.size > 0 or self.encoding is not None

    @property
    def is_weight(self) -> bool:
        """Whether it holds weights: a constant of two or more dimensions, of a type that weights have."""
        return self.is_constant and len(self.shape) >= 2 and self.dtype in BITS


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator of a subgraph.

    Attributes:
        index: Its place in the order of execution.
        name: Name in the schema, such as "CONV_2D", or of a custom operator.
        version: Its version, which rises with what it asks of the runtime.
        inputs: Indices of tensors; -1 for an optional one left out.
        outputs: Indices of tensors.
        options: Its options by their name in the schema.
    """

    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]

    def option(self, name: str) -> Any:
        """Get one option of the operator.

        Raises:
            ExportError: If it lacks the option, which its kind must have.
        """
        if name not in self.options:
            raise ExportError(f"The TFLite file is damaged: {self.name} {self.index} has no option {name!r}.")
        return self.options[name]


@dataclass(frozen=True, eq=False)
class Subgraph:
    """The main graph, or the body or condition of a control flow operator.

    Attributes:
        index: Its place in the file; 0 is the main graph.
        tensors: All tensors.
        operators: All operators, in the order of execution.
        inputs: Indices of tensors.
        outputs: Indices of tensors.
    """

    index: int
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @cached_property
    def consumers(self) -> dict[int, list[tuple[Operator, int]]]:
        """By index of a tensor: the operators that read it, and as which of their inputs."""
        found: dict[int, list[tuple[Operator, int]]] = {}
        for operator in self.operators:
            for position, tensor in enumerate(operator.inputs):
                found.setdefault(tensor, []).append((operator, position))
        return found

    @cached_property
    def producers(self) -> dict[int, Operator]:
        """By index of a tensor: the operator that computes it."""
        return {tensor: operator for operator in self.operators for tensor in operator.outputs}


@dataclass(frozen=True)
class Graph:
    """Everything a TFLite file computes.

    Attributes:
        subgraphs: The main graph first.
        signatures: By key: names of inputs and of outputs, and the subgraph they belong to.
    """

    subgraphs: tuple[Subgraph, ...]
    signatures: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]


def read_graph(file: bytes) -> Graph:
    """Read the graph of a TFLite file.

    Args:
        file: A TFLite file.

    Raises:
        ExportError: If it is not a TFLite file, or is truncated or damaged.

    Example:
        >>> read_graph(b"PK zip")
        Traceback (most recent call last):
        tfprune_init.errors.ExportError: Not a TFLite file: bytes 4 to 8 are b'ip', not b'TFL3'. ...
    """
    from tfprune_init.export.tflite_schema import schema

    if file[4:8] != IDENTIFIER:
        raise ExportError(
            f"Not a TFLite file: bytes 4 to 8 are {bytes(file[4:8])!r}, not {IDENTIFIER!r}. Pass a file "
            "written by tf.lite.TFLiteConverter or export_tflite."
        )
    with refuse_damage(file):
        model = schema.ModelT.InitFromPackedBuf(file, 0)
        buffers = [_data(file, buffer) for buffer in read_vector(model.buffers)]
        subgraphs = tuple(_subgraph(model, buffers, index) for index in range(len(read_vector(model.subgraphs))))
        if not subgraphs:
            raise ExportError("The TFLite file is damaged: it holds no graph.")
        return Graph(
            subgraphs, {_text(one.signatureKey): _signature(one, subgraphs) for one in read_vector(model.signatureDefs)}
        )


@contextmanager
def refuse_damage(file: bytes) -> Iterator[None]:
    """Refuse a file whose offsets, shapes, numbers of inputs or the like turn out to be wrong as it is looked at.

    Args:
        file: A TFLite file.

    Raises:
        ExportError: If reading a damaged graph raises something in the block.
    """
    try:
        yield
    except _DAMAGED as error:
        raise ExportError(
            f"The TFLite file is truncated or damaged ({len(file):,} bytes): {error or type(error).__name__}. "
            "Convert or download it again."
        ) from error


def list_names(enumeration: type) -> dict[int, str]:
    """Map the values of an enumeration of the schema to their names."""
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _subgraph(model: Any, buffers: list[np.ndarray], index: int) -> Subgraph:
    stored = model.subgraphs[index]
    tensors = tuple(_tensor(buffers, tensor) for tensor in read_vector(stored.tensors))
    operators = tuple(
        _operator(model, place, operator, len(tensors)) for place, operator in enumerate(read_vector(stored.operators))
    )
    return Subgraph(
        index, tensors, operators, _indices(stored.inputs, len(tensors)), _indices(stored.outputs, len(tensors))
    )


def _tensor(buffers: list[np.ndarray], stored: Any) -> Tensor:
    from tfprune_init.export.tflite_schema import schema

    quantization = stored.quantization
    scales, zero_points = (
        (read_vector(quantization.scale), read_vector(quantization.zeroPoint)) if quantization is not None else ((), ())
    )
    shape = tuple(int(size) for size in read_vector(stored.shape))
    tensor = Tensor(
        name=_text(stored.name),
        shape=shape,
        open_shape=tuple(None if size < 0 else int(size) for size in read_vector(stored.shapeSignature)) or shape,
        dtype=list_names(schema.TensorType)[stored.type],
        buffer=stored.buffer,
        data=buffers[stored.buffer],
        external=bool(stored.externalBuffer),
        scales=np.asarray(scales, np.float32),
        zero_points=np.asarray(zero_points, np.int64),
        quantized_dimension=quantization.quantizedDimension if quantization is not None else 0,
        encoding=stored.sparsity,
    )
    if any(size < 0 for size in shape):
        raise ExportError(f"The TFLite file is damaged: tensor {tensor.name!r} has the shape {shape}.")
    if tensor.is_weight and tensor.encoding is None and not tensor.external:
        needed = -(-tensor.size * BITS[tensor.dtype] // 8)
        if tensor.data.size != needed:
            raise ExportError(
                f"The TFLite file is damaged: tensor {tensor.name!r}, {tensor.dtype} {tensor.shape}, needs "
                f"{needed:,} bytes and has {tensor.data.size:,}."
            )
    return tensor


def _data(file: bytes, buffer: Any) -> np.ndarray:
    """Get the bytes of a buffer; in files beyond 2 GB they stand behind the flatbuffer."""
    if buffer.offset > 1:
        if buffer.offset + buffer.size > len(file):
            raise ExportError(
                f"The TFLite file is truncated: a buffer ends at byte {buffer.offset + buffer.size:,} of {len(file):,}."
            )
        return np.frombuffer(file, np.uint8, buffer.size, buffer.offset)
    return np.asarray(read_vector(buffer.data), np.uint8)


def _operator(model: Any, index: int, stored: Any, tensors: int) -> Operator:
    from tfprune_init.export.tflite_schema import schema

    code = model.operatorCodes[stored.opcodeIndex]
    # Files older than the 128th operator have its number in the older, one-byte field.
    name = list_names(schema.BuiltinOperator)[max(code.builtinCode, code.deprecatedBuiltinCode)]
    options = stored.builtinOptions or stored.builtinOptions2
    return Operator(
        index=index,
        name=_text(code.customCode) if name == "CUSTOM" else name,
        version=code.version,
        inputs=_indices(stored.inputs, tensors),
        outputs=_indices(stored.outputs, tensors),
        options=dict(vars(options)) if options is not None else {},
    )


def _signature(stored: Any, subgraphs: Sequence[Subgraph]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    tensors = subgraphs[stored.subgraphIndex].tensors
    inputs, outputs = (
        {_text(one.name): tensors[one.tensorIndex] for one in read_vector(maps)}
        for maps in (stored.inputs, stored.outputs)
    )
    return inputs, outputs


def _indices(stored: Any, tensors: int) -> tuple[int, ...]:
    indices = tuple(int(index) for index in read_vector(stored))
    if any(not -1 <= index < tensors for index in indices):
        raise ExportError(f"The TFLite file is damaged: one of the tensors {indices} is not among its {tensors}.")
    return indices


def read_vector(stored: Any) -> Any:
    """Return a vector of the flatbuffer; an empty one if it is missing (None or 0)."""
    return () if stored is None or isinstance(stored, int) else stored


def _text(stored: bytes | None) -> str:
    return (stored or b"").decode("utf-8", "replace")
