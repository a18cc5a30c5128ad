"""The account of an export: what it measures, prints, saves and draws."""

from __future__ import annotations

import gzip
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tfprune_init.errors import ExportError, MissingDependencyError
from tfprune_init.export import EdgeReport, latency, report_builder

UNITS = 512


@pytest.fixture(scope="module")
def dense_layers() -> Any:
    """Two Dense layers, 95% of them zero in blocks of 4 inputs."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((UNITS,)), keras.layers.Dense(UNITS), keras.layers.Dense(UNITS)])
    random = np.random.default_rng(0)
    for layer in model.layers:
        layer.kernel.assign(layer.kernel.numpy() * (random.random((UNITS // 4, UNITS)) < 0.05).repeat(4, axis=0))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("edge")


@pytest.fixture(scope="module")
def report(dense_layers: Any, export: Any, folder: Path) -> EdgeReport:
    inputs = np.random.default_rng(1).random((20, UNITS), dtype="float32")
    return export(dense_layers, folder / "model.tflite", verify=inputs, sparse=True, target="arm")


def test_bytes_are_those_of_the_files(report: EdgeReport, folder: Path) -> None:
    file = (folder / "model.tflite").read_bytes()
    weights = 2 * UNITS * UNITS
    assert report.file.raw_bytes == report.raw_bytes == len(file)
    assert report.file.gzip_bytes == report.gzip_bytes == len(gzip.compress(file, 6))
    assert 4 * weights < report.dense_float32.raw_bytes < 4 * weights + 10_000
    assert weights < report.dense_int8.raw_bytes < weights + 30_000
    kept = sum(int(np.count_nonzero(read)) for read in kernels(folder))
    assert 4 * kept < report.raw_bytes < 5.5 * kept
    for _, dense in list(report.files())[:2]:
        assert dense.gzip_bytes > 0.85 * dense.raw_bytes


def kernels(folder: Path) -> list[np.ndarray]:
    from tfprune_init.export.sparse_reader import to_dense
    from tfprune_init.export.tflite_graph import read_graph

    tensors = read_graph((folder / "model.tflite").read_bytes()).subgraphs[0].tensors
    return [to_dense(tensor) for tensor in tensors if tensor.is_weight and tensor.size > UNITS]


def test_weights_are_in_the_order_they_are_used(report: EdgeReport, dense_layers: Any) -> None:
    assert [tensor.shape for tensor in report.tensors] == [(UNITS, UNITS)] * 2
    assert [tensor.op_index for tensor in report.tensors] == [0, 1]
    for tensor, layer in zip(report.tensors, dense_layers.layers, strict=True):
        assert tensor.sparsity == pytest.approx(np.mean(layer.kernel.numpy() == 0), abs=1e-9)
        assert (tensor.encoding, tensor.kernel) == ("block 1x4", "sparse")
    assert report.sparsity == pytest.approx(np.mean([tensor.sparsity for tensor in report.tensors]))


def test_every_file_is_timed_and_loaded(report: EdgeReport) -> None:
    for _, file in report.files():
        timed = file.latency
        assert 0 < timed.low_seconds <= timed.median_seconds <= timed.high_seconds < 1
        assert 11 <= timed.runs <= 301
        assert 0 < file.footprint.load_seconds < 10
    peaks = {name: file.footprint.peak_bytes for name, file in report.files()}
    # The dense file's weights alone, which are read and packed; the sparse one has a twentieth of them.
    assert peaks["dense float32"] > 4 * 2 * UNITS * UNITS
    assert peaks["this file"] < peaks["dense float32"] - 3 * 2 * UNITS * UNITS


def test_what_a_reader_must_know(report: EdgeReport) -> None:
    notes = "\n".join(report.notes)
    assert latency.describe_cpu() in notes
    assert "1 thread" in notes
    assert "its scales come from 20 examples of `verify`" in notes
    assert ("not measured on the target" in notes) == (not latency.is_arm())
    assert report.advice is not None
    assert report.fallback is None


def test_saved_and_read_back(report: EdgeReport, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved == report.to_dict()
    assert saved["file"]["raw_bytes"] == report.raw_bytes
    assert saved["tensors"][0]["shape"] == [UNITS, UNITS]


def shown(report: EdgeReport) -> str:
    printed = io.StringIO()
    report.print(file=printed)
    return printed.getvalue()


def test_printed(report: EdgeReport) -> None:
    text = shown(report)
    assert max(map(len, text.splitlines())) <= 100
    for name, file in report.files():
        line = next(line for line in text.splitlines() if line.startswith(f"│ {name} "))
        assert f"{file.raw_bytes:,}" in line
        assert f"{file.gzip_bytes:,}" in line
        assert f"{file.footprint.peak_bytes / 1e6:,.1f} MB" in line
        assert f"{1e6 * file.latency.median_seconds:,.0f} us" in line or file.latency.median_seconds < 1e-5
    assert "zeros left out" in text
    assert "block 1x4" in text
    assert "real inputs" in text


def test_printed_without_measurements_and_with_a_reason(report: EdgeReport) -> None:
    bare = {name: replace(getattr(report, name), latency=None, footprint=None) for name in ("file", "dense_float32")}
    text = shown(replace(report, **bare, dense_int8=None, notes=(), fallback="because [x]", sparse=False))
    assert "Zeros are stored: because [x]." in text
    assert "memory" not in text
    assert "dense int8" not in text
    failed = replace(report, file=bare["file"])
    assert [cell.strip() for cell in last_row(shown(failed)).split("│")[4:-1]] == ["failed"] * 3 + [""]


def last_row(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("│ this file"))


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.14e-6, "3.1"), (9.96e-6, "10.0"), (51.4e-6, "51"), (0.0125, "12,500")]
)
def test_microseconds(seconds: float, text: str) -> None:
    from tfprune_init.export.edge_report_tables import format_microseconds

    assert format_microseconds(seconds) == text


def test_drawn(report: EdgeReport, tmp_path: Path) -> None:
    figure = report.plot()
    sizes, times, zeros = (axes for part in figure.subfigs for axes in part.axes)
    assert [bar.get_width() for bar in sizes.patches[:3]] == [file.raw_bytes for _, file in report.files()]
    assert [bar.get_width() for bar in sizes.patches[3:]] == [file.gzip_bytes for _, file in report.files()]
    medians = [1e6 * file.latency.median_seconds for _, file in report.files()]
    np.testing.assert_allclose([bar.get_width() for bar in times.patches], medians)
    np.testing.assert_allclose([bar.get_width() for bar in zeros.patches], [100 * t.sparsity for t in report.tensors])
    figure.savefig(tmp_path / "edge.png")
    assert (tmp_path / "edge.png").stat().st_size > 10_000


def test_matplotlib_is_asked_for_by_name(report: EdgeReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "tfprune_init\[viz\]"'):
        report.plot()


def test_a_file_that_fails_is_left_out_of_the_times(folder: Path, report: EdgeReport, export: Any) -> None:
    good = (folder / "model.tflite").read_bytes()
    inputs = {"input_0": np.zeros((1, UNITS), "float32")}
    times = latency.measure_latencies({"good": good, "cut": good[: len(good) // 2]}, inputs, export.run)
    assert list(times.latencies) == ["good"]
    assert latency.measure_footprint(good[: len(good) // 2], inputs, export.run) is None


def test_times_that_fail_leave_the_verified_file(
    dense_layers: Any, export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise ExportError("It crashed.")

    monkeypatch.setattr(report_builder, "measure_latencies", fails)
    report = export(dense_layers, tmp_path / "model.tflite", sparse=True)
    assert "Times are missing: It crashed." in report.notes
    assert report.file.latency is None
    assert "64 synthetic examples, because no real ones were given" in " ".join(report.notes)


def test_no_dense_int8_file_is_said_with_its_reason(export: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3, 4)), keras.layers.GRU(4)])  # the converter crashes over it in int8
    report = export(model, tmp_path / "model.tflite")
    assert report.dense_int8 is None
    assert any(note.startswith("There is no dense int8 file to compare with: It ") for note in report.notes)
    assert report.dense_float32.latency.runs >= 11
