"""The architecture: each room depends only on rooms below it, and imports stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tfprune_init

PACKAGE = Path(tfprune_init.__file__).parent

# Ground floor first. A room may import rooms before it, never one after.
ROOMS = [
    "version", "errors", "files", "kerases", "units", "targets", "masks", "schedules", "keras_fit", "strategies",
    "summation", "surgery", "wiring", "scopes", "losses", "batches", "probe", "criteria", "methods", "selector",
    "steps", "connectivity", "search", "constraint", "optimizers", "enforce", "layers", "report", "api", "callbacks",
    "tensorboard", "reinitialize", "tfmot", "export", "compaction", "distribute", "datasets", "models", "experiments",
    "plots", "pages",
]  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Everything a file imports, at its top or inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) not in ("__init__",))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_each_room_imports_only_rooms_below_it(path: Path) -> None:
    room = room_of(path)
    assert room in ROOMS, f"{room} has no place in the order of rooms"
    for name in imports(path):
        if name.startswith("tfprune_init."):
            other = name.split(".")[1]
            if other in ROOMS and other != room:
                assert ROOMS.index(other) < ROOMS.index(room), f"{room} imports {other}, which is above it"


def test_criteria_never_touch_keras() -> None:
    for path in (PACKAGE / "criteria").glob("*.py"):
        assert not [name for name in imports(path) if "keras" in name or "tensorflow" in name], path.name


def test_nothing_touches_tf_keras_through_tensorflow() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "tf.keras" not in text, path.name
        assert "tensorflow.keras" not in text, path.name


def test_the_package_does_not_know_its_command_line() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert not [name for name in imports(path) if name.startswith("tfprune_cli")], path.name


def test_no_file_outgrows_one_thought() -> None:
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "tfprune_cli").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 325, path.name


def test_importing_changes_nothing_and_imports_nothing_heavy() -> None:
    code = """
import os, sys
import tensorflow as tf, keras
before, loaded = dict(os.environ), set(sys.modules)
import tfprune_init
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
ours = {name.split(".")[0] for name in set(sys.modules) - loaded}
assert not ours & {"tensorflow_model_optimization", "tf_keras", "matplotlib", "tensorflow_datasets", "sklearn"}, ours
assert tf.keras.__version__ == keras.__version__
assert "datasets" in tfprune_init.__all__ and tfprune_init.models.lenet_5
try:
    tfprune_init.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no attribute 'nothing'" in done.stdout


def test_everything_promised_is_there() -> None:
    for name in tfprune_init.__all__:
        assert getattr(tfprune_init, name) is not None
