"""A whole network followed from its inputs for what is constant, and from its outputs for what is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.protocols import Layer, Model, Variable
from tfprune_init.errors import ModelError
from tfprune_init.graph.layer_rules import ChannelRecord, LayerRule, SignalContext, find_channel_rule, find_rule
from tfprune_init.graph.signals import Signal, any_along, make_unknown_signal
from tfprune_init.graph.trace import LayerCall, is_graph, list_calls
from tfprune_init.graph.variables import ModelVariable, list_variables

# Size of what has no fixed size; what is learned at this size and not true at all is not used.
_SOME_SIZE = 32


@dataclass(frozen=True, eq=False)
class PropagationStep:
    """One call of a layer that is understood."""

    use: SignalContext
    rule: LayerRule
    output: Signal


class Propagation:
    """What is known of a model's tensors and channels.

    Args:
        model: A built Sequential or functional model.
        masks: Which weights are kept, by variable path; None: those that are not zero.

    Attributes:
        record: What goes together, stays and shrinks.
        steps: The calls of layers that are understood, in order.
        entrances: What is known of the inputs of each nested model, by its id.
    """

    def __init__(self, model: Model, masks: Mapping[str, np.ndarray] | None):
        self.record = ChannelRecord()
        self.steps: list[PropagationStep] = []
        self.entrances: dict[int, tuple[Signal, ...]] = {}
        self._masks = masks
        self._left: list[Any] = []
        self._variables = {id(target.variable): target for target in list_variables(model)}
        with restore_state(model):
            outputs = self._follow(model, tuple(make_unknown_signal(*_shape(symbol)) for symbol in model.inputs), "")
        self._pin_what_is_left()
        for output in outputs:
            self.record.groups.pin(output.channels, "is an output of the model")
            output.used[...] = True
        for step in reversed(self.steps):
            for signal, used in zip(step.use.inputs, step.rule.find_used(step.use, step.output), strict=True):
                signal.used |= used

    def dead(self, output: Signal) -> np.ndarray:
        """Return whether a channel neither varies nor matters in one tensor."""
        assert output.axis is not None
        return ~any_along(output.live, output.axis)

    def pruned(self, use: SignalContext, name: str, count: int) -> np.ndarray:
        """Return whether masks prune each weight of a variable with one axis; no where the layer does not have it."""
        pruned = self._masks is not None and name in use.variables
        return ~use.alive[name] if pruned else np.zeros(count, bool)

    def mask_of(self, variable: Variable) -> np.ndarray | None:
        """Return the mask of a variable, if it has one."""
        return None if self._masks is None else self._masks.get(self._variables[id(variable)].path)

    def get_cuts(self, variable: Variable) -> dict[int, np.ndarray]:
        """Return the axes of a variable that are indexed by channels, with the label at each index."""
        return self.record.groups.get_consumed(self._variables[id(variable)].path)

    def _follow(self, model: Model, inputs: tuple[Signal, ...], prefix: str) -> list[Signal]:
        signals = {id(symbol): signal for symbol, signal in zip(model.inputs, inputs, strict=True)}
        for call in list_calls(model):
            given = tuple(signals[id(symbol)] for symbol in call.inputs)
            path = prefix + call.layer.name
            if _fits(call, given):
                self._enter(call.layer, given, path)
                outputs = self._follow(call.layer, given, f"{path}/")
            else:
                outputs = self._follow_call(call, given, path)
            signals.update(zip(map(id, call.outputs), outputs, strict=True))
        return [signals[id(symbol)] for symbol in model.outputs]

    def _enter(self, model: Model, inputs: tuple[Signal, ...], path: str) -> None:
        """Couple what enters a nested model in all its calls, as it has one shape for each input."""
        for first, signal in zip(self.entrances.setdefault(id(model), inputs), inputs, strict=True):
            if first.axis == signal.axis:
                self.record.groups.couple(first.channels, signal.channels, path)
            else:
                self.record.groups.pin(first.channels, f"enters {path}, which is called on shapes that differ")
                self.record.groups.pin(signal.channels, f"enters {path}, which is called on shapes that differ")

    def _follow_call(self, call: LayerCall, given: tuple[Signal, ...], path: str) -> list[Signal]:
        shapes = [_shape(symbol) for symbol in call.outputs]
        variables, alive = self._find_weights(call.layer)
        rule = _rule(call, given)
        if variables:  # where a layer is in several models, the one under which its variables are known
            path = _find_path(call.layer, next(iter(variables.values())))
        use = SignalContext(call.layer, path, given, shapes[0][1], variables, alive)
        if isinstance(rule, LayerRule):
            with _at_some_size(call.layer, given):
                output = rule.follow(self.record, use)
            self.steps.append(PropagationStep(use, rule, output))
            return [output]
        self.record.leave_whole(use, rule)
        self._left.append(call.layer)
        for signal in given:
            signal.used[...] = True
        return [make_unknown_signal(*shape) for shape in _sizes(call, given, shapes)]

    def _pin_what_is_left(self) -> None:
        """Pin what is left whole in one call, so that it does not shrink for the sake of others that are understood."""
        for left in self._left:
            why = f"is of {left.name}, which is left whole in another call"
            for layer in [left, *(compat.walk_layers(left) if compat.is_layer(left) else [])]:
                for signal in self.entrances.get(id(layer), ()):
                    self.record.groups.pin(signal.channels, why)
                for _, channels in self.record.sizes.get(id(layer), {}).values():
                    self.record.groups.pin(channels, why)
                for variable in compat.get_variables(layer):
                    for channels in self.get_cuts(variable).values():
                        self.record.groups.pin(channels, why)

    def _find_weights(self, layer: Layer) -> tuple[dict[str, ModelVariable], dict[str, np.ndarray]]:
        """Return the variables of a layer, and whether each of their weights is alive, by name."""
        rule = find_channel_rule(layer)
        if not isinstance(rule, LayerRule):
            return {}, {}
        found = {name: self._variables[id(one)] for name, one in rule.find_variables(layer).items()}
        own = {name: target for name, target in found.items() if tf.as_dtype(target.tensor.dtype).is_floating}
        return own, {name: self._find_alive(target) for name, target in own.items()}

    def _find_alive(self, target: ModelVariable) -> np.ndarray:
        weights, mask = np.asarray(target.tensor), self.mask_of(target.variable)
        if not np.isfinite(weights if mask is None else weights[mask]).all():
            raise ModelError(
                f"Variable {target.path!r} holds NaN or Inf, so no smaller model can have the same outputs. Received: "
                "a model that diverged in training, or was loaded from a damaged file."
            )
        if mask is not None:
            return mask
        return weights != 0 if self._masks is None else np.ones(weights.shape, bool)


def _fits(call: LayerCall, given: tuple[Signal, ...]) -> bool:
    """Return whether the call of a nested model can be followed inside."""
    if not is_graph(call.layer) or not call.is_plain or len(call.layer.inputs) != len(given):
        return False
    ranks = [len(symbol.shape) - 1 for symbol in call.layer.inputs]
    if ranks != [len(signal.shape) for signal in given]:
        return False
    return len(given) == 1 or _keys(call.args[0]) == _keys(call.layer.input)


def _find_path(layer: Layer, target: ModelVariable) -> str:
    """Return the path of a layer, of whose variables one is known."""
    rule = find_rule(layer)
    return "/".join(target.path.split("/")[: -1 - (0 if rule is None else rule.nesting)])


def _keys(structure: Any) -> list[str] | None:
    """Return names of the inputs of a model, where they have any."""
    return sorted(structure) if isinstance(structure, dict) else None


def _rule(call: LayerCall, given: tuple[Signal, ...]) -> LayerRule | str:
    rule, kind = find_channel_rule(call.layer), type(call.layer).__name__
    followed = isinstance(rule, LayerRule) or is_graph(call.layer)
    if followed and not (call.is_plain and len(call.outputs) == 1):
        return f"{kind} is called with more than tensors"
    if not isinstance(rule, LayerRule):
        return rule
    if rule.most_inputs is not None and len(given) > rule.most_inputs:
        return f"{kind} is called with more than {rule.most_inputs} tensors"
    ranks = {len(signal.shape) for signal in given}
    if len(ranks) > 1 and not rule.aligns_ranks:
        return f"{kind} takes inputs of several ranks"
    if int(np.ravel(getattr(call.layer, "axis", -1))[0]) % (max(ranks) + 1) == 0:
        return f"{kind} works along the batch"
    return rule


def _shape(symbol: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of one example of a symbolic tensor, and its axes whose size is not fixed."""
    sizes = tuple(symbol.shape)[1:]
    return tuple(_SOME_SIZE if size is None else size for size in sizes), tuple(
        axis for axis, size in enumerate(sizes) if size is None
    )


@contextmanager
def _at_some_size(layer: Layer, given: tuple[Signal, ...]) -> Iterator[None]:
    try:
        yield
    except (ValueError, tf.errors.OpError) as error:
        if not any(signal.unsized for signal in given):
            raise
        raise ModelError(
            f"Layer {layer.name!r} cannot run at size {_SOME_SIZE}, which stands for the sizes that the model leaves "
            f"open: {error} Give the model inputs of fixed size."
        ) from error


def _sizes(call: LayerCall, given: tuple[Signal, ...], shapes: list[Any]) -> list[Any]:
    """Return the shapes of what a layer gives that is not understood, found by running it where they are not fixed."""
    if not any(unsized for _, unsized in shapes):
        return shapes
    examples = {
        id(symbol): tf.fill((1, *signal.shape), _find_filling(symbol.dtype))
        for symbol, signal in zip(call.inputs, given, strict=True)
    }
    args, kwargs = tf.nest.map_structure(lambda leaf: examples.get(id(leaf), leaf), (call.args, call.kwargs))
    with _at_some_size(call.layer, given):
        outputs = tf.nest.flatten(call.layer(*args, **kwargs))
    return [(tuple(output.shape[1:]), unsized) for output, (_, unsized) in zip(outputs, shapes, strict=True)]


def _find_filling(dtype: Any) -> tf.Tensor:
    """Return what an example is filled with: zeros, or texts that are as long as what has no fixed size."""
    dtype = tf.as_dtype(dtype)
    return tf.constant("word " * _SOME_SIZE) if dtype == tf.string else tf.zeros((), dtype)
