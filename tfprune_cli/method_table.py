"""The pruning methods as a table for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfprune_init.methods import method_named, methods


def print_methods(console: Console) -> None:
    """Print the settings of every method, then what each does and which paper it is from.

    Two tables, because one with all of it fits no terminal of 80 columns.

    Args:
        console: Where to.
    """
    settings = Table(title="Methods and their default settings", title_justify="left")
    for name in ("method", "schedule", "steps", "regrow", "scope", "needs data"):
        settings.add_column(name, justify="right" if name == "steps" else "left")
    meanings = Table.grid(padding=(0, 2))
    for name in methods():
        method = method_named(name)
        schedule = method.schedule if isinstance(method.schedule, str) else method.schedule.__name__
        settings.add_row(
            name,
            schedule,
            str(method.steps),
            "yes" if method.regrow else "no",
            method.scope,
            "yes" if method.needs_data else "no",
        )
        meanings.add_row(Text(name, "bold"), Text(method.summary) + Text(f"\n{method.reference}\n", "dim"))
    console.print(settings)
    console.print()
    console.print(meanings)
