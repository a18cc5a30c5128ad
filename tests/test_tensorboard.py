"""What the callback for TensorBoard writes, read back by TensorBoard and held against NumPy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_kinds import KERAS, build, data

import tfprune_init as tpi
from tfprune_init.errors import EnforcementError, OptionError
from tfprune_init.graph.variables import find_prunable_variables, list_variables
from tfprune_init.masking.tensorboard import BUCKETS, TensorBoardSparsity

both = pytest.mark.parametrize("package", KERAS)
EPOCHS = 4


def events(folder: Path) -> dict[str, dict[int, np.ndarray]]:
    """Tag -> step -> value, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    reader = EventAccumulator(str(folder), size_guidance={TENSORS: 0})
    reader.Reload()
    for tag in reader.Tags()["tensors"]:
        assert tag in reader.PluginTagToContent("scalars" if tag.startswith("sparsity/") else "histograms")
    return {
        tag: {event.step: make_ndarray(event.tensor_proto) for event in reader.Tensors(tag)}
        for tag in reader.Tags()["tensors"]
    }


def weights_of(model: Any) -> dict[str, np.ndarray]:
    return {t.path: np.array(t.tensor) for t in find_prunable_variables(model).prunable}


def fit(model: Any, package: str, *callbacks: Any) -> list[dict[str, np.ndarray]]:
    """Train, and return the weights at the end of each epoch."""
    held: list[dict[str, np.ndarray]] = []
    watch = KERAS[package].callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: held.append(weights_of(model)))
    model.fit(*data(), epochs=EPOCHS, batch_size=12, verbose=0, callbacks=[*callbacks, watch])
    return held


@both
@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_logs_what_is_in_the_weights(kind: str, package: str, tmp_path: Path) -> None:
    model = build(kind, package)
    masks = tpi.prune_at_init(model, data(), sparsity=0.7, method="random", seed=3).masks
    held = fit(model, package, TensorBoardSparsity(tmp_path / "log"))
    logged = events(tmp_path / "log")
    assert set(logged) == {f"{kind}/{path}" for kind in ("sparsity", "kept_weights") for path in masks} | {
        "sparsity/all"
    }
    assert all(sorted(steps) == list(range(EPOCHS)) for steps in logged.values())
    for epoch, weights in enumerate(held):
        for path, values in weights.items():
            assert logged[f"sparsity/{path}"][epoch] == pytest.approx((values == 0).mean(), abs=1e-7)
            check_histogram(logged[f"kept_weights/{path}"][epoch], values[masks[path]].astype(float))
        together = np.concatenate([values.ravel() for values in weights.values()])
        assert logged["sparsity/all"][epoch] == pytest.approx((together == 0).mean(), abs=1e-7)


def check_histogram(rows: np.ndarray, values: np.ndarray) -> None:
    """Each value is in the bucket it belongs to, and nothing else is."""
    left, right, counts = rows.T
    assert rows.shape == (BUCKETS, 3)
    assert counts.sum() == values.size
    assert left[0] == pytest.approx(values.min())
    assert right[-1] == pytest.approx(values.max())
    np.testing.assert_allclose(left[1:], right[:-1])
    inside = [((values >= a) & ((values < b) | (b == right[-1]))).sum() for a, b in zip(left, right, strict=True)]
    np.testing.assert_array_equal(counts, inside)


def test_counts_zeros_that_no_mask_asked_for(tmp_path: Path) -> None:
    model = build("sequential", "keras")
    masks = tpi.prune_at_init(model, data(), sparsity=0.5, method="random").masks
    head = next(t for t in list_variables(model) if t.path == "head/kernel")

    class Clears(KERAS["keras"].callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            head.tensor.assign(np.zeros(head.shape, "float32"))

    model.fit(*data(), epochs=1, verbose=0, callbacks=[Clears(), TensorBoardSparsity(tmp_path)])
    logged = events(tmp_path)
    assert masks["head/kernel"].mean() > 0
    assert logged["sparsity/head/kernel"][0] == 1.0
    rows = logged["kept_weights/head/kernel"][0]
    assert rows[:, 2].sum() == masks["head/kernel"].sum()


@both
def test_every_other_epoch_without_histograms_and_without_tensorboard(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("sequential", package)
    tpi.prune_at_init(model, data(), sparsity=0.5, method="random")
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "tensorboard", None)
        fit(model, package, TensorBoardSparsity(str(tmp_path), every=2, histograms=False))
    logged = events(tmp_path)
    assert {tag.split("/")[0] for tag in logged} == {"sparsity"}
    assert all(sorted(steps) == [1, 3] for steps in logged.values())


def test_follows_masks_that_change(tmp_path: Path) -> None:
    model = build("sequential", "keras")
    tpi.prune_at_init(model, data(), sparsity=0.25, method="magnitude")
    pruning = tpi.PruneDuringTraining(None, sparsity=0.5, method="magnitude", every=2, delay=0, events=1)
    fit(model, "keras", pruning, TensorBoardSparsity(tmp_path))
    logged = events(tmp_path)
    sparsities = [float(logged["sparsity/all"][epoch]) for epoch in range(EPOCHS)]
    assert sparsities == pytest.approx([0.25, 0.5, 0.5, 0.5], abs=2e-3)
    kept = [sum(logged[f"kept_weights/{path}"][epoch][:, 2].sum() for path in pruning.masks) for epoch in range(EPOCHS)]
    assert kept[0] > kept[1] == kept[3] == pruning.masks.kept


@both
def test_refuses_a_model_without_masks(package: str, tmp_path: Path) -> None:
    model = build("sequential", package)
    with pytest.raises(EnforcementError, match="carries no masks"):
        fit(model, package, TensorBoardSparsity(tmp_path / "log"))
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("options", [{"every": 0}, {"every": 1.5}, {"every": True}, {"histograms": 1}])
def test_refuses_wrong_options(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(options))} must be"):
        TensorBoardSparsity(tmp_path, **options)
