"""Run a script of this folder in a subprocess, and say what it was doing if it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tfprune_init.errors import ExportError

MESSAGE_LENGTH = 1000
"""Characters of a child's error to pass on: the converter goes on for pages after naming what it refused."""


def run_script(name: str, folder: Path, timeout: float) -> None:
    """Run a script on a folder, through which it takes its input and gives its output.

    The converter and the interpreters are native code that some models crash; as children they can't take
    the caller, and a trained model in its memory, along. What they write to the standard error in a normal run
    stays there too. Scripts are run by path, so that nothing of the package is imported once more.

    Args:
        name: file name of a script beside this module. It may keep in the file `stage` what it is doing, and
            leave its reason for failing in the file `error`.
        folder: its only argument.
        timeout: seconds.

    Raises:
        ExportError: the script crashed, failed or took too long.
    """
    script = Path(__file__).with_name(name)
    # The file is for small devices: all runs on the CPU, without taking memory of the caller's GPU.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        done = subprocess.run(
            [sys.executable, str(script), str(folder)],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"No end after {timeout:g} seconds of {_stage(folder)}.") from error
    if done.returncode < 0:
        raise ExportError(f"It crashed (signal {-done.returncode}) while {_stage(folder)}.")
    if done.returncode > 0:
        said = folder / "error"
        reason = said.read_text() if said.exists() else done.stderr[-MESSAGE_LENGTH:]
        raise ExportError(f"It failed while {_stage(folder)}: {reason.strip()[:MESSAGE_LENGTH]}")


def _stage(folder: Path) -> str:
    stage = folder / "stage"
    return stage.read_text() if stage.exists() else "starting"
