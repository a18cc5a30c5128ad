"""Run a TFLite file in every installed interpreter; a script, because a broken file may crash its process.

`python _interpret_script.py folder` reads from the folder `model.tflite`, `inputs.npz` and `inputs.json`, the
names of the arrays in the file's signature. It writes `runs.json`, a list of runs, each with its outputs in
an npz file of its own; integers that stand for floats in the file are converted, there and back. It keeps in `stage`
what it is doing, for the message if that is the last it does; what an interpreter says when it fails goes to `error`.

It imports nothing of the package, which would cost the parent's imports once more.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def find_interpreters() -> Iterator[tuple[str, str, Any]]:
    """Yield name, version and class of each interpreter, the small one first because it loads faster."""
    from importlib.metadata import version

    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        pass
    else:
        yield "ai_edge_litert", version("ai-edge-litert"), Interpreter
    try:
        import tensorflow as tf
    except ImportError:
        return
    if hasattr(tf.lite, "Interpreter"):
        yield "tf.lite", tf.__version__, tf.lite.Interpreter


def run(interpreter: Any, inputs: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Run all examples through the file, `size` at a time; return outputs by name, [examples, ...]."""
    taken, given = get_details(interpreter)
    total = len(next(iter(inputs.values())))
    for name, array in inputs.items():
        interpreter.resize_tensor_input(taken[name]["index"], (size, *array.shape[1:]))
    interpreter.allocate_tensors()
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in given}
    for start in range(0, total, size):
        rows = np.minimum(np.arange(start, start + size), total - 1)  # the last example fills up the last run
        for name, array in inputs.items():
            interpreter.set_tensor(taken[name]["index"], to_stored(array[rows], taken[name]))
        interpreter.invoke()
        for name, detail in given.items():
            pieces[name].append(to_real(interpreter.get_tensor(detail["index"])[: total - start], detail))
    return {name: np.concatenate(arrays) for name, arrays in pieces.items()}


def to_stored(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Convert floats to the integers that an input takes, by its own scale and zero point; those outside are cut off.

    Values for inputs without a scale stay as they are.
    """
    scale, zero_point = detail["quantization"]
    if not scale:
        return values
    limits = np.iinfo(detail["dtype"])
    steps = np.rint(values.astype(np.float64) / scale) + zero_point
    return np.asarray(np.clip(steps, limits.min, limits.max), detail["dtype"])


def to_real(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Convert the integers of an output to what they stand for, by its own scale and zero point.

    Values of outputs without a scale stay as they are.
    """
    scale, zero_point = detail["quantization"]
    return ((values.astype(np.float64) - zero_point) * scale).astype(np.float32) if scale else values


def get_details(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Get input and output details by signature name. Their order in the file is not the model's."""
    runner = interpreter.get_signature_runner()
    return runner.get_input_details(), runner.get_output_details()


def list_batch_sizes(interpreter: Any, total: int) -> list[int]:
    """List the batch sizes to try: one example, as on devices, and all at once if the batch is open."""
    taken, _ = get_details(interpreter)
    fixed = {int(detail["shape_signature"][0]) for detail in taken.values()} - {-1}
    return sorted(fixed) or sorted({1, total})


def main(folder: Path) -> None:
    """Run the file in every interpreter and batch size, and write the outputs."""
    names = json.loads((folder / "inputs.json").read_text())
    with np.load(folder / "inputs.npz") as arrays:
        inputs = {name: arrays[f"arr_{index}"] for index, name in enumerate(names)}
    total = len(next(iter(inputs.values())))
    runs: list[dict[str, Any]] = []
    try:
        for name, version, interpreter_class in find_interpreters():
            (folder / "stage").write_text(f"loading it in {name} {version}")
            interpreter = interpreter_class(model_path=str(folder / "model.tflite"))
            for size in list_batch_sizes(interpreter, total):
                (folder / "stage").write_text(f"running {size} example(s) at a time in {name} {version}")
                outputs = run(interpreter, inputs, size)
                file = f"outputs_{len(runs)}.npz"
                np.savez(folder / file, *outputs.values())
                about = {"interpreter": name, "version": version, "batch": size}
                runs.append({**about, "file": file, "outputs": list(outputs)})
    except Exception as error:
        (folder / "error").write_text(str(error))
        raise
    (folder / "runs.json").write_text(json.dumps(runs))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules must not stand in for installed ones
    main(Path(sys.argv[1]))
