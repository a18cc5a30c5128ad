"""Recipes: functions that make the procedure of a named method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tfprune_init.checks import suggest
from tfprune_init.errors import OptionError
from tfprune_init.registry import Registry

if TYPE_CHECKING:
    from tfprune_init.training.events import Event


@dataclass(frozen=True)
class RunPlan:
    """What a recipe knows of the run it is for.

    Attributes:
        density: Share of the prunable weights that stays in the end, in (0, 1].
        steps: Gradient steps of a whole training.
        steps_per_epoch: Gradient steps of one walk through the data.
    """

    density: Fraction
    steps: int
    steps_per_epoch: int


Recipe = Callable[..., "list[Event]"]

RECIPES: Registry[Recipe] = Registry("procedure")


def register_recipe(name: str) -> Callable[[Recipe], Recipe]:
    """Register a function of a `RunPlan` that returns a list of events. A decorator.

    Keyword-only parameters of the function are options of `tpi.run`.

    Raises:
        OptionError: If the name is taken.
    """

    def register(recipe: Recipe) -> Recipe:
        RECIPES.register(name, recipe)
        return recipe

    return register


def call_recipe(name: str, plan: RunPlan, options: Mapping[str, Any]) -> list[Event]:
    """Make the procedure of a registered name.

    Raises:
        OptionError: If there is none of that name, or it does not take an option.
    """
    recipe = RECIPES.find(name)
    known = [p.name for p in inspect.signature(recipe).parameters.values() if p.kind == p.KEYWORD_ONLY]
    for key in options:
        if key not in known:
            raise OptionError(f"Procedure {name!r} has no option {key!r}. {suggest(key, known, list_all=True)}")
    return recipe(plan, **options)
