"""The networks with k winners: sizes of the paper, masks, training, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tflite_files import operators

import tfprune_init as tpi
from tfprune_init.errors import OptionError

WINNERS = {"sparse_cnn_1": [(400, 600), (50, 75)], "sparse_cnn_2": [(400, 600), (300, 450), (100, 150)]}


@pytest.mark.parametrize("name", WINNERS)
def test_sizes_of_the_paper(name: str) -> None:
    model = getattr(tpi.models, name)(seed=0)
    found = [layer for layer in model.layers if layer.name.endswith("winners")]
    assert [layer.winners for layer in found] == WINNERS[name]
    if name == "sparse_cnn_1":
        assert [layer.output.shape[1:] for layer in found] == [(12, 12, 30), (150,)]
        weights, states = 25 * 30 + 4320 * 150 + 150 * 10 + 190, 30 + 150 + 2 * 2
    else:
        assert [layer.output.shape[1:] for layer in found] == [(12, 12, 32), (4, 4, 64), (700,)]
        weights, states = 25 * 32 + 25 * 32 * 64 + 1024 * 700 + 7000 + 806, 32 + 64 + 700 + 3 * 2
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == weights
    assert model.count_params() == weights + states


def test_small_images_are_padded_and_the_same_share_wins() -> None:
    model = tpi.models.sparse_cnn_2((8, 8, 1))
    # 4x4x32 and 2x2x64: 512 * 400/4608 = 44.4 and 256 * 300/1024 = 75.
    assert [layer.winners[0] for layer in model.layers if layer.name.endswith("winners")] == [44, 75, 100]
    with pytest.raises(OptionError, match=r"at least 4 pixels.*Received: input_shape=\(3, 8, 1\)"):
        tpi.models.sparse_cnn_2((3, 8, 1))
    assert tpi.models.sparse_cnn_1((2, 2, 1)).output_shape == (None, 10)


def prepare(size: int, images: np.ndarray, name: str = "sparse_cnn_1") -> tuple[Any, Any]:
    """A network trained a little under masks, and their report."""
    keras.utils.set_random_seed(0)
    model = getattr(tpi.models, name)((size, size, 1), 10, seed=0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    options = {"granularity": "per_unit", "exclude": ["conv*", "head"]}
    report = tpi.prune_at_init(model, None, sparsity=0.7, method="random", verbose=0, **options)
    model.fit(images, np.arange(len(images)) % 10, verbose=0, callbacks=[tpi.layers.BoostDecay()])
    return model, report


@pytest.mark.parametrize(("name", "size"), [("sparse_cnn_1", 8), ("sparse_cnn_2", 16)])
def test_export_with_masks_needs_built_in_operators_only(name: str, size: int, export: Any, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(64, size, size, 1)).astype("float32")
    model, report = prepare(size, images, name)
    plain = tpi.strip(model)
    edge = export(
        plain, tmp_path / "model.tflite", verify=tf.data.Dataset.from_tensor_slices(images).batch(32), measure=False
    )
    assert edge.top1_agreement == 1.0
    assert edge.examples == 64
    file = schema.ModelT.InitFromPackedBuf((tmp_path / "model.tflite").read_bytes(), 0)
    assert len(operators(file, "TOPK_V2")) == len(WINNERS[name])
    assert operators(file, "CUSTOM") == []
    for path, target in report.masks.check(plain).items():
        mask = report.masks[path]
        assert (mask.sum(axis=0) == len(mask) * 3 // 10).all()
        assert not target.tensor.numpy()[~mask].any()
        (row,) = [row for row in edge.tensors if np.prod(row.shape) == mask.size]
        assert round(row.sparsity * mask.size) >= np.count_nonzero(~mask)
