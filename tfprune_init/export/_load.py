"""Load one TFLite file and run it once, to learn what that takes: a process of its own, as peaks never fall.

`python _load.py folder` reads `model.tflite`, `inputs.npz` and `inputs.json` from the folder, as the stopwatch does,
and writes `load.json`: seconds until it was ready to run, and peak memory above that of the empty interpreter.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from _interpreter import installed
from _stopwatch import loaded


def peak_bytes() -> int:
    """Peak memory of this process."""
    try:
        # Not from getrusage, which on Linux begins with the peak of the process that started this one.
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS, which counts in bytes
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def main(folder: Path) -> None:
    """Load the file, run it once, and write down what it took."""
    names = json.loads((folder / "inputs.json").read_text())
    with np.load(folder / "inputs.npz") as arrays:
        inputs = {name: arrays[f"arr_{index}"][:1] for index, name in enumerate(names)}
    _, _, interpreter_class = next(installed())
    before = peak_bytes()
    started = time.perf_counter()
    loaded(interpreter_class, folder / "model.tflite", inputs)
    result = {"load_seconds": time.perf_counter() - started, "peak_bytes": peak_bytes() - before}
    (folder / "load.json").write_text(json.dumps(result))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules must not stand in for installed ones
    main(Path(sys.argv[1]))
