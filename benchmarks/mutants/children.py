"""Forked processes that run chosen tests on a tree with chosen mutants.

TensorFlow takes seconds to import. It is imported once, here; nothing of it runs before the fork, so that no thread or
device of its own has to survive it. Each child imports the package anew, from a tree of its own.
"""

from __future__ import annotations

import compileall
import gc
import importlib
import json
import os
import py_compile
import shutil
import signal
import sys
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutants.draw import PACKAGE, Mutant, mutated

# TF-MOT is not among them: it makes `tensorflow.keras` another package for those that are imported after it.
_IMPORTED_ONCE = (
    "numpy",
    "tensorflow",
    "keras",
    "tf_keras",
    "sklearn",
    "hypothesis",
)
# What stands for a test while files are imported, and the seconds that may take.
COLLECTION, _COLLECTION_LIMIT = "collection", 120


@dataclass(frozen=True)
class Task:
    """Tests to run on a tree.

    Attributes:
        mutants: All that the tree gets; none for the code as it is.
        tests: In their order; a file alone stands for its import.
        limits: Seconds that each test may take.
        stop: Whether to stop at the first test that fails.
    """

    mutants: tuple[Mutant, ...]
    tests: tuple[str, ...]
    limits: Mapping[str, int]
    stop: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        status: "passed", "failed", "timeout", "died", or "broken" if the tests were not run as they should be.
        failed: The tests that failed, or the one that ran when the process ended.
        seconds: From fork to end.
        ran: How many tests ran.
        log: The end of what was printed, if "broken".
    """

    status: str
    failed: tuple[str, ...]
    seconds: float
    ran: int = 0
    log: str = ""


class Pool:
    """Trees of a checkout and the processes that run tests on them, one at a time in each."""

    def __init__(self, checkout: Path, folder: Path, workers: int):
        self._checkout, self._folder = checkout, folder
        self._free = [folder / f"tree_{i}" for i in range(workers)]
        for tree in self._free:
            copy_tree(checkout, tree)
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        for name in _IMPORTED_ONCE:
            importlib.import_module(name)
        if PACKAGE in sys.modules:
            raise RuntimeError(f"{PACKAGE} is imported already: the processes would not see their mutants")
        gc.freeze()

    def run(self, tasks: Iterable[Task], done: Callable[[Task, Outcome], None]) -> None:
        """Run tasks, and give each to `done` with its outcome."""
        waiting = deque(tasks)
        running: dict[int, tuple[Task, Path, float]] = {}
        try:
            while waiting or running:
                while waiting and self._free:
                    task, tree = waiting.popleft(), self._free.pop()
                    running[_start(self._checkout, tree, task)] = task, tree, time.monotonic()
                process, status = os.waitpid(-1, 0)
                if process not in running:
                    continue
                task, tree, started = running.pop(process)
                _stop(process)
                write_mutants(self._checkout, tree, task.mutants, undo=True)
                self._free.append(tree)
                done(task, _outcome(tree, os.waitstatus_to_exitcode(status), time.monotonic() - started))
        finally:
            for process in running:
                _stop(process)


def copy_tree(checkout: Path, tree: Path) -> None:
    """Copy a checkout. The package's compiled files are told from outdated ones by the source, not by its time."""
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(
        checkout, tree, ignore=shutil.ignore_patterns(".venv", ".git", ".*_cache", ".hypothesis", "*.egg-info")
    )
    compileall.compile_dir(
        tree / PACKAGE, force=True, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
    )


def write_mutants(checkout: Path, tree: Path, mutants: tuple[Mutant, ...], *, undo: bool = False) -> None:
    """Write the files of mutants to a tree, with them or, to undo, as they are in the checkout."""
    files = defaultdict(list)
    for mutant in mutants:
        files[mutant.file].append(mutant)
    for file, several in files.items():
        source = (checkout / file).read_text(encoding="utf-8")
        (tree / file).write_text(source if undo else mutated(source, several), encoding="utf-8")


def _start(checkout: Path, tree: Path, task: Task) -> int:
    write_mutants(checkout, tree, task.mutants)
    for name in ("result", "current"):
        _beside(tree, name).unlink(missing_ok=True)
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    try:
        _run_tests(tree, task)
    finally:
        # Whatever went wrong, it must not go on as a second copy of this program.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _stop(process: int) -> None:
    """End what is left of a child and of the processes that its tests started."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _beside(tree: Path, name: str) -> Path:
    return tree.with_name(f"{tree.name}.{name}")


def _run_tests(tree: Path, task: Task) -> None:
    """In the child: run the tests, write the result, and end."""
    os.setsid()
    log = os.open(_beside(tree, "log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(tree)
    sys.path[0] = str(tree)
    importlib.invalidate_caches()
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    chosen = _Chosen(task, _beside(tree, "current"))
    files = dict.fromkeys(test.partition("::")[0] for test in task.tests)
    options = ["-q", "-o", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider", "-p", "no:cov"]
    chosen.start_clock(COLLECTION, _COLLECTION_LIMIT)
    try:
        importlib.import_module(PACKAGE)
    except Exception:  # noqa: BLE001 - whatever a mutant makes of it, tests cannot even begin
        traceback.print_exc()
        chosen.failed.append(COLLECTION)
        code = int(pytest.ExitCode.TESTS_FAILED)
    else:
        code = int(pytest.main([*options, *(["-x"] if task.stop else []), *files], plugins=[chosen]))
    signal.alarm(0)
    package = sys.modules.get(PACKAGE)
    of_tree = package is None or str(package.__file__).startswith(f"{tree}{os.sep}")
    result = {"code": code, "of_tree": of_tree, "failed": chosen.failed, "ran": chosen.ran}
    _beside(tree, "result").write_text(json.dumps(result), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


def _outcome(tree: Path, code: int, seconds: float) -> Outcome:
    log = _beside(tree, "log").read_text(encoding="utf-8", errors="replace")[-2000:]
    if code < 0:
        current = _beside(tree, "current").read_text(encoding="utf-8")
        return Outcome("timeout" if code == -signal.SIGALRM else "died", (current,), seconds)
    if code > 0:
        return Outcome("broken", (), seconds, log=log)
    result = json.loads(_beside(tree, "result").read_text(encoding="utf-8"))
    failed, ended = tuple(result["failed"]), pytest.ExitCode(result["code"])
    normal = ended in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
    if not result["of_tree"] or not (normal or failed):
        return Outcome("broken", failed, seconds, log=log)
    return Outcome("failed" if failed else "passed", failed, seconds, result["ran"])


@dataclass(eq=False)
class _Chosen:
    """A pytest plugin that runs the tests of a task in their order and bounds the time of each."""

    task: Task
    current: Path
    failed: list[str] = field(default_factory=list)
    ran: int = 0

    def start_clock(self, name: str, seconds: int) -> None:
        # Even a loop in C ends with the process.
        self.current.write_text(name, encoding="utf-8")
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        by_name = {item.nodeid: item for item in items}
        items[:] = [by_name[name] for name in self.task.tests if name in by_name]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.start_clock(nodeid, self.task.limits[nodeid])
        self.ran += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and report.nodeid not in self.failed:
            self.failed.append(report.nodeid)
