"""`insert_gates`: the same model, with a trained factor on each channel."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from tfprune_init.backend import compat
from tfprune_init.backend.layer_copy import copy_state
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.trainer import compile_like
from tfprune_init.compaction.model_copy import ModelCopy
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.gates.places import GatePlace, choose_places, find_places
from tfprune_init.graph.copies import check_copy
from tfprune_init.graph.dependency_graph import build_dependency_graph
from tfprune_init.layers.gates import GATE_KINDS, GateLayer, hold_factors
from tfprune_init.masking.attachment import check_unfrozen, get_attached_masks
from tfprune_init.masking.wrapper import PrunableLayer


def insert_gates(
    model: Model,
    kind: str = "plain",
    *,
    places: str | Iterable[str] = "inner",
    example: Any = None,
    **options: Any,
) -> Any:
    """Copy a model with gates: layers that multiply each channel with a trained factor.

    A gate stands behind a layer with channels and its BatchNorm, before the activation; behind an activation that makes
    something else of 0, such as sigmoid; behind the depthwise convolution and BatchNorm that follow an expansion. So a
    channel whose factor is 0 is as if it were removed. Channels that can only go together have one gate, which is
    called at each of their places. `tpi.list_gate_places` says where gates can stand, and why elsewhere none can.

    The copy is compared with the model before it is returned: open gates change nothing.

    Args:
        model: A built Sequential or functional model, Keras 3 or tf_keras, with others nested in it or not. It stays as
            it is.
        kind: A kind of gate: "plain" for `tpi.layers.ChannelGate`, or another one of `tpi.layers.GATE_KINDS`.
        places: "inner" for channels of a single layer, "all" for those too that a sum ties to others, or a list of
            layers, by name or pattern.
        example: A batch of inputs to compare the models on; made up by default.
        **options: Options of the layer, such as regularizer= or initial= of `tpi.layers.ChannelGate`.

    Returns:
        A model with the layers of the given one, whose names and weights they have, and a layer `<name>_gate` for each
        gate. It is compiled as the model was, with a fresh optimizer, if that can be copied from its config.

    Raises:
        ModelError: If the model is not built, subclassed, has gates already, carries masks, has a layer that cannot be
            copied, or has no channels that can have a gate; or the kind is there for Keras 3 alone.
        OptionError: If there is no such kind or place, or the kind does not take an option.
        EnforcementError: If weights of the model are frozen.
        DataError: If the model cannot run on the example.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> Dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((4,)), Dense(3, "relu", name="hidden"), Dense(2, name="head")])
        >>> gated = tpi.insert_gates(model)
        >>> [layer.name for layer in gated.layers]
        ['hidden', 'hidden_gate', 'head']
        >>> gated.get_layer("hidden_gate").set_weights([np.array([1.0, 0.0, 0.5])])
        >>> found = tpi.discretize(gated)
        >>> [layer.name for layer in found.model.layers], found.channels["hidden_gate"].tolist()
        (['hidden', 'head'], [True, False, True])
        >>> tpi.compact(found.model, found.masks).model.count_params()
        16
    """
    check_gateable(model)
    own = GATE_KINDS.find(kind)
    graph = build_dependency_graph(model, example)
    chosen, left = choose_places(*find_places(model, graph), places)
    if not chosen:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(left.items())[:8])
        raise ModelError(f"Model {model.name!r} has no channels that can have a gate. Received: {reasons}.")
    _check_names(model, chosen)
    copy = _GatedCopy(model, chosen, _find_class(own, model), options)
    for layer, twin in copy.layers:
        if compat.is_layer(layer):
            copy_state(layer, twin)
    with hold_factors({gate: gate.make_open() for gate in copy.gates}):
        check_copy(model, copy.model, copy.layers, example=example)
    compile_like(copy.model, model)
    return copy.model


def check_gateable(model: Model) -> None:
    """Refuse models that cannot get gates.

    Raises:
        ModelError: If the model is not built, subclassed, has gates already, or carries masks.
        EnforcementError: If weights of the model are frozen.
    """
    compat.check_model(model)
    if not compat.is_symbolic(model) or "call" in compat.find_overridden_methods(model):
        raise ModelError(
            f"Gates are inserted into Sequential and functional models. Received: {type(model).__name__}, which "
            "computes in its own way; insert them into the models inside it."
        )
    gates = [layer.name for layer in compat.walk_layers(model) if isinstance(layer, GateLayer)]
    if gates:
        raise ModelError(
            f"Model {model.name!r} has gates already. Received: {', '.join(gates)}. Go on training them, or call "
            "tpi.discretize(model) first."
        )
    check_unfrozen(model)
    wrapped = any(isinstance(layer, PrunableLayer) for layer in compat.walk_layers(model))
    if wrapped or get_attached_masks(model) is not None:
        raise ModelError(
            f"Model {model.name!r} carries masks. Call tpi.strip(model) first, or tpi.compact(model), which removes "
            "the channels that are gone."
        )


class _GatedCopy(ModelCopy):
    """A copy with gates behind what is asked for.

    Attributes:
        gates: The layers of the gates.
    """

    def __init__(self, model: Model, places: list[GatePlace], kind: Any, options: dict[str, Any]):
        self.gates = [_make_gate(kind, place, options) for place in places]
        self._behind = {
            id(symbol): gate for place, gate in zip(places, self.gates, strict=True) for symbol in place.symbols
        }
        super().__init__(model)

    def find_next(self, symbol: Any) -> Any | None:
        """Return the gate that is called on a tensor."""
        return self._behind.get(id(symbol))


def _make_gate(kind: Any, place: GatePlace, options: dict[str, Any]) -> Any:
    taken = [name for name in ("axis", "name") if name in options]
    if taken:
        raise OptionError(f"The {taken[0]} of a gate follows from its place. Received: {taken[0]}=.")
    try:
        return kind(axis=place.axis, name=place.name, **options)
    except OptionError:
        raise
    except (TypeError, ValueError) as error:
        raise OptionError(f"{kind.__name__} does not take these options: {error} Received: {options!r}.") from error


def _find_class(kind: type[GateLayer], model: Model) -> Any:
    """Return the layer of a kind for the Keras of a model.

    Raises:
        ModelError: If there is none.
    """
    if compat.is_keras3(model):
        return kind
    twin = getattr(import_module("tfprune_init.layers.legacy"), kind.__name__, None)
    if twin is None:
        raise ModelError(f"There is no {kind.__name__} for tf_keras. Received: a model of tf_keras; use Keras 3.")
    return twin


def _check_names(model: Model, places: list[GatePlace]) -> None:
    names = {layer.name for layer in compat.walk_layers(model)}
    taken = [place.name for place in places if place.name in names]
    if taken:
        raise ModelError(f"A gate would be called {taken[0]}, as a layer of model {model.name!r} is. Rename that one.")
