"""The command line: in this process, as if in a new one; and as its users start it, as a process."""

from __future__ import annotations

import io
import logging
import os
import random
import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TextIO
from unittest.mock import patch

import keras
import numpy as np
import tensorflow as tf

from tfprune_cli.program import main
from tfprune_init.export import subprocess_runner, tflite_export
from tfprune_init.methods.method import METHODS as REGISTERED
from tfprune_init.scoring.criteria.criterion_registry import CRITERIA

SCRIPT = (str(Path(sys.executable).with_name("tfprune")),)
MODULE = (sys.executable, "-m", "tfprune_cli")
DIGITS = "digits: 1,437 training and 360 test images of 8x8x1, 10 classes"

# What the package itself registers: this module is imported before any test runs.
_REGISTERED = [(register, dict(register)) for register in (REGISTERED, CRITERIA)]
METHODS = tuple(REGISTERED)


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    # Other tests, and TF-MOT, set TF_...; a user's shell has none of it.
    return {key: value for key, value in os.environ.items() if not key.startswith("TF_") and key != "COLUMNS"}


def run(*command: str, cwd: Path, **variables: str) -> Finished:
    """A command in a process of its own."""
    done = subprocess.run(
        command, cwd=cwd, env=environment() | variables, capture_output=True, text=True, timeout=900, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def call(*words: str, cwd: Path) -> Finished:
    """`tfprune` in this process, in the state of a new one; nothing that it changes in the process stays."""
    out, err = io.StringIO(), io.StringIO()
    with _new_state(cwd), redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as ended:
            code = ended.code
    return Finished(code, out.getvalue(), err.getvalue())


@contextmanager
def _new_state(cwd: Path) -> Iterator[None]:
    """The folder and all that a process has one of; where there is no terminal, 80 columns are assumed."""
    before = os.getcwd()
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, environment() | {"COLUMNS": "80"}, clear=True))
        stack.enter_context(patch.object(sys, "path", [*sys.path]))
        for register, own in _REGISTERED:
            stack.enter_context(patch.dict(register, own, clear=True))
        # Without pytest's handlers and filters, what is logged or warned of goes to the standard error.
        stack.enter_context(patch.object(logging.root, "handlers", []))
        stack.enter_context(patch.object(logging.getLogger("tensorflow"), "filters", [_is_not_of_all_tests]))
        stack.enter_context(warnings.catch_warnings())
        _warn_as_by_default()
        stack.enter_context(_modules_imported_anew(cwd))
        _forget_seeds_and_names()
        os.chdir(cwd)
        try:
            yield
        finally:
            os.chdir(before)
            _forget_seeds_and_names()


def _is_not_of_all_tests(record: logging.LogRecord) -> bool:
    """TensorFlow counts how often functions are traced from the start of the process, other tests' included."""
    return "triggered tf.function retracing" not in record.getMessage()


def _warn_as_by_default() -> None:
    def show(message: Warning | str, category: type[Warning], file: str, line: int, *rest: TextIO | str | None) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, file, line))

    warnings.showwarning = show
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    warnings.filterwarnings("error", module="tfprune_")


@contextmanager
def _modules_imported_anew(folder: Path) -> Iterator[None]:
    """Modules in the folder, which are the test's own, are not known yet, and forgotten afterwards."""

    def take() -> dict[str, ModuleType]:
        inside = {
            name: module
            for name, module in sys.modules.items()
            if isinstance(module, ModuleType) and (vars(module).get("__file__") or "").startswith(f"{folder}{os.sep}")
        }
        for name in inside:
            del sys.modules[name]
        return inside

    known = take()
    try:
        yield
    finally:
        take()
        sys.modules.update(known)


def _forget_seeds_and_names() -> None:
    """No seed is set, and Keras has given no layer a name."""
    keras.utils.clear_session(free_memory=False)
    random.seed()
    np.random.seed()
    tf.random.set_seed(None)


@contextmanager
def scripts_in_process() -> Iterator[None]:
    """Convert, verify and measure exported files in this process, where TensorFlow need not be imported once more."""
    scripts = Path(subprocess_runner.__file__).parent

    def run_script(name: str, folder: Path, timeout: float) -> None:
        with ExitStack() as stack:
            stack.enter_context(patch.object(sys, "path", [*sys.path, str(scripts)]))
            # What a child writes stays with it.
            stack.enter_context(redirect_stderr(io.StringIO()))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            runpy.run_path(str(scripts / name))["main"](folder)

    with patch.object(tflite_export, "run_script", run_script):
        yield


def cells(out: str, row: str) -> list[str]:
    """The cells to the right of the one that starts with `row`, in the last table that has it."""
    line = [line for line in out.splitlines() if line.startswith(f"│ {row}")][-1]
    return [cell.strip() for cell in line.split("│")[2:-1]]
