"""Export many models with only one import of TensorFlow in a subprocess: `exporter`."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from tfprune_init.backend.protocols import Model
from tfprune_init.errors import ExportError
from tfprune_init.export.edge_report import EdgeReport
from tfprune_init.export.subprocess_runner import Runner, run_script
from tfprune_init.export.tflite_export import export_tflite, export_with
from tfprune_init.export.worker import Worker, WorkerDiedError


class Exporter:
    """The function that `exporter` yields; called like `export_tflite`.

    Args:
        run: Function that runs the scripts of converter, interpreters and timing.
    """

    def __init__(self, run: Runner) -> None:
        self._run = run
        self._closed = False

    def __call__(self, model: Model, path: str | os.PathLike[str], **options: Any) -> EdgeReport:
        """Export a model like `export_tflite`.

        Args:
            model: As for `export_tflite`.
            path: As for `export_tflite`.
            **options: Those of `export_tflite`.

        Returns:
            The same report.

        Raises:
            PruningError: As `export_tflite`; also an ExportError if the worker dies or the exporter is closed.
        """
        if self._closed:
            raise ExportError(
                "The exporter is closed: it works inside its `with` block only. Export there, or open another: "
                f"with tpi.exporter() as export: ... Received: {os.fspath(path)!r}"
            )
        given = inspect.signature(export_tflite).bind(model, path, **options)
        given.apply_defaults()
        try:
            return export_with(self._run, *given.args, **given.kwargs)
        except WorkerDiedError as error:
            raise ExportError(str(error)) from error

    def close(self) -> None:
        """Refuse all further exports."""
        self._closed = True


@contextmanager
def exporter() -> Iterator[Exporter]:
    """Make a function that exports like `export_tflite`, several times faster from the second model on.

    `export_tflite` starts a process for each step that a file could crash, and spends most of their time on importing
    TensorFlow. Here one process, the worker, imports it and forks a child for each step. If a child crashes, only that
    file fails. If the worker is killed, the file it worked on fails, and the next export starts another worker. The
    worker ends with the block, or with this process.

    This is faster on Linux only. On Windows and macOS TensorFlow does not survive a fork, so there it takes as long as
    `export_tflite`.

    Yields:
        A function with the arguments, the report and the errors of `export_tflite`. Outside the block it raises
        ExportError.

    Example:
        >>> with exporter() as export:  # doctest: +SKIP
        ...     for name, model in models.items():
        ...         print(name, export(model, f"{name}.tflite").raw_bytes)
    """
    with open_runner() as run, closing(Exporter(run)) as export:
        yield export


@contextmanager
def open_runner() -> Iterator[Runner]:
    """Make a function that runs scripts, in children of one worker where TensorFlow survives a fork."""
    if sys.platform != "linux":
        yield run_script
        return
    with closing(Worker()) as worker:
        yield worker.run
