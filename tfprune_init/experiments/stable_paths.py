"""Variable paths that do not depend on how many models were built before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model


def make_stable_paths(model: Model, paths: Iterable[str]) -> dict[str, str]:
    """Map each path of a model to the one it would have if this were the first model built.

    Keras numbers layers without a name of their own by a count that goes on from model to model, so the masks of two
    runs would have different paths.

    Args:
        model: The model.
        paths: Paths of its variables.

    Returns:
        The lasting path by path; the path itself for layers with a name of their own.

    Example:
        >>> import keras
        >>> for _ in range(3):
        ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(3)])
        >>> first, second = (f"{layer.name}/kernel" for layer in model.layers)
        >>> list(make_stable_paths(model, [first, second]).values())
        ['dense/kernel', 'dense_1/kernel']
    """
    counts: Counter[str] = Counter()
    names = {}
    for layer in compat.walk_layers(model):
        base = _snake_case(type(layer).__name__)
        if re.fullmatch(rf"{re.escape(base)}(_\d+)?", layer.name):
            names[layer.name] = base if not counts[base] else f"{base}_{counts[base]}"
            counts[base] += 1
    lasting = {path: "/".join(names.get(part, part) for part in path.split("/")) for path in paths}
    return lasting if len(set(lasting.values())) == len(lasting) else {path: path for path in lasting}


def _snake_case(name: str) -> str:
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
