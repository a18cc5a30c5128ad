"""Networks that others built: backbones of keras-cv and keras-hub, and Keras's own applications."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import fresh_process, held, zeros_watch

import tfprune_init as tpi
from tfprune_init.graph.variables import find_prunable_variables

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "backbones.md"
SHAPE = (32, 32, 3)
CLASSES = 10
RATE = 0.1

NORMALIZATION = "normalization (BatchNormalization)"
LAYER_NORMALIZATION = "normalization (LayerNormalization)"
INPUT_STATISTICS = "normalization (Normalization)"
BIAS = "bias (prune_bias=True prunes it)"
STATE = "integer variable (a state, or quantized)"
LAYER_SCALE = "LayerScale is not known to be prunable; give it get_prunable_weights()"


def keras_cv(name: str, **settings: Any) -> Callable[[], Any]:
    def build() -> Any:
        models = pytest.importorskip("keras_cv").models
        return getattr(models, name)(input_shape=SHAPE, include_rescaling=False, **settings)

    return build


def keras_hub() -> Any:
    return pytest.importorskip("keras_hub").models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64], stackwise_num_blocks=[1],
        stackwise_num_strides=[1], block_type="basic_block", image_shape=SHAPE,
    )  # fmt: skip


def application(name: str, size: int = SHAPE[0], **settings: Any) -> Callable[[], Any]:
    build = getattr(keras.applications, name)
    return lambda: build(weights=None, include_top=False, input_shape=(size, size, 3), **settings)


STACKS = {"stackwise_filters": [8, 16], "stackwise_strides": [1, 2]}
# Each with the variables that are left alone, by their reason. All are pruned, trained and exported.
SMALL: dict[str, tuple[Callable[[], Any], dict[str, int]]] = {
    "keras-cv ResNet": (
        keras_cv("ResNetBackbone", **STACKS, stackwise_blocks=[1, 1]),
        {NORMALIZATION: 36, BIAS: 1},
    ),
    "keras-cv ResNetV2": (
        keras_cv("ResNetV2Backbone", **STACKS, stackwise_blocks=[2, 2]),
        {NORMALIZATION: 52, BIAS: 8},
    ),
    "keras-cv MobileNetV3": (
        keras_cv(
            "MobileNetV3Backbone", stackwise_expansion=[1, 4, 4], stackwise_filters=[8, 16, 16],
            stackwise_kernel_size=[3, 3, 5], stackwise_stride=[2, 2, 1], stackwise_se_ratio=[0.25, None, 0.25],
            stackwise_activation=["relu", "hard_swish", "hard_swish"],
        ),
        {NORMALIZATION: 40, BIAS: 5},
    ),
    "keras-cv EfficientNetV2": (
        keras_cv(
            "EfficientNetV2Backbone", stackwise_kernel_sizes=[3, 3], stackwise_num_repeats=[2, 2],
            stackwise_input_filters=[8, 16], stackwise_output_filters=[16, 16], stackwise_expansion_ratios=[2, 4],
            stackwise_squeeze_and_excite_ratios=[0, 0.25], stackwise_strides=[1, 2],
            stackwise_conv_types=["fused", "unfused"], width_coefficient=1.0, depth_coefficient=1.0,
        ),
        {NORMALIZATION: 48, BIAS: 5, STATE: 3},
    ),
    "keras-cv CSPDarkNet": (
        keras_cv("CSPDarkNetBackbone", stackwise_channels=[16, 32], stackwise_depth=[1, 1]),
        {NORMALIZATION: 60, BIAS: 1},
    ),
    "keras-hub ResNet": (keras_hub, {NORMALIZATION: 12, BIAS: 1}),
    "MobileNetV2, alpha 0.35": (application("MobileNetV2", alpha=0.35), {NORMALIZATION: 208, BIAS: 1}),
}  # fmt: skip
# Looked at, not trained here.
LARGE: dict[str, tuple[Callable[[], Any], dict[str, int]]] = {
    "MobileNetV3Small, alpha 0.35": (application("MobileNetV3Small", alpha=0.35), {NORMALIZATION: 136, BIAS: 19}),
    "ResNet50": (application("ResNet50"), {NORMALIZATION: 212, BIAS: 54}),
    "DenseNet121": (application("DenseNet121"), {NORMALIZATION: 484, BIAS: 1}),
    "EfficientNetB0": (
        application("EfficientNetB0"),
        {NORMALIZATION: 196, BIAS: 33, STATE: 10, INPUT_STATISTICS: 2},
    ),
    "EfficientNetV2B0": (application("EfficientNetV2B0"), {NORMALIZATION: 236, BIAS: 33, STATE: 15}),
    "NASNetMobile": (application("NASNetMobile"), {NORMALIZATION: 768, BIAS: 1}),
    "ConvNeXtTiny": (application("ConvNeXtTiny"), {BIAS: 59, LAYER_NORMALIZATION: 46, LAYER_SCALE: 18}),
    "Xception": (application("Xception", size=71), {NORMALIZATION: 160, BIAS: 1}),
}


def classifier(backbone: Any) -> Any:
    return keras.Sequential(
        [backbone, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES, name="head")], name="classifier"
    )


def built(build: Callable[[], Any]) -> Any:
    keras.utils.set_random_seed(0)
    return classifier(build())


def images() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).random((16, *SHAPE), dtype="float32"), np.arange(16) % CLASSES


def kernels(model: Any) -> list[Any]:
    """All kernels of a model, by Keras's own names."""
    return [v for v in model.trainable_variables if v.path.rsplit("/", 1)[-1].endswith("kernel")]


def count(variables: list[Any]) -> int:
    return sum(math.prod(v.shape) for v in variables)


def step_by_hand(model: Any, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """All kernels after one step of plain SGD that knows nothing of masks."""
    states = [(v, v.numpy()) for v in model.non_trainable_variables]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    watched = kernels(model)
    gradients = tape.gradient(loss, [v.value for v in watched])
    for variable, state in states:
        variable.assign(state)
    return {v.path: v.numpy() - RATE * g.numpy() for v, g in zip(watched, gradients, strict=True)}


def rows_of_page() -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]
    return {cells[0]: cells[1:] for cells in lines if len(cells) > 3}


SLOW = ("NASNetMobile",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in [*SMALL, *LARGE]]
)
def test_every_kernel_is_prunable_and_the_rest_has_its_reason(name: str) -> None:
    build, skipped = {**SMALL, **LARGE}[name]
    model = built(build)
    targets = find_prunable_variables(model)
    assert {id(target.variable) for target in targets.prunable} == {id(v) for v in kernels(model)}
    assert Counter(row.reason for row in targets.skipped) == skipped
    assert len(targets.prunable) + len(targets.skipped) == len(model.variables)
    if name != "keras-hub ResNet":
        shown = rows_of_page()[name]
        assert shown[:2] == [f"{model.count_params():,}", f"{count(kernels(model)):,}"]
        assert shown[2] == f"{targets.size / model.count_params():.1%}"


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_pruned_trained_stripped_exported(name: str, tmp_path: Path) -> None:
    model = built(SMALL[name][0])
    model.compile(keras.optimizers.SGD(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = images()
    report = tpi.prune_at_init(model, (x, y), sparsity=0.9, method="force", steps=3, verbose=0)
    masks = report.masks
    assert (masks.kept, masks.size) == (count(kernels(model)) // 10, count(kernels(model)))
    assert held(model, masks)
    mask_of = {target.variable.path: masks[target.path] for target in find_prunable_variables(model).prunable}

    watch = zeros_watch(model, masks)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[watch])
    assert (watch.looks, watch.found) == (3, [])

    # A model with Dropout takes another first step in fit than by hand, dense or pruned; this is the second.
    before = {v.path: v.numpy() for v in kernels(model)}
    expected = step_by_hand(model, x[:8], y[:8])
    model.fit(x[:8], y[:8], batch_size=8, verbose=0)
    moved = 0
    for variable in kernels(model):
        path, after, mask = variable.path, variable.numpy(), mask_of[variable.path]
        assert not after[~mask].any()
        longest = np.abs(expected[path] - before[path]).max()
        np.testing.assert_allclose(after[mask], expected[path][mask], rtol=0, atol=1e-6 + 1e-3 * longest)
        moved += np.count_nonzero(after[mask] != before[path][mask])
    assert moved > 0.5 * masks.kept

    plain = tpi.strip(model)
    assert held(plain, masks)
    edge = tpi.export_tflite(plain, tmp_path / "model.tflite", measure=False, verify=x)
    assert (edge.sparse, edge.fallback) == (True, None)
    assert edge.relative_difference < 1e-5
    assert edge.raw_bytes == (tmp_path / "model.tflite").stat().st_size < edge.dense_float32.raw_bytes


TF_KERAS = """
import json, os
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np, keras_cv, tf_keras
import tfprune_init as tpi

tf_keras.utils.set_random_seed(0)
backbone = keras_cv.models.ResNetBackbone(
    stackwise_filters=[8, 16], stackwise_blocks=[1, 1], stackwise_strides=[1, 2], include_rescaling=False,
    input_shape=(32, 32, 3),
)
layers = tf_keras.layers
model = tf_keras.Sequential([backbone, layers.GlobalAveragePooling2D(), layers.Dense(10)])
model.compile(tf_keras.optimizers.SGD(0.1), tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
x, y = np.random.default_rng(0).random((16, 32, 32, 3), dtype="float32"), np.arange(16) % 10
masks = tpi.prune_at_init(model, (x, y), sparsity=0.9, method="force", steps=3, verbose=0).masks
model.fit(x, y, batch_size=8, verbose=0)
weights = [v.numpy() for v in tpi.strip(model).trainable_variables if "kernel" in v.name]
print(json.dumps({
    "kept": masks.kept, "size": masks.size, "nonzero": sum(int(np.count_nonzero(w)) for w in weights),
    "same": tpi.Masks.from_zeros(model) == masks,
}))
"""


@pytest.mark.process
@pytest.mark.slow
def test_keras_cv_follows_tf_keras_where_it_is_asked_to() -> None:
    pytest.importorskip("keras_cv")
    assert fresh_process(TF_KERAS) == {"kept": 1_932, "size": 19_328, "nonzero": 1_932, "same": True}


@pytest.mark.slow
def test_the_code_of_the_page_runs() -> None:
    pytest.importorskip("keras_cv")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    namespace: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        exec(compile(code, str(PAGE), "exec"), namespace)
    report = namespace["report"]
    assert (report.masks.kept, report.masks.size, report.connected) == (1_932, 19_328, True)
    assert held(namespace["model"], report.masks)


@pytest.mark.examples
def test_augmentation_in_few_epochs(tmp_path: Path) -> None:
    pytest.importorskip("keras_cv")
    # Other tests, and TF-MOT, set TF_...; a user's shell has none of it.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_") and key != "COLUMNS"}
    script = str(ROOT / "examples" / "augmentation.py")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", script, "--epochs", "4"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    out = done.stdout
    assert "1,437 training and 360 test images" in " ".join(out.split())
    dense, pruned = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    # ResNet20 has 270,896 kernel weights; a tenth, rounded down, is kept.
    assert (dense[0], dense[2:]) == ("dense", ["0", "270,896"])
    assert (pruned[0], pruned[2:]) == ("pruned 90% by FORCE", [f"{270_896 - 27_089:,}", "270,896"])
    for row in (dense, pruned):
        assert float(row[1].rstrip("%")) > 40  # guessing gives 10
