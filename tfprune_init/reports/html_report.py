"""An HTML report: facts, sortable tables and figures in one file that needs no network."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tfprune_init.errors import MissingDependencyError
from tfprune_init.files import atomic_write
from tfprune_init.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading.
        show: Makes text of a value; None is shown as a dash and sorts last.
        number: Whether values are numbers, set to the right.
    """

    name: str
    show: Callable[[Any], str] = str
    number: bool = False


@dataclass(frozen=True)
class TableBlock:
    """A table that sorts by any column.

    Attributes:
        columns: Its columns.
        rows: Values, one for each column.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]

    def cells(self) -> list[list[dict[str, Any]]]:
        """List the text of each cell, the value to sort it by, and whether it is a number."""
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
class FigureBlock:
    """A figure with a caption.

    Attributes:
        figure: A matplotlib Figure.
        caption: Description in words, also for readers who cannot see the figure.
    """

    figure: Figure
    caption: str

    def source(self) -> str:
        """Encode the figure as an SVG data URL, which needs no other file."""
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="svg", metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(drawn.getvalue()).decode()


@dataclass(frozen=True)
class ReportSection:
    """A part of a page under its own heading.

    Attributes:
        heading: Its heading.
        parts: Sentences, tables and figures, in order.
    """

    heading: str
    parts: Sequence[str | TableBlock | FigureBlock]


@dataclass(frozen=True)
class HtmlReport:
    """A report to read in a browser.

    Attributes:
        title: Its title.
        facts: Pairs of a name and a value, shown at the top.
        about: A sentence below them; may be empty.
        sections: The rest of the report.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    about: str = ""
    sections: list[ReportSection] = field(default_factory=list)

    def html(self) -> str:
        """Render the report as HTML, with styles, script and figures inside.

        Raises:
            MissingDependencyError: If Jinja is not installed.
        """
        try:
            from jinja2 import Environment, PackageLoader, StrictUndefined
        except ImportError as error:
            raise MissingDependencyError("A page", "jinja2", "viz") from error
        environment = Environment(
            loader=PackageLoader("tfprune_init.reports", "."),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.tests["table"] = lambda part: isinstance(part, TableBlock)
        environment.tests["picture"] = lambda part: isinstance(part, FigureBlock)
        return environment.get_template("page.html").render(page=self, version=__version__)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `html()` to a file."""
        text = self.html()
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")


def format_percent(value: float) -> str:
    """Format a share as a percentage with up to 4 significant digits."""
    return f"{100 * value:.4g}%"


def format_accuracy(value: float) -> str:
    """Format an accuracy as a percentage with two decimals."""
    return f"{100 * value:.2f}%"


def format_count(value: int) -> str:
    """Format a whole number with commas."""
    return f"{value:,}"


def format_large(value: float) -> str:
    """Format a number that may be large, with commas up to a million and three significant digits beyond."""
    if value < 1e6:
        return f"{value:,.0f}"
    exponent = int(math.log10(value))
    return f"{value / 10**exponent:.2f} x 10^{exponent}"


def format_seconds(value: float) -> str:
    """Format a time with a tenth of a second."""
    return f"{value:,.1f} s"
