"""The methods, as tables for the terminal and as data for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfprune_init.methods import Method, find_method, list_methods
from tfprune_init.training import RECIPES


def describe_methods() -> list[dict[str, Any]]:
    """Return everything the registers say of each method, in types that JSON knows: "kind" tells the two apart."""
    before = [
        {
            "name": name,
            "kind": "before training",
            "summary": method.summary,
            "criterion": method.criterion,
            "schedule": _name_schedule(method),
            "steps": method.steps,
            "regrow": method.regrow,
            "granularity": method.granularity,
            "allocation": dict(method.allocation) if isinstance(method.allocation, Mapping) else method.shares.name,
            "needs_data": method.needs_data,
            "defaults": dict(method.defaults),
            "options": sorted(method.options),
            "reference": method.reference,
        }
        for name, method in ((name, find_method(name)) for name in list_methods())
    ]
    procedures = [
        {
            "name": recipe.name,
            "kind": "while training",
            "summary": recipe.summary,
            "decides_sparsity": recipe.decides_sparsity,
            "trains_weights": recipe.trains_weights,
            "options": sorted(recipe.options),
        }
        for recipe in RECIPES.values()
    ]
    return [*before, *procedures]


def print_methods(console: Console) -> None:
    """Print the settings of every method, what each does and which paper it is from, and the procedures.

    Several tables, because one with all of it fits no terminal of 80 columns.

    Args:
        console: Where to.
    """
    settings = Table(title="Methods and their default settings", title_justify="left")
    for name in ("method", "schedule", "steps", "regrow", "granularity, allocation", "data"):
        settings.add_column(name, justify="right" if name == "steps" else "left")
    meanings = Table.grid(padding=(0, 2))
    for name in list_methods():
        method = find_method(name)
        settings.add_row(
            name,
            _name_schedule(method),
            str(method.steps),
            "yes" if method.regrow else "no",
            f"{method.granularity}, {method.shares.name}",
            "yes" if method.needs_data else "no",
        )
        meanings.add_row(Text(name, "bold"), Text(method.summary) + Text(f"\n{method.reference}\n", "dim"))
    console.print(settings)
    console.print()
    console.print(meanings)
    procedures = Table(title="Procedures: they prune while they train, with tfprune run", title_justify="left")
    procedures.add_column("method")
    procedures.add_column("what it does, and its options", overflow="fold")
    for recipe in RECIPES.values():
        options = ", ".join(recipe.options)
        procedures.add_row(recipe.name, Text(recipe.summary) + Text(f"\n{options}", "dim"), end_section=True)
    console.print(procedures)


def _name_schedule(method: Method) -> str:
    return method.schedule if isinstance(method.schedule, str) else method.schedule.__name__
