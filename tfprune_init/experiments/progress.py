"""Progress of a comparison: a bar with the time left, or a line per run where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn
from rich.progress import Progress as Bar

from tfprune_init.experiments.results import Run
from tfprune_init.experiments.run_config import RunConfig
from tfprune_init.progress import make_progress


class Progress:
    """Progress of a comparison, with the time left, estimated from the finished runs.

    Args:
        total: Number of runs.
        done: Number of runs finished earlier.
        visible: Whether to show anything.
    """

    def __init__(self, total: int, done: int, visible: bool):
        self._total = total
        self._done = self._before = done
        self._visible = visible
        bar = make_progress(("{task.completed}/{task.total}", BarColumn(), "{task.description}"), shown=visible)
        self._console = bar.console
        self._bar: Bar | None = bar if visible and bar.console.is_terminal else None
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total, completed=done)
        self._began = time.perf_counter()

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        elif self._visible and self._before:
            self._print(f"{self._before} of {self._total} runs were finished before")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start_run(self, config: RunConfig) -> None:
        """Show the name of the run that starts."""
        if self._bar is not None:
            name = _name_run(config.spec.label, config.sparsity, config.seed)
            self._bar.update(self._task, description=f"{name}{self.format_time_left()}")

    def finish_run(self, row: Run) -> None:
        """Count a finished run, and show its result."""
        self._done += 1
        if not self._visible:
            return
        result = row.status if row.accuracy is None else f"{100 * row.accuracy:.2f}%"
        seconds = row.prune_seconds + row.train_seconds
        line = f"{_name_run(row.label, row.sparsity, row.seed)}: {result} in {seconds:.0f} s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=f"{line}{self.format_time_left()}")
        else:
            self._print(f"{self._done}/{self._total} {line}{self.format_time_left()}")

    def format_time_left(self) -> str:
        """Format the time left; empty before the first run is over, and after the last."""
        ran, waiting = self._done - self._before, self._total - self._done
        if not ran or not waiting:
            return ""
        seconds = (time.perf_counter() - self._began) / ran * waiting
        shown = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        return f"; about {shown} left"

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _name_run(label: str, sparsity: float | None, seed: int) -> str:
    share = "" if not sparsity else f", {100 * sparsity:.10g}%"
    return f"{label}{share}, seed {seed}"
