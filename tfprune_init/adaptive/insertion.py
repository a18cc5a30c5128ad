"""A model with a module at each convolution that decides, for each example, which channels it computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune_init.adaptive.channel_flow import follow_channels
from tfprune_init.backend import compat
from tfprune_init.backend.layer_copy import copy_layer
from tfprune_init.backend.model_graph import get_input_name
from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.backend.trainer import compile_like
from tfprune_init.checks import check_integer, suggest
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.copies import check_copy
from tfprune_init.graph.cost import CostModel
from tfprune_init.graph.layer_rules import find_rule
from tfprune_init.graph.layer_rules.contexts import find_channel_axis
from tfprune_init.graph.layer_rules.kernels import DepthwiseKernel, UnitKernel
from tfprune_init.graph.layer_rules.merging import Concatenate, Merge, Product
from tfprune_init.graph.layer_rules.rule import find_axes
from tfprune_init.graph.output_kernels import find_output_kernels
from tfprune_init.graph.trace import LayerCall, is_graph, list_calls
from tfprune_init.graph.variables import is_named_by, list_variables
from tfprune_init.layers import ApplyDecisions, ChannelDecisions, CostTerm, DecisionCost
from tfprune_init.masking.attachment import attach, check_unfrozen, get_attached_masks
from tfprune_init.masking.wrapper import to_plain_model

_SURELY_OPEN = 40.0
"""A logit whose sigmoid is 1 to the last bit of a float32."""


def insert_saliency(
    model: Model,
    *,
    exclude: str | Iterable[str] = (),
    strength: float = 1.0,
    budget: float = 1.0,
    example: Any = None,
    **options: Any,
) -> Any:
    """Copy a model with a module at each convolution that decides, for each example, which channels are computed.

    A module takes the input of its convolution and gives 0 or 1 for each channel, which the output is multiplied with.
    What would make something else of a closed channel than 0 (batch normalization, a bias of a depthwise convolution)
    is multiplied again. Decisions go on through pooling, activations, sums (open where one of the terms is),
    products and concatenation to the layers that take the channels, which cost less then, too.

    The copy has all weights of the model. That it computes what the model computes while all channels are open is
    checked. The modules are drawn at random, and open most channels at first; all of them with
    kernel_initializer="zeros". The loss has one more term, of the layer `decision_cost`, in `model.losses`:
    strength * (C - budget)^2, where C is the mean share of multiply-adds that the batch costs; see
    `tpi.layers.DecisionCost`.

    Convolutions that make the outputs of the model, depthwise ones, and those that are called several times get no
    module; `measure_adaptive_cost(...).left_alone` says why.

    Args:
        model: A built Sequential or functional model of Keras 3, with images of fixed size. Masks that are attached to
            it are attached to the copy, and stay where the copy trains. Multiply-adds are counted without masks.
        exclude: Convolutions that get no module: names, paths or patterns.
        strength: The factor of the cost in the loss. The paper's is not known.
        budget: What C is to be, in (0, 1]; it can be changed later, by `tpi.BudgetSchedule` during training.
        example: A batch of inputs to compare the copy with the model on; made up by default.
        **options: Options of the modules, as of `tpi.layers.ChannelDecisions`: hidden, pooling, noise, forward,
            temperature, scale, kernel_initializer, seed.

    Returns:
        A functional model, compiled as the model is, with a fresh optimizer. Its first output is called
        "decision_cost".

    Raises:
        ModelError: If the model is subclassed or of tf_keras, holds models, has open sizes or no convolution to decide
            on, or a layer cannot be copied.
        OptionError: If an option is out of range, unknown, or has no effect.
        EnforcementError: If weights of the model are frozen at other values, or pruned ones came back.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> L = keras.layers
        >>> layers = [L.Conv2D(8, 3, name="one"), L.ReLU(), L.Conv2D(8, 3, name="two"), L.Flatten(), L.Dense(2)]
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
        >>> adaptive = tpi.insert_saliency(model, strength=2.0)
        >>> [layer.name for layer in adaptive.layers if isinstance(layer, tpi.layers.ChannelDecisions)]
        ['one_decisions', 'two_decisions']

    Reference:
        Chen, Zhu, Li and Zhao, "Self-Adaptive Network Pruning", ICONIP 2019, https://arxiv.org/abs/1910.08906, by its
        abstract. What it leaves open is an option, with its source at `tpi.layers.ChannelDecisions`.
    """
    _check_kind(model)
    check_unfrozen(model)
    _check_options(options)
    carried = get_attached_masks(model)
    source = to_plain_model(model)
    insertion = _Insertion(source, [exclude] if isinstance(exclude, str) else list(exclude), options)
    adaptive = insertion.build(strength, budget)
    with restore_state(adaptive):
        for module in insertion.modules:
            module.decision_kernel.assign(tf.zeros(module.decision_kernel.shape))
            module.decision_bias.assign(tf.fill(module.decision_bias.shape, _SURELY_OPEN))
        check_copy(source, adaptive, insertion.copies.values(), example=example)
    if not model.trainable:
        adaptive.trainable = False
    compile_like(adaptive, model)
    if carried is not None:
        attach(adaptive, carried)
    return adaptive


@dataclass(frozen=True)
class _Decided:
    """The decisions on the channels of a tensor.

    Attributes:
        decisions: Symbolic tensor of shape (examples, channels).
        axis: Axis of the channels, with the batch as axis 0.
        is_aligned: Whether there is one decision for each channel; else each decides on the same number of them.
    """

    decisions: Any
    axis: int
    is_aligned: bool = True


class _Insertion:
    """A model built again with modules.

    Attributes:
        copies: For each layer of the model, by its id, the layer and its copy.
        modules: The modules.
    """

    def __init__(self, model: Model, exclude: list[str], options: dict[str, Any]):
        self._model = model
        self._options = options
        self._calls = list_calls(model)
        self._times = Counter(id(call.layer) for call in self._calls)
        self._costs = CostModel(model)
        self._targets = {id(target.variable): target for target in list_variables(model)}
        self._output_kernels = find_output_kernels(model, list(self._targets.values()))
        self._symbols: dict[int, Any] = {}
        self._decided: dict[int, _Decided | None] = {}
        self._decisions: list[Any] = []
        self._terms: dict[str, CostTerm] = {}
        self._left_alone = dict(self._costs.uncounted)
        self._excluded = self._find_excluded(exclude)
        self.copies: dict[int, tuple[Any, Any]] = {}
        self.modules: list[ChannelDecisions] = []

    def build(self, strength: float, budget: float) -> Any:
        """Build the model."""
        for symbol in self._model.inputs:
            name = get_input_name(self._model, symbol)
            given = {"batch_size": symbol.shape[0], "dtype": symbol.dtype, "name": name}
            self._symbols[id(symbol)] = keras.Input(tuple(symbol.shape[1:]), **given)
        for call in self._calls:
            self._add(call)
        if not self.modules:
            reasons = "; ".join(f"{name}: {why}" for name, why in self._left_alone.items())
            raise ModelError(
                f"Model {self._model.name!r} has no convolution to decide on. Received: "
                f"{reasons or 'a model without convolutions'}."
            )
        is_sequential = "Sequential" in compat.get_class_names(self._model)
        given, made = (
            (self._model.inputs[0], self._model.outputs[0])
            if is_sequential
            else (self._model.input, self._model.output)
        )
        outputs = tf.nest.flatten(self._replace(made))
        terms = list(self._terms.values())
        cost = DecisionCost(terms, strength, budget, self._left_alone, name="decision_cost")
        outputs[0] = cost([outputs[0], *self._decisions])
        return keras.Model(self._replace(given), tf.nest.pack_sequence_as(made, outputs), name=self._model.name)

    def _replace(self, structure: Any) -> Any:
        return tf.nest.map_structure(lambda leaf: self._symbols.get(id(leaf), leaf), structure)

    def _copy(self, layer: Any) -> Any:
        if id(layer) not in self.copies:
            self.copies[id(layer)] = layer, copy_layer(layer)
        return self.copies[id(layer)][1]

    def _add(self, call: LayerCall) -> None:
        layer = call.layer
        if is_graph(layer):
            raise ModelError(
                f"tpi.insert_saliency takes models without models inside. Received: {layer.name!r} in "
                f"{self._model.name!r}. Build it of the layers of both."
            )
        outputs = self._copy(layer)(*self._replace(call.args), **self._replace(call.kwargs))
        known = [self._decided.get(id(one)) for one in call.inputs]
        is_once = self._times[id(layer)] == 1
        decided: _Decided | None
        if self._is_decided_on(layer):
            outputs, decided = self._decide(call, outputs)
        else:
            outputs, decided = self._follow(call, known, outputs)
        self._count(call, known[0] if len(known) == 1 and is_once else None, decided if is_once else None)
        self._symbols.update(zip(map(id, call.outputs), tf.nest.flatten(outputs), strict=True))
        self._decided.update(dict.fromkeys(map(id, call.outputs), decided))

    def _is_decided_on(self, layer: Layer) -> bool:
        if not _has_filters(layer):
            if isinstance(find_rule(layer), DepthwiseKernel):
                self._left_alone[layer.name] = "depthwise: its channels are open where those that it takes are"
            return False
        paths = {self._targets[id(variable)].path for variable in compat.get_own_variables(layer)}
        if paths & self._output_kernels:
            self._left_alone[layer.name] = "makes outputs of the model"
        elif layer.name in self._excluded:
            self._left_alone[layer.name] = "excluded"
        elif self._times[id(layer)] > 1:
            self._left_alone[layer.name] = "is called several times"
        return layer.name not in self._left_alone

    def _decide(self, call: LayerCall, outputs: Any) -> tuple[Any, _Decided]:
        """Put a module beside a convolution."""
        layer, (taken,) = call.layer, call.inputs
        form = {"data_format": layer.data_format}
        options = {**self._options, **form, **self._find_seed()}
        module = ChannelDecisions(layer.filters, **options, name=f"{layer.name}_decisions")
        self.modules.append(module)
        made = module(self._symbols[id(taken)])
        decisions, factors = made if module.scale else (made, made)
        applied = ApplyDecisions(**form, name=f"{layer.name}_decided")([outputs, factors])
        return applied, _Decided(decisions, 1 + find_channel_axis(layer, len(applied.shape) - 1))

    def _find_seed(self) -> dict[str, int]:
        """Return a seed for the next module, so that no two draw the same noise."""
        seed = self._options.get("seed")
        if seed is None:
            return {}
        words = [check_integer("seed", seed, 0), len(self.modules)]
        return {"seed": int(np.random.SeedSequence(words).generate_state(1)[0])}

    def _follow(self, call: LayerCall, known: list[_Decided | None], outputs: Any) -> tuple[Any, _Decided | None]:
        """Return the outputs of another layer, with closed channels at 0, and what is decided on them."""
        if len(call.outputs) != 1 or not any(known):
            return outputs, None
        if isinstance(find_rule(call.layer), (Concatenate, Merge)):
            return outputs, self._merge(call, known)
        decided = known[0]
        if len(call.inputs) != 1 or decided is None or not compat.is_layer(call.layer):
            return outputs, None
        flow = follow_channels(call.layer, tuple(call.inputs[0].shape[1:]), decided.axis)
        if flow is None:
            return outputs, None
        after = _Decided(decided.decisions, flow.axis, decided.is_aligned and flow.is_aligned)
        if flow.keeps_zeros:
            return outputs, after
        if not after.is_aligned:
            return outputs, None
        return self._apply_again(call.layer, outputs, after), after

    def _apply_again(self, layer: Layer, outputs: Any, decided: _Decided) -> Any:
        form = "channels_first" if decided.axis == 1 and len(outputs.shape) > 2 else "channels_last"
        # A layer that is called several times needs several names.
        place = "" if self._times[id(layer)] == 1 else f"_{len(self._decided)}"
        return ApplyDecisions(form, name=f"{layer.name}_decided{place}")([outputs, decided.decisions])

    def _merge(self, call: LayerCall, known: list[_Decided | None]) -> _Decided | None:
        """Return what is decided on a sum, a product, or on channels side by side."""
        layer, rank = call.layer, len(call.outputs[0].shape)
        whole = [
            one
            for one, tensor in zip(known, call.inputs, strict=True)
            if one is not None and one.is_aligned and len(tensor.shape) == rank
        ]
        axes = {one.axis for one in whole}
        if len(axes) != 1:
            return None
        (axis,) = axes
        is_beside = isinstance(find_rule(layer), Concatenate)
        # One factor of 0 is enough for a product.
        if len(whole) < len(known) and not isinstance(find_rule(layer), Product):
            return None
        if is_beside and find_axes(layer, rank - 1) != [axis - 1]:
            return None
        width = call.outputs[0].shape[axis]
        if not is_beside and any(one.decisions.shape[1] != width for one in whole):
            return None
        distinct = whole if is_beside else list({id(one.decisions): one for one in whole}.values())
        if len(distinct) == 1:
            return distinct[0]
        kinds = keras.layers
        kind = (
            kinds.Concatenate
            if is_beside
            else kinds.Multiply
            if isinstance(find_rule(layer), Product)
            else kinds.Maximum
        )
        name = f"{layer.name}_decisions"
        return _Decided(kind(name=name)([one.decisions for one in distinct]), axis)

    def _count(self, call: LayerCall, taken: _Decided | None, made: _Decided | None) -> None:
        """Note what the kernels of a layer cost."""
        rule = find_rule(call.layer)
        if rule is None:
            return
        if not isinstance(rule, (UnitKernel, DepthwiseKernel)):
            taken = None
        if taken is not None and taken.axis != self._find_taken_axis(call):
            taken = None
        groups = getattr(call.layer, "groups", 1)
        if taken is not None and groups > 1 and not taken.is_aligned:
            taken = None
        for name, variable in rule.find_variables(call.layer).items():
            path = self._targets[id(variable)].path
            if path not in self._costs.uses:
                continue
            uses = self._costs.uses[path]
            if uses is None:
                raise ModelError(
                    f"What {call.layer.name!r} costs depends on a size that model {self._model.name!r} leaves open. "
                    "Received: an open size; give the input a fixed height and width."
                )
            # A depthwise kernel makes what it takes.
            own = made if _has_filters(call.layer) and name != "depthwise_kernel" else None
            self._terms[path] = CostTerm(
                path, uses * self._targets[id(variable)].size, self._number(taken), self._number(own), groups
            )

    def _find_taken_axis(self, call: LayerCall) -> int:
        return 1 + find_channel_axis(call.layer, len(call.inputs[0].shape) - 1)

    def _number(self, decided: _Decided | None) -> int | None:
        """Return the number of decisions among the inputs of the cost."""
        if decided is None:
            return None
        ids = [id(one) for one in self._decisions]
        if id(decided.decisions) not in ids:
            self._decisions.append(decided.decisions)
            return len(ids)
        return ids.index(id(decided.decisions))

    def _find_excluded(self, exclude: list[str]) -> set[str]:
        """Return the names of the convolutions that are left alone."""
        convolutions = {call.layer.name: call.layer for call in self._calls if _has_filters(call.layer)}
        found: set[str] = set()
        for pattern in exclude:
            named = {
                name
                for name, layer in convolutions.items()
                for variable in compat.get_own_variables(layer)
                if is_named_by(self._targets[id(variable)].path, pattern)
            }
            if not named:
                raise OptionError(f"exclude={pattern!r} matches no convolution. {suggest(pattern, convolutions)}")
            found |= named
        return found


def _has_filters(layer: Any) -> bool:
    """Return whether a layer is a convolution that mixes channels."""
    return compat.is_layer(layer) and isinstance(find_rule(layer), UnitKernel) and hasattr(layer, "filters")


def _check_kind(model: Any) -> None:
    compat.check_model(model)
    if not compat.is_keras3(model):
        raise ModelError("tpi.insert_saliency takes models of Keras 3. Received: a model of tf_keras.")
    if not compat.is_symbolic(model):
        raise ModelError(
            f"tpi.insert_saliency takes Sequential and functional models. Received: {type(model).__name__}, a "
            "subclassed model; take the Sequential or functional models inside it."
        )
    own = compat.find_overridden_methods(model)
    if own:
        raise ModelError(
            f"A copy of model {model.name!r} would lack {', '.join(own)} of its class. Received: "
            f"{type(model).__name__}; build a plain keras.Model of its inputs and outputs."
        )


def _check_options(options: dict[str, Any]) -> None:
    known = ("hidden", "pooling", "noise", "forward", "temperature", "scale", "kernel_initializer", "seed")
    for name in options:
        if name not in known:
            raise OptionError(f"insert_saliency has no option {name!r}. {suggest(name, known, list_all=True)}")
