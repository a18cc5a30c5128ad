"""Inspection of a TFLite file: zeros, encoding and kernel of each weight, and what the bytes are used for."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tfprune_init.errors import ExportError, OptionError
from tfprune_init.export.flatbuffer import compute_gzip_size
from tfprune_init.export.kernels import KERNELS, WeightUse, find_kernel, find_uses
from tfprune_init.export.sparse_reader import count_index_bytes, count_zeros, name_encoding
from tfprune_init.export.tflite_graph import Graph, Tensor, read_graph, refuse_damage
from tfprune_init.export.xnnpack import XnnpackAdvice, advise, xnnpack_advice
from tfprune_init.files import write_json

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "FileSignature",
    "Inspection",
    "Port",
    "TensorFacts",
    "inspect",
    "inspect_file",
    "xnnpack_advice",
]


@dataclass(frozen=True)
class TensorFacts:
    """One weight as one operator uses it.

    Weights are the constants of two or more dimensions.

    Attributes:
        name: Its name in the file.
        shape: Its shape in the dense view.
        dtype: Its type in the schema, in lower case, such as "float32".
        operator: The operator that computes with it, such as "CONV_2D"; empty if none does.
        subgraph: The subgraph of that operator, 0 for the main one; -1 if there is none.
        op_index: Its place in that subgraph's order of execution; -1 if there is none.
        buffer: The buffer that stores it. Rows with the same one share its bytes.
        bytes: Size in the file, indices included.
        index_bytes: Size of the indices alone.
        sparsity: Share of zeros in the dense view, in [0, 1]; None if the values are in another file.
        encoding: "dense", "CSR", a block such as "block 1x4", or "in another file".
        kernel: Kernel that runs: "sparse"; "sparse (ARM only)"; "densify", which unpacks it and runs dense; "dense";
            "broken", which gives wrong outputs, crashes or doesn't load; "unused"; "unknown".
        reason: Reason for the kernel, in words.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    operator: str
    subgraph: int
    op_index: int
    buffer: int
    bytes: int
    index_bytes: int
    sparsity: float | None
    encoding: str
    kernel: str
    reason: str


@dataclass(frozen=True)
class Port:
    """An input or output of the file.

    Attributes:
        name: Its name in the signature.
        shape: Its shape, None where it is open.
        dtype: Its type in the schema, in lower case.
        scale: Of integers that stand for real numbers: a stored value q stands for (q - zero_point) * scale; else None.
        zero_point: The stored value that stands for 0.0; None where there is no scale.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclass(frozen=True)
class FileSignature:
    """One way to call the file.

    Attributes:
        key: Its name; empty for a file without signatures.
        inputs: Inputs of the call.
        outputs: Outputs of the call.
    """

    key: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Inspection:
    """A report on a TFLite file, read from the file alone.

    Attributes:
        path: Path of the file; None if it was given as bytes.
        bytes: Its size.
        gzip_bytes: Its size gzipped.
        tensors: Its weights, one row for each operator that computes with them.
        weights: Number of weights in the dense view; a shared buffer counts once.
        zero_weights: Number of weights that are zero.
        value_bytes: Bytes of the weights' values.
        index_bytes: Bytes of the indices that say where they are.
        other_bytes: Bytes of all other constants: biases, shapes, integers.
        operators: Number of times each operator occurs, over all subgraphs.
        subgraphs: Number of subgraphs; more than one where there are loops or branches.
        signatures: Its inputs and outputs.
        arm: How XNNPACK runs 1x1 convolutions on ARM: "sparse", "dense", or "unsafe", which may give wrong
            outputs there; `xnnpack_advice` says why.
    """

    path: str | None
    bytes: int
    gzip_bytes: int
    tensors: tuple[TensorFacts, ...]
    weights: int
    zero_weights: int
    value_bytes: int
    index_bytes: int
    other_bytes: int
    operators: dict[str, int]
    subgraphs: int
    signatures: tuple[FileSignature, ...]
    arm: str

    @property
    def sparsity(self) -> float:
        """Share of zeros among all weights, in [0, 1]."""
        return self.zero_weights / self.weights if self.weights else 0.0

    @property
    def structure_bytes(self) -> int:
        """Bytes that hold no constant: the graph, names, metadata, padding."""
        return self.bytes - self.value_bytes - self.index_bytes - self.other_bytes

    @property
    def densifies(self) -> bool:
        """Whether weights are unpacked by DENSIFY operators."""
        return "DENSIFY" in self.operators

    def kernels(self) -> dict[str, int]:
        """Count the rows of each kernel that occurs."""
        counts = Counter(row.kernel for row in self.tensors)
        return {kernel: counts[kernel] for kernel in KERNELS if counts[kernel]}

    def to_dict(self) -> dict[str, Any]:
        """Convert everything to types that JSON knows."""
        computed = ("sparsity", "structure_bytes", "densifies")
        return {**json.loads(json.dumps(asdict(self))), **{name: getattr(self, name) for name in computed}}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict()` as JSON.

        Args:
            path: File to write; its folder must exist.
        """
        write_json(path, self.to_dict())

    def print(self, file: TextIO | None = None) -> None:
        """Print the report as tables.

        Args:
            file: Where to print; standard output by default.
        """
        from rich.console import Console

        self.show(Console(file=file))

    def show(self, console: Console) -> None:
        """Print the report as tables.

        Args:
            console: Where to print.
        """
        from tfprune_init.export.inspection_tables import show

        show(self, console)


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Read a .tflite file, from this package or another, and report its contents.

    Args:
        path: The file.

    Raises:
        OptionError: If there is no file of that name.
        ExportError: If it is not a TFLite file, or is truncated or damaged.

    Example:
        >>> inspect("model.tflite").print()  # doctest: +SKIP
    """
    source = Path(path)
    if not source.is_file():
        found = "a folder" if source.is_dir() else "no file of that name"
        raise OptionError(f"There is nothing to inspect: {found}. Pass the path of a .tflite file. Received: {source}")
    try:
        return _inspection(source.read_bytes(), str(source))
    except ExportError as error:
        raise ExportError(f"{source}: {error}") from error


def inspect_file(file: bytes) -> Inspection:
    """Inspect a file in memory, like `inspect`.

    Args:
        file: Its bytes.

    Raises:
        ExportError: If it is not a TFLite file, or is truncated or damaged.

    Example:
        >>> inspect_file(bytes(64))
        Traceback (most recent call last):
        tfprune_init.errors.ExportError: Not a TFLite file: ...
    """
    return _inspection(file, None)


def _inspection(file: bytes, path: str | None) -> Inspection:
    with refuse_damage(file):
        return _summarize(read_graph(file), file, path)


def _summarize(graph: Graph, file: bytes, path: str | None) -> Inspection:
    advice = advise(graph)
    tensors = [tensor for subgraph in graph.subgraphs for tensor in subgraph.tensors]
    weights = _drop_shared_buffers(tensor for tensor in tensors if tensor.is_weight and not tensor.external)
    values = sum(tensor.data.size for tensor in weights)
    return Inspection(
        path=path,
        bytes=len(file),
        gzip_bytes=compute_gzip_size(file),
        tensors=tuple(_build_rows(graph, advice)),
        weights=sum(tensor.size for tensor in weights),
        zero_weights=sum(count_zeros(tensor) for tensor in weights),
        value_bytes=values,
        index_bytes=sum(count_index_bytes(tensor) for tensor in tensors),
        other_bytes=sum(tensor.data.size for tensor in _drop_shared_buffers(tensors)) - values,
        operators=dict(Counter(operator.name for subgraph in graph.subgraphs for operator in subgraph.operators)),
        subgraphs=len(graph.subgraphs),
        signatures=_read_signatures(graph),
        arm=advice.verdict,
    )


def _drop_shared_buffers(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Keep one tensor for each buffer; tensors that store nothing have no buffer and are all kept."""
    return list({tensor.buffer if tensor.data.size else id(tensor): tensor for tensor in tensors}.values())


def _build_rows(graph: Graph, advice: XnnpackAdvice) -> Iterator[TensorFacts]:
    """Yield a row for each weight and each operator that uses it; one row if no operator does."""
    on_arm = {row.op_index for row in advice.operators if row.pointwise and row.eligible and advice.verdict == "sparse"}
    for subgraph in graph.subgraphs:
        for index, tensor in enumerate(subgraph.tensors):
            if tensor.is_weight:
                facts = _collect_facts(tensor)
                found: list[WeightUse | None] = [*find_uses(graph, subgraph, index)]
                for use in found or [None]:
                    sparse_on_arm = use is not None and use.subgraph.index == 0 and use.operator.index in on_arm
                    kernel, reason = find_kernel(tensor, use, sparse_on_arm)
                    yield TensorFacts(
                        **facts,
                        operator=use.operator.name if use else "",
                        subgraph=use.subgraph.index if use else -1,
                        op_index=use.operator.index if use else -1,
                        kernel=kernel,
                        reason=reason,
                    )


def _collect_facts(tensor: Tensor) -> dict[str, Any]:
    """Collect the facts of a weight that do not depend on the operator."""
    return {
        "name": tensor.name,
        "shape": tensor.shape,
        "dtype": tensor.dtype.lower(),
        "buffer": tensor.buffer,
        "bytes": tensor.data.size + count_index_bytes(tensor),
        "index_bytes": count_index_bytes(tensor),
        "sparsity": None if tensor.external else count_zeros(tensor) / tensor.size if tensor.size else 0.0,
        "encoding": name_encoding(tensor),
    }


def _read_signatures(graph: Graph) -> tuple[FileSignature, ...]:
    main = graph.subgraphs[0]
    inputs, outputs = (
        {main.tensors[index].name: main.tensors[index] for index in side} for side in (main.inputs, main.outputs)
    )
    return tuple(
        FileSignature(key, _make_ports(taken), _make_ports(given))
        for key, (taken, given) in (graph.signatures or {"": (inputs, outputs)}).items()
    )


def _make_ports(tensors: dict[str, Tensor]) -> tuple[Port, ...]:
    return tuple(
        Port(name, tensor.open_shape, tensor.dtype.lower(), *_read_scale(tensor)) for name, tensor in tensors.items()
    )


def _read_scale(tensor: Tensor) -> tuple[float | None, int | None]:
    """Read scale and zero point of a whole tensor."""
    if tensor.scales.size != 1 or tensor.zero_points.size != 1:
        return None, None
    return float(tensor.scales[0]), int(tensor.zero_points[0])
