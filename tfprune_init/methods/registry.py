"""The register of methods: named recipes of criterion, schedule, steps, regrow and scope."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfprune_init.criteria import CRITERIA, Criterion
from tfprune_init.errors import OptionError
from tfprune_init.schedules import Schedule, densities
from tfprune_init.scopes import scope_named


@dataclass(frozen=True)
class Method:
    """A named way to find masks.

    Attributes:
        name: What `method=` calls it.
        criterion: Name of the criterion that scores the connections.
        schedule: Density at each step: a name of `schedules.SCHEDULES` or a function of (density, steps).
        steps: Number of steps.
        regrow: Whether pruned weights may return at a later step.
        scope: How scores compete: a name of `scopes.SCOPES`.
        iterative: Whether scores change with the masks, so that `steps` and `schedule` have an effect.
        keeps_layers: Whether a step that would cut off a layer is halved until it does not.
        defaults: Its defaults for options of the probe, the criterion and the scope, where they are not theirs.
        summary: One line for tables.
        reference: The paper.
        follows: Where it follows paper or code, beyond what its criterion says.
    """

    name: str
    criterion: str
    schedule: str | Schedule = "one_shot"
    steps: int = 1
    regrow: bool = False
    scope: str = "global"
    iterative: bool = False
    keeps_layers: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""
    reference: str = ""
    follows: str = ""

    @property
    def needs_data(self) -> bool:
        """Whether it cannot do without data."""
        return self.scorer.uses_gradients

    @property
    def scorer(self) -> Criterion:
        """The criterion itself."""
        return CRITERIA[self.criterion]

    @property
    def options(self) -> frozenset[str]:
        """Names of the options of `find_masks` that have an effect on it."""
        scope = scope_named(self.scope)
        return frozenset(
            {"scope"}
            | ({"steps", "schedule"} if self.iterative else set())
            | ({"normalize"} if scope.compares_layers else set())
            | ({"shuffle"} if scope.counts_in == "weights" else set())
            | self.scorer.options
            | set(self.scorer.own_options)
            | set(scope.options)
        )


_METHODS: dict[str, Method] = {}


def methods() -> tuple[str, ...]:
    """Names of all methods, in the order they were registered.

    Example:
        >>> import tfprune_init as tpi
        >>> tpi.methods()[:3]
        ('force', 'iter_snip', 'snip')
    """
    return tuple(_METHODS)


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        OptionError: If there is none; offers the nearest names.
    """
    if name not in _METHODS:
        near = difflib.get_close_matches(str(name), _METHODS, n=3, cutoff=0.4) or list(_METHODS)
        raise OptionError(f"There is no method {name!r}. Nearest names: {', '.join(near)}.")
    return _METHODS[name]


def register(method: Method) -> None:
    """Add a method of one's own.

    Args:
        method: The recipe; its criterion is the name of a registered one (see `tfprune_init.criterion`).

    Raises:
        OptionError: If the name is taken, or criterion, schedule or scope are unknown.

    Example:
        >>> import tfprune_init as tpi
        >>> @tpi.criterion("steepness")
        ... def steepness(probe):
        ...     return {path: abs(gradient) for path, gradient in probe.gradients().items()}
        >>> tpi.register(tpi.Method("steepness", "steepness", summary="largest gradients stay"))
    """
    if method.name in _METHODS:
        raise OptionError(f"There is a method of that name already. Received: {method.name!r}.")
    if method.criterion not in CRITERIA:
        raise OptionError(f"criterion must be one of {sorted(CRITERIA)}. Received: {method.criterion!r}.")
    scope_named(method.scope)
    if isinstance(method.schedule, str):
        densities(method.schedule, 0.5, method.steps)
    _METHODS[method.name] = method
