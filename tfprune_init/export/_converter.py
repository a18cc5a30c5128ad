"""Convert a SavedModel to TFLite: a script, as the converter and its calibration may crash their process.

`python _converter.py folder` reads from the folder `saved_model` and `request.json`: how to quantize, and the
names of the arrays in `calibration.npz`, which is there for full integers only. It writes `float32.tflite` and, if
quantization was asked for, `quantized.tflite`; in case of failure the converter's message in `error`.

It imports nothing of the package, which would cost the parent's imports once more.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def converter(folder: Path, quantize: str | None, names: list[str]) -> Any:
    """A converter of the SavedModel in `folder`, set up for one way to quantize."""
    import tensorflow as tf

    made = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved_model"))
    if quantize is not None:
        made.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        made.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        made.representative_dataset = lambda: examples(folder, names)
        # Integer kernels only, or an error; float inputs and outputs keep the file a drop-in replacement.
        made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return made


def examples(folder: Path, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
    """Calibration inputs by name, one example each: what a file of any batch takes."""
    with np.load(folder / "calibration.npz") as arrays:
        inputs = {name: arrays[f"arr_{index}"] for index, name in enumerate(names)}
    for index in range(len(next(iter(inputs.values())))):
        yield {name: array[index : index + 1] for name, array in inputs.items()}


def main(folder: Path) -> None:
    """Convert as requested."""
    request = json.loads((folder / "request.json").read_text())
    tasks = {"float32": None, "quantized": request["quantize"]}
    try:
        for name, quantize in tasks.items():
            if name == "float32" or quantize is not None:
                (folder / "stage").write_text(f"converting to {quantize or 'float32'}")
                file = converter(folder, quantize, request["names"]).convert()
                (folder / f"{name}.tflite").write_bytes(file)
    except Exception as error:
        (folder / "error").write_text(str(error))
        raise


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules must not stand in for installed ones
    main(Path(sys.argv[1]))
