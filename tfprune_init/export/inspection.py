"""What is inside a TFLite file: each weight's zeros, encoding and kernel, and where the bytes are."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tfprune_init.errors import ExportError, OptionError
from tfprune_init.export.flatbuffer import gzip_size
from tfprune_init.export.graph import Graph, Tensor, read_graph
from tfprune_init.export.kernels import KERNELS, Use, kernel_of, uses
from tfprune_init.export.sparse_encoding import encoding_name, index_bytes, zeros
from tfprune_init.export.xnnpack import XnnpackAdvice, advise, xnnpack_advice

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Inspection", "Port", "Signature", "TensorFacts", "inspect", "inspect_file", "xnnpack_advice"]


@dataclass(frozen=True)
class TensorFacts:
    """One weight, as one operator uses it. Weights are the constants of two or more dimensions.

    Attributes:
        name: its name in the file.
        shape: its shape in the dense view.
        dtype: its type in the schema, in lower case, such as "float32".
        operator: the operator that computes with it, such as "CONV_2D"; empty if none does.
        subgraph: the subgraph of that operator, 0 for the main one; -1 if there is none.
        op_index: its place in that subgraph's order of execution; -1 if there is none.
        buffer: the buffer that stores it. Rows with the same one share its bytes.
        bytes: size in the file, indices included.
        index_bytes: size of the indices alone.
        sparsity: share of zeros in the dense view, in [0, 1]; None if the values are in another file.
        encoding: "dense", "CSR", a block such as "block 1x4", or "in another file".
        kernel: what runs: "sparse"; "sparse (ARM only)"; "densify", which unpacks it and runs dense; "dense";
            "broken", which gives wrong outputs, crashes or doesn't load; "unused"; "unknown".
        reason: why, in words.
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
        name: its name in the signature.
        shape: its shape, None where it is open.
        dtype: its type in the schema, in lower case.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Signature:
    """One way to call the file.

    Attributes:
        key: its name; empty for a file without signatures.
        inputs: what goes in.
        outputs: what comes out.
    """

    key: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Inspection:
    """An account of a TFLite file, read from the file alone.

    Attributes:
        path: where it is; None if it was given as bytes.
        bytes: its size.
        gzip_bytes: its size gzipped.
        tensors: its weights, one row for each operator that computes with them.
        weights: number of weights in the dense view; a shared buffer counts once.
        zero_weights: how many of them are zero.
        value_bytes: bytes of the weights' values.
        index_bytes: bytes of the indices that say where they are.
        other_bytes: bytes of all other constants: biases, shapes, integers.
        operators: how often each operator occurs, over all subgraphs.
        subgraphs: number of subgraphs; more than one where there are loops or branches.
        signatures: its inputs and outputs.
        arm: what XNNPACK does with 1x1 convolutions on ARM: "sparse", "dense", or "unsafe", which may give wrong
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
    signatures: tuple[Signature, ...]
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
        """Number of rows by kernel, those that occur."""
        counts = Counter(row.kernel for row in self.tensors)
        return {kernel: counts[kernel] for kernel in KERNELS if counts[kernel]}

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        computed = ("sparsity", "structure_bytes", "densifies")
        return {**json.loads(json.dumps(asdict(self))), **{name: getattr(self, name) for name in computed}}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict()` as JSON.

        Args:
            path: file to write; its folder must exist.
        """
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def print(self, file: TextIO | None = None) -> None:
        """Show the account as tables.

        Args:
            file: where to; the standard output by default.
        """
        from rich.console import Console

        self.show(Console(file=file))

    def show(self, console: Console) -> None:
        """Show the account as tables.

        Args:
            console: where to.
        """
        from tfprune_init.export.inspection_table import show

        show(self, console)


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Read a .tflite file, ours or not, and say what is in it.

    Args:
        path: the file.

    Raises:
        OptionError: there is no file of that name.
        ExportError: it is no TFLite file, or a truncated or damaged one.

    Example:
        >>> inspect("model.tflite").print()  # doctest: +SKIP
    """
    source = Path(path)
    if not source.is_file():
        found = "a folder" if source.is_dir() else "no file of that name"
        raise OptionError(f"There is nothing to inspect: {found}. Give the path of a .tflite file. Received: {source}")
    try:
        return _inspection(source.read_bytes(), str(source))
    except ExportError as error:
        raise ExportError(f"{source}: {error}") from error


def inspect_file(file: bytes) -> Inspection:
    """As `inspect`, of a file in memory.

    Args:
        file: its bytes.

    Raises:
        ExportError: it is no TFLite file, or a truncated or damaged one.

    Example:
        >>> inspect_file(bytes(64))
        Traceback (most recent call last):
        tfprune_init.errors.ExportError: Not a TFLite file: ...
    """
    return _inspection(file, None)


def _inspection(file: bytes, path: str | None) -> Inspection:
    graph = read_graph(file)
    advice = advise(graph)
    tensors = [tensor for subgraph in graph.subgraphs for tensor in subgraph.tensors]
    weights = _each_buffer_once(tensor for tensor in tensors if tensor.is_weight and not tensor.external)
    values = sum(tensor.data.size for tensor in weights)
    return Inspection(
        path=path,
        bytes=len(file),
        gzip_bytes=gzip_size(file),
        tensors=tuple(_rows(graph, advice)),
        weights=sum(tensor.size for tensor in weights),
        zero_weights=sum(zeros(tensor) for tensor in weights),
        value_bytes=values,
        index_bytes=sum(index_bytes(tensor) for tensor in tensors),
        other_bytes=sum(tensor.data.size for tensor in _each_buffer_once(tensors)) - values,
        operators=dict(Counter(operator.name for subgraph in graph.subgraphs for operator in subgraph.operators)),
        subgraphs=len(graph.subgraphs),
        signatures=_signatures(graph),
        arm=advice.verdict,
    )


def _each_buffer_once(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors may share a buffer; those that store nothing have none."""
    return list({tensor.buffer if tensor.data.size else id(tensor): tensor for tensor in tensors}.values())


def _rows(graph: Graph, advice: XnnpackAdvice) -> Iterator[TensorFacts]:
    """A row for each weight and each operator that computes with it, or one with none."""
    on_arm = {row.op_index for row in advice.operators if row.pointwise and row.eligible and advice.verdict == "sparse"}
    for subgraph in graph.subgraphs:
        for index, tensor in enumerate(subgraph.tensors):
            if tensor.is_weight:
                facts = _facts(tensor)
                found: list[Use | None] = [*uses(graph, subgraph, index)]
                for use in found or [None]:
                    sparse_on_arm = use is not None and use.subgraph.index == 0 and use.operator.index in on_arm
                    kernel, reason = kernel_of(tensor, use, sparse_on_arm)
                    yield TensorFacts(
                        **facts,
                        operator=use.operator.name if use else "",
                        subgraph=use.subgraph.index if use else -1,
                        op_index=use.operator.index if use else -1,
                        kernel=kernel,
                        reason=reason,
                    )


def _facts(tensor: Tensor) -> dict[str, Any]:
    """What is true of a weight whichever operator uses it."""
    return {
        "name": tensor.name,
        "shape": tensor.shape,
        "dtype": tensor.dtype.lower(),
        "buffer": tensor.buffer,
        "bytes": tensor.data.size + index_bytes(tensor),
        "index_bytes": index_bytes(tensor),
        "sparsity": None if tensor.external else zeros(tensor) / tensor.size if tensor.size else 0.0,
        "encoding": encoding_name(tensor),
    }


def _signatures(graph: Graph) -> tuple[Signature, ...]:
    main = graph.subgraphs[0]
    inputs, outputs = (
        {main.tensors[index].name: main.tensors[index] for index in side} for side in (main.inputs, main.outputs)
    )
    return tuple(
        Signature(key, _ports(taken), _ports(given))
        for key, (taken, given) in (graph.signatures or {"": (inputs, outputs)}).items()
    )


def _ports(tensors: dict[str, Tensor]) -> tuple[Port, ...]:
    return tuple(Port(name, tensor.open_shape, tensor.dtype.lower()) for name, tensor in tensors.items())
