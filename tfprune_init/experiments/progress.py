"""How a comparison goes on: a bar with the time left, or a line a run where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from tfprune_init.experiments.results import Run
from tfprune_init.experiments.setting import Setting


class Progress:
    """Shows finished runs and an estimate of the time left: that of the finished ones, for those to come.

    Args:
        total: Number of runs.
        done: How many of them were there before.
        visible: Whether to show anything.
    """

    def __init__(self, total: int, done: int, visible: bool):
        self._total = total
        self._done = self._before = done
        self._console = Console(stderr=True)
        self._visible = visible
        self._bar: Bar | None = None
        if visible and self._console.is_terminal:
            columns = (TextColumn("{task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=total, completed=done)
        self._began = time.perf_counter()

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        elif self._visible and self._before:
            self._say(f"{self._before} of {self._total} runs were there before")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def started(self, setting: Setting) -> None:
        """Name the run that goes on."""
        if self._bar is not None:
            name = _name(setting.contender.label, setting.sparsity, setting.seed)
            self._bar.update(self._task, description=f"{name}{self.left()}")

    def finished(self, row: Run) -> None:
        """Count a run, and say what it gave."""
        self._done += 1
        if not self._visible:
            return
        gave = row.status if row.accuracy is None else f"{100 * row.accuracy:.2f}%"
        seconds = row.prune_seconds + row.train_seconds
        line = f"{_name(row.label, row.sparsity, row.seed)}: {gave} in {seconds:.0f} s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=f"{line}{self.left()}")
        else:
            self._say(f"{self._done}/{self._total} {line}{self.left()}")

    def left(self) -> str:
        """The time left, in words; nothing before the first run is over, or after the last."""
        ran, waiting = self._done - self._before, self._total - self._done
        if not ran or not waiting:
            return ""
        seconds = (time.perf_counter() - self._began) / ran * waiting
        shown = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        return f"; about {shown} left"

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _name(label: str, sparsity: float, seed: int) -> str:
    share = "" if sparsity == 0 else f", {100 * sparsity:.10g}%"
    return f"{label}{share}, seed {seed}"
