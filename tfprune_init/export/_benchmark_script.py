"""Time TFLite files in turns; a script, because a broken file may crash its process.

`python _benchmark_script.py folder` reads from the folder `files.json`, the names of TFLite files there, and
`inputs.npz` with `inputs.json`, the names of the arrays in their signature. It runs one example at a time (or as many
as a file takes), on one thread. It writes `times.json`: the interpreter, and the seconds of each run by file. A file
that fails is left out.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _interpret_script import find_interpreters, get_details, list_batch_sizes, to_stored

SECONDS = 0.8
"""Seconds after which no more rounds are started, once the minimum is reached: short runs need many for a median."""

FEWEST, MOST = 11, 301
"""Rounds."""


def load_interpreter(interpreter_class: Any, path: Path, inputs: dict[str, np.ndarray]) -> Any:
    """Load a file, set its inputs, and run it once."""
    interpreter = interpreter_class(model_path=str(path), num_threads=1)
    taken, _ = get_details(interpreter)
    size = list_batch_sizes(interpreter, 1)[0]
    for name, array in inputs.items():
        interpreter.resize_tensor_input(taken[name]["index"], (size, *array.shape[1:]))
    interpreter.allocate_tensors()
    for name, array in inputs.items():
        examples = np.resize(array, (size, *array.shape[1:]))
        interpreter.set_tensor(taken[name]["index"], to_stored(examples, taken[name]))
    interpreter.invoke()
    return interpreter


def time_in_turns(interpreters: dict[str, Any]) -> dict[str, list[float]]:
    """Time single runs in seconds, the files taking turns.

    Before each timed run an untimed one brings the file's weights back into the cache.
    """
    seconds: dict[str, list[float]] = {name: [] for name in interpreters}
    started = time.perf_counter()
    for count in range(MOST):
        if count >= FEWEST and time.perf_counter() - started > SECONDS:
            break
        for name, interpreter in interpreters.items():
            interpreter.invoke()
            before = time.perf_counter()
            interpreter.invoke()
            seconds[name].append(time.perf_counter() - before)
    return seconds


def main(folder: Path) -> None:
    """Load every file, and time those that load."""
    names = json.loads((folder / "inputs.json").read_text())
    with np.load(folder / "inputs.npz") as arrays:
        inputs = {name: arrays[f"arr_{index}"] for index, name in enumerate(names)}
    name, version, interpreter_class = next(find_interpreters())
    interpreters = {}
    for file in json.loads((folder / "files.json").read_text()):
        (folder / "stage").write_text(f"timing {file} in {name} {version}")
        try:
            interpreters[file] = load_interpreter(interpreter_class, folder / file, inputs)
        except (RuntimeError, ValueError) as error:
            (folder / "error").write_text(str(error))
    result = {"interpreter": name, "version": version, "seconds": time_in_turns(interpreters)}
    (folder / "times.json").write_text(json.dumps(result))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules must not stand in for installed ones
    main(Path(sys.argv[1]))
