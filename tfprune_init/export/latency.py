"""Loading time, latency and memory of TFLite files on this machine, side by side."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfprune_init.errors import ExportError
from tfprune_init.export.subprocess_runner import Runner, run_script

TIMEOUT_SECONDS = 600
"""Time limit for timing or loading."""


@dataclass(frozen=True)
class Latency:
    """Seconds of single runs of one file, one thread.

    Attributes:
        median_seconds: Their median.
        low_seconds: A tenth of the runs took less.
        high_seconds: A tenth of the runs took more.
        runs: Number of timed runs.
    """

    median_seconds: float
    low_seconds: float
    high_seconds: float
    runs: int


@dataclass(frozen=True)
class Footprint:
    """Time and memory to load a file and to run it once, in a new process.

    Attributes:
        load_seconds: From opening the file to the end of the first run.
        peak_bytes: Peak memory above that of the process before, bytes.
    """

    load_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Times:
    """Files timed in turns within one process.

    Attributes:
        interpreter: Name and version of what ran them.
        latencies: By the name of the file; without those that failed.
    """

    interpreter: str
    latencies: dict[str, Latency]


def measure_latencies(files: dict[str, bytes], inputs: dict[str, np.ndarray], run: Runner = run_script) -> Times:
    """Time files in turns, so that other load on the machine affects all alike.

    Args:
        files: TFLite files of the same inputs, by name.
        inputs: Arrays by signature name, [examples, ...]; the first example is run.
        run: Function that runs the timing script.

    Raises:
        ExportError: If a file crashed the process or hangs.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {file: f"{index}.tflite" for index, file in enumerate(files)}
        for file, path in paths.items():
            (folder / path).write_bytes(files[file])
        (folder / "files.json").write_text(json.dumps(list(paths.values())))
        _write_inputs(folder, inputs)
        run("_benchmark_script.py", folder, TIMEOUT_SECONDS)
        result = json.loads((folder / "times.json").read_text())
    latencies = {
        file: _summarize_seconds(result["seconds"][path]) for file, path in paths.items() if path in result["seconds"]
    }
    return Times(f"{result['interpreter']} {result['version']}", latencies)


def measure_footprint(file: bytes, inputs: dict[str, np.ndarray], run: Runner = run_script) -> Footprint | None:
    """Measure time and memory of loading a file; None where the system does not tell (Windows) or it fails.

    Args:
        file: A TFLite file.
        inputs: as for `measure_latencies`.
        run: Function that runs the script, in a new process.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(file)
        _write_inputs(folder, inputs)
        try:
            run("_memory_script.py", folder, TIMEOUT_SECONDS)
        except ExportError:
            return None
        return Footprint(**json.loads((folder / "load.json").read_text()))


def describe_cpu() -> str:
    """Describe the CPU: name and architecture, as far as the system tells, and the number of cores."""
    name = platform.processor()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    described = f"{name} ({platform.machine()})" if name != platform.machine() else name
    return f"{described}, {os.cpu_count()} cores"


def is_arm() -> bool:
    """Return whether this machine has an ARM CPU."""
    return platform.machine().lower() in ("aarch64", "arm64") or platform.machine().lower().startswith("armv")


def _write_inputs(folder: Path, inputs: dict[str, np.ndarray]) -> None:
    (folder / "inputs.json").write_text(json.dumps(list(inputs)))
    np.savez(folder / "inputs.npz", *(array[:1] for array in inputs.values()))


def _summarize_seconds(seconds: list[float]) -> Latency:
    low, median, high = (float(value) for value in np.percentile(seconds, [10, 50, 90]))
    return Latency(median, low, high, len(seconds))
