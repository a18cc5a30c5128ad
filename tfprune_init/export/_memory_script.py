"""Load one TFLite file and run it once, in a new process, because a peak of memory never falls.

`python _memory_script.py folder` reads `model.tflite`, `inputs.npz` and `inputs.json` from the folder, as the benchmark
script does. It writes `load.json`: seconds until the end of the first run, and peak memory above that of the
interpreter without a file.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from _benchmark_script import load_interpreter
from _interpret_script import find_interpreters


def peak_bytes() -> int:
    """Measure the peak memory of this process in bytes."""
    try:
        # Not from getrusage, which on Linux begins with the peak of the process that started this one.
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS, which counts in bytes
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def main(folder: Path) -> None:
    """Load the file, run it once, and write the time and memory it took."""
    names = json.loads((folder / "inputs.json").read_text())
    with np.load(folder / "inputs.npz") as arrays:
        inputs = {name: arrays[f"arr_{index}"][:1] for index, name in enumerate(names)}
    _, _, interpreter_class = next(find_interpreters())
    before = peak_bytes()
    started = time.perf_counter()
    load_interpreter(interpreter_class, folder / "model.tflite", inputs)
    result = {"load_seconds": time.perf_counter() - started, "peak_bytes": peak_bytes() - before}
    (folder / "load.json").write_text(json.dumps(result))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules must not stand in for installed ones
    main(Path(sys.argv[1]))
