"""What the documentation shows runs: the code of README and guide, and the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import keras
import pytest
from command import METHODS, call, scripts_in_process

import tfprune_init
from tfprune_init.methods.method import METHODS as REGISTERED
from tfprune_init.options import make_markdown_table
from tfprune_init.scoring.criteria.criterion_registry import CRITERIA

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(tfprune_init.__path__, "tfprune_init.")
    if not info.name.rsplit(".", 1)[-1].startswith("_")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with patch.dict(REGISTERED), patch.dict(CRITERIA):  # what examples register, other tests must not see
        keras.utils.set_random_seed(0)
        failures, _ = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert failures == 0


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(
    ("page", "scripts"),
    [
        ("README.md", scripts_in_process),
        pytest.param("README.md", nullcontext, marks=pytest.mark.slow),
        ("docs/guide.md", nullcontext),
        ("docs/losses.md", nullcontext),
        pytest.param("docs/training.md", nullcontext, marks=pytest.mark.slow),
        ("docs/supermasks.md", nullcontext),
        ("docs/gates.md", nullcontext),
        ("docs/fine_tuning.md", nullcontext),
        ("docs/k_winners.md", nullcontext),
        ("docs/layer_robustness.md", nullcontext),
        ("docs/shared_weight.md", nullcontext),
        ("docs/channels.md", nullcontext),
        ("docs/reconstruction.md", nullcontext),
        pytest.param("docs/width_search.md", nullcontext, marks=pytest.mark.slow),
        ("docs/adaptive.md", nullcontext),
        pytest.param("docs/experiments.md", nullcontext, marks=pytest.mark.slow),
    ],
    ids=[
        "README",
        "README, exported by processes",
        "guide",
        "losses",
        "training",
        "supermasks",
        "gates",
        "fine_tuning",
        "k_winners",
        "layer_robustness",
        "shared_weight",
        "channels",
        "reconstruction",
        "width_search",
        "adaptive",
        "experiments",
    ],
)
def test_code_of_pages_runs(
    page: str, scripts: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All Python blocks, one after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    code = blocks(page, "python")
    assert code
    namespace: dict[str, object] = {}
    keras.utils.set_random_seed(0)  # small networks may collapse at another
    with scripts():
        for block in code:
            exec(compile(block, page, "exec"), namespace)


def test_the_file_of_the_page_asks_for_what_its_code_asks_for() -> None:
    (file,) = blocks("docs/experiments.md", "toml")
    (code,) = blocks("docs/experiments.md", "python")
    for key, value in pytest.importorskip("tomllib").loads(file).items():
        assert value in code if isinstance(value, str) else f"{key}=" in code


def test_readme_names_every_method_and_the_guide_explains_each() -> None:
    listed = (ROOT / "README.md").read_text()
    explained = (ROOT / "docs" / "guide.md").read_text()
    for name in METHODS:
        assert f"`{name}`" in listed
        assert f"| `{name}` |" in explained


@pytest.mark.parametrize(
    "page", sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", (ROOT / page).read_text())
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_page_of_methods_is_what_the_registers_say(tmp_path: Path) -> None:
    done = call("methods", "--markdown", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert (ROOT / "docs" / "methods.md").read_text() == done.out
    for name in ("force", "grasp", "synflow", "exact", "snap_it", "skeletonization"):
        assert f"| `{name}` |" in done.out


def test_the_guide_has_the_table_of_options() -> None:
    assert make_markdown_table() in (ROOT / "docs" / "guide.md").read_text()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = [line for block in blocks("README.md", "sh") for line in block.splitlines() if "pytest" in line]
    assert len(commands) == 1
    assert "README.md" in (ROOT / ".ci" / "run").read_text()
