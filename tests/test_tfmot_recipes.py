"""Masks found at initialization through the rest of TF-MOT: quantization-aware training and weight clustering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import scripts_in_process
from tiers import rows
from training import CLASSES, loss

import tfprune_init as tpi

library = pytest.importorskip("tensorflow_model_optimization")
tf_keras = pytest.importorskip("tf_keras")

from tfprune_init import tfmot  # noqa: E402

L, K2 = tf_keras.layers, tf_keras.optimizers
QAT, CLUSTERING, COMBINE = library.quantization.keras, library.clustering.keras, library.experimental.combine
KERNELS = ("kernel:0", "depthwise_kernel:0")
CLUSTERS = 8
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: K2.Adam(0.01),
    "ema": lambda: K2.Adam(0.01, use_ema=True, ema_momentum=0.5),
    "adamw": lambda: K2.AdamW(0.01, weight_decay=0.1),
}


def bands() -> tuple[np.ndarray, np.ndarray]:
    """Noise in which one of three bands of columns is brighter."""
    x, y = np.random.default_rng(0).normal(size=(96, 9, 9, 1)).astype("float32"), np.arange(96) % CLASSES
    x.reshape(96, 9, 3, 3)[np.arange(96), :, y] += 0.5
    return x, y


def fit(model: Any, optimizer: Callable[[], Any] = OPTIMIZERS["adam"], **options: Any) -> Any:
    """Train for real: the loss falls."""
    model.compile(optimizer(), loss(tf_keras))
    before = model.evaluate(*bands(), verbose=0)
    model.fit(*bands(), batch_size=16, epochs=3, verbose=0, **options)
    assert model.evaluate(*bands(), verbose=0) < before
    return model


def pruned(depthwise: bool = False, strip: Callable[[Any], Any] = tfmot.strip) -> tuple[Any, tpi.Masks]:
    """A network pruned at initialization, trained and stripped, and its masks."""
    tf_keras.utils.set_random_seed(0)
    between = [L.DepthwiseConv2D(3, name="depthwise")] if depthwise else []
    model = tf_keras.Sequential(
        [
            tf_keras.Input((9, 9, 1)),
            L.Conv2D(8, 3, use_bias=False, name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(name="relu"),
            *between,
            L.Flatten(name="flatten"),
            L.Dense(16, activation="relu", name="hidden"),
            L.Dense(CLASSES, name="head"),
        ]
    )
    model.compile("adam", loss(tf_keras))
    model = tfmot.prune_at_init(model, bands(), sparsity=0.75, method="snip")
    masks = tfmot.get_masks(model)
    assert list(masks) == [f"{name}/kernel" for name in ("conv", *["depthwise"] * depthwise, "hidden", "head")]
    assert all(0.1 < mask.mean() < 0.9 for mask in masks.values())
    return strip(fit(model, callbacks=[library.sparsity.keras.UpdatePruningStep()])), masks


def kernels(model: Any) -> dict[str, np.ndarray]:
    """The kernels under the paths they have on the plain model, read from the variables, whatever wraps the layers."""
    pairs = [(getattr(layer, "layer", layer).name, v) for layer in model.layers for v in layer.weights]
    return {f"{name}/kernel": v.numpy() for name, v in pairs if v.name.rsplit("/", 1)[-1] in KERNELS}


def returned(model: Any, masks: tpi.Masks) -> dict[str, int]:
    """How many pruned weights of which kernel are not exactly zero."""
    found = kernels(model)
    counts = {path: int(np.count_nonzero(found[path][~mask] != 0)) for path, mask in masks.items()}
    return {path: count for path, count in counts.items() if count}


def quantized(model: Any, scheme: Any = None) -> Any:
    annotated = QAT.quantize_annotate_model(model)
    return QAT.quantize_apply(annotated, scheme) if scheme else QAT.quantize_apply(annotated)


def on_quantized(masks: tpi.Masks) -> tpi.Masks:
    """The masks under the paths that a quantized model gives its kernels."""
    return tpi.Masks({f"quant_{path}": mask for path, mask in masks.items()})


@pytest.mark.parametrize("name", rows(OPTIMIZERS, ["ema"]))
def test_sparsity_preserving_quantization_aware_training(name: str) -> None:
    plain, masks = pruned()
    start = kernels(plain)
    model = quantized(plain, COMBINE.Default8BitPrunePreserveQuantizeScheme())
    assert all(np.array_equal(kernel, start[path]) for path, kernel in kernels(model).items())
    found: list[dict[str, int]] = []
    look = tf_keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_: found.append(returned(model, masks)))
    fit(model, OPTIMIZERS[name], callbacks=[look])
    assert found == [{}] * 18
    assert not returned(model, masks)
    assert all((kernel != start[path])[masks[path]].any() for path, kernel in kernels(model).items())


def test_the_integer_file_of_quantization_aware_training(tmp_path: Path) -> None:
    plain, masks = pruned(strip=library.sparsity.keras.strip_pruning)
    model = fit(quantized(plain, COMBINE.Default8BitPrunePreserveQuantizeScheme()))
    assert not returned(model, masks)
    with scripts_in_process():
        report = tpi.export_tflite(
            model, tmp_path / "quantized.tflite", quantize="dynamic", verify=bands(), measure=False
        )
    # Small kept weights round to zero too.
    assert masks.sparsity <= report.sparsity < masks.sparsity + 0.03
    assert 3 * report.raw_bytes < report.dense_float32.raw_bytes
    assert report.relative_difference < 2.5 / 127  # steps of an integer


@pytest.mark.parametrize("attached", [False, True])
def test_the_usual_quantization_scheme_loses_the_zeros_unless_masks_are_attached(attached: bool) -> None:
    plain, masks = pruned()
    model = quantized(plain)
    if attached:
        tpi.attach(model, on_quantized(masks))
    assert set(returned(fit(model), masks)) == (set() if attached else set(masks))


@pytest.mark.parametrize("attached", [False, True])
def test_depthwise_kernels_come_back_in_quantization_aware_training_unless_masks_are_attached(attached: bool) -> None:
    """TF-MOT's schemes do not preserve the sparsity of DepthwiseConv2D."""
    plain, masks = pruned(depthwise=True)
    assert not returned(plain, masks)
    model = quantized(plain, COMBINE.Default8BitPrunePreserveQuantizeScheme())
    if attached:
        tpi.attach(model, on_quantized(masks))
    assert list(returned(fit(model), masks)) == ([] if attached else ["depthwise/kernel"])


@pytest.mark.slow
@pytest.mark.parametrize("strip", [tfmot.strip, library.sparsity.keras.strip_pruning], ids=["ours", "TF-MOT's"])
def test_sparsity_preserving_clustering_then_quantization_aware_training(strip: Any) -> None:
    """The depthwise kernel, which TF-MOT leaves out, keeps its zeros while the hold stays, which tfmot.strip ends."""
    plain, masks = pruned(depthwise=True, strip=strip)
    centroids = CLUSTERING.CentroidInitialization.KMEANS_PLUS_PLUS
    model = CLUSTERING.cluster_weights(plain, CLUSTERS, centroids, preserve_sparsity=True)
    model = CLUSTERING.strip_clustering(fit(model))
    assert list(returned(model, masks)) == ["depthwise/kernel"] * (strip is tfmot.strip)
    assert_clustered(model, masks)

    model = quantized(model, COMBINE.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True))
    model = COMBINE.strip_clustering_cqat(fit(model))
    assert list(returned(model, masks)) == ["depthwise/kernel"]
    assert_clustered(model, masks)


def assert_clustered(model: Any, masks: tpi.Masks) -> None:
    """Few values in every kernel but the depthwise one, and more than zero among the kept weights."""
    for path, kernel in kernels(model).items():
        assert (len(np.unique(kernel)) <= CLUSTERS) == (path != "depthwise/kernel")
        assert np.count_nonzero(kernel[masks[path]]) > 0.5 * masks[path].sum()
