"""The table of methods: named recipes of criterion, schedule, steps, regrow and scope."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
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
        summary: One line for tables.
        reference: The paper.
    """

    name: str
    criterion: str
    schedule: str | Schedule = "one_shot"
    steps: int = 1
    regrow: bool = False
    scope: str = "global"
    iterative: bool = False
    summary: str = ""
    reference: str = ""

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
        own = {"scope", "steps", "schedule"} if self.iterative else {"scope"}
        return self.scorer.options | own


_METHODS: dict[str, Method] = {}

# Options of the search and of the probe, with their defaults.
_RECIPE_OPTIONS: dict[str, Any] = {"steps": None, "schedule": None, "scope": None}
_PROBE_OPTIONS: dict[str, Any] = {
    "loss": None,
    "batches": 1,
    "batchnorm": "batch",
    "seed": 0,
    "jit_compile": False,
}


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
        >>> @tpi.criterion("gradient_norm")
        ... def gradient_norm(probe):
        ...     return {path: abs(gradient) for path, gradient in probe.gradients().items()}
        >>> tpi.register(tpi.Method("gradient_norm", "gradient_norm", summary="largest gradients stay"))
    """
    if method.name in _METHODS:
        raise OptionError(f"There is a method of that name already. Received: {method.name!r}.")
    if method.criterion not in CRITERIA:
        raise OptionError(f"criterion must be one of {sorted(CRITERIA)}. Received: {method.criterion!r}.")
    scope_named(method.scope)
    if isinstance(method.schedule, str):
        densities(method.schedule, 0.5, method.steps)
    _METHODS[method.name] = method


def recipe_for(method: str, data: Any, options: dict[str, Any]) -> tuple[Method, dict[str, Any]]:
    """Sort the caller's options into the recipe and the probe; refuse those without effect.

    Args:
        method: Name of the method.
        data: The caller's data, or None.
        options: What the caller gave: steps, schedule, scope, loss, batches, batchnorm, seed, jit_compile.

    Returns:
        The method with the caller's options in it, and all options of the probe.

    Raises:
        OptionError: If the method or an option is unknown, the method needs data and has none, or an option
            has no effect on it.
    """
    recipe = method_named(method)
    known = {**_RECIPE_OPTIONS, **_PROBE_OPTIONS}
    unknown = [key for key in options if key not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise OptionError(f"There is no option {unknown[0]!r}.{hint} Options: {', '.join(sorted(known))}.")
    given = {key: value for key, value in options.items() if not _equals(value, known[key])}
    useless = [f"{key}={value!r}" for key, value in given.items() if key not in recipe.options]
    if useless:
        raise OptionError(
            f"Method {method!r} does not use {', '.join(useless)}; leave it out. "
            f"It uses: {', '.join(sorted(recipe.options))}."
        )
    if recipe.needs_data and data is None:
        raise OptionError(f"Method {method!r} judges connections by data. Received: data=None.")
    if "scope" in given:
        scope_named(given["scope"])
    recipe = replace(recipe, **{key: value for key, value in given.items() if key in _RECIPE_OPTIONS})
    return recipe, {key: given.get(key, default) for key, default in _PROBE_OPTIONS.items()}


def _equals(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))


_FORCE = "de Jorge et al., Progressive Skeletonization, ICLR 2021"
register(
    Method(
        "force",
        "sensitivity",
        schedule="exponential",
        steps=60,
        regrow=True,
        iterative=True,
        summary="many small steps; connections judged at the pruned network; pruned ones may return",
        reference=_FORCE,
    )
)
register(
    Method(
        "iter_snip",
        "sensitivity",
        schedule="exponential",
        steps=60,
        iterative=True,
        summary="many small steps of SNIP; what is pruned stays pruned",
        reference=_FORCE,
    )
)
register(
    Method(
        "snip",
        "sensitivity",
        summary="one step: how much each connection moves the loss of the dense network",
        reference="Lee et al., SNIP, ICLR 2019",
    )
)
register(
    Method(
        "magnitude",
        "magnitude",
        summary="the largest initial weights stay",
        reference="Han et al., NeurIPS 2015; Frankle et al., ICLR 2021",
    )
)
register(Method("random", "chance", summary="every weight has the same chance to stay", reference="baseline"))
