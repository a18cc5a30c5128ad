"""Recipes: functions that make the procedure of a named method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tfprune_init.checks import suggest
from tfprune_init.errors import OptionError
from tfprune_init.methods.method import METHODS
from tfprune_init.registry import Registry
from tfprune_init.selection import Budget

if TYPE_CHECKING:
    from tfprune_init.training.events import Event


@dataclass(frozen=True)
class RunPlan:
    """What a recipe knows of the run it is for.

    Attributes:
        density: Share of the prunable weights that stays in the end, in (0, 1].
        steps: Gradient steps of a whole training.
        steps_per_epoch: Gradient steps of one walk through the data.
        budget: What may stay in place of a density, for recipes that take one.
    """

    density: Fraction
    steps: int
    steps_per_epoch: int
    budget: Budget | None = None


@dataclass(frozen=True)
class Recipe:
    """A named procedure, and what it declares.

    Attributes:
        name: Its name.
        make: Makes its events from a `RunPlan` and options, its keyword-only parameters.
        decides_sparsity: Whether it finds itself how many weights stay. It takes no sparsity then; the `density` of its
            plan is 1.
        trains_weights: Whether weights that stay are trained. A supermask leaves them as they were drawn.
        cuts_channels: Whether it makes the network smaller, so that no masks are left in the end. Its sparsity is the
            share of the channel groups that goes, and it takes a budget in place of that.
    """

    name: str
    make: Callable[..., list[Event]]
    decides_sparsity: bool = False
    trains_weights: bool = True
    cuts_channels: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """Its options, with their defaults."""
        parameters = inspect.signature(self.make).parameters.values()
        return {
            parameter.name: parameter.default for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY
        }

    @property
    def options(self) -> list[str]:
        """Names of its options."""
        return list(self.defaults)

    @property
    def summary(self) -> str:
        """What it does, as the first line of its docstring says after "Make the procedure of "."""
        line = (inspect.getdoc(self.make) or "").partition("\n")[0]
        return line.removeprefix("Make the procedure of ")

    def make_events(self, plan: RunPlan, options: Mapping[str, Any]) -> list[Event]:
        """Make its events.

        Raises:
            OptionError: If it does not take an option, or the recipe refuses a value.
        """
        self.check_options(options)
        return self.make(plan, **options)

    def check_options(self, names: Iterable[str]) -> None:
        """Refuse options that it does not take.

        Raises:
            OptionError: If there is one.
        """
        for name in names:
            if name not in self.options:
                near = suggest(name, self.options, list_all=True)
                raise OptionError(f"Procedure {self.name!r} has no option {name!r}. {near}")


RECIPES: Registry[Recipe] = Registry("procedure")


def find_recipe(name: str) -> Recipe:
    """Return the procedure of that name.

    Raises:
        OptionError: If there is neither a procedure nor a method of that name; names the nearest.
    """
    if name not in RECIPES:
        known = [*METHODS, *RECIPES]
        raise OptionError(f"There is no method {name!r}. {suggest(name, known, list_all=True)}")
    return RECIPES[name]


Make = Callable[..., "list[Event]"]


def register_recipe(
    name: str, *, decides_sparsity: bool = False, trains_weights: bool = True, cuts_channels: bool = False
) -> Callable[[Make], Make]:
    """Register a function of a `RunPlan` that returns a list of events. A decorator.

    Keyword-only parameters of the function are options of `tpi.run`. The first line of its docstring says what it does
    in lists of methods.

    Args:
        name: Name of the procedure.
        decides_sparsity: As in `Recipe`.
        trains_weights: As in `Recipe`.
        cuts_channels: As in `Recipe`.

    Raises:
        OptionError: If the name is taken.
    """

    def register(make: Make) -> Make:
        RECIPES.register(name, Recipe(name, make, decides_sparsity, trains_weights, cuts_channels))
        return make

    return register
