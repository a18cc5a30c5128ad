"""How long TFLite files take to load and to run on this machine, and how much memory, side by side."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfprune_init.errors import ExportError
from tfprune_init.export.child import run_script

TIMEOUT_SECONDS = 600
"""How long timing or loading may take."""


@dataclass(frozen=True)
class Latency:
    """Seconds of single runs of one file, one thread.

    Attributes:
        median_seconds: their median.
        low_seconds: a tenth of the runs took less.
        high_seconds: a tenth of the runs took more.
        runs: how many were timed.
    """

    median_seconds: float
    low_seconds: float
    high_seconds: float
    runs: int


@dataclass(frozen=True)
class Footprint:
    """What it takes to load a file and to run it once, in a new process.

    Attributes:
        load_seconds: from opening the file to the end of the first run.
        peak_bytes: peak memory above that of the process before, bytes.
    """

    load_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Times:
    """Files timed in turns within one process.

    Attributes:
        interpreter: name and version of what ran them.
        latencies: by the name of the file; without those that failed.
    """

    interpreter: str
    latencies: dict[str, Latency]


def interleaved_times(files: dict[str, bytes], inputs: dict[str, np.ndarray]) -> Times:
    """Run files in turns, so that what else the machine does hits all alike.

    Args:
        files: TFLite files of the same inputs, by name.
        inputs: arrays by signature name, [examples, ...]; the first example is run.

    Raises:
        ExportError: a file crashed the process or hangs.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {file: f"{index}.tflite" for index, file in enumerate(files)}
        for file, path in paths.items():
            (folder / path).write_bytes(files[file])
        (folder / "files.json").write_text(json.dumps(list(paths.values())))
        _write_inputs(folder, inputs)
        run_script("_stopwatch.py", folder, TIMEOUT_SECONDS)
        result = json.loads((folder / "times.json").read_text())
    latencies = {file: _latency(result["seconds"][path]) for file, path in paths.items() if path in result["seconds"]}
    return Times(f"{result['interpreter']} {result['version']}", latencies)


def footprint(file: bytes, inputs: dict[str, np.ndarray]) -> Footprint | None:
    """What loading a file takes; None where the system doesn't tell (Windows) or the file fails.

    Args:
        file: a TFLite file.
        inputs: as for `interleaved_times`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(file)
        _write_inputs(folder, inputs)
        try:
            run_script("_load.py", folder, TIMEOUT_SECONDS)
        except ExportError:
            return None
        return Footprint(**json.loads((folder / "load.json").read_text()))


def this_cpu() -> str:
    """Name and architecture of the CPU, as far as the system tells, with the number of its cores."""
    name = platform.processor()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    described = f"{name} ({platform.machine()})" if name != platform.machine() else name
    return f"{described}, {os.cpu_count()} cores"


def is_arm() -> bool:
    """Whether this machine is an ARM one."""
    return platform.machine().lower() in ("aarch64", "arm64") or platform.machine().lower().startswith("armv")


def _write_inputs(folder: Path, inputs: dict[str, np.ndarray]) -> None:
    (folder / "inputs.json").write_text(json.dumps(list(inputs)))
    np.savez(folder / "inputs.npz", *(array[:1] for array in inputs.values()))


def _latency(seconds: list[float]) -> Latency:
    low, median, high = (float(value) for value in np.percentile(seconds, [10, 50, 90]))
    return Latency(median, low, high, len(seconds))
