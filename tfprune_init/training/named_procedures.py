"""What may be named: the events of a recipe, of a method that prunes before training, or of a list, and their goal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tfprune_init.errors import OptionError
from tfprune_init.methods import resolve_method
from tfprune_init.methods.method import METHODS
from tfprune_init.selection import Budget
from tfprune_init.selection.budget import parse_sparsity
from tfprune_init.training.events import Event, Prune, Train, flatten
from tfprune_init.training.recipe_registry import RunPlan, find_recipe

_LEFT_ALONE = ("exclude", "prune_bias")
"""Options that say which variables are prunable."""


@dataclass(frozen=True)
class RunGoal:
    """How much is to stay in the end.

    Attributes:
        sparsity: Share of the prunable weights to remove, in [0, 1), or None.
        budget: A limit in place of a sparsity, or None.

    Raises:
        OptionError: If both are given, or the sparsity is out of range.
    """

    sparsity: float | None = None
    budget: Budget | None = None

    def __post_init__(self) -> None:
        if self.sparsity is not None and self.budget is not None:
            raise OptionError("Give sparsity= or budget=, not both.")
        assert self.density > 0

    @property
    def density(self) -> Fraction:
        """Share that stays; 1 where it is not known."""
        return Fraction(1) if self.sparsity is None else 1 - parse_sparsity(self.sparsity)

    @property
    def is_given(self) -> bool:
        """Whether anything says how much is to stay."""
        return self.sparsity is not None or self.budget is not None


def check_options(procedure: str, data: Any, options: Mapping[str, Any]) -> None:
    """Refuse what a method or procedure does not take, before anything is loaded or built.

    Args:
        procedure: Its name.
        data: What connections will be judged by; None for nothing.
        options: Its options.

    Raises:
        OptionError: If there is none of that name, or an option is unknown or has no effect on it.
    """
    if procedure in METHODS:
        resolve_method(procedure, data, {k: v for k, v in options.items() if k not in _LEFT_ALONE})
    else:
        find_recipe(procedure).check_options(options)


def make_events(
    procedure: Any, goal: RunGoal, steps: int, steps_per_epoch: int, options: Mapping[str, Any]
) -> list[Event]:
    """Make the events of a procedure, a method or a list.

    Args:
        procedure: As in `run`.
        goal: How much is to stay.
        steps: Gradient steps of one whole training.
        steps_per_epoch: Gradient steps of one walk through the data.
        options: Options of the procedure or the method.

    Raises:
        OptionError: If there is none of that name, or an option or the goal has no effect on it.
    """
    if isinstance(procedure, str) and procedure in METHODS:
        if not goal.is_given:
            raise OptionError(f"How much may stay? Give sparsity= or budget= for method {procedure!r}.")
        left_alone = {name: options[name] for name in _LEFT_ALONE if name in options}
        others = {name: value for name, value in options.items() if name not in left_alone}
        return [Prune(procedure, None, others, **left_alone), Train(steps)]
    if not isinstance(procedure, str):
        if options:
            raise OptionError(f"A list of events takes no options. Received: {', '.join(options)}.")
        return flatten(procedure)
    recipe = find_recipe(procedure)
    if recipe.decides_sparsity and goal.is_given:
        raise OptionError(
            f"Procedure {procedure!r} finds itself how many weights stay, so sparsity= and budget= have no effect. "
            f"Received: sparsity={goal.sparsity}, budget={goal.budget!r}."
        )
    if goal.sparsity is None and not recipe.decides_sparsity and not (recipe.cuts_channels and goal.budget):
        raise OptionError(
            f"Procedure {procedure!r} prunes to a sparsity. Received: sparsity=None, budget={goal.budget!r}."
        )
    return flatten(recipe.make_events(RunPlan(goal.density, steps, steps_per_epoch, goal.budget), options))
