"""Convert a SavedModel to TFLite; a script, because the converter and its calibration may crash their process.

`python _convert_script.py folder` reads from the folder `saved_model` and `request.json`: in which ways to quantize,
the types of inputs and outputs of each integer way, the names of the arrays in `calibration.npz`, which is there for
these only, and the examples a run takes.
It writes a file for each way, such as `float32.tflite` and `int8.tflite`, in the order asked for; in case of failure
the converter's message in `error`, and nothing more.

It imports nothing of the package, which would cost the parent's imports once more.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

INTEGER_KERNELS = {
    "int8": "TFLITE_BUILTINS_INT8",
    "int16x8": "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8",
}
"""Names of the sets of kernels that compute in integers throughout."""


def make_converter(folder: Path, quantize: str, request: dict[str, Any]) -> Any:
    """Make a converter of the SavedModel in `folder`, set up for one kind of quantization."""
    import tensorflow as tf

    made = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved_model"))
    if quantize != "float32":
        made.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        made.target_spec.supported_types = [tf.float16]
    if quantize in request["io"]:
        made.representative_dataset = lambda: read_examples(folder, request["names"], request["batch"])
        # Integer kernels only, or an error.
        made.target_spec.supported_ops = [getattr(tf.lite.OpsSet, INTEGER_KERNELS[quantize])]
        made.inference_input_type = made.inference_output_type = tf.as_dtype(request["io"][quantize])
    return made


def read_examples(folder: Path, names: list[str], batch: int | None) -> Iterator[dict[str, np.ndarray]]:
    """Yield calibration inputs by name: one example each for a file of any batch, else as many as a run takes."""
    with np.load(folder / "calibration.npz") as arrays:
        inputs = {name: arrays[f"arr_{index}"] for index, name in enumerate(names)}
    total = len(next(iter(inputs.values())))
    for start in range(0, total, batch or 1):
        chosen = np.minimum(np.arange(start, start + (batch or 1)), total - 1)
        yield {name: array[chosen] for name, array in inputs.items()}


def main(folder: Path) -> None:
    """Convert as requested."""
    request = json.loads((folder / "request.json").read_text())
    try:
        for quantize in request["quantize"]:
            (folder / "stage").write_text(f"converting to {quantize}")
            (folder / f"{quantize}.tflite").write_bytes(make_converter(folder, quantize, request).convert())
    except Exception as error:
        (folder / "error").write_text(str(error))
        raise


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules must not stand in for installed ones
    main(Path(sys.argv[1]))
