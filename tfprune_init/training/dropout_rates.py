"""Rates of Dropout that follow the masks: a layer that lost connections needs less of it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.derived_weights import reset_inference_functions
from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.checks import suggest
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.unit_makers import UnitMakers
from tfprune_init.graph.variables import is_named_by

_KINDS = frozenset(["Dropout", "AlphaDropout", "GaussianDropout"])


class _Dropout(NamedTuple):
    """A Dropout layer, the rate that it began with, and the sizes of the kernels that make what it drops, by path."""

    layer: Any
    rate: float
    sizes: dict[str, int]


class DropoutRates:
    """The rates of a model's Dropout layers, as functions of the masks.

    Dropout drops units. Its rate is D sqrt(C / C_dense), where D is the rate at the beginning, C the number of weights
    kept of the kernels that make these units, and C_dense their number. Layers with a rate of 0 are left alone.

    Args:
        model: A built model, with the rates that it begins with.
        exclude: Dropout layers to leave alone: names, paths or glob patterns.

    Attributes:
        exclude: As given.

    Raises:
        ModelError: If the kernels of a Dropout layer are not known, or another layer drops in a way of its own; names
            each.
        OptionError: If an exclusion has no effect.

    Example:
        >>> import keras, numpy as np
        >>> from tfprune_init.training.dropout_rates import DropoutRates
        >>> layers = [keras.layers.Dense(3, name="hidden"), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> DropoutRates(model).rescale({"hidden/kernel": np.arange(12).reshape(4, 3) < 3})
        >>> layers[1].rate
        0.25
    """

    def __init__(self, model: Model, exclude: Sequence[str] = ()):
        self.exclude = tuple(exclude)
        makers = UnitMakers(model)
        self._model = model
        self._dropouts: list[_Dropout] = []
        unknown: dict[str, str] = {}
        used: set[str] = set()
        names: list[str] = []
        for path, layer in _list_dropping(model, "", set()):
            names.append(path)
            hits = [pattern for pattern in exclude if is_named_by(f"{path}/rate", pattern)]
            used.update(hits)
            if hits:
                continue
            kernels = makers.find_kernels(layer) if compat.get_class_names(layer) & _KINDS else "it is no Dropout layer"
            if isinstance(kernels, str):
                unknown[path] = kernels
            elif not isinstance(layer.rate, numbers.Real):
                unknown[path] = f"its rate is a {type(layer.rate).__name__}"
            else:
                sizes = {target.path: target.size for target in kernels}
                self._dropouts.append(_Dropout(layer, float(layer.rate), sizes))
        for pattern in exclude:
            if pattern not in used:
                raise OptionError(
                    f"exclude={pattern!r} matches no layer that drops out. {suggest(pattern, names, list_all=True)}"
                )
        if unknown:
            listed = "; ".join(f"{path}: {reason}" for path, reason in unknown.items())
            raise ModelError(
                "It is not known which connections lead to what these layers drop, so their rates cannot follow masks: "
                f"{listed}. Leave them alone with RescaleDropout(exclude=[{', '.join(map(repr, unknown))}]), or all "
                f"of them with rescale_dropout=False. Received: model {model.name!r}."
            )

    def __len__(self) -> int:
        return len(self._dropouts)

    def rescale(self, masks: Mapping[str, np.ndarray] | None) -> None:
        """Set the rates that go with masks, and let the model trace its functions anew, which have rates in them.

        Args:
            masks: What is kept; variables that are not named are whole.
        """
        changed = False
        for layer, began, sizes in self._dropouts:
            kept = sum(
                int(np.count_nonzero(masks[path])) if masks is not None and path in masks else size
                for path, size in sizes.items()
            )
            rate = began * math.sqrt(kept / sum(sizes.values()))
            changed = changed or rate != layer.rate
            layer.rate = rate
        if changed:
            compat.reset_train_function(self._model)
            reset_inference_functions(self._model)


def _list_dropping(layer: Layer, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield the layers that drop something, each once under its path; not what is inside of them."""
    for child in compat.get_sublayers(layer):
        if id(child) not in seen:
            seen.add(id(child))
            if _drops(child):
                yield prefix + child.name, child
            else:
                yield from _list_dropping(child, f"{prefix}{child.name}/", seen)


def _drops(layer: Layer) -> bool:
    if compat.get_class_names(layer) & _KINDS:
        return not (isinstance(layer.rate, numbers.Real) and layer.rate == 0)
    # Recurrent layers and attention have Dropout as an option.
    own = [getattr(layer, name, None) for name in ("dropout", "recurrent_dropout")]
    return any(isinstance(rate, numbers.Real) and float(rate) > 0 for rate in own)
