"""A pytest plugin that writes down how each test went and bounds its time, in runs of several processes.

It reads TFPRUNE_MUTANTS_REPORT, the file to write, and TFPRUNE_MUTANTS_LIMIT, the seconds a test may take.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

_tests: dict[str, dict[str, Any]] = {}


def pytest_runtest_logstart(nodeid: str) -> None:
    """Start the clock of a test: the process that runs it dies when it is over, and xdist starts another."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(os.environ["TFPRUNE_MUTANTS_LIMIT"]))


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Stop the clock."""
    signal.alarm(0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what a test took, its fixtures apart."""
    test = _tests.setdefault(report.nodeid, {"setup": 0.0, "rest": 0.0, "outcome": "passed"})
    test["setup" if report.when == "setup" else "rest"] += report.duration
    if report.failed or (report.skipped and test["outcome"] == "passed"):
        test["outcome"] = report.outcome


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Count a file that cannot be imported as a test that fails."""
    if report.failed:
        _tests[report.nodeid] = {"setup": 0.0, "rest": 0.0, "outcome": "failed"}


def pytest_sessionfinish() -> None:
    """Write all to the file, from the one process that knows all tests."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        Path(os.environ["TFPRUNE_MUTANTS_REPORT"]).write_text(json.dumps(_tests, indent=0), encoding="utf-8")
