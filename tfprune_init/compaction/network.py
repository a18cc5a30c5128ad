"""A whole network followed from its inputs for what is constant, and from its outputs for what is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.compaction.nodes import Node, is_graph, nodes_of
from tfprune_init.compaction.rules import Rule, rule_for
from tfprune_init.compaction.signals import Signal, any_along, unknown
from tfprune_init.compaction.uses import Book, Use
from tfprune_init.errors import ModelError
from tfprune_init.surgery import unmoved
from tfprune_init.targets import Target, all_variables

# Size of what has no fixed size; what is learned at this size and not true at all is not used.
_SOME_SIZE = 32


@dataclass(frozen=True, eq=False)
class Step:
    """One call of a layer that is understood."""

    use: Use
    rule: Rule
    output: Signal


class Network:
    """What is known of a model's tensors and channels.

    Args:
        model: A built Sequential or functional model.
        masks: Which weights are kept, by variable path; None: those that are not zero.

    Attributes:
        book: What goes together, stays and shrinks.
        steps: The calls of layers that are understood, in order.
        entrances: What is known of the inputs of each nested model, by its id.
    """

    def __init__(self, model: Any, masks: Mapping[str, np.ndarray] | None):
        self.book = Book()
        self.steps: list[Step] = []
        self.entrances: dict[int, tuple[Signal, ...]] = {}
        self._masks = masks
        self._left: list[Any] = []
        self._variables = {id(target.variable): target for target in all_variables(model)}
        with unmoved(model):
            outputs = self._follow(model, tuple(unknown(*_shape(symbol)) for symbol in model.inputs), "")
        self._hold_what_is_left()
        for output in outputs:
            self.book.groups.hold(output.channels, "is an output of the model")
            output.used[...] = True
        for step in reversed(self.steps):
            for signal, used in zip(step.use.inputs, step.rule.backward(step.use, step.output), strict=True):
                signal.used |= used

    def dead(self, output: Signal) -> np.ndarray:
        """Whether a channel neither varies nor matters in one tensor."""
        assert output.axis is not None
        return ~any_along(output.live, output.axis)

    def pruned(self, use: Use, name: str, count: int) -> np.ndarray:
        """Whether masks prune each weight of a variable with one axis; no where the layer does not have it."""
        pruned = self._masks is not None and name in use.variables
        return ~use.alive[name] if pruned else np.zeros(count, bool)

    def mask_of(self, variable: Any) -> np.ndarray | None:
        """The mask of a variable, if it has one."""
        return None if self._masks is None else self._masks.get(self._variables[id(variable)].path)

    def _follow(self, model: Any, inputs: tuple[Signal, ...], prefix: str) -> list[Signal]:
        signals = {id(symbol): signal for symbol, signal in zip(model.inputs, inputs, strict=True)}
        for node in nodes_of(model):
            given = tuple(signals[id(symbol)] for symbol in node.inputs)
            path = prefix + node.layer.name
            if _fits(node, given):
                self._enter(node.layer, given, path)
                outputs = self._follow(node.layer, given, f"{path}/")
            else:
                outputs = self._call(node, given, path)
            signals.update(zip(map(id, node.outputs), outputs, strict=True))
        return [signals[id(symbol)] for symbol in model.outputs]

    def _enter(self, model: Any, inputs: tuple[Signal, ...], path: str) -> None:
        """A nested model has one shape for each input, however often it is called."""
        for first, signal in zip(self.entrances.setdefault(id(model), inputs), inputs, strict=True):
            if first.axis == signal.axis:
                self.book.groups.tie(first.channels, signal.channels, path)
            else:
                self.book.groups.hold(first.channels, f"enters {path}, which is called on shapes that differ")
                self.book.groups.hold(signal.channels, f"enters {path}, which is called on shapes that differ")

    def _call(self, node: Node, given: tuple[Signal, ...], path: str) -> list[Signal]:
        shapes = [_shape(symbol) for symbol in node.outputs]
        variables, alive = self._weights(node.layer)
        if variables:  # where a layer is in several models, the one under which its variables are known
            path = next(iter(variables.values())).path.rpartition("/")[0]
        use = Use(node.layer, path, given, shapes[0][1], variables, alive)
        rule = _rule(node, given)
        if isinstance(rule, Rule):
            with _at_some_size(node.layer, given):
                output = rule.forward(self.book, use)
            self.steps.append(Step(use, rule, output))
            return [output]
        self.book.leave(use, rule)
        self._left.append(node.layer)
        for signal in given:
            signal.used[...] = True
        return [unknown(*shape) for shape in _sizes(node, given, shapes)]

    def _hold_what_is_left(self) -> None:
        """What is left whole in one call does not shrink for the sake of others in which it is understood."""
        for left in self._left:
            why = f"is of {left.name}, which is left whole in another call"
            for layer in [left, *(kerases.layers_below(left) if hasattr(left, "variables") else [])]:
                for signal in self.entrances.get(id(layer), ()):
                    self.book.groups.hold(signal.channels, why)
                if id(layer) in self.book.sizes:
                    self.book.groups.hold(self.book.sizes[id(layer)][2], why)
                for variable in getattr(layer, "variables", []):
                    for channels in self.book.slices.get(id(variable), {}).values():
                        self.book.groups.hold(channels, why)

    def _weights(self, layer: Any) -> tuple[dict[str, Target], dict[str, np.ndarray]]:
        """A layer's own variables, and whether each of their weights is alive, by name."""
        if not isinstance(rule_for(layer), Rule):
            return {}, {}
        targets = [self._variables[id(variable)] for variable in kerases.own_variables(layer)]
        own = {target.name: target for target in targets if tf.as_dtype(target.tensor.dtype).is_floating}
        return own, {name: self._alive(target) for name, target in own.items()}

    def _alive(self, target: Target) -> np.ndarray:
        weights, mask = np.asarray(target.tensor), self.mask_of(target.variable)
        if not np.isfinite(weights if mask is None else weights[mask]).all():
            raise ModelError(
                f"Variable {target.path!r} holds NaN or Inf, so no smaller model can have the same outputs. Received: "
                "a model that diverged in training, or was loaded from a damaged file."
            )
        if mask is not None:
            return mask
        return weights != 0 if self._masks is None else np.ones(weights.shape, bool)


def _fits(node: Node, given: tuple[Signal, ...]) -> bool:
    """Whether the call of a nested model can be followed inside."""
    if not is_graph(node.layer) or not node.is_plain or len(node.layer.inputs) != len(given):
        return False
    ranks = [len(symbol.shape) - 1 for symbol in node.layer.inputs]
    if ranks != [len(signal.shape) for signal in given]:
        return False
    return len(given) == 1 or _keys(node.args[0]) == _keys(node.layer.input)


def _keys(structure: Any) -> list[str] | None:
    """Names of the inputs of a model, where they have any."""
    return sorted(structure) if isinstance(structure, dict) else None


def _rule(node: Node, given: tuple[Signal, ...]) -> Rule | str:
    rule, kind = rule_for(node.layer), type(node.layer).__name__
    followed = isinstance(rule, Rule) or is_graph(node.layer)
    if followed and not (node.is_plain and len(node.outputs) == 1):
        return f"{kind} is called with more than tensors"
    if not isinstance(rule, Rule):
        return rule
    ranks = {len(signal.shape) for signal in given}
    if len(ranks) > 1:
        return f"{kind} takes inputs of several ranks"
    if int(np.ravel(getattr(node.layer, "axis", -1))[0]) % (ranks.pop() + 1) == 0:
        return f"{kind} works along the batch"
    return rule


def _shape(symbol: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of one example of a symbolic tensor, and its axes whose size is not fixed."""
    sizes = tuple(symbol.shape)[1:]
    return tuple(_SOME_SIZE if size is None else size for size in sizes), tuple(
        axis for axis, size in enumerate(sizes) if size is None
    )


@contextmanager
def _at_some_size(layer: Any, given: tuple[Signal, ...]) -> Iterator[None]:
    try:
        yield
    except (ValueError, tf.errors.OpError) as error:
        if not any(signal.unsized for signal in given):
            raise
        raise ModelError(
            f"Layer {layer.name!r} cannot run at size {_SOME_SIZE}, which stands for the sizes that the model leaves "
            f"open: {error} Give the model inputs of fixed size."
        ) from error


def _sizes(node: Node, given: tuple[Signal, ...], shapes: list[Any]) -> list[Any]:
    """The shapes of what a layer gives that is not understood, found by running it where they are not fixed."""
    if not any(unsized for _, unsized in shapes):
        return shapes
    examples = {
        id(symbol): tf.zeros((1, *signal.shape), symbol.dtype)
        for symbol, signal in zip(node.inputs, given, strict=True)
    }
    args, kwargs = tf.nest.map_structure(lambda leaf: examples.get(id(leaf), leaf), (node.args, node.kwargs))
    with _at_some_size(node.layer, given):
        outputs = tf.nest.flatten(node.layer(*args, **kwargs))
    return [(tuple(output.shape[1:]), unsized) for output, (_, unsized) in zip(outputs, shapes, strict=True)]
