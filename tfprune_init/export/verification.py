"""Verify a file: run it in a subprocess, and compare each output with the model's."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfprune_init.errors import ExportError, MissingDependencyError
from tfprune_init.export.conversion import IO
from tfprune_init.export.subprocess_runner import Runner, run_script

TIMEOUT_SECONDS = 600
"""Time limit of the interpreters; a file that needs longer for these examples is broken or useless."""

SCALE_FLOOR = float(np.finfo(np.float32).tiny)
"""Smallest scale of outputs to divide by: below it kernels may flush to zero, and all-zero outputs are legal."""


# Below, the converter's int8 outputs of a Dense layer were found to be wrong.
_SMALLEST_OUTPUT = 1e-7


@dataclass(frozen=True)
class Tolerance:
    """Allowed difference between a file and the model.

    Attributes:
        measure: "relative_difference", the largest absolute difference over the largest absolute output; or
            "rms_difference", the root mean square of the differences over that of the outputs.
        limit: The measure must not exceed it.
    """

    measure: str
    limit: float


TOLERANCES: dict[str | None, Tolerance] = {
    None: Tolerance("relative_difference", 1e-4),
    "float16": Tolerance("relative_difference", 1e-2),
    "dynamic": Tolerance("rms_difference", 0.1),
    "int8": Tolerance("rms_difference", 0.25),
    "int16x8": Tolerance("rms_difference", 0.1),
}
"""How far from the model a file may be, by `quantize`.

Measured on LeNets, ResNet-20 and VGG-19, dense to 99% sparse, trained and untrained: float32 is off by up to
4e-6 (another order of summation), float16 by 1.5e-3 (11 bits of mantissa), dynamic by 0.02, int8 by 0.04. int16x8
is off by up to 0.012 on untrained LeNets and ResNet-20, dense to 90% sparse. The limits leave five times that or more.
Integer files are judged by the root mean square, because a single value may rightly be off by steps of a scale that
others set. A wrong file is far beyond: all-zero outputs score 1, unrelated ones about 1.4.
"""


@dataclass(frozen=True)
class Agreement:
    """Differences between a file and the model, the worst over outputs, interpreters and batch sizes.

    Attributes:
        largest_difference: Largest absolute difference of any output value, in the unit of the outputs.
        relative_difference: The same over the largest absolute value of that output.
        rms_difference: Root mean square of the differences over that of the output.
        top1_agreement: Share of examples with the same largest class; None without outputs [batch, classes].
        interpreters: Version by name of each interpreter that ran the file.
    """

    largest_difference: float
    relative_difference: float
    rms_difference: float
    top1_agreement: float | None
    interpreters: dict[str, str]


@dataclass(frozen=True)
class InterpreterRun:
    """The outputs of one interpreter at one batch size.

    Attributes:
        interpreter: Its name.
        version: Its version.
        batch: Examples a run.
        outputs: Arrays by signature name, [examples, ...].
    """

    interpreter: str
    version: str
    batch: int
    outputs: dict[str, np.ndarray]

    def __str__(self) -> str:
        return f"{self.interpreter} {self.version}, {self.batch} example(s) at a time"


def verify(
    file: bytes,
    inputs: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
    quantize: str | None,
    timeout: float = TIMEOUT_SECONDS,
    run: Runner = run_script,
) -> Agreement:
    """Run `file` on `inputs` in every installed interpreter and compare with `reference`.

    Inputs and outputs that are integers in the file and floats in the model are converted by the file's own scales and
    zero points.

    Args:
        file: A TFLite file.
        inputs: Arrays by signature name, [examples, ...].
        reference: Outputs of the Keras model, by signature name, [examples, ...], finite.
        quantize: Type in which the file stores its weights; sets the tolerance, see `TOLERANCES`.
        timeout: Seconds the interpreters may take together.
        run: Function that runs the script of the interpreters.

    Raises:
        ExportError: If the file doesn't load, crashes, hangs, gives NaN, Inf or another shape, or differs from
            the reference by more than the tolerance.

    Example:
        >>> verify(b"no model", {"x": np.zeros((1, 2), "float32")}, {}, None)
        Traceback (most recent call last):
        tfprune_init.errors.ExportError: ...
    """
    return compare(run_interpreters(file, inputs, timeout, run), reference, quantize)


def compare(runs: list[InterpreterRun], reference: dict[str, np.ndarray], quantize: str | None) -> Agreement:
    """Compare the outputs of the interpreters with those of the Keras model.

    Args:
        runs: At least one.
        reference: As for `verify`.
        quantize: As for `verify`.

    Raises:
        ExportError: If an output is missing, has another shape, holds NaN or Inf, or exceeds the tolerance.
    """
    tolerance = TOLERANCES[quantize]
    measured: dict[str, list[float]] = {
        "largest_difference": [],
        "relative_difference": [],
        "rms_difference": [],
    }
    agreements = []
    for run in runs:
        for name, expected in reference.items():
            got = _check_output(run, name, expected)
            differences = _compute_differences(got, expected)
            if differences[tolerance.measure] > tolerance.limit:
                raise ExportError(
                    f"The {quantize or 'float32'} file disagrees with the Keras model in {name!r} ({run}): "
                    f"{tolerance.measure} {differences[tolerance.measure]:.3g}, allowed {tolerance.limit:g}; "
                    f"largest absolute difference {differences['largest_difference']:.3g} on outputs up to "
                    f"{np.abs(expected).max():.3g}. {_advice(quantize, float(np.abs(expected).max()))}"
                )
            for key, value in differences.items():
                measured[key].append(value)
            if _is_classifier(expected):
                agreements.append(float(np.mean(got.argmax(-1) == expected.argmax(-1))))
    return Agreement(
        **{key: max(values) for key, values in measured.items()},
        top1_agreement=min(agreements, default=None),
        interpreters={run.interpreter: run.version for run in runs},
    )


def run_interpreters(
    file: bytes, inputs: dict[str, np.ndarray], timeout: float = TIMEOUT_SECONDS, run: Runner = run_script
) -> list[InterpreterRun]:
    """Run a TFLite file in a subprocess, since a broken file may crash it.

    Args:
        file: A TFLite file.
        inputs: Arrays by signature name, [examples, ...].
        timeout: Seconds.
        run: Function that runs the script of the interpreters.

    Raises:
        ExportError: If the file doesn't load, crashes, hangs or refuses the inputs; or nothing here can run it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(file)
        (folder / "inputs.json").write_text(json.dumps(list(inputs)))
        np.savez(folder / "inputs.npz", *inputs.values())
        try:
            run("_interpret_script.py", folder, timeout)
        except ExportError as error:
            raise ExportError(
                f"The file doesn't run, so it was not written. {error} Try another `quantize`."
            ) from error
        runs = [_load(folder, one) for one in json.loads((folder / "runs.json").read_text())]
    if not runs:
        raise MissingDependencyError("Verifying the file in a TFLite interpreter", "ai-edge-litert", "litert")
    return runs


def _load(folder: Path, run: dict[str, Any]) -> InterpreterRun:
    with np.load(folder / run["file"]) as arrays:
        outputs = {name: arrays[f"arr_{index}"] for index, name in enumerate(run["outputs"])}
    return InterpreterRun(run["interpreter"], run["version"], run["batch"], outputs)


def _check_output(run: InterpreterRun, name: str, expected: np.ndarray) -> np.ndarray:
    """Get the output called `name`, and check that it is finite and has the expected shape."""
    if name not in run.outputs:
        raise ExportError(f"The file has no output {name!r} ({run}). It has: {sorted(run.outputs)}")
    got = run.outputs[name]
    if got.shape != expected.shape:
        raise ExportError(f"The file gives {name!r} the shape {got.shape}, the Keras model {expected.shape} ({run}).")
    if np.issubdtype(got.dtype, np.floating) and not np.isfinite(got).all():
        bad = int(np.sum(~np.isfinite(got)))
        raise ExportError(
            f"The file gives NaN or Inf in {bad} of {got.size} values of {name!r} where the Keras model "
            f"gives none ({run}). Try another `quantize`."
        )
    return got


def _compute_differences(got: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    wanted = expected.astype(np.float64)
    off = np.abs(got.astype(np.float64) - wanted)
    largest = float(off.max())
    return {
        "largest_difference": largest,
        "relative_difference": largest / max(float(np.abs(wanted).max()), SCALE_FLOOR),
        "rms_difference": _compute_rms(off) / max(_compute_rms(wanted), SCALE_FLOOR),
    }


def _compute_rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _is_classifier(output: np.ndarray) -> bool:
    return output.ndim == 2 and output.shape[1] > 1 and np.issubdtype(output.dtype, np.floating)


def _advice(quantize: str | None, largest: float) -> str:
    if quantize is None:
        return "The converter or the interpreter is at fault; please report the layers of the model."
    if quantize in IO and largest < _SMALLEST_OUTPUT:
        return (
            "The steps of integer outputs cannot be that small: scale the outputs up, or try quantize='float16'. An "
            "untrained or pruned model may give nearly 0 for all inputs."
        )
    if quantize in IO:
        return "Pass more, and more typical, representative_data; or try quantize='float16'."
    return "Try another `quantize`, or None for float32."
