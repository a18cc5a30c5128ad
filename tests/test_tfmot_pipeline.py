"""The example that follows TF-MOT's pruning tutorial, as its users start it: as a process."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfprune_init as tpi
from tfprune_init.export.inspection import inspect

pytest.importorskip("tensorflow_model_optimization")
pytest.importorskip("tf_keras")
pytestmark = [
    pytest.mark.examples,
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning"),
]

PIPELINE = Path(__file__).resolve().parents[1] / "examples" / "tfmot_pipeline.py"
OPERATORS = {"CONV_2D": "conv", "FULLY_CONNECTED": "dense"}


@dataclass(frozen=True)
class Run:
    """What one run printed, and the file it wrote."""

    out: str
    file: Path

    def cells(self, row: str) -> list[str]:
        """The cells of a table's row after its name."""
        (line,) = [line for line in self.out.splitlines() if line.startswith(f"│ {row} ")]
        return [cell.strip() for cell in line.split("│")[2:-1]]

    def share(self, row: str) -> float:
        """The last cell of a row, a percentage."""
        return float(self.cells(row)[-1].rstrip("%")) / 100

    def zeros(self) -> dict[str, int]:
        """How many weights of which layer are zero in the file."""
        rows = {OPERATORS[row.operator]: row for row in inspect(self.file).tensors}
        return {name: round(row.sparsity * np.prod(row.shape)) for name, row in rows.items()}

    def accuracy(self, data: tpi.datasets.Dataset) -> float:
        """Share of the test images that the file tells."""
        interpreter = tf.lite.Interpreter(str(self.file))
        images, labels = map(np.concatenate, zip(*data.test.as_numpy_iterator(), strict=True))
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
        interpreter.invoke()
        logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        return float(np.mean(logits.argmax(-1) == labels))


def pipeline(folder: Path, *arguments: str) -> Run:
    # Other tests, and TF-MOT, set TF_...; a user's shell has none of it.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_") and key != "COLUMNS"}
    command = (sys.executable, str(PIPELINE), "--output", str(folder / "files"), *arguments)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return Run(done.stdout, folder / "files" / "pruned.tflite")


@pytest.fixture(scope="module")
def on_digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pipeline(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def on_mnist(tfds_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = ("--epochs", "1", "--method", "snip", "--sparsity", "0.95")
    return pipeline(tmp_path_factory.mktemp("mnist"), "--dataset", "mnist", "--data-dir", str(tfds_dir), *options)


def assert_exact(run: Run, size: int, kept: int, batches: int) -> None:
    """The same zeros at every stage, in the model's layers and in the file."""
    pruned = f"{size - kept:,}"
    assert f"{pruned} of {size:,} pruned" in run.out
    stages = ("after pruning", f"fewest after any of {batches:,} batches", "after training", "after strip_pruning")
    assert [run.cells(stage) for stage in stages] == [[pruned]] * 4
    zeros = run.zeros()
    assert sum(zeros.values()) == size - kept
    sizes = {"conv": 108, "dense": size - 108}
    for name, weights in sizes.items():
        assert run.share(f"zeros in {name}/kernel") == pytest.approx(zeros[name] / weights, abs=0.0005)
    assert run.share("zeros in the file") == pytest.approx(1 - kept / size, abs=0.0005)


def assert_sizes(run: Run) -> None:
    """The bytes of the file that is there."""
    dense, raw = (int(cell.replace(",", "")) for cell in run.cells("bytes of the file"))
    dense_gzip, gzipped = (int(cell.replace(",", "")) for cell in run.cells("bytes gzipped"))
    file = run.file.read_bytes()
    # Which encoding the file has depends on the interpreters that are installed.
    assert raw == len(file) <= dense
    assert gzipped == len(gzip.compress(file, compresslevel=6, mtime=0))
    assert gzipped < 0.5 * dense_gzip < 0.5 * dense


def test_on_digits(on_digits: Run) -> None:
    # 3x3x12 and 3x3x12x10 weights.
    assert_exact(on_digits, 1188, kept=237, batches=40 * 12)
    assert_sizes(on_digits)
    assert on_digits.share("test accuracy") == pytest.approx(on_digits.accuracy(tpi.datasets.load()), abs=0.0005)
    dense, pruned = (float(cell.rstrip("%")) for cell in on_digits.cells("test accuracy"))
    assert dense > 95
    assert pruned > 80
    assert on_digits.out.startswith("digits: 1,437 training and 360 test images")


def test_on_mnist(on_mnist: Run, tfds_dir: Path) -> None:
    # 3x3x12 and 13x13x12x10 weights.
    assert_exact(on_mnist, 20_388, kept=1019, batches=469)
    assert_sizes(on_mnist)
    data = tpi.datasets.load("mnist", tfds_dir)
    assert on_mnist.share("test accuracy") == pytest.approx(on_mnist.accuracy(data), abs=0.0005)
    dense, pruned = (float(cell.rstrip("%")) for cell in on_mnist.cells("test accuracy"))
    assert dense > 95
    assert pruned > 80
    assert "snip, 1 epoch(s)" in on_mnist.out
