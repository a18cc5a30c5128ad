"""What the documentation shows runs: the README's code and the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import tfprune_init
from tfprune_init.criteria.registry import CRITERIA
from tfprune_init.methods.registry import _METHODS

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
ROOT = Path(__file__).resolve().parents[1]
TEXT: dict[str, Any] = {"capture_output": True, "text": True, "check": True}  # new processes: no methods of other tests
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(tfprune_init.__path__, "tfprune_init.")
    if not info.name.rsplit(".", 1)[-1].startswith("_")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with patch.dict(_METHODS), patch.dict(CRITERIA):  # what examples register, other tests must not see
        failures, _ = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert failures == 0


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/experiments.md"])
def test_code_of_pages_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python blocks, one after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    code = blocks(page, "python")
    assert code
    namespace: dict[str, object] = {}
    for block in code:
        exec(compile(block, page, "exec"), namespace)


def test_the_file_of_the_page_asks_for_what_its_code_asks_for() -> None:
    (file,) = blocks("docs/experiments.md", "toml")
    (code,) = blocks("docs/experiments.md", "python")
    for key, value in pytest.importorskip("tomllib").loads(file).items():
        assert value in code if isinstance(value, str) else f"{key}=" in code


def test_readme_names_every_method() -> None:
    table = (ROOT / "README.md").read_text()
    done = subprocess.run([sys.executable, "-c", "import tfprune_init as t; print(*t.methods())"], **TEXT)
    for name in done.stdout.split():
        assert f"`{name}`" in table


def test_the_page_of_methods_is_what_the_registers_say() -> None:
    done = subprocess.run([sys.executable, "-m", "tfprune_cli", "methods", "--markdown"], **TEXT)
    assert (ROOT / "docs" / "methods.md").read_text() == done.stdout
    for name in ("force", "grasp", "synflow", "exact", "snap_it", "skeletonization"):
        assert f"| `{name}` |" in done.stdout


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = [line for block in blocks("README.md", "sh") for line in block.splitlines() if "pytest" in line]
    assert len(commands) == 1
    assert "README.md" in (ROOT / ".ci" / "run").read_text()
