"""Methods: criterion, schedule, steps, regrowth, granularity and allocation under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfprune_init.registry import Registry
from tfprune_init.scoring.criteria import CRITERIA, Criterion
from tfprune_init.selection import GRANULARITIES, Allocation, Granularity, check_combination, find_allocation
from tfprune_init.selection.schedules import Schedule, compute_densities


@dataclass(frozen=True)
class Method:
    """A named way to find masks.

    Attributes:
        name: What `method=` calls it.
        criterion: Name of the criterion that scores the connections.
        schedule: Density at each step: a name of `schedules.SCHEDULES` or a function of (density, steps).
        steps: Number of steps.
        regrow: Whether pruned weights may return at a later step.
        granularity: What is kept or pruned as one: a name of `selection.GRANULARITIES`.
        allocation: How the budget is shared out among layers: a name of `selection.ALLOCATIONS`, or a dict of
            sparsities by layer; the granularity's usual one by default.
        iterative: Whether scores change with the masks, so that `steps` and `schedule` have an effect.
        avoid_layer_collapse: Whether a step that would cut off a layer is halved until it does not.
        defaults: Its defaults for options of the engine, the criterion and the granularity, where they are not theirs.
        summary: One line for tables.
        reference: The paper.
        follows: Where it follows paper or code, beyond what its criterion says.
    """

    name: str
    criterion: str
    schedule: str | Schedule = "one_shot"
    steps: int = 1
    regrow: bool = False
    granularity: str = "weights"
    allocation: str | Mapping[str, float] | None = None
    iterative: bool = False
    avoid_layer_collapse: bool = False
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
    def groups(self) -> Granularity:
        """The granularity itself."""
        return GRANULARITIES.find(self.granularity)

    @property
    def shares(self) -> Allocation:
        """The allocation itself."""
        return find_allocation(self.groups.usual_allocation if self.allocation is None else self.allocation)

    @property
    def options(self) -> frozenset[str]:
        """Names of the options of `find_masks` that have an effect on it."""
        return frozenset(
            {"granularity", "allocation", "on_collapse"}
            | ({"avoid_layer_collapse"} if self.avoid_layer_collapse else set())
            | ({"steps", "schedule"} if self.iterative else set())
            | ({"normalize"} if self.shares.compares_layers else set())
            | ({"shuffle"} if self.granularity == "weights" else set())
            | self.scorer.options
            | set(self.scorer.own_options)
            | set(self.groups.options)
        )


METHODS: Registry[Method] = Registry("method")


def list_methods() -> tuple[str, ...]:
    """Return the names of all methods, in the order they were registered.

    Example:
        >>> import tfprune_init as tpi
        >>> tpi.list_methods()[:3]
        ('force', 'iter_snip', 'snip')
    """
    return tuple(METHODS)


def find_method(name: str) -> Method:
    """Return the method of that name.

    Raises:
        OptionError: If there is none; offers the nearest names.
    """
    return METHODS.find(name)


def register_method(method: Method) -> None:
    """Add a method.

    Args:
        method: The method; its criterion is the name of a registered one (see `tfprune_init.register_criterion`).

    Raises:
        OptionError: If the name is taken, or criterion, schedule, granularity or allocation are unknown.

    Example:
        >>> import tfprune_init as tpi
        >>> @tpi.register_criterion("steepness")
        ... def steepness(engine):
        ...     return {path: abs(gradient) for path, gradient in engine.gradients().items()}
        >>> tpi.register_method(tpi.Method("steepness", "steepness", summary="largest gradients stay"))
    """
    CRITERIA.find(method.criterion)
    check_combination(method.groups, method.shares)
    if isinstance(method.schedule, str):
        compute_densities(method.schedule, 0.5, method.steps)
    METHODS.register(method.name, method)
