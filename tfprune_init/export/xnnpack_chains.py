"""Chains of convolutions in a graph that XNNPACK may run sparse, and the rules that prevent it."""

from __future__ import annotations

from tfprune_init.export.tflite_graph import Operator, Subgraph
from tfprune_init.export.xnnpack_rules import (
    ENDS,
    UNPACKING,
    IncompatibilityReason,
    find_incompatibility,
    find_source,
    is_first,
    is_fused,
    is_pointwise,
)

FLATTENING = ("RESHAPE", "SHAPE")

START = IncompatibilityReason(
    "start",
    "its chain doesn't begin with a 3x3 convolution with strides of 2 on 3 channels, padded by 1",
    'Begin with ZeroPadding2D(1) and Conv2D(filters, 3, strides=2, padding="valid") on the image.',
)
END = IncompatibilityReason(
    "end",
    "its chain doesn't end in global average pooling",
    "End with GlobalAveragePooling2D, before any Flatten or Dense.",
)
KEPT = IncompatibilityReason(
    "keepdims",
    "global pooling keeps rows and columns of size 1, and what follows expects channels last",
    "Use GlobalAveragePooling2D(keepdims=False), and Dense behind it.",
)
OUTSIDE = IncompatibilityReason("outside", "it isn't between a first convolution and global pooling", "")


class Chains:
    """The chains of convolutions in a graph, followed back from global pooling and on from the first convolutions.

    Attributes:
        operators: Every operator that computes with images, in the order of execution.
        within: Indices of those between a beginning and global pooling.
        reached: Indices of those behind a first convolution, that convolution included.
        stops: By index: the rule that stops an operator.
    """

    def __init__(self, main: Subgraph) -> None:
        self._main = main
        self.operators = [operator for operator in main.operators if self._computes_with_images(operator)]
        self._own = {operator.index: find_incompatibility(main, operator) for operator in self.operators}
        self.within = self._follow_back()
        self.reached = self._follow_on()
        found = {operator.index: self._find_rule(operator) for operator in self.operators}
        self.stops = {index: stop for index, stop in found.items() if stop is not None}

    def list_ends(self) -> list[Operator]:
        """List operators that lead out of the channels-first layout, or would if they broke no rule."""
        return [operator for operator in self.operators if operator.name in ENDS]

    def list_firsts(self) -> list[Operator]:
        """List operators that lead into the channels-first layout."""
        return [operator for operator in self.operators if is_first(self._main, operator)]

    def explain_missing_start(self) -> IncompatibilityReason:
        """Explain why there is no first convolution."""
        convolutions = [one for one in self.operators if one.name == "CONV_2D" and not is_pointwise(self._main, one)]
        return next((self.stops[one.index] for one in convolutions if one.index in self.stops), START)

    def list_pointwise(self) -> list[Operator]:
        """List all 1x1 convolutions."""
        return [operator for operator in self.operators if is_pointwise(self._main, operator)]

    def _computes_with_images(self, operator: Operator) -> bool:
        if operator.name in UNPACKING or is_fused(self._main, operator) or self._flattens(operator):
            return False
        ends = [*operator.inputs[:1], *operator.outputs[:1]]
        return any(len(self._main.tensors[index].shape) == 4 for index in ends if index >= 0)

    def _flattens(self, operator: Operator) -> bool:
        """Return whether an operator removes the rows and columns of size 1 that global pooling may leave."""
        pooling = self._main.producers.get(operator.inputs[0]) if operator.inputs else None
        return operator.name in FLATTENING and pooling is not None and pooling.name in ENDS

    def _producers(self, operator: Operator) -> list[Operator | None]:
        """List the operators that compute the inputs of this one; None for an input of the file."""
        read = [find_source(self._main, index) for index in operator.inputs if index >= 0]
        found = [self._main.producers.get(index) for index in read if not self._main.tensors[index].is_constant]
        return [producer for producer in found if producer is None or producer.name not in UNPACKING]

    def _consumers(self, operator: Operator) -> list[Operator]:
        """List the operators that read the outputs of this one."""
        found = [consumer for index in operator.outputs for consumer, _ in self._main.consumers.get(index, [])]
        return [
            self._main.consumers[consumer.outputs[0]][0][0] if is_fused(self._main, consumer) else consumer
            for consumer in found
        ]

    def _follow_back(self) -> set[int]:
        found: set[int] = set()
        waiting = self.list_ends()
        while waiting:
            operator = waiting.pop()
            if operator.index not in found:
                found.add(operator.index)
                if not is_first(self._main, operator):
                    waiting += [producer for producer in self._producers(operator) if producer is not None]
        return found

    def _follow_on(self) -> set[int]:
        found: set[int] = set()
        waiting = self.list_firsts()
        while waiting:
            operator = waiting.pop()
            if operator.index in self._own and operator.index not in found:
                found.add(operator.index)
                if not self._leads_out(operator):
                    waiting += self._consumers(operator)
        return found

    def _leads_out(self, operator: Operator) -> bool:
        """Return whether nothing behind an operator computes with images."""
        if operator.name not in ENDS:
            return False
        if len(self._main.tensors[operator.outputs[0]].shape) != 4:
            return True
        readers = {consumer.name for consumer in self._consumers(operator)}
        return "RESHAPE" in readers and readers <= set(FLATTENING) and not self._is_output(operator)

    def _is_output(self, operator: Operator) -> bool:
        return not set(operator.outputs).isdisjoint(self._main.outputs)

    def _find_rule(self, operator: Operator) -> IncompatibilityReason | None:
        own = self._own[operator.index]
        if own is not None:
            return own
        if operator.index not in self.within:
            begun = self.list_firsts() and operator.index not in self.reached
            return OUTSIDE if begun and self.list_ends() else END
        if None in self._producers(operator) and not is_first(self._main, operator):
            return START
        return None if self._leads_out(operator) else self._check_branches(operator)

    def _check_branches(self, operator: Operator) -> IncompatibilityReason | None:
        outside = [consumer for consumer in self._consumers(operator) if consumer.index not in self.within]
        if not outside and (not self._is_output(operator) or operator.name == "DEPTH_TO_SPACE"):
            return None
        if operator.name in ("MEAN", "SUM"):
            return KEPT
        reader = f"{outside[0].name} {outside[0].index}" if outside else "the caller, as an output of the file"
        return IncompatibilityReason(
            "branch",
            f"what it computes is also read by {reader}, outside the chain",
            "Let it be read by the chain alone.",
        )
