"""A page: facts, tables that sort, figures; written as one HTML file that needs no network."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfprune_init.errors import OptionError
from tfprune_init.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: What its head says.
        show: Makes text of a value; None is shown as a dash and sorts last.
        number: Whether values are numbers, set to the right.
    """

    name: str
    show: Callable[[Any], str] = str
    number: bool = False


@dataclass(frozen=True)
class Table:
    """A table that sorts by any column.

    Attributes:
        columns: Its columns.
        rows: Values, one for each column.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]

    def cells(self) -> list[list[dict[str, Any]]]:
        """For each cell its text, the value to sort by, and whether it is a number."""
        return [
            [
                {
                    "text": "-" if value is None else column.show(value),
                    "key": "" if value is None else value,
                    "number": column.number,
                }
                for column, value in zip(self.columns, row, strict=True)
            ]
            for row in self.rows
        ]


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows.

    Attributes:
        figure: A matplotlib Figure.
        caption: What it shows, in words: also for those who cannot see it.
    """

    figure: Figure
    caption: str

    def source(self) -> str:
        """The figure as the address of an image: SVG, with nothing to fetch."""
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="svg", metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(drawn.getvalue()).decode()


@dataclass(frozen=True)
class Section:
    """A part of a page under its own heading.

    Attributes:
        heading: Its heading.
        parts: Sentences, tables and pictures, in their order.
    """

    heading: str
    parts: Sequence[str | Table | Picture]


@dataclass(frozen=True)
class Page:
    """A report to read in a browser.

    Attributes:
        title: Its title.
        facts: Pairs of a name and a value, shown at the top.
        about: A sentence below them; may be empty.
        sections: What follows.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    about: str = ""
    sections: list[Section] = field(default_factory=list)

    def html(self) -> str:
        """The page as HTML: styles, script and figures are inside.

        Raises:
            OptionError: If Jinja is not installed.
        """
        try:
            from jinja2 import Environment, PackageLoader, StrictUndefined
        except ImportError as error:
            raise OptionError('A page needs Jinja. Try: pip install "tfprune_init[viz]"') from error
        environment = Environment(
            loader=PackageLoader("tfprune_init.pages", "."),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.tests["table"] = lambda part: isinstance(part, Table)
        environment.tests["picture"] = lambda part: isinstance(part, Picture)
        return environment.get_template("page.html").render(page=self, version=__version__)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `html()` to a file."""
        text = self.html()
        Path(path).write_text(text, encoding="utf-8")


def percent(value: float) -> str:
    """A share as a percentage with up to 4 significant digits."""
    return f"{100 * value:.4g}%"


def accuracy(value: float) -> str:
    """A share of right answers, to a hundredth of a percent."""
    return f"{100 * value:.2f}%"


def count(value: int) -> str:
    """A whole number with commas."""
    return f"{value:,}"


def seconds(value: float) -> str:
    """A time, to a tenth of a second."""
    return f"{value:,.1f} s"
