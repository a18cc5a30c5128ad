from __future__ import annotations

import doctest
import functools
import importlib
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from tiers import rows

from tfprune_init import datasets, models
from tfprune_init.errors import OptionError

BUILDERS = [getattr(models, name) for name in models.__all__]
GLOROT = [models.conv_2, models.conv_4, models.conv_6]
SMALL_BUILDERS = [models.lenet_300_100, models.lenet_5, models.resnet20, models.sparse_cnn_1]

# By hand: weights are the kernels, then biases and BatchNorm's two trainable and two moving vectors.
LENET_300_100 = 784 * 300 + 300 * 100 + 100 * 10
LENET_5 = 25 * 1 * 20 + 25 * 20 * 50 + 4 * 4 * 50 * 500 + 500 * 10
DENSE_CNN_1 = 25 * 1 * 30 + 12 * 12 * 30 * 1000 + 1000 * 10
DENSE_CNN_2 = 25 * 1 * 30 + 25 * 30 * 30 + 4 * 4 * 30 * 1000 + 1000 * 10
VGG19 = (
    9
    * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 3 * 256 * 256 + 256 * 512 + 3 * 512 * 512 + 4 * 512 * 512)
    + 512 * 10
)
VGG19_CHANNELS = 2 * 64 + 2 * 128 + 4 * 256 + 8 * 512
# Published are 4.3M, 2.4M and 1.7M weights, of which the last does not follow from its layers, and 38K, 260K and 1.1M
# of them in convolutions. These are padded; with a pool of 2x2 after each pair, the first dense layer reads 16x16x64,
# 8x8x128 or 4x4x256.
PAIRS = (9 * (3 * 64 + 64 * 64), 9 * (64 * 128 + 128 * 128), 9 * (128 * 256 + 256 * 256))
CONV_2 = PAIRS[0] + 16 * 16 * 64 * 256 + 256 * 256 + 256 * 10
CONV_4 = sum(PAIRS[:2]) + 8 * 8 * 128 * 256 + 256 * 256 + 256 * 10
CONV_6 = sum(PAIRS) + 4 * 4 * 256 * 256 + 256 * 256 + 256 * 10
VGG16 = 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 2 * 256 * 256 + 256 * 512 + 5 * 512 * 512) + 5120
VGG16_CHANNELS = 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512
RESNET56 = 9 * (3 * 16 + 18 * 16 * 16 + 16 * 32 + 17 * 32 * 32 + 32 * 64 + 17 * 64 * 64) + 16 * 32 + 32 * 64 + 640
RESNET110 = 9 * (3 * 16 + 36 * 16 * 16 + 16 * 32 + 35 * 32 * 32 + 32 * 64 + 35 * 64 * 64) + 16 * 32 + 32 * 64 + 640
RESNET20 = 9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64) + 16 * 32 + 32 * 64 + 64 * 10
RESNET20_CHANNELS = 7 * 16 + 7 * 32 + 7 * 64
# Per stage: the first block, its shortcut, and the other blocks.
RESNET50 = (
    9 * 3 * 64
    + (64 * 64 + 9 * 64 * 64 + 64 * 256) + 64 * 256 + 2 * (256 * 64 + 9 * 64 * 64 + 64 * 256)
    + (256 * 128 + 9 * 128 * 128 + 128 * 512) + 256 * 512 + 3 * (512 * 128 + 9 * 128 * 128 + 128 * 512)
    + (512 * 256 + 9 * 256 * 256 + 256 * 1024) + 512 * 1024 + 5 * (1024 * 256 + 9 * 256 * 256 + 256 * 1024)
    + (1024 * 512 + 9 * 512 * 512 + 512 * 2048) + 1024 * 2048 + 2 * (2048 * 512 + 9 * 512 * 512 + 512 * 2048)
    + 2048 * 10
)  # fmt: skip
RESNET50_CHANNELS = 64 + (3 * 384 + 256) + (4 * 768 + 512) + (6 * 1536 + 1024) + (3 * 3072 + 2048)


@functools.cache
def built(build: Callable[..., keras.Model]) -> keras.Model:
    """The default model, built once for the tests that only look at it."""
    return build(seed=0)


def size(variables: list[keras.Variable]) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: v.value.numpy() for v in model.trainable_variables if v.path.endswith("/kernel")}


def shapes(model: keras.Model, suffix: str) -> list[tuple[int, ...]]:
    return [layer.output.shape[1:] for layer in model.layers if layer.name.endswith(suffix)]


@pytest.mark.parametrize(
    ("build", "weights", "biases", "channels", "published"),
    [
        (models.lenet_300_100, LENET_300_100, 410, 0, 266_200),
        (models.lenet_5, LENET_5, 580, 0, 430_500),
        (models.vgg19, VGG19, 10, VGG19_CHANNELS, 20_024_000),
        (models.vgg16, VGG16, 10, VGG16_CHANNELS, 14_715_584),
        (models.conv_2, CONV_2, 650, 0, 4_300_992),
        (models.conv_4, CONV_4, 906, 0, 2_425_024),
        (models.conv_6, CONV_6, 1_418, 0, 2_261_184),
        (models.dense_cnn_1, DENSE_CNN_1, 1_040, 0, 4_330_750),
        (models.dense_cnn_2, DENSE_CNN_2, 1_070, 0, 513_250),
        (models.resnet20, RESNET20, 10, RESNET20_CHANNELS, 270_896),
        (models.resnet50, RESNET50, 10, RESNET50_CHANNELS, 23_467_712),
        (models.resnet56, RESNET56, 10, 19 * (16 + 32 + 64), 851_504),
        (models.resnet110, RESNET110, 10, 37 * (16 + 32 + 64), 1_722_416),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_parameter_counts(
    build: Callable[..., keras.Model], weights: int, biases: int, channels: int, published: int
) -> None:
    model = built(build)
    assert weights == published
    assert size([v for v in model.trainable_variables if v.path.endswith("/kernel")]) == weights
    assert size([v for v in model.trainable_variables if v.path.endswith("/bias")]) == biases
    assert size(model.trainable_variables) == weights + biases + 2 * channels
    assert model.count_params() == weights + biases + 4 * channels


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_layers_have_readable_names_of_their_own(build: Callable[..., keras.Model]) -> None:
    model = built(build)
    assert model.name == build.__name__
    paths = [v.path for v in model.variables]
    assert len(set(paths)) == len(paths)
    assert all(path.count("/") == 1 for path in paths)
    assert model.layers[-1].name == "head"
    # Names that Keras makes up for nameless layers depend on what was built before in the process.
    assert [layer.name for layer in build((8, 8, 3)).layers] == [layer.name for layer in model.layers]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (models.lenet_5, ["conv1/kernel", "conv2/kernel", "dense/kernel", "head/kernel"]),
        (models.conv_6, ["block1_conv1/kernel", "block3_conv2/bias", "dense1/kernel", "dense2/kernel", "head/kernel"]),
        (models.sparse_cnn_2, ["conv2/kernel", "dense/bias", "conv1_winners/duty_cycle", "dense_winners/boost"]),
        (models.lenet_300_100, ["dense1/kernel", "dense2/kernel", "head/kernel"]),
        (models.vgg19, ["block1_conv1/kernel", "block5_conv4/kernel", "block3_conv2_bn/gamma"]),
        (models.resnet20, ["stem/kernel", "stage2_block1_conv2/kernel", "stage2_block1_shortcut/kernel"]),
        (models.resnet50, ["stage1_block1_shortcut/kernel", "stage3_block6_conv3/kernel"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_variable_paths(build: Callable[..., keras.Model], expected: list[str]) -> None:
    paths = {v.path for v in built(build).variables}
    assert [path for path in expected if path not in paths] == []


def test_lenet_5_shapes() -> None:
    model = built(models.lenet_5)
    assert shapes(model, "conv1") == [(24, 24, 20)]
    assert shapes(model, "pool1") == [(12, 12, 20)]
    assert shapes(model, "conv2") == [(8, 8, 50)]
    assert shapes(model, "flatten") == [(800,)]


def test_lenet_5_pads_small_images_only() -> None:
    assert shapes(models.lenet_5((8, 8, 1)), "pool2") == [(2, 2, 50)]
    assert shapes(models.lenet_5((4, 4, 1)), "pool2") == [(1, 1, 50)]
    assert shapes(models.lenet_5((16, 16, 1)), "pool2") == [(1, 1, 50)]
    assert shapes(models.lenet_5((15, 32, 1)), "pool2") == [(3, 8, 50)]
    # 8x8 digits, padded: 2x2x50 = 200 inputs of the dense layer.
    assert models.lenet_5((8, 8, 1)).count_params() == 25 * 20 + 25_000 + 200 * 500 + 5_000 + 580
    with pytest.raises(OptionError, match=r"Received: input_shape=\(28, 3, 1\)"):
        models.lenet_5((28, 3, 1))


def test_conv_shapes_and_biases() -> None:
    sizes = {models.conv_2: (16, 16, 64), models.conv_4: (8, 8, 128), models.conv_6: (4, 4, 256)}
    for build, last in sizes.items():
        assert shapes(built(build), "_pool")[-1] == last
        assert shapes(built(build), "_conv1")[0] == (32, 32, 64)
    assert not any(v.value.numpy().any() for v in built(models.conv_2).variables if v.path.endswith("/bias"))


def test_vgg19_shapes() -> None:
    model = built(models.vgg19)
    assert [shapes(model, f"block{block}_conv1_relu")[0] for block in range(1, 6)] == [
        (32, 32, 64),
        (16, 16, 128),
        (8, 8, 256),
        (4, 4, 512),
        (2, 2, 512),
    ]
    assert len(shapes(model, "_relu")) == 16
    assert shapes(model, "pool")[-1] == (512,)
    assert not any(layer.use_bias for layer in model.layers if isinstance(layer, keras.layers.Conv2D))


def test_resnet_shapes() -> None:
    small, large = built(models.resnet20), built(models.resnet50)
    # He et al. count the layers with weights on the longest path, which leaves out the shortcuts.
    assert len([path for path in kernels(small) if "shortcut" not in path]) == 20
    assert len([path for path in kernels(large) if "shortcut" not in path]) == 50
    assert shapes(small, "stem") == [(32, 32, 16)]
    assert shapes(large, "stem") == [(32, 32, 64)]
    assert shapes(small, "_add") == [(32, 32, 16)] * 3 + [(16, 16, 32)] * 3 + [(8, 8, 64)] * 3
    assert shapes(large, "_add") == (
        [(32, 32, 256)] * 3 + [(16, 16, 512)] * 4 + [(8, 8, 1024)] * 6 + [(4, 4, 2048)] * 3
    )
    assert [path for path in kernels(small) if "shortcut" in path] == [
        "stage2_block1_shortcut/kernel",
        "stage3_block1_shortcut/kernel",
    ]
    assert len([path for path in kernels(large) if "shortcut" in path]) == 4
    # The stride sits in the 3x3 convolution of the bottleneck.
    assert large.get_layer("stage2_block1_conv1").output.shape[1:] == (32, 32, 128)
    assert large.get_layer("stage2_block1_conv2").output.shape[1:] == (16, 16, 128)


def test_residual_block_adds_its_input() -> None:
    model = models.resnet20((8, 8, 3), seed=0)
    # With a silent residual branch a block hands on what it received.
    model.get_layer("stage1_block2_conv2").kernel.assign(np.zeros((3, 3, 16, 16)))
    taps = [model.get_layer(f"stage1_block{block}_relu").output for block in (1, 2)]
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    received, handed_on = keras.Model(model.input, taps)(images)
    assert np.abs(received).max() > 0.1
    np.testing.assert_array_equal(handed_on, received)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_digits_pass_through_and_come_out_as_logits(build: Callable[..., keras.Model]) -> None:
    model = build(input_shape=(8, 8, 1), classes=7, seed=0)
    logits = np.asarray(model(np.random.default_rng(0).random((3, 8, 8, 1), dtype=np.float32), training=True))
    assert logits.shape == (3, 7)
    assert np.isfinite(logits).all()
    # Logits, not probabilities: some are negative and they don't add up to 1.
    assert logits.min() < 0
    assert np.abs(logits.sum(axis=1) - 1).min() > 1e-3
    assert model.layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_seed_repeats_the_weights_whatever_the_global_seed(build: Callable[..., keras.Model]) -> None:
    one = kernels(built(build))
    keras.utils.set_random_seed(1)
    again, other = kernels(build(seed=0)), kernels(build(seed=1))
    for path, weights in one.items():
        np.testing.assert_array_equal(weights, again[path])
        # Two truncated normals of the same layer agree in no more than a stray value.
        assert np.mean(weights == other[path]) < 0.01


@pytest.mark.parametrize("build", SMALL_BUILDERS, ids=lambda build: build.__name__)
def test_without_seed_every_model_is_another(build: Callable[..., keras.Model]) -> None:
    one, two = kernels(build((8, 8, 1))), kernels(build((8, 8, 1)))
    assert not any(np.array_equal(one[path], two[path]) for path in one)


@pytest.mark.parametrize("build", [models.vgg19, models.resnet20], ids=lambda build: build.__name__)
def test_layers_of_one_shape_differ(build: Callable[..., keras.Model]) -> None:
    starts = [tuple(weights.ravel()[:20]) for weights in kernels(build((8, 8, 3), seed=0)).values()]
    assert len(set(starts)) == len(starts)
    # Nor are they one draw, scaled: as keras.initializers.HeNormal(seed=0) in every layer would be.
    signs = {tuple(np.sign(start)) for start in starts}
    assert len(signs) == len(starts)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_weights_have_the_deviation_of_their_initializer(build: Callable[..., keras.Model]) -> None:
    for path, weights in kernels(built(build)).items():
        fan_in, fan_out = weights.size // weights.shape[-1], weights.size // weights.shape[-2]
        fan = (fan_in + fan_out) / 2 if build in GLOROT else fan_in
        variance = (1 if build in GLOROT else 2) / fan
        # Four sigma of the deviation of that many draws.
        tolerance = 4 / np.sqrt(2 * weights.size)
        assert np.std(weights) / np.sqrt(variance) == pytest.approx(1, abs=tolerance), path


@pytest.mark.parametrize("build", SMALL_BUILDERS, ids=lambda build: build.__name__)
def test_model_survives_saving(build: Callable[..., keras.Model], tmp_path: Path) -> None:
    model = build((8, 8, 1), seed=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).random((2, 8, 8, 1), dtype=np.float32)
    np.testing.assert_allclose(loaded(images), model(images), rtol=1e-5, atol=1e-6)
    assert [v.path for v in loaded.variables] == [v.path for v in model.variables]


@pytest.mark.parametrize(
    "build", rows(SMALL_BUILDERS, [models.lenet_300_100, models.lenet_5]), ids=lambda b: b.__name__
)
def test_model_learns_the_digits(build: Callable[..., keras.Model]) -> None:
    keras.utils.set_random_seed(0)
    ds = datasets.load("digits")
    model = build(ds.input_shape, ds.classes, seed=0)
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(ds.train, epochs=3, shuffle=False, verbose=0)
    assert model.evaluate(ds.test, verbose=0)[1] > 0.9


@pytest.mark.parametrize("module", ["lenet", "vgg", "resnet", "k_winners_cnn", "initialization"])
def test_examples_in_the_docstrings_run(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"tfprune_init.models.{module}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
