"""A worker process for scripts: it imports TensorFlow and LiteRT once, and forks a child for each script."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from tfprune_init.export.subprocess_runner import check_end, make_environment, read_stage, run_script

ALONE = frozenset(["_memory_script.py"])
"""Scripts that need a new process: the peak memory of a fork starts at the worker's."""

STARTING_SECONDS = 120
"""Seconds that the imports may take before the worker is considered hung."""

ADVICE = (
    "Export the model again, which starts another worker. If memory ran out, as signal 9 may mean, free some before."
)


class WorkerDiedError(Exception):
    """The worker died or hangs.

    Not an ExportError: it says nothing about the file, so no other way of converting must be tried.
    """


class Worker:
    """A process that runs scripts like `run_script`, without importing TensorFlow each time.

    It is used only where TensorFlow survives a fork: on Linux. Scripts run one at a time. The process starts with this
    object; if it dies, it is started again for the next script. It ends with `close`, or with the process it serves. It
    belongs to that process: a fork of it needs a worker of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start()

    def run(self, name: str, folder: Path, timeout: float) -> None:
        """Run a script in a fork of the worker, or in a new process if it needs one.

        Args:
            name: As for `run_script`.
            folder: As for `run_script`.
            timeout: Seconds, not counting those of the worker's start.

        Raises:
            ExportError: If the script crashed, failed or took too long.
            WorkerDiedError: If the worker died, or doesn't answer.
        """
        if name in ALONE:
            run_script(name, folder, timeout)
            return
        script = Path(__file__).parent / name
        with self._lock:
            code = self._ask(script, folder, timeout)
        check_end(code, folder, timeout)

    def close(self) -> None:
        """End the process, and the script it runs."""
        if self._process.returncode is None:
            self._end()

    def _start(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        command = [sys.executable, str(Path(__file__).with_name("_worker_script.py")), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(
                command,
                env=make_environment(),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the caller; and it ends as a group with the script it runs
            )

    def _ask(self, script: Path, folder: Path, timeout: float) -> int | None:
        """Run a script and return its exit code; None if it took too long."""
        if self._process.returncode is not None:
            self._start()
        try:
            self._pipe.send((str(script), str(folder), timeout))
            if not self._pipe.poll(timeout + STARTING_SECONDS):
                raise WorkerDiedError(
                    f"The worker of this exporter gave no answer while {read_stage(folder)}. {ADVICE}"
                )
            received: int | None = self._pipe.recv()
            return received
        except (EOFError, ConnectionError) as error:
            code = self._end()
            cause = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise WorkerDiedError(
                f"The worker of this exporter died ({cause}) while {read_stage(folder)}. {ADVICE}"
            ) from error
        except BaseException:
            self._end()  # its answer would be taken for that to the next question
            raise

    def _end(self) -> int:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._pipe.close()
        return self._process.wait()
