"""Which tests reach which mutant, and what they cost."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coverage import CoverageData

from benchmarks.mutants.draw import Mutant

TEST_LIMIT = 1800


@dataclass(frozen=True)
class Test:
    """A test as it went without a mutant: seconds of its fixtures, of the rest, and its outcome."""

    setup: float
    rest: float
    outcome: str


def run_tests(checkout: Path, report: Path, workers: int, limit: int, *options: str) -> dict[str, Test]:
    """Run tests of a checkout in processes of pytest's own; what a report has already is read from there.

    Args:
        checkout: Where the tests are, and the package they test.
        report: File with how each went.
        workers: How many run at a time.
        limit: Seconds that a test may take.
        *options: Of pytest.

    Raises:
        RuntimeError: If pytest did not get as far as a report.
    """
    if not report.exists():
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TFPRUNE_MUTANTS_REPORT": f"{report}.new",
            "TFPRUNE_MUTANTS_LIMIT": str(limit),
            "COVERAGE_CORE": "ctrace",
            "COVERAGE_FILE": str(report.with_suffix(".coverage")),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "-p", "benchmarks.mutants.plugin"]
        with report.with_suffix(".log").open("w") as log:
            done = subprocess.run([*command, *options], cwd=checkout, env=environment, stdout=log, stderr=log)
        if not Path(f"{report}.new").exists():
            raise RuntimeError(f"pytest ended with {done.returncode}: see {log.name}")
        Path(f"{report}.new").rename(report)
    return {name: Test(**test) for name, test in json.loads(report.read_text(encoding="utf-8")).items()}


def reaching(checkout: Path, coverage: Path, mutants: Iterable[Mutant], tests: dict[str, Test]) -> dict[int, set[str]]:
    """Return the passing tests that run the line of each mutant, by its number.

    What runs when a module is imported concerns all tests that run anything of the module. What a test's fixtures run
    concerns all tests of its file, since a fixture may be shared.

    Args:
        checkout: The folder whose tests were run.
        coverage: Coverage data with a context for each test.
        mutants: The mutants.
        tests: Tests that pass without them.
    """
    data = CoverageData(str(coverage))
    data.read()
    of_file = defaultdict(set)
    for name in tests:
        of_file[name.partition("::")[0]].add(name)
    by_file = defaultdict(list)
    for mutant in mutants:
        by_file[mutant.file].append(mutant)
    found = {}
    for file, several in by_file.items():
        contexts = data.contexts_by_lineno(str(checkout / file))
        tree = ast.parse((checkout / file).read_text(encoding="utf-8"))
        for mutant in several:
            lines = _lines_that_run_with(tree, mutant.line)
            found[mutant.number] = _tests_in(contexts, lines, of_file) & tests.keys()
    return found


def _tests_in(contexts: dict[int, list[str]], lines: Iterable[int], of_file: dict[str, set[str]]) -> set[str]:
    names = set()
    for context in {context for line in lines for context in contexts.get(line, ())}:
        test, _, phase = context.rpartition("|")
        names.add(test)
        if phase == "setup":
            names |= of_file[test.partition("::")[0]]
    return names


def _lines_that_run_with(tree: ast.Module, line: int) -> set[int]:
    """Return the lines of the statement that `line` is in; of all functions, if that one runs at import."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    bodies = [set(range(node.body[0].lineno, _last_line(node) + 1)) for node in functions]
    if not any(line in body for body in bodies):
        return set().union(*bodies)
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    around = [set(range(node.lineno, _end_of_head(node) + 1)) for node in statements]
    return min((lines for lines in around if line in lines), key=len, default={line})


def _end_of_head(node: ast.stmt) -> int:
    """Return the last line of a statement, without the block below it."""
    body = getattr(node, "body", None)
    return max(node.lineno, body[0].lineno - 1) if body else _last_line(node)


def _last_line(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno
