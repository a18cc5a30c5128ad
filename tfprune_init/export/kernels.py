"""The kernel that runs on a weight: sparse, dense, or none that reads it right; by rule, with a reason.

The rules are those of TensorFlow 2.21 and LiteRT 2.3 with their default delegate, XNNPACK. The rules on encoded weights
were confirmed on such files: outputs against the model's, latency against that of the same weights stored dense.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tfprune_init.errors import ExportError
from tfprune_init.export.sparse_reader import get_block, name_encoding, read_levels
from tfprune_init.export.tflite_graph import Graph, Operator, Subgraph, Tensor

SPARSE, ARM, DENSIFY, DENSE, BROKEN, UNUSED, UNKNOWN = KERNELS = (
    "sparse",
    "sparse (ARM only)",
    "densify",
    "dense",
    "broken",
    "unused",
    "unknown",
)
"""Values of `TensorFacts.kernel`."""

_UNPACKING = ("DENSIFY", "DEQUANTIZE")
"""Operators that pass a weight on in another form."""

_BRANCHES = ("bodySubgraphIndex", "condSubgraphIndex", "thenSubgraphIndex", "elseSubgraphIndex")
"""Options of control flow operators that name the subgraphs they run."""

_LOOKUPS = ("GATHER", "GATHER_ND", "EMBEDDING_LOOKUP")

SPARSE_VERSION = 8
"""The version of FULLY_CONNECTED that XNNPACK leaves to TFLite's own kernels, some of which are sparse."""

_QUANTIZES_INPUTS = ("FULLY_CONNECTED", "CONV_2D", "TRANSPOSE_CONV")
"""Operators that XNNPACK runs on int8 weights and float inputs, which it quantizes at run time."""


@dataclass(frozen=True, eq=False)
class WeightUse:
    """An operator that computes with a weight.

    Attributes:
        subgraph: Subgraph of the operator.
        operator: The operator.
        through: Names of the operators that unpack the weight on its way there.
    """

    subgraph: Subgraph
    operator: Operator
    through: tuple[str, ...]

    @property
    def output(self) -> str:
        """Type of what the operator computes."""
        return self.subgraph.tensors[self.operator.outputs[0]].dtype if self.operator.outputs else ""


def find_uses(graph: Graph, subgraph: Subgraph, tensor: int) -> list[WeightUse]:
    """Find every operator that computes with a tensor, also behind unpacking and in loops and branches.

    Args:
        graph: The whole file.
        subgraph: Subgraph of the tensor.
        tensor: Its index there.

    Raises:
        ExportError: If an operator runs a graph that is not in the file.
    """
    return list(_follow(graph, subgraph, tensor, (), set()))


def _follow(
    graph: Graph, subgraph: Subgraph, tensor: int, through: tuple[str, ...], seen: set[tuple[int, int]]
) -> Iterator[WeightUse]:
    if (subgraph.index, tensor) in seen:
        return
    seen.add((subgraph.index, tensor))
    for operator, position in subgraph.consumers.get(tensor, ()):
        inner = [_get_branch(graph, operator, name) for name in _BRANCHES if name in operator.options]
        # The first input of IF is the condition, which the branches don't get.
        place = position - 1 if operator.name == "IF" else position
        if operator.name in _UNPACKING and operator.outputs:
            yield from _follow(graph, subgraph, operator.outputs[0], (*through, operator.name), seen)
        elif inner:
            for branch in inner:
                if 0 <= place < len(branch.inputs):
                    yield from _follow(graph, branch, branch.inputs[place], through, seen)
        else:
            yield WeightUse(subgraph, operator, through)


def _get_branch(graph: Graph, operator: Operator, name: str) -> Subgraph:
    index = operator.option(name)
    if not 0 <= index < len(graph.subgraphs):
        raise ExportError(
            f"The TFLite file is damaged: {operator.name} {operator.index} runs graph {index} of "
            f"{len(graph.subgraphs)}."
        )
    found: Subgraph = graph.subgraphs[index]
    return found


def find_kernel(tensor: Tensor, use: WeightUse | None, sparse_on_arm: bool) -> tuple[str, str]:
    """Find the kernel that runs on a weight in one of its uses, and the reason.

    Args:
        tensor: The weight.
        use: The operator that computes with it; None if there is none.
        sparse_on_arm: Whether XNNPACK runs that operator with sparse weights on ARM.

    Returns:
        One of `KERNELS`, and a sentence.
    """
    if use is None:
        return UNUSED, "no operator computes with it"
    if tensor.external:
        return UNKNOWN, "its values are in another file, which isn't read"
    if sparse_on_arm:
        return ARM, "XNNPACK multiplies the nonzeros only on ARM; on x86 with AVX it runs dense"
    if tensor.encoding is None:
        return DENSE, _explain_dense(use)
    lost = _explain_left_over(tensor)
    if lost is not None:
        return BROKEN, lost
    if "DENSIFY" in use.through:
        return _find_unpacked_kernel(tensor, use)
    return _find_stored_kernel(tensor, use)


def _explain_dense(use: WeightUse) -> str:
    if use.operator.name in _LOOKUPS:
        return f"{use.operator.name} copies the rows it is asked for; zeros cost memory, not time"
    return f"stored dense, and {use.operator.name} multiplies by its zeros as by any weight"


def _explain_left_over(tensor: Tensor) -> str | None:
    """Explain why blocks that do not divide a dimension are wrong; None if they divide it."""
    for size, block in zip(tensor.shape, get_block(tensor), strict=True):
        if size % block:
            return (
                f"{size} inputs aren't a multiple of the block of {block}: the converter left out the last "
                f"{size % block}, and outputs are wrong"
            )
    return None


def _find_unpacked_kernel(tensor: Tensor, use: WeightUse) -> tuple[str, str]:
    name = use.operator.name
    if tensor.dtype == "INT8" and "DEQUANTIZE" not in use.through:
        if use.output == "FLOAT32" and name in _QUANTIZES_INPUTS:
            return BROKEN, f"XNNPACK refuses {name} with unpacked int8 weights and float inputs: it doesn't load"
        if name == "FULLY_CONNECTED" and use.output == "INT8":
            return DENSIFY, "unpacked when loaded, then dense int8; LiteRT 2.3.0 refuses to load it"
    if "DEQUANTIZE" in use.through:
        return DENSIFY, f"unpacked and made float32 when loaded; {name} then runs dense"
    return DENSIFY, f"unpacked when loaded; {name} then runs dense"


def _find_stored_kernel(tensor: Tensor, use: WeightUse) -> tuple[str, str]:
    """Find the kernel for an encoded weight without DENSIFY; only one operator has such kernels."""
    name, encoding, dtype = use.operator.name, name_encoding(tensor), tensor.dtype.lower()
    reader = use.through[0] if use.through else name
    if reader != "FULLY_CONNECTED":
        return BROKEN, f"{reader} takes {encoding} {dtype} values for dense ones: wrong outputs or a crash"
    if use.operator.version != SPARSE_VERSION:
        return BROKEN, (
            f"XNNPACK takes the {encoding} {dtype} weights of FULLY_CONNECTED version {use.operator.version} for dense "
            f"ones: wrong outputs or a crash; it leaves only version {SPARSE_VERSION} to the sparse kernels"
        )
    kind = (dtype, encoding)
    if kind == ("float32", "block 1x4"):
        return SPARSE, "FULLY_CONNECTED multiplies only the blocks of 4 inputs that are stored"
    if kind == ("float32", "CSR"):
        return SPARSE, (
            "FULLY_CONNECTED multiplies only the values that are stored, one by one: faster than dense only where few "
            "are left"
        )
    if kind == ("int8", "block 1x16") and (use.output == "INT8" or _fits_a_byte(tensor)):
        return SPARSE, (
            "FULLY_CONNECTED multiplies only the blocks of 16 inputs that are stored; XNNPACK's dense int8 kernel "
            "can be faster still"
        )
    return BROKEN, f"FULLY_CONNECTED has no kernel for {encoding} {dtype} weights: it fails or gives wrong outputs"


def _fits_a_byte(tensor: Tensor) -> bool:
    """Return whether block numbers and counts fit the bytes in which the kernel for float inputs keeps them."""
    _, inner, _ = read_levels(tensor)
    return bool(inner.indices.max(initial=0) <= 255 and inner.counts().max(initial=0) <= 255)
