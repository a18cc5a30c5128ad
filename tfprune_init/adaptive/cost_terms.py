"""What each kernel costs, by the decisions on the channels that it takes and makes."""

from __future__ import annotations

from typing import Any

from tfprune_init.adaptive.decided_channels import DecidedChannels
from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import ModelError
from tfprune_init.graph.cost import CostModel
from tfprune_init.graph.layer_rules import find_rule
from tfprune_init.graph.layer_rules.contexts import find_channel_axis
from tfprune_init.graph.layer_rules.kernels import DepthwiseKernel, UnitKernel
from tfprune_init.graph.trace import LayerCall
from tfprune_init.graph.variables import list_variables
from tfprune_init.layers import CostTerm


class CostTerms:
    """The terms of the cost of a model, put together call by call.

    Args:
        model: A built Sequential or functional model.

    Attributes:
        decisions: Symbolic tensors that the terms number.
        uncounted: Why multiply-adds of some kernels are not counted, by path.
    """

    def __init__(self, model: Model):
        costs = CostModel(model)
        self._model = model
        self._uses = costs.uses
        self._targets = {id(target.variable): target for target in list_variables(model)}
        self._terms: dict[str, CostTerm] = {}
        self.decisions: list[Any] = []
        self.uncounted = costs.uncounted

    @property
    def terms(self) -> list[CostTerm]:
        """The terms so far."""
        return list(self._terms.values())

    def add(self, call: LayerCall, taken: DecidedChannels | None, made: DecidedChannels | None) -> None:
        """Note what the kernels of a layer cost.

        Args:
            call: Its call.
            taken: What is decided on the channels that it takes.
            made: What is decided on those that it makes.

        Raises:
            ModelError: If that depends on a size that the model leaves open.
        """
        rule = find_rule(call.layer)
        if rule is None:
            return
        if not isinstance(rule, (UnitKernel, DepthwiseKernel)):
            taken = None
        if taken is not None and taken.axis != 1 + find_channel_axis(call.layer, len(call.inputs[0].shape) - 1):
            taken = None
        groups = getattr(call.layer, "groups", 1)
        if taken is not None and groups > 1 and not taken.is_aligned:
            taken = None
        for name, variable in rule.find_variables(call.layer).items():
            path = self._targets[id(variable)].path
            if path not in self._uses:
                continue
            uses = self._uses[path]
            if uses is None:
                raise ModelError(
                    f"What {call.layer.name!r} costs depends on a size that model {self._model.name!r} leaves open. "
                    "Received: an open size; give the input a fixed height and width."
                )
            # A depthwise kernel makes what it takes.
            own = made if has_filters(call.layer) and name != "depthwise_kernel" else None
            self._terms[path] = CostTerm(
                path, uses * self._targets[id(variable)].size, self._number(taken), self._number(own), groups
            )

    def _number(self, decided: DecidedChannels | None) -> int | None:
        """Return the number of decisions among the inputs of the cost."""
        if decided is None:
            return None
        ids = [id(one) for one in self.decisions]
        if id(decided.decisions) not in ids:
            self.decisions.append(decided.decisions)
            return len(ids)
        return ids.index(id(decided.decisions))


def has_filters(layer: Any) -> bool:
    """Return whether a layer is a convolution that mixes channels."""
    return compat.is_layer(layer) and isinstance(find_rule(layer), UnitKernel) and hasattr(layer, "filters")
