"""Progress of long work, on the standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn

from tfprune_init.errors import OptionError

T = TypeVar("T")


def is_progress_shown(verbose: str | int | bool) -> bool:
    """Return whether to show progress.

    Args:
        verbose: 0 shows nothing, 1 shows progress, "auto" shows it on a terminal.

    Raises:
        OptionError: If `verbose` is none of these.
    """
    if verbose not in ("auto", 0, 1):
        raise OptionError(f'verbose must be 0, 1 or "auto". Received: {verbose!r}.')
    return bool(verbose) if verbose != "auto" else sys.stderr.isatty()


def make_progress(columns: Sequence[str | ProgressColumn] = (), *, shown: bool = True, stays: bool = False) -> Progress:
    """Make bars on the standard error, to be used as a context.

    Args:
        columns: Columns of the bars; description, bar, share and time left by default.
        shown: Whether to show anything.
        stays: Whether the bars stay on the screen when all is done, over its whole width.
    """
    console = Console(stderr=True, quiet=not shown)
    return Progress(*columns, console=console, transient=not stays, expand=stays, disable=not shown)


def track(values: Sequence[T], description: str, *, shown: bool) -> Iterable[T]:
    """Walk through values under a bar.

    Args:
        values: The values.
        description: What the bar says.
        shown: Whether to show it.
    """
    with make_progress(shown=shown) as progress:
        yield from progress.track(values, description=description)
