"""Files and masks of the first version stay what they were: whatever is renamed, they are read, and give the same bits.

`tests/golden` was written on 2026-11-27 by the code of 0.1.0 before its modules were named anew: a trained model with
masks attached and one in wrappers, one in wrappers of TF-MOT's kind, a checkpoint, a run, a comparison; what the models
predicted for `data()`; and for each method the fingerprint of its masks.
"""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from command import call
from model_kinds import KERAS, build, data
from test_conformance import find
from tiers import rows
from training import held

import tfprune_init as tpi
from tfprune_init.experiments import Results
from tfprune_init.masking.attachment import get_attached_masks
from tfprune_init.selection import ALLOCATIONS

GOLDEN = Path(__file__).with_name("golden")
FINGERPRINTS: dict[str, str] = json.loads((GOLDEN / "fingerprints.json").read_text())


def golden(model: str) -> np.ndarray:
    with np.load(GOLDEN / "outputs.npz") as outputs:
        return outputs[model]


def predicted(model: Any) -> np.ndarray:
    return model.predict(data()[0], verbose=0)


MODELS = [*itertools.product(["sequential", "functional"], KERAS)]


@pytest.mark.parametrize(("kind", "package"), rows(MODELS, [("sequential", "tf_keras"), ("functional", "keras")]))
def test_masks_of_every_method(kind: str, package: str) -> None:
    model = build(kind, package)
    found = {}
    for method in tpi.list_methods():
        name = f"{package} {kind} {method}"
        if name in FINGERPRINTS:
            found[name] = find(model, method, 0.7).fingerprint
    assert len(found) >= 15
    assert found == {name: FINGERPRINTS[name] for name in found}


def test_masks_of_every_scope() -> None:
    model = build("sequential", "keras")
    for name in (name for name in FINGERPRINTS if name.startswith("scope ")):
        # The names that the combinations had when the masks were recorded.
        scope = {"layerwise": "uniform"}.get(name.removeprefix("scope "), name.removeprefix("scope "))
        sparsity = 0.5 if scope == "n_m" else 0.2
        options = {"allocation" if scope in ALLOCATIONS else "granularity": scope}
        masks = tpi.find_masks(model, data(), sparsity=sparsity, method="snip", verbose=0, **options)
        assert masks.fingerprint == FINGERPRINTS[name], name


@pytest.mark.parametrize("name", ["attached", "wrapped"])
def test_models_with_masks(name: str) -> None:
    model = keras.saving.load_model(GOLDEN / f"{name}.keras")
    masks = tpi.Masks.load(GOLDEN / "masks.npz")
    assert get_attached_masks(model) == masks
    np.testing.assert_allclose(predicted(model), golden(name), rtol=1e-5, atol=1e-6)
    model.fit(*data(), verbose=0)
    assert held(tpi.strip(model), masks)


def test_weights() -> None:
    model, masks = build("functional", "keras", seed=3), tpi.Masks.load(GOLDEN / "masks.npz")
    tpi.attach(model, masks)
    model.load_weights(GOLDEN / "attached.weights.h5")
    assert held(model, masks)
    np.testing.assert_allclose(predicted(model), golden("attached"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["tfmot.h5", "tfmot.keras"])
def test_models_in_wrappers_of_the_tfmot_kind(name: str) -> None:
    assert tpi.tfmot.PruneAtInit  # what is registered is found by Keras
    model = tf_keras.models.load_model(GOLDEN / name)
    np.testing.assert_allclose(predicted(model), golden("tfmot"), rtol=1e-5, atol=1e-6)
    masks = tpi.tfmot.get_masks(model)
    assert masks.sparsity == pytest.approx(0.7, abs=0.001)
    assert held(tpi.tfmot.strip(model), masks)


def test_checkpoint(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "checkpoint", tmp_path / "checkpoint")
    model = build("sequential", "keras", optimizer="sgd")
    tpi.prune_at_init(model, data(), sparsity=0.7, method="snip", verbose=0)
    tpi.distribute.fit(model, data(), epochs=2, checkpoint=tmp_path / "checkpoint", verbose=0)
    np.testing.assert_allclose(predicted(model), golden("checkpoint"), rtol=1e-5, atol=1e-6)


def test_run_of_the_command_line() -> None:
    shown = call("show", "run", cwd=GOLDEN)
    assert (shown.code, shown.err) == (0, "")
    assert "hidden" in shown.out
    assert "snip" in shown.out


def test_comparison() -> None:
    results = Results.load(GOLDEN / "comparison")
    rows = {run.method: run for run in results}
    assert rows.keys() == {"dense", "snip", "random"}
    assert rows["random"].accuracy == pytest.approx(0.383, abs=0.001)
    assert results.masks(rows["random"]).kept == rows["random"].kept == 13050
