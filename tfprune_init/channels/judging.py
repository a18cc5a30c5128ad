"""From an importance to one number for each group of channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.channels.importance_registry import IMPORTANCES
from tfprune_init.channels.network import ChannelNetwork
from tfprune_init.channels.reductions import reduce_groups
from tfprune_init.checks import suggest
from tfprune_init.errors import OptionError, ScoreError
from tfprune_init.graph.variables import list_variables
from tfprune_init.options import get_defaults
from tfprune_init.scoring import ScoringEngine
from tfprune_init.selection import UnitLayouts


def judge_groups(
    model: Model, layouts: UnitLayouts, importance: Any, reduction: str, data: Any, options: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each group, float64, and whether it has any.

    Args:
        model: The model.
        layouts: How its kernels lie, with the dependency graph.
        importance: Name of an importance, or numbers by path.
        reduction: Name of a reduction.
        data: The caller's data, or None.
        options: Options of the importance and, where it uses gradients, of the engine.

    Raises:
        OptionError: If there is no such importance, an option or path is unknown, numbers do not fit, or the
            importance needs data.
        ScoreError: If a number is NaN or infinite.
    """
    if isinstance(importance, Mapping):
        if options:
            raise OptionError(f"Numbers of your own take no options. Received: {', '.join(options)}.")
        found = _match_numbers(importance, layouts)
    else:
        found = _judge(model, layouts, importance, data, options)
    network = ChannelNetwork(layouts, {})
    for path, numbers in found.items():
        if not np.isfinite(numbers).all():
            raise ScoreError(
                f"Importance {importance if isinstance(importance, str) else 'of the caller'!r} is NaN or infinite for "
                f"channels of {path}. Look at its weights and gradients, or leave the layer out with exclude=."
            )
    judged = {path: (network.get_groups(path), numbers) for path, numbers in found.items()}
    return reduce_groups(judged, layouts.removable.size, reduction)


def _judge(
    model: Model, layouts: UnitLayouts, name: Any, data: Any, options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    importance = IMPORTANCES.find(name)
    of_engine = get_defaults("engine") if importance.uses_gradients else {}
    for option in options:
        if option not in of_engine and option not in importance.own_options:
            known = [*importance.own_options, *of_engine]
            raise OptionError(f"Importance {name!r} has no option {option!r}. {suggest(option, known, list_all=True)}")
    own = {option: value for option, value in options.items() if option in importance.own_options}
    variables = {target.path: target for target in list_variables(model)}
    if not importance.uses_gradients:
        return importance.judge(ChannelNetwork(layouts, variables), **own)
    if data is None:
        raise OptionError(f"Importance {name!r} judges channels by data. Received: data=None.")
    others = {option: value for option, value in options.items() if option not in own}
    targets = tuple(variables[path] for path in layouts.kernels)
    with ScoringEngine(model, targets, data=data, **others) as engine:
        return importance.judge(ChannelNetwork(layouts, variables, engine), **own)


def _match_numbers(given: Mapping[str, Any], layouts: UnitLayouts) -> dict[str, np.ndarray]:
    """Return numbers of the caller by kernel."""
    known = {path.rpartition("/")[0]: path for path in reversed(list(layouts.kernels))}
    known.update({path: path for path in layouts.kernels})
    found: dict[str, np.ndarray] = {}
    for name, numbers in given.items():
        if name not in known:
            raise OptionError(f"importance= names no kernel with channels by {name!r}. {suggest(name, known)}")
        path, values = known[name], np.asarray(numbers)
        wanted = layouts.kernels[path].size
        if values.shape != (wanted,) or values.dtype.kind not in "fiu":
            raise OptionError(
                f"importance= takes one number for each of the {wanted} channels of {path}. Received for {name!r}: "
                f"{values.dtype} of shape {values.shape}."
            )
        if path in found:
            raise OptionError(f"importance= names {path} twice. Received: {', '.join(given)}.")
        found[path] = values.astype(np.float64)
    if not found:
        raise OptionError("importance= needs numbers for at least one kernel. Received: an empty dict.")
    return found
