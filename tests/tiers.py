"""The tiers of the suite: a pytest plugin that checks markers, and finds slow tests that belong to no tier.

The default run leaves out the tests with a marker of `TIERS`; `-m MARKER` runs one tier, `-m ""` everything.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

TIERS = frozenset(["exhaustive", "slow", "process", "cluster", "browser", "examples"])

LONGEST_SECONDS = 5.0
"""How long a test of the default run may take on an idle machine, with what it sets up."""

_seconds: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tiers")
    group.addoption(
        "--note-slow", metavar="FILE", help=f"write the tests of no tier that took over {LONGEST_SECONDS:g} s to FILE"
    )
    group.addoption(
        "--refuse-slow", action="store_true", help=f"fail if a test of no tier takes over {LONGEST_SECONDS:g} s"
    )


def pytest_configure(config: pytest.Config) -> None:
    known = {line.split(":")[0].split("(")[0].strip() for line in config.getini("markers")}
    for name in names_in(config.option.markexpr):
        if name not in known:
            near = difflib.get_close_matches(name, sorted(TIERS))
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise pytest.UsageError(
                f"There is no marker {name!r}, so -m would choose nothing by it. {hint}The tiers are: "
                f"{', '.join(sorted(TIERS))}. Received: -m {config.option.markexpr!r}."
            )


def pytest_sessionstart() -> None:
    _seconds.clear()


def names_in(expression: str) -> Iterator[str]:
    """The markers that an expression of `-m` speaks of."""
    words = re.findall(r"[\w.]+", re.sub(r"\([^()]*=[^()]*\)", "", expression))
    yield from (word for word in words if word not in ("and", "or", "not", "True", "False"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not TIERS & set(report.keywords):
        _seconds[report.nodeid] += report.duration


def too_slow() -> list[str]:
    """Tests of no tier that took too long so far, with all that they set up and took down."""
    return [test for test, seconds in _seconds.items() if seconds > LONGEST_SECONDS]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workerinput"):
        return
    if config.option.note_slow:
        Path(config.option.note_slow).write_text("".join(f"{test}\n" for test in too_slow()))
    if config.option.refuse_slow and too_slow():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.option.refuse_slow:
        for test in too_slow():
            terminalreporter.write_line(
                f"SLOW {test} took {_seconds[test]:.1f} s, over {LONGEST_SECONDS:g} s, and has no marker. Make it "
                "faster, or give it one: see docs/testing.md.",
                red=True,
            )


def rows(values: Iterable[Any], usual: Collection[Any]) -> list[Any]:
    """Rows for `parametrize`, tuples for several names: those in `usual` as they are, the others `exhaustive`."""
    values = list(values)
    assert all(one in values for one in usual), f"not among the rows: {set(usual) - set(values)}"
    columns = [one if isinstance(one, tuple) else (one,) for one in values]
    return [
        one if one in usual else pytest.param(*row, marks=pytest.mark.exhaustive)
        for one, row in zip(values, columns, strict=True)
    ]
