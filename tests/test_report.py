"""The report: its numbers, its table, its file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from model_kinds import build, data

import tfprune_init as tpi


@pytest.fixture(scope="module")
def report() -> Any:
    return tpi.prune_at_init(build("functional", "keras"), data(), sparsity=0.6, method="force", steps=4, seed=3)


def test_numbers_agree_with_the_masks(report: Any) -> None:
    for row in report.layers:
        mask = report.masks[row.path]
        assert (row.shape, row.size, row.kept) == (mask.shape, mask.size, int(mask.sum()))
        assert row.density == row.kept / row.size
    assert sum(row.kept for row in report.layers) == report.masks.kept
    assert report.sparsity == pytest.approx(0.6, abs=1 / report.masks.size)
    assert [step.number for step in report.steps] == [1, 2, 3, 4]
    assert report.steps[-1].kept == report.masks.kept
    assert [step.density for step in report.steps] == pytest.approx([0.4 ** (t / 4) for t in (1, 2, 3, 4)])
    assert all(step.objective > 0 and step.seconds > 0 for step in report.steps)
    assert report.connected is True
    assert report.options["seed"] == 3
    assert report.options["steps"] == 4
    assert report.versions["keras"] == keras.__version__


def test_json(report: Any, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    loaded = json.loads((tmp_path / "report.json").read_text())
    assert loaded == json.loads(json.dumps(report.to_dict()))
    assert loaded["kept"] == report.masks.kept
    assert loaded["fingerprint"] == report.masks.fingerprint
    assert {row["path"] for row in loaded["skipped"]} == {row.path for row in report.skipped}


def test_table(report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = io.StringIO()
    report.print(text)
    shown = text.getvalue()
    for row in report.layers:
        line = next(line for line in shown.splitlines() if row.path in line)
        assert f"{row.kept:,}" in line
        assert f"{row.density:.2%}" in line
        assert f"{row.dead_outputs}/{row.outputs}" in line
    assert "normalization (BatchNormalization)" in shown
    assert "every output still answers to the inputs" in shown
    assert max(len(line) for line in shown.splitlines()) <= 100


def test_verbose_zero_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    tpi.prune_at_init(build("sequential", "keras"), data(), sparsity=0.5, steps=3, verbose=0)
    out, err = capfd.readouterr()
    assert out == ""
    assert "force" not in err


def test_without_symbolic_inputs_and_data_the_connection_is_not_measured() -> None:
    report = tpi.prune_at_init(build("subclassed", "keras"), None, sparsity=0.5, method="magnitude")
    assert report.connected is None
    text = io.StringIO()
    report.print(text)
    assert "not measured" in " ".join(text.getvalue().split())


def test_integer_inputs_are_measured_from_the_embedding() -> None:
    keras.utils.set_random_seed(0)
    tokens = keras.Input((5,), dtype="int32")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 8)(tokens))
    model = keras.Model(tokens, keras.layers.Dense(2, name="head")(keras.layers.Dense(8, "relu")(x)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    examples = (np.arange(40).reshape(8, 5) % 20, np.arange(8) % 2)
    assert tpi.prune_at_init(model, examples, sparsity=0.5, method="snip").connected is True


def test_methods_of_ones_own_work_everywhere() -> None:
    @tpi.register_criterion("test_smallest")
    def smallest(engine: Any) -> dict[str, np.ndarray]:
        return {path: 1.0 / (abs(gradient) + 1.0) for path, gradient in engine.gradients().items()}

    tpi.register_method(tpi.Method("test_smallest", "test_smallest", allocation="uniform", summary="for this test"))
    report = tpi.prune_at_init(build("sequential", "keras"), data(), sparsity=0.5, method="test_smallest")
    assert report.masks.density == 0.5
    with pytest.raises(tpi.PruningError, match="already"):
        tpi.register_method(tpi.Method("test_smallest", "test_smallest"))
    with pytest.raises(tpi.PruningError, match="There is no criterion"):
        tpi.register_method(tpi.Method("test_other", "nothing"))

    @tpi.register_criterion("test_broken")
    def broken(engine: Any) -> dict[str, np.ndarray]:
        return {path: gradient * np.nan for path, gradient in engine.gradients().items()}

    tpi.register_method(tpi.Method("test_broken", "test_broken"))
    with pytest.raises(tpi.PruningError, match="hold NaN"):
        tpi.find_masks(build("sequential", "keras"), data(), sparsity=0.5, method="test_broken")
