"""Advice on XNNPACK's sparse 1x1 convolutions: which run sparse on ARM, why others do not, what to change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tfprune_init.export.sparse_reader import count_zeros
from tfprune_init.export.tflite_graph import Graph, Operator, Subgraph, read_graph, refuse_damage
from tfprune_init.export.xnnpack_chains import END, Chains
from tfprune_init.export.xnnpack_rules import FLOATS, IncompatibilityReason, get_weight, is_pointwise

SPARSE, DENSE, UNSAFE = "sparse", "dense", "unsafe"

NOT_MEASURED = "Read from the graph, not measured on the target: XNNPACK switches these kernels off on x86 with AVX."

_CHAIN = IncompatibilityReason("chain", "another operator of its chain can't work with channels first", "See there.")
_STORAGE = IncompatibilityReason(
    "storage", "no weight is stored with its zeros left out", "Leave zeros out of the file when exporting it."
)
_NO_POINTWISE = IncompatibilityReason("pointwise", "there is no 1x1 convolution", "")


@dataclass(frozen=True)
class OperatorAdvice:
    """One operator of the convolutional part.

    Attributes:
        op_index: Its place in the order of execution.
        operator: Its name in the schema.
        output: Name of the tensor it computes.
        pointwise: Whether it is a 1x1 convolution.
        eligible: Whether it is part of a chain that XNNPACK can run sparse.
        rule: Short name of the rule that stops it; None if none does.
        reason: That rule, in a sentence; empty if none does.
        change: How to fix it; empty if none does.
    """

    op_index: int
    operator: str
    output: str
    pointwise: bool
    eligible: bool
    rule: str | None
    reason: str
    change: str


@dataclass(frozen=True)
class XnnpackAdvice:
    """How XNNPACK runs the 1x1 convolutions of a file where its sparse kernels are enabled: on ARM.

    Attributes:
        verdict: "sparse": they multiply nonzeros only; "dense": they run dense; "unsafe": a part of the chain
            may be switched to channels-first layout and read by an operator that expects channels last, which
            gives wrong outputs.
        rule: Short name of the rule that decided; None if the verdict is "sparse".
        reason: Reason for the verdict, in a sentence.
        change: How to fix it; empty if the verdict is "sparse".
        zeros: Zeros in the 1x1 convolutions, before the end of the convolutional part.
        weights: Weights in them.
        operators: Each operator of the convolutional part.
        note: How the verdict was found.
    """

    verdict: str
    rule: str | None
    reason: str
    change: str
    zeros: int
    weights: int
    operators: tuple[OperatorAdvice, ...]
    note: str = NOT_MEASURED

    def to_dict(self) -> dict[str, Any]:
        """Convert everything to types that JSON knows."""
        return {**asdict(self), "operators": [asdict(operator) for operator in self.operators]}

    def __str__(self) -> str:
        lines = [f"1x1 convolutions on ARM (XNNPACK): {self.verdict}, as {self.reason}."]
        if self.change:
            lines.append(self.change)
        for operator in self.operators:
            if operator.rule is not None:
                name = f"{operator.operator} {operator.op_index} ({operator.output})"
                lines.append(f"  {name}: {operator.reason}. {operator.change}")
        return "\n".join([*lines, self.note])


def xnnpack_advice(file: bytes) -> XnnpackAdvice:
    """Find how XNNPACK runs the 1x1 convolutions of a file on ARM, and what would make them fast.

    The graph is checked by XNNPACK's own rules. They were confirmed by running files with and without zeros left out in
    LiteRT 2.3.0 with AVX hidden from it, which enables its sparse kernels.

    Args:
        file: A TFLite file.

    Raises:
        ExportError: If it is not a TFLite file, or is truncated or damaged.

    Example:
        >>> print(xnnpack_advice(open("model.tflite", "rb").read()))  # doctest: +SKIP
    """
    with refuse_damage(file):
        return advise(read_graph(file))


def advise(graph: Graph) -> XnnpackAdvice:
    """Advise on a graph that is already read, like `xnnpack_advice`.

    Args:
        graph: The graph of the file.
    """
    main = graph.subgraphs[0]
    chains = Chains(main)
    weights = {operator.index: get_weight(main, operator) for operator in chains.list_pointwise()}
    counts = {index: (count_zeros(tensor), tensor.size) for index, tensor in weights.items()}
    # Only those in a chain count; all if there is no chain.
    chained = [count for index, count in counts.items() if index in chains.within] or list(counts.values())
    verdict, stop = _verdict(main, chains, list(counts.values()), chained)
    return XnnpackAdvice(
        verdict=verdict,
        rule=stop.rule if stop else None,
        reason=stop.reason if stop else "its chain keeps every rule",
        change=stop.change if stop else "",
        zeros=sum(zero for zero, _ in chained),
        weights=sum(size for _, size in chained),
        operators=tuple(_operator_advice(main, chains, operator) for operator in chains.operators),
    )


def _operator_advice(main: Subgraph, chains: Chains, operator: Operator) -> OperatorAdvice:
    stop = chains.stops.get(operator.index)
    if stop is None and not chains.stops.keys().isdisjoint(chains.within | chains.reached):
        stop = _CHAIN
    return OperatorAdvice(
        op_index=operator.index,
        operator=operator.name,
        output=main.tensors[operator.outputs[0]].name,
        pointwise=is_pointwise(main, operator),
        eligible=stop is None,
        rule=stop.rule if stop else None,
        reason=stop.reason if stop else "",
        change=stop.change if stop else "",
    )


def _verdict(
    main: Subgraph, chains: Chains, counts: list[tuple[int, int]], chained: list[tuple[int, int]]
) -> tuple[str, IncompatibilityReason | None]:
    """Decide on a graph; return the verdict, and the rule that decided it (None if all rules are kept).

    Args:
        main: The main graph.
        chains: Its chains.
        counts: Zeros and weights of each 1x1 convolution.
        chained: The same of those in a chain.
    """
    if not counts:
        return DENSE, _NO_POINTWISE
    if not _unpacks_floats(main):
        return DENSE, _STORAGE
    if not chains.list_ends():
        return DENSE, END
    if not chains.list_firsts():
        return DENSE, chains.explain_missing_start()
    stops = [stop for index, stop in chains.stops.items() if index in chains.within | chains.reached]
    # XNNPACK counts in each part that it might switch; a part is sparse only if one of its convolutions is.
    if not any(_is_sparse([count]) for count in counts) or (not stops and not _is_sparse(chained)):
        return DENSE, _make_density_reason(chained)
    return (UNSAFE, stops[0]) if stops else (SPARSE, None)


def _unpacks_floats(main: Subgraph) -> bool:
    """Return whether zeros of float weights are left out: XNNPACK looks for sparse chains only then."""
    return any(
        operator.name == "DENSIFY" and main.tensors[operator.inputs[0]].dtype in FLOATS for operator in main.operators
    )


def _is_sparse(counts: list[tuple[int, int]]) -> bool:
    """Return whether more than 2/3 of some weights are zero, XNNPACK's threshold."""
    return 3 * sum(zero for zero, _ in counts) > 2 * sum(size for _, size in counts)


def _make_density_reason(counts: list[tuple[int, int]]) -> IncompatibilityReason:
    share = sum(zero for zero, _ in counts) / max(1, sum(size for _, size in counts))
    return IncompatibilityReason(
        "zeros",
        f"{share:.1%} of the weights in 1x1 convolutions are zero, and it takes more than 2/3",
        "Prune the 1x1 convolutions to a sparsity of at least 0.7.",
    )
