"""The architecture: names, sizes, light imports. The order of packages is held by import-linter (pyproject.toml)."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tfprune_init

PACKAGE = Path(tfprune_init.__file__).parent

FILES = [*PACKAGE.rglob("*.py"), *PACKAGE.with_name("tfprune_cli").rglob("*.py")]
# A script that runs in a process of its own cannot import the package.
PUBLIC = [path for path in FILES if not path.stem.startswith("_")]


def definitions(path: Path) -> list[ast.stmt]:
    return [node for node in ast.parse(path.read_text()).body if not getattr(node, "name", "_").startswith("_")]


def test_no_module_has_the_name_of_what_it_exports() -> None:
    """`import tfprune_init.methods as m` must give the module, whatever its package exports."""
    for path in FILES:
        names = {node.name for node in definitions(path)}
        assert path.stem not in names, path
        exported = ast.parse((path.parent / "__init__.py").read_text())
        imported = {a.name for n in ast.walk(exported) if isinstance(n, ast.ImportFrom) for a in n.names}
        functions = {node.name for other in path.parent.glob("*.py") for node in definitions(other)}
        assert path.stem not in imported & functions, path


def test_no_two_public_classes_have_one_name() -> None:
    found: dict[str, Path] = {}
    for path in PUBLIC:
        for node in definitions(path):
            if isinstance(node, ast.ClassDef):
                assert node.name not in found, f"{node.name} is in {path} and in {found[node.name]}"
                found[node.name] = path


def test_nothing_touches_tf_keras_through_tensorflow() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "tf.keras" not in text, path.name
        assert "tensorflow.keras" not in text, path.name


def test_no_file_outgrows_one_thought() -> None:
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 325, path.name


def find_missing_names(program: str) -> list[str]:
    """What a program takes of the package that is not there: imported, or as an attribute of an imported module."""
    missing, modules = [], {}
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tfprune_init":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                path = f"{node.module}.{alias.name}"
                modules[alias.asname or alias.name] = path
                if not hasattr(module, alias.name) and importlib.util.find_spec(path) is None:
                    missing.append(path)
    for node in ast.walk(ast.parse(program)):
        path = (
            modules.get(node.value.id) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else None
        )
        module = sys.modules.get(path or "")
        if module is not None and not hasattr(module, node.attr):
            missing.append(f"{path}.{node.attr}")
    return missing


def test_programs_in_the_strings_of_tests_use_names_that_exist() -> None:
    """They run in slower tiers alone, where a name that was changed would be found late."""
    for path in Path(__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import" in node.value:
                try:
                    ast.parse(node.value)
                except SyntaxError:
                    continue  # prose, or a part of a program
                assert find_missing_names(node.value) == [], path
    import_line = " ".join(["from tfprune_init", "import distribute, nothing"])
    assert find_missing_names(f"{import_line}; distribute.fit; distribute.fits") == [
        "tfprune_init.nothing",
        "tfprune_init.distribute.fits",
    ]


@pytest.mark.process
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


# Each imports what is not public from one other package, for all of ours.
DOORS = {
    PACKAGE / "tfmot" / "imports.py": "tensorflow_model_optimization.python.",
    PACKAGE / "export" / "tflite_schema.py": "tensorflow.lite.python",
}
PRIVATE_PATHS = re.compile(
    r"^(keras\.src|tf_keras\.src|tensorflow\.(python|core|lite\.python)|tensorflow_model_optimization\.python|unittest)\b"
)
# Documented names of Python's own library.
PUBLIC_ALL_THE_SAME = {"_replace", "_asdict", "_fields", "_make", "_exit"}


def is_private(name: object) -> bool:
    return isinstance(name, str) and (name == "__internal__" or re.match("_(?!_|tfprune_)", name) is not None)


def find_private_uses(path: Path) -> list[str]:
    """What a file takes of others that is not public: imported, as an attribute, or by getattr and the like."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if PRIVATE_PATHS.match(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if PRIVATE_PATHS.match(name)]
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in PUBLIC_ALL_THE_SAME:
            of_own = ast.unparse(node.value) in ("self", "cls", "other")  # the other one in __eq__
            of_super = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super"
            found += [] if of_own or of_super else [ast.unparse(node)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            found += [ast.unparse(node) for one in node.args[1:2] if is_private(getattr(one, "value", None))]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found += [ast.unparse(node) for one in node.args[:1] if PRIVATE_PATHS.match(str(getattr(one, "value", "")))]
    return found


def test_only_the_backend_uses_private_names_of_others() -> None:
    for path in FILES:
        if (PACKAGE / "backend") not in path.parents:
            door = DOORS.get(path)
            assert [use for use in find_private_uses(path) if door is None or not use.startswith(door)] == [], path


def test_private_uses_are_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        "import keras.src.losses\nfrom tensorflow.python.eager import context\nfrom unittest.mock import patch\n"
        "from tensorflow.lite.python import schema\n"
        "class A(B):\n    def f(self, model):\n        self._own = model._replace(a=1)\n        super()._f()\n"
        "        model.__dict__\n        return model._variable, getattr(model, '_x', None), tf.__internal__.y\n"
    )
    assert sorted(find_private_uses(path)) == [
        "getattr(model, '_x', None)",
        "keras.src.losses",
        "model._variable",
        "tensorflow.lite.python.schema",
        "tensorflow.python.eager.context",
        "tf.__internal__",
        "unittest.mock.patch",
    ]


def test_no_test_library_is_in_the_package() -> None:
    for path in FILES:
        assert "mock" not in path.read_text().split(), path
