"""Write a TFLite file whose zeros are left out, from a file that stores them.

The converter's own option for this (EXPERIMENTAL_SPARSITY) writes files that don't load, crash or compute something
else, depending on sparsity, shape and quantization. So the plain file is rewritten here instead, weight by weight,
with encodings that every interpreter reads:

- A Dense weight in float32 is read by the sparse kernel, as blocks of 1x4 or as single values, where few are left.
- Other weights are unpacked as the file is loaded, by the operator DENSIFY, and computed with like dense ones.
- The rest stays as it is: what wouldn't get smaller, and what the runtime can't read sparse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfprune_init.export.sparse_writer import BLOCK, Encoded, encode_blocks, encode_rows, encode_smallest_rows

SPARSE_KERNEL_SHARE = 1 / 24
"""Entries (blocks, or single values) a weight, up to which the sparse kernel is the faster one.

Measured one example a run, on Dense layers of 1,024 x 1,024: the sparse kernel takes as long for one entry as the
dense one for 24 weights where these come from a large cache, and for 12 where they come from memory.
"""

DESCRIPTION_BYTES = 300
"""Bytes of an encoding besides values and indices: its description, the operator DENSIFY and a tensor."""

UNPACKED: dict[str | None, set[str]] = {
    None: {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"},
    "float16": {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"},
    "int8": {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"},
    "int16x8": {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"},
    "dynamic": set(),
}
"""Operators that take weights from DENSIFY, by `quantize`.

With LiteRT 2.3.0 and TensorFlow 2.21 TRANSPOSE_CONV computes zeros from unpacked float16; LiteRT doesn't load
FULLY_CONNECTED with unpacked int8; neither loads operators that quantize their inputs as they run.
"""

SPARSE_KERNEL_VERSION = 8
"""Version of FULLY_CONNECTED that reads sparse weights. XNNPACK takes lower ones for dense and reads garbage."""


def sparsify(file: bytes, quantize: str | None) -> bytes | None:
    """Leave the zeros out of a file; None if that makes no weight smaller.

    Args:
        file: A TFLite file from the converter.
        quantize: Type of its weights: None (float32) or one of `QUANTIZE`.

    Example:
        >>> smaller = sparsified(open("model.tflite", "rb").read(), None)  # doctest: +SKIP
    """
    from tfprune_init.export.tflite_schema import schema

    model = schema.ModelT.InitFromPackedBuf(file, 0)
    graph = _Graph(model, UNPACKED[quantize])
    changed = [graph.leave_out_zeros(index) for index in graph.weights()]
    if not any(changed):
        return None
    packed = _serialize(model)
    return packed if len(packed) < len(file) else None


class _Graph:
    """The main graph of a model, whose weights can be encoded one by one."""

    def __init__(self, model: Any, unpacked: set[str]) -> None:
        self._model = model
        self._main = model.subgraphs[0]
        self._unpacked = unpacked
        users = Counter(tensor.buffer for graph in model.subgraphs for tensor in graph.tensors)
        self._shared = {buffer for buffer, count in users.items() if count > 1}

    def weights(self) -> Iterator[int]:
        """List the indices of the tensors that can be encoded."""
        outputs = set(self._main.outputs)
        for index, tensor in enumerate(list(self._main.tensors)):
            data = self._model.buffers[tensor.buffer].data
            stored = data is not None and len(data) > 0 and tensor.buffer not in self._shared
            if stored and index not in outputs and tensor.type in _dtypes() and tensor.shape is not None:
                users = self._readers(index)
                if len(tensor.shape) >= 2 and users and users <= self._unpacked:
                    yield index

    def leave_out_zeros(self, index: int) -> bool:
        """Encode a tensor, with DENSIFY if needed; return whether that made it smaller."""
        tensor = self._main.tensors[index]
        buffer = self._model.buffers[tensor.buffer]
        values = np.asarray(buffer.data, np.uint8).view(_dtypes()[tensor.type]).reshape(tensor.shape)
        encoded, sparse_kernel = self._encoded(index, values)
        if encoded.nbytes + DESCRIPTION_BYTES >= values.nbytes:
            return False
        tensor.sparsity = encoded.parameters
        buffer.data = encoded.values.view(np.uint8)
        if sparse_kernel:
            for operator in self._consumers(index):
                operator.opcodeIndex = self._code("FULLY_CONNECTED", SPARSE_KERNEL_VERSION)
        else:
            self._unpack(index)
        return True

    def _encoded(self, index: int, values: np.ndarray) -> tuple[Encoded, bool]:
        """Encode a weight; return the encoding, and whether the sparse kernel is to read it."""
        if values.dtype == np.float32 and all(self._name(user) == "FULLY_CONNECTED" for user in self._consumers(index)):
            candidates = [encode_rows(values), *([encode_blocks(values)] if values.shape[1] % BLOCK == 0 else [])]
            best = min(candidates, key=lambda encoded: encoded.nbytes)
            if best.entries <= SPARSE_KERNEL_SHARE * values.size:
                return best, True
        return encode_smallest_rows(values), False

    def _unpack(self, index: int) -> None:
        """Insert a DENSIFY, run first, that unpacks a tensor for all its readers."""
        from tfprune_init.export.tflite_schema import schema

        sparse = self._main.tensors[index]
        dense = schema.TensorT()
        dense.shape, dense.type, dense.hasRank = sparse.shape, sparse.type, sparse.hasRank
        dense.name = sparse.name + b"/unpacked"
        # The operators read the scales here; there may be thousands, so they aren't stored twice.
        dense.quantization, sparse.quantization = sparse.quantization, None
        number = len(self._main.tensors)
        for operator in self._consumers(index):
            operator.inputs = np.where(np.asarray(operator.inputs) == index, number, operator.inputs).astype(np.int32)
        self._main.tensors.append(dense)
        densify = schema.OperatorT()
        densify.opcodeIndex = self._code("DENSIFY", 1)
        densify.inputs, densify.outputs = np.array([index], np.int32), np.array([number], np.int32)
        densify.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
        densify.builtinOptions = schema.DensifyOptionsT()
        self._main.operators.insert(0, densify)

    def _consumers(self, index: int) -> list[Any]:
        return [operator for operator in self._main.operators if index in operator.inputs]

    def _readers(self, index: int) -> set[str]:
        """List the operators that compute with a tensor; a DEQUANTIZE, for float16, only passes it on."""
        names = set()
        for operator in self._consumers(index):
            passed_on = self._name(operator) == "DEQUANTIZE"
            names |= self._readers(operator.outputs[0]) if passed_on else {self._name(operator)}
        return names

    def _name(self, operator: Any) -> str:
        code = self._model.operatorCodes[operator.opcodeIndex]
        return _operator_names()[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def _code(self, name: str, version: int) -> int:
        """Get the index of the code of an operator in a version; add it if it is missing."""
        from tfprune_init.export.tflite_schema import schema

        number = getattr(schema.BuiltinOperator, name)
        codes = self._model.operatorCodes
        for index, code in enumerate(codes):
            if (code.builtinCode, code.version) == (number, version):
                return index
        added = schema.OperatorCodeT()
        added.builtinCode = added.deprecatedBuiltinCode = number
        added.version = version
        codes.append(added)
        return len(codes) - 1


def _dtypes() -> dict[int, str]:
    """List NumPy's names of the types in which weights are encoded."""
    from tfprune_init.export.tflite_schema import schema

    return {schema.TensorType.FLOAT32: "<f4", schema.TensorType.FLOAT16: "<f2", schema.TensorType.INT8: "i1"}


def _operator_names() -> dict[int, str]:
    from tfprune_init.export.tflite_schema import schema

    return {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


def _serialize(model: Any) -> bytes:
    """Serialize the model with each buffer at a multiple of 16 bytes, as kernels expect.

    Python's packer does not align them.
    """
    import flatbuffers

    from tfprune_init.export.tflite_schema import schema

    class Aligned(schema.BufferT):  # type: ignore[misc]  # TensorFlow has no types
        """A buffer whose bytes begin at a multiple of 16."""

        def Pack(self, builder: Any) -> int:  # noqa: N802 - the schema's name
            if self.data is None or len(self.data) == 0:
                return int(super().Pack(builder))
            data = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(data), 16)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            return int(schema.BufferEnd(builder))

    for buffer in model.buffers:
        buffer.__class__ = Aligned
    builder = flatbuffers.Builder(sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None) + 65536)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
