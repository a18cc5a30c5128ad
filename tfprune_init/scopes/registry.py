"""The register of scopes, by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from tfprune_init.errors import OptionError
from tfprune_init.scopes.layout import Layouts

Choose = Callable[..., dict[str, np.ndarray]]
Count = Callable[..., int]
Check = Callable[..., None]


@dataclass(frozen=True)
class Scope:
    """A way for scores to compete.

    Attributes:
        name: What `scope=` calls it.
        choose: Function of (scores, density, alive, layouts, **options) to boolean masks of the scores' shapes.
            Scores are finite float arrays by path, in the fixed order of variables. Where `alive` is not None, only
            its True positions are candidates.
        count: Function of (layouts, **options) to the number of things that density is a share of;
            floor(count * density) of them are kept. Where a scope keeps a share of each variable or group instead,
            its docstring says how much, and count is the number of weights.
        summary: One line for tables.
        compares_layers: Whether scores of different variables compete, so that their scale in each matters.
        check: Function of (density, layouts, **options) that raises OptionError if the scope cannot do that.
        counts_in: What is counted, for messages: "weights", "blocks", "channels".
        of_units: Whether whole units compete, so that criteria which score units make sense.
    """

    name: str
    choose: Choose
    count: Count
    summary: str
    compares_layers: bool
    check: Check
    counts_in: str
    of_units: bool

    @property
    def options(self) -> Mapping[str, Any]:
        """Names of the options it takes, with their defaults: the keyword-only parameters of `choose`."""
        parameters = inspect.signature(self.choose).parameters.values()
        return MappingProxyType({p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY})


SCOPES: dict[str, Scope] = {}


def count_weights(layouts: Layouts, **options: Any) -> int:
    """Number of weights: what most scopes count in."""
    return sum(layout.size for layout in layouts.values())


def any_density(density: float, layouts: Layouts, **options: Any) -> None:
    """The check of a scope that can do every density."""


def scope(
    name: str,
    *,
    summary: str,
    compares_layers: bool,
    count: Count = count_weights,
    check: Check = any_density,
    counts_in: str = "weights",
    of_units: bool = False,
) -> Callable[[Choose], Choose]:
    """Register a function of (scores, density, alive, layouts, *, options) as a scope.

    Args:
        name: What to call it.
        summary: One line for tables.
        compares_layers: Whether scores of different variables compete.
        count: Number of things that density is a share of; the weights by default.
        check: Raises OptionError for densities and options it cannot do; does nothing by default.
        counts_in: What is counted, for messages.
        of_units: Whether whole units compete.

    Raises:
        OptionError: If the name is taken.

    Example:
        >>> from tfprune_init.scopes import SCOPES, keep_top, kept_count, scope
        >>> @scope("first_layer", summary="only the first layer is pruned", compares_layers=False)
        ... def first_layer(scores, density, alive, layouts, *, spare=0):
        ...     masks = {path: score == score for path, score in scores.items()}
        ...     first = next(iter(scores))
        ...     return masks | keep_top({first: scores[first]}, kept_count(scores[first].size, density) + spare)
        >>> dict(SCOPES.pop("first_layer").options)
        {'spare': 0}
    """

    def register(choose: Choose) -> Choose:
        if name in SCOPES:
            raise OptionError(f"There is a scope of that name already; choose another. Received: {name!r}.")
        SCOPES[name] = Scope(name, choose, count, summary, compares_layers, check, counts_in, of_units)
        return choose

    return register


def scope_named(name: str) -> Scope:
    """The scope of that name.

    Raises:
        OptionError: If there is none; offers the nearest name.
    """
    if name not in SCOPES:
        near = difflib.get_close_matches(str(name), SCOPES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise OptionError(f"scope must be one of {sorted(SCOPES)}. Received: {name!r}.{hint}")
    return SCOPES[name]
