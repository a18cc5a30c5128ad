"""Clusters of worker processes on this machine: real ones, bounded in time, never left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any


class Cluster:
    """Processes that run the same Python code, each told by TF_CONFIG which worker it is.

    A context manager: on leaving it, every process is gone. `results` waits for them; a worker that fails or hangs
    fails the test, with what it printed.
    """

    def __init__(self, code: str, *arguments: str, workers: int = 2, seconds: float = 600):
        self._command = [sys.executable, "-c", code, *arguments]
        self._deadline = time.monotonic() + seconds
        self._addresses = _free_addresses(workers)
        self._undo = ExitStack()
        self.processes: list[subprocess.Popen[bytes]] = []
        self._outputs: list[Path] = []

    def __enter__(self) -> Cluster:
        folder = Path(self._undo.enter_context(tempfile.TemporaryDirectory()))
        self._undo.callback(self.kill)
        for index in range(len(self._addresses)):
            config = {"cluster": {"worker": self._addresses}, "task": {"type": "worker", "index": index}}
            environment = {
                **os.environ,
                "TF_CONFIG": json.dumps(config),
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "CUDA_VISIBLE_DEVICES": "-1",
                "PYTHONUNBUFFERED": "1",
            }
            self._outputs.append(folder / f"worker_{index}")
            with self._outputs[-1].open("wb") as output:
                self.processes.append(
                    subprocess.Popen(self._command, env=environment, stdout=output, stderr=subprocess.STDOUT)
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def output(self, index: int) -> str:
        """What a worker printed so far, errors included."""
        return self._outputs[index].read_text(errors="replace")

    def wait_for(self, index: int, line: str) -> None:
        """Wait until a worker printed a line."""
        while line not in self.output(index).splitlines():
            self._look(f"worker {index} to print {line!r}")

    def results(self) -> list[dict[str, Any]]:
        """Wait for all workers; what each printed last is JSON."""
        while any(process.poll() is None for process in self.processes):
            self._look("all workers to end")
        self._look("nothing more")
        return [json.loads(self.output(i).strip().splitlines()[-1]) for i in range(len(self.processes))]

    def kill(self) -> None:
        """End every worker at once, as a machine that loses power does."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def _look(self, awaited: str) -> None:
        failed = [i for i, process in enumerate(self.processes) if process.poll() not in (None, 0)]
        assert not failed, f"worker {failed[0]} failed:\n{self.output(failed[0])[-6000:]}"
        if time.monotonic() > self._deadline:
            printed = "\n".join(f"worker {i}:\n{self.output(i)[-3000:]}" for i in range(len(self.processes)))
            raise AssertionError(f"waited in vain for {awaited}\n{printed}")
        time.sleep(0.05)


def _free_addresses(count: int) -> list[str]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
