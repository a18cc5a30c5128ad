"""Run a script of this folder in a subprocess, and report what it was doing if it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tfprune_init.errors import ExportError

MESSAGE_LENGTH = 1000
"""Characters of a script's error to report: the converter writes pages after the name of the refused operation."""

Runner = Callable[[str, Path, float], None]
"""A function that runs a script: `run_script`, or another with the same arguments and errors."""


def run_script(name: str, folder: Path, timeout: float) -> None:
    """Run a script on a folder, which holds its input and gets its output.

    The converter and the interpreters are native code that some models crash. In a subprocess they cannot crash the
    caller, whose memory may hold a trained model. Their standard error goes to the file `stderr`. Scripts are run by
    path, so that they do not import the package again.

    Args:
        name: File name of a script beside this module, or the path of another. It may keep in the file `stage` what
            it is doing, and leave its reason for failing in the file `error`.
        folder: Its only argument.
        timeout: Seconds.

    Raises:
        ExportError: If the script crashed, failed or took too long.
    """
    command = [sys.executable, str(Path(__file__).parent / name), str(folder)]
    code: int | None
    with (folder / "stderr").open("wb") as said:
        try:
            code = subprocess.call(
                command, env=make_environment(), stdout=subprocess.DEVNULL, stderr=said, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            code = None
    check_end(code, folder, timeout)


def make_environment() -> dict[str, str]:
    """Make the environment of a subprocess: on the CPU only, as on small devices, and no memory of a GPU."""
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def check_end(code: int | None, folder: Path, timeout: float) -> None:
    """Raise if a script failed.

    Args:
        code: Its exit code, minus the signal that ended it, or None when it took too long.
        folder: Its argument.
        timeout: Seconds it had.

    Raises:
        ExportError: If the script crashed, failed or took too long.
    """
    if code is None:
        raise ExportError(f"Timed out after {timeout:g} s while {read_stage(folder)}.")
    if code < 0:
        raise ExportError(f"It crashed (signal {-code}) while {read_stage(folder)}.")
    if code > 0:
        error, said = folder / "error", folder / "stderr"
        reason = error.read_text() if error.exists() else said.read_text(errors="replace")[-MESSAGE_LENGTH:]
        raise ExportError(f"It failed while {read_stage(folder)}: {reason.strip()[:MESSAGE_LENGTH]}")


def read_stage(folder: Path) -> str:
    """Read what the script on this folder was doing last."""
    file = folder / "stage"
    return file.read_text() if file.exists() else "starting"
