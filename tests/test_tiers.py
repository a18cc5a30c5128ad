"""The tiers of the suite itself: unknown markers and slow tests without a marker are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiers

SUITE = """
import time
import pytest

def test_fast(): pass
def test_takes_long(): time.sleep(0.3)
@pytest.fixture
def slowly(): time.sleep(0.3)
def test_waits_for_a_fixture(slowly): pass
@pytest.mark.slow
def test_takes_long_with_a_marker(): time.sleep(0.3)
"""

INI = """
[pytest]
markers =
    slow: takes long
    needs(name): has an argument
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setattr(tiers, "LONGEST_SECONDS", 0.2)
    monkeypatch.setattr(tiers, "_seconds", type(tiers._seconds)())
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(test_some=SUITE)
    pytester.makeini(INI)
    return pytester


def run(suite: pytest.Pytester, *options: str) -> pytest.RunResult:
    return suite.runpytest_inprocess("-p", "tiers", "-p", "no:xdist", "-p", "no:cacheprovider", *options)


@pytest.mark.parametrize("expression", ["slwo", "not slwo", "slow or (not slwo)"])
def test_a_marker_that_does_not_exist_is_refused(suite: pytest.Pytester, expression: str) -> None:
    done = run(suite, "-m", expression)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*There is no marker 'slwo'*Did you mean 'slow'?*", "*"])


@pytest.mark.parametrize(("expression", "passed"), [("slow", 1), ("not slow", 3), ("", 4), ("needs(name='a')", 0)])
def test_markers_that_exist_choose(suite: pytest.Pytester, expression: str, passed: int) -> None:
    run(suite, "-m", expression).assert_outcomes(passed=passed, deselected=4 - passed)


def test_slow_tests_without_a_marker_are_refused_by_name(suite: pytest.Pytester) -> None:
    done = run(suite, "--refuse-slow")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.assert_outcomes(passed=4)
    named = [line.split()[1] for line in done.outlines if line.startswith("SLOW")]
    assert named == ["test_some.py::test_takes_long", "test_some.py::test_waits_for_a_fixture"]
    assert run(suite, "-m", "slow", "--refuse-slow").ret == pytest.ExitCode.OK


def test_slow_tests_without_a_marker_are_noted(suite: pytest.Pytester, tmp_path: Path) -> None:
    assert run(suite, f"--note-slow={tmp_path / 'slow'}").ret == pytest.ExitCode.OK
    names = (tmp_path / "slow").read_text().splitlines()
    assert names == ["test_some.py::test_takes_long", "test_some.py::test_waits_for_a_fixture"]
    run(suite, f"@{tmp_path / 'slow'}").assert_outcomes(passed=2)


def test_rows_outside_of_the_default_run_are_marked() -> None:
    kept, left, pair = tiers.rows(["a", "b", ("c", "d")], ["a"])
    assert kept == "a"
    assert (left.values, pair.values) == (("b",), ("c", "d"))
    assert [mark.name for mark in (*left.marks, *pair.marks)] == ["exhaustive", "exhaustive"]
    with pytest.raises(AssertionError, match="z"):
        tiers.rows(["a"], ["z"])
