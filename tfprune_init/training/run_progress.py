"""The progress of a run: a bar over its steps of training, with the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress, TaskID

from tfprune_init.progress import is_progress_shown, make_progress


class RunProgress:
    """A bar over all gradient steps that a run will train."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task = TaskID(0)

    @contextmanager
    def show(self, total: int, done: int, verbose: str | int | bool) -> Iterator[None]:
        """Show the bar while the body runs.

        Args:
            total: Gradient steps of the whole run.
            done: Those that were done before.
            verbose: As in `tpi.run`.
        """
        with make_progress(shown=is_progress_shown(verbose)) as self._bar:
            self._task = self._bar.add_task("training", total=total, completed=done)
            yield
        self._bar = None

    def advance(self, steps: int) -> None:
        """Count gradient steps that were trained."""
        if self._bar is not None:
            self._bar.advance(self._task, steps)
