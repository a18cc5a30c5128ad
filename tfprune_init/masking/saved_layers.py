"""Which layer's config is saved for a variable: the outermost on the way to it that is saved as one piece."""

from __future__ import annotations

import inspect
from typing import Any

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model


def find_ways(model: Model) -> dict[int, list[Any]]:
    """Return the layers on the way from the model to each layer, by that layer's id; the first if there are several."""
    ways: dict[int, list[Any]] = {}

    def descend(way: list[Any]) -> None:
        if id(way[-1]) not in ways:
            ways[id(way[-1])] = way
            for child in compat.get_sublayers(way[-1]):
                descend([*way, child])

    descend([model])
    return ways


def find_serialized_layer(way: list[Any]) -> Any:
    """Return the outermost layer on the way to a variable that is saved as one piece, by its own config."""
    return next(layer for layer in way if not _saved_by_layers(layer))


def _saved_by_layers(model: Model) -> bool:
    """Whether the config of a model is the configs of its layers, not the arguments of its own constructor."""
    kind: Any = type(model)
    if not compat.is_symbolic(model) or kind.get_config.__module__.split(".")[0] not in ("keras", "tf_keras"):
        return False
    if "Sequential" in compat.get_class_names(model):
        return True
    spec = inspect.getfullargspec(kind.__init__)
    functional = next(base for base in kind.__mro__ if base.__name__ == "Functional")
    takes_any = spec.varargs is not None and spec.varkw is not None
    return takes_any or spec.args == inspect.getfullargspec(functional.__init__).args
