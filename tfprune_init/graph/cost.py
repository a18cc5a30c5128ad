"""What a network costs: parameters and multiply-adds, dense, under masks, and once channels are removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.errors import ModelError
from tfprune_init.graph.dependency_graph import DependencyGraph
from tfprune_init.graph.layer_rules import find_rule
from tfprune_init.graph.layer_rules.rule import LayerRule
from tfprune_init.graph.signals import any_along
from tfprune_init.graph.trace import LayerCall, is_symbol, trace_calls, walk_calls
from tfprune_init.graph.variables import ModelVariable, list_variables


@dataclass(frozen=True)
class ModelCost:
    """How large a model is.

    Attributes:
        parameters: Number of its weights, trainable or not.
        multiply_adds: Multiplications with weights of kernels, for one example; None where the model leaves sizes open
            that they depend on. What `CostModel.uncounted` names is left out.
    """

    parameters: int
    multiply_adds: int | None


class CostModel:
    """The cost of a network, dense and with less in it. Counting is cheap: the network is looked at once.

    A multiply-add is a multiplication with a weight of a kernel, whose result is added up: each weight counts as often
    as it is used for one example. Biases, normalization, activations, and products of activations with each other
    (as in attention) are not counted.

    Args:
        model: A built model, Keras 3 or tf_keras.
        example: One batch of inputs, on which a subclassed model is run; not needed for Sequential and functional
            models, whose graph is read.

    Attributes:
        uses: How often each weight of a kernel is multiplied for one example, by the kernel's path; None where that
            depends on a size that the model leaves open.
        uncounted: For each other variable called a kernel, why its multiply-adds are not counted.

    Raises:
        ModelError: If the model is subclassed and there is no example.
        DataError: If the model cannot run on the example.

    Example:
        >>> import keras, numpy as np
        >>> from tfprune_init.graph.cost import CostModel
        >>> L = keras.layers
        >>> layers = [L.Conv2D(4, 3, name="conv"), L.Flatten(), L.Dense(2, name="head")]
        >>> cost = CostModel(keras.Sequential([keras.Input((8, 8, 1)), *layers]))
        >>> cost.count()
        ModelCost(parameters=330, multiply_adds=1584)
        >>> cost.count_nonzero({"conv/kernel": np.arange(36).reshape(3, 3, 1, 4) % 4 == 0})
        ModelCost(parameters=303, multiply_adds=612)
    """

    def __init__(self, model: Model, example: Any = None) -> None:
        if example is None and not compat.is_symbolic(model):
            raise ModelError(
                f"What a subclassed model costs is found by running it. Received: {type(model).__name__} and "
                "example=None; pass example=..., one small batch of its inputs."
            )
        self._variables = {target.path: target for target in list_variables(model)}
        self._parameters = int(model.count_params())
        calls = walk_calls(model) if example is None else trace_calls(model, example, _find_inputs)[0]
        self.uses: dict[str, int | None] = {}
        self._add_up(calls)
        kernels = [target for path, target in self._variables.items() if _is_kernel(target) and path not in self.uses]
        self.uncounted = {
            target.path: f"{type(target.layer).__name__} is not a layer whose multiply-adds are known, or is not called"
            for target in kernels
        }

    def _add_up(self, calls: Iterable[LayerCall]) -> None:
        paths = {id(target.variable): path for path, target in self._variables.items()}
        for call in calls:
            rule = find_rule(call.layer)
            if rule is None or not call.outputs:
                continue
            for path, count in _count_uses(rule, call, paths).items():
                known = self.uses.get(path, 0)
                self.uses[path] = None if known is None or count is None else known + count

    def count(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> ModelCost:
        """Count what is left when variables have shrunk.

        Args:
            shapes: New shapes by path; those that are not named stay as they are.
        """
        return self._count(lambda path: math.prod(shapes[path]) if shapes and path in shapes else None)

    def count_nonzero(self, masks: Mapping[str, np.ndarray]) -> ModelCost:
        """Count the weights that masks keep, and those of variables without mask; each as often as it is used.

        Args:
            masks: What is kept, by path.
        """
        return self._count(lambda path: int(np.count_nonzero(masks[path])) if path in masks else None)

    def count_without_units(self, masks: Mapping[str, np.ndarray], graph: DependencyGraph) -> ModelCost:
        """Count what is left once whole units are cut out, as by `compact` where their constants fold.

        Units of grouped convolutions are counted one by one; `compact` cuts those at the same place of all groups.

        Args:
            masks: What is kept, by path, as from `DependencyGraph.masks`: a unit is gone if nothing is kept at one of
                its places.
            graph: Which weights belong to which unit.
        """
        gone = np.zeros(graph.removable.size + 1, bool)  # the last is for what is no unit
        for path, mask in masks.items():
            for axis, labels in graph.entries.get(path, ()):
                gone[labels[~any_along(mask, axis)]] = True
        return self.count_without_groups(gone[:-1] & graph.removable, graph)

    def count_without_groups(self, removed: np.ndarray, graph: DependencyGraph) -> ModelCost:
        """Count what is left once groups of units are cut out, as `count_without_units` does for masks.

        It looks at no weights, so it is quick on large networks too.

        Args:
            removed: Whether each group is removed, as for `DependencyGraph.masks`.
            graph: Which weights belong to which unit.
        """
        stays = np.append(~removed, True)  # the last, so that -1, no unit, stays
        shapes = {path: list(self._variables[path].shape) for path in (*graph.entries, *graph.followers)}
        for path, axes in (*graph.entries.items(), *graph.followers.items()):
            for axis, labels in axes:
                shapes[path][axis] = int(np.count_nonzero(stays[labels]))
        return self.count({path: tuple(shape) for path, shape in shapes.items()})

    def _count(self, size_of: Callable[[str], int | None]) -> ModelCost:
        sizes = {path: size_of(path) for path in self._variables}
        left = {path: self._variables[path].size if size is None else size for path, size in sizes.items()}
        fewer = sum(self._variables[path].size - size for path, size in left.items())
        uses = list(self.uses.items())
        if any(count is None for _, count in uses):
            return ModelCost(self._parameters - fewer, None)
        return ModelCost(self._parameters - fewer, sum(left[path] * (count or 0) for path, count in uses))


def _find_inputs(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    rule = find_rule(layer)
    return None if rule is None else rule.find_inputs(layer, args, kwargs)


def _is_kernel(target: ModelVariable) -> bool:
    return "kernel" in target.name


def _count_uses(rule: LayerRule, call: LayerCall, paths: Mapping[int, str]) -> dict[str, int | None]:
    """Return how often each weight of each kernel is used in one call, by path; None at sizes that are open."""
    variables = {name: paths[id(variable)] for name, variable in rule.find_variables(call.layer).items()}
    kernels = [path for name, path in variables.items() if "kernel" in name]
    inputs = call.inputs
    if call.args or call.kwargs:
        found = rule.find_inputs(call.layer, call.args, call.kwargs)
        inputs = () if found is None else tuple(one for one in found if is_symbol(one))
    if not kernels or not inputs:
        return {}
    shapes = [tuple(tensor.shape)[1:] for tensor in (*inputs, *call.outputs)]
    if any(size is None for shape in shapes for size in shape):
        return dict.fromkeys(kernels)
    uses = rule.count_uses(call.layer, shapes[: len(inputs)], shapes[len(inputs)])
    return {} if uses is None else {variables[name]: count for name, count in uses.items()}
