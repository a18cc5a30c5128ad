"""Inside a TFLite file: its weights, how many of them are zero, and the size it would have were none."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import numpy as np

GZIP_LEVEL = 6
"""The default of the gzip command, so that sizes are those its users see."""


def gzip_size(file: bytes) -> int:
    """Bytes of the gzipped file; the same for the same file, as no time is stored.

    Example:
        >>> gzip_size(bytes(10_000)) < 100
        True
    """
    return len(gzip.compress(file, compresslevel=GZIP_LEVEL, mtime=0))


def positive_zeros(file: bytes) -> bytes:
    """The same file with each weight of -0.0 stored as 0.0.

    Multiplying by a mask leaves -0.0 wherever the weight was negative. The two compute alike, but mixed they
    cost a 95% sparse file some 70% more bytes after gzip.

    Args:
        file: a TFLite file.
    """
    edited = bytearray(file)
    for values in _weights(edited):
        values[values == 0] = 0
    return bytes(edited)


def sparsity(file: bytes) -> float:
    """Share of exact zeros among the weights stored in the file, in [0, 1].

    Weights are the constants of two or more dimensions: kernels and embeddings, not biases. Small weights
    that quantization rounds to zero count, so a quantized file can be sparser than its model.

    Args:
        file: a TFLite file.
    """
    weights = list(_weights(bytearray(file)))
    total = sum(values.size for values in weights)
    zeros = sum(values.size - np.count_nonzero(values) for values in weights)
    return float(zeros / total) if total else 0.0


def densified(file: bytes) -> bytes:
    """The file of the dense model: each zero weight replaced by a random one of the surviving weights' scale.

    Same length, for its gzip, and the same work to run. Editing the bytes leaves the model alone and needs no second
    conversion. The result is deterministic; what it computes means nothing.

    Args:
        file: a TFLite file that stores its zeros.
    """
    edited = bytearray(file)
    random = np.random.default_rng(0)
    for values in _weights(edited):
        zero = values == 0
        survivors = values[~zero]
        scale = float(survivors.std()) if survivors.size > 1 else 0.0
        values[zero] = _in_type(random.normal(0.0, scale or 1.0, int(zero.sum())), values.dtype)
    return bytes(edited)


def _in_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values in another type; integers stay in the range of quantized weights, and off zero."""
    if np.issubdtype(dtype, np.floating):
        return values.astype(dtype)
    away = np.copysign(np.maximum(np.abs(np.rint(values)), 1), values)
    return np.clip(away, -127, 127).astype(dtype)


def _weights(file: bytearray) -> Iterator[np.ndarray]:
    """The weights as flat arrays that share their memory with `file`; a shared buffer comes once."""
    from tensorflow.lite.python import schema_py_generated as schema

    dtypes = {
        schema.TensorType.FLOAT32: "<f4",
        schema.TensorType.FLOAT16: "<f2",
        schema.TensorType.INT8: "i1",
    }
    model = schema.Model.GetRootAs(file)
    seen = set()
    for subgraph in (model.Subgraphs(index) for index in range(model.SubgraphsLength())):
        for tensor in (subgraph.Tensors(index) for index in range(subgraph.TensorsLength())):
            buffer = model.Buffers(tensor.Buffer())
            if tensor.Type() not in dtypes or tensor.ShapeLength() < 2 or not buffer.DataLength():
                continue
            if tensor.Buffer() not in seen:
                seen.add(tensor.Buffer())
                yield buffer.DataAsNumpy().view(dtypes[tensor.Type()])
