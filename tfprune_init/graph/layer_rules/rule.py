"""What a rule of a kind of layer says, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.layer_copy import has_saving_hooks
from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.channel_groups import ChannelGroups, make_unlabelled
from tfprune_init.graph.layer_rules.contexts import ChannelRecord, LabelContext, SignalContext
from tfprune_init.graph.signals import Signal

_RULES: dict[str, LayerRule] = {}


class LayerRule:
    """What a kind of layer does to units, to constants, to use, and how often it multiplies with its weights.

    A new kind of layer is one class of this sort, or one more name at the decorator of one that is there, and a test.
    What a rule does not say is answered with the least: its output carries no units, `compact` leaves it whole, and
    its multiply-adds are not counted.

    Attributes:
        follows_units: Whether `label` says what becomes of units.
        mixes: Whether it has a kernel and a bias, so that constants that go can be added to its bias.
        makes_units: Whether it has units of its own, of which one has to stay.
        nesting: How many layers deep its variables lie inside of it.
        most_inputs: How many inputs it may have for `follow` to know what they are; None where any number.
        aligns_ranks: Whether inputs of fewer axes are spread over those of more, as by NumPy.
    """

    follows_units = True
    mixes = False
    makes_units = False
    nesting = 0
    most_inputs: int | None = None
    aligns_ranks = False

    def knows(self, layer: Layer) -> bool:
        """Return whether a layer of this kind is understood with its options."""
        return True

    def is_elementwise(self, layer: Layer) -> bool:
        """Return whether it makes of each number something by itself."""
        return False

    def find_inputs(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """Return the tensors that a call takes; None if it is called in a way that is not understood."""
        return tuple(tf.nest.flatten(args[0] if args else next(iter(kwargs.values()))))

    def find_variables(self, layer: Layer) -> dict[str, Any]:
        """Return the variables of a layer by the names that the rule knows them by."""
        return {compat.get_variable_name(layer, one): one for one in compat.get_own_variables(layer)}

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Write down what goes with which unit, and return the labels of the output."""
        return make_unlabelled(use.shape)

    def find_reason(self, layer: Layer) -> str | None:
        """Return why `compact` leaves such a layer whole; None if `follow` and `find_used` say what it does."""
        return f"{type(layer).__name__} is not a layer whose channels are followed"

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Write down what goes together, stays and shrinks, and return what is known of the output."""
        raise NotImplementedError(f"{type(self).__name__} does not say what becomes of channels.")

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Return, for each input, whether each number of it is seen in what is used of the output."""
        raise NotImplementedError(f"{type(self).__name__} does not say what is used.")

    def count_uses(
        self, layer: Layer, inputs: list[tuple[int, ...]], output: tuple[int, ...]
    ) -> Mapping[str, int] | None:
        """Return how often each weight of a variable is multiplied with something, for one example.

        Args:
            layer: The layer.
            inputs: Shapes of its inputs, for one example.
            output: Shape of its output, for one example.

        Returns:
            A number for each kernel by its name, as of `find_variables`; nothing if there are no kernels. None where
            that is not known.
        """
        return None if any("kernel" in name for name in self.find_variables(layer)) else {}


_Rule = TypeVar("_Rule", bound=type[LayerRule])


def register_rule(*names: str) -> Callable[[_Rule], _Rule]:
    """Enter a rule into the table, under the names of the Keras classes it is for."""

    def register(rule: _Rule) -> _Rule:
        for name in names:
            if name in _RULES:
                raise ValueError(f"There is a rule for {name} already. Received: {rule.__name__}.")
            _RULES[name] = rule()
        return rule

    return register


def find_rule(layer: Layer) -> LayerRule | None:
    """Return the rule of a layer; None where it is not known what it does, as of a class that computes in its way."""
    mro = type(layer).__mro__
    known = next((i for i, base in enumerate(mro) if _is_of_keras(base)), None)
    changed = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    # Operations outside of layers have names of layers too (Add, Multiply), and others' arguments.
    if known is None or "Layer" not in compat.get_class_names(layer) or changed:
        return None
    if any({"call", "convolution_op"} & set(vars(base)) for base in mro[:known]):
        return None
    rule = _RULES.get(mro[known].__name__)
    return rule if rule is not None and rule.knows(layer) else None


def find_channel_rule(layer: Layer) -> LayerRule | str:
    """Return the rule by which `compact` follows a layer, or why it leaves it whole."""
    names = [base.__name__ for base in type(layer).__mro__ if _is_of_keras(base)]
    if "Layer" not in names:
        kind = names[0] if names else ""
        return f"{kind} is an operation outside of layers; a layer (Add, Multiply, ...) in its place is followed"
    rule = find_rule(layer)
    if rule is None:
        return f"{type(layer).__name__} is not a layer whose channels are followed"
    if has_saving_hooks(layer):
        return f"{type(layer).__name__} saves what it keeps in its own way"
    return rule.find_reason(layer) or find_doubt(layer) or rule


def find_doubt(layer: Layer) -> str | None:
    """Return why a layer of a known kind is not understood with options that several kinds have."""
    kind, activation = type(layer).__name__, getattr(layer, "activation", None)
    # Keras 3 may give an activation its weights only once the layer is called on numbers.
    if getattr(activation, "variables", None) or "PReLU" in compat.get_class_names(activation):
        return f"{kind} has an activation with weights of its own"
    if np.size(getattr(layer, "axis", 0)) != 1 or getattr(layer, "renorm", False):
        return f"{kind} with these options is not followed"
    return None


def is_elementwise(function: Any) -> bool:
    """Return whether an activation, a function or a layer, makes of each number something by itself; None does."""
    if function is None:
        return True
    if compat.get_class_names(function):
        rule = find_rule(function)
        return rule is not None and rule.is_elementwise(function)
    before = np.array([[0.3, -0.7, 1.1, -0.2]], np.float32)
    after = before + np.array([[0, 0, 0, 0.9]], np.float32)
    try:
        one, other = (np.asarray(function(tf.constant(values))) for values in (before, after))
    except (TypeError, ValueError, tf.errors.OpError):
        return False
    return one.shape == before.shape and np.array_equal(one[:, :3], other[:, :3], equal_nan=True)


def find_axes(layer: Layer, rank: int) -> list[int]:
    """Return the axes that a layer names, counted within one example of some rank; -1 is the batch."""
    return [int(axis) % (rank + 1) - 1 for axis in np.atleast_1d(layer.axis)]


def _is_of_keras(base: type) -> bool:
    return base.__module__.split(".")[0] in ("keras", "tf_keras")
