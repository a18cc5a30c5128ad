"""Channels removed with the next layer refitted: what is sampled, what is chosen, what the network then gives."""

from __future__ import annotations

import io
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from compaction_networks import NETWORKS, assert_same, drawn, in_dtype, inputs_for, values
from model_kinds import KERAS
from tiers import rows

import tfprune_init as tpi
from tfprune_init.backend.batches import Batches
from tfprune_init.channels.published_widths import PUBLISHED_WIDTHS
from tfprune_init.channels.reconstruction import ChannelReconstruction
from tfprune_init.channels.reconstruction.reconstruction_methods import RECONSTRUCTIONS, REFITS
from tfprune_init.channels.reconstruction.sampling import LayerSampler, Sample
from tfprune_init.channels.reconstruction.windows import Window
from tfprune_init.compaction import compact
from tfprune_init.errors import (
    DataError,
    EnforcementError,
    MaskMismatchError,
    MissingDependencyError,
    ModelError,
    OptionError,
    ScoreError,
)
from tfprune_init.graph.cost import CostModel
from tfprune_init.graph.variables import list_variables
from tfprune_init.training import Evaluate, Prune, ReconstructChannels, Train

METHODS = list(RECONSTRUCTIONS)
# Networks whose units go only together with those of other kernels.
NOTHING_GOES = ("sums", "extremes", "shared", "nested")
# Networks with dead channels that `compact` leaves.
MORE_STAYS = ("grouped", "left_whole", "not_separable")


def convolutions(K: Any, dtype: str = "float64", seed: int = 0) -> Any:
    """Strides, padding, normalization, pooling and Flatten between kernels."""
    L = K.layers
    with in_dtype(K, dtype):
        layers = [
            L.Conv2D(6, 3, padding="same", activation="relu", name="a"),
            L.MaxPooling2D(2),
            L.Conv2D(5, 3, strides=2, padding="same", use_bias=False, name="b"),
            L.BatchNormalization(name="bn"),
            L.ReLU(),
            L.Flatten(),
            L.Dense(8, "tanh", name="c"),
            L.Dense(3, name="head"),
        ]
        return drawn(K.Sequential([K.Input((9, 8, 2)), *layers]), seed)


def images(examples: int = 40, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(examples, 9, 8, 2))


def tap(K: Any, model: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """What enters a layer of a Sequential model, and what it gives without bias and activation."""
    x, layer = images(), model.get_layer(name)
    for one in model.layers:
        if one is layer:
            break
        x = one(x) if one.name != "bn" else one(x, training=False)
    activation, layer.activation = layer.activation, None
    y = np.asarray(layer(x))
    layer.activation = activation
    return np.asarray(x), y if layer.bias is None else y - np.asarray(layer.bias)


# Columns: their sum is what the layer gives.


LAYERS = {
    "same": ((7, 6, 3), lambda L: L.Conv2D(4, 3, padding="same")),
    "strides": ((7, 6, 3), lambda L: L.Conv2D(4, 3, strides=2, padding="same")),
    "strides on even sizes": ((8, 6, 3), lambda L: L.Conv2D(4, (3, 2), strides=(3, 2), padding="same")),
    "valid": ((7, 6, 3), lambda L: L.Conv2D(4, (2, 3), strides=(2, 1))),
    "dilated": ((9, 8, 3), lambda L: L.Conv2D(4, 3, dilation_rate=(2, 1), padding="same")),
    "dilated, valid": ((9, 8, 3), lambda L: L.Conv2D(4, (3, 2), dilation_rate=2, use_bias=False)),
    "wider than the stride": ((5, 5, 3), lambda L: L.Conv2D(4, 1, strides=3, padding="same")),
    "causal": ((9, 3), lambda L: L.Conv1D(4, 3, dilation_rate=2, padding="causal")),
    "one dimension": ((9, 3), lambda L: L.Conv1D(4, 4, strides=3, padding="same")),
    "volumes": ((4, 5, 3, 2), lambda L: L.Conv3D(4, 2, strides=2, padding="same")),
    "vectors": ((5,), lambda L: L.Dense(4)),
    "positions": ((4, 3, 5), lambda L: L.Dense(4, use_bias=False)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_columns_add_up_to_what_the_layer_gives(K: Any, kind: str) -> None:
    shape, make = LAYERS[kind]
    rng = np.random.default_rng(0)
    with in_dtype(K, "float64"):
        layer = make(K.layers)
        layer.build((None, *shape))
    x = rng.normal(size=(3, *shape))
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    expected = np.asarray(layer(x)) - (np.asarray(layer.bias) if layer.use_bias else 0)
    window = Window.of(layer, x.ndim - 2)
    counts = window.count_places(x.shape[1:-1])
    assert (3, *counts, 4) == expected.shape
    index = np.array(list(np.ndindex(3, *counts)))
    kernel = np.array(layer.kernel).reshape(-1, shape[-1], 4)
    sample = Sample(window.gather(x, index[:, 0], index[:, 1:]), np.tile(np.arange(4), (len(index), 1)))
    columns = sample.compute_columns(kernel, np.arange(shape[-1]), shape[-1])
    all_filters = Sample(sample.patches, None).compute_columns(kernel, np.arange(shape[-1]), shape[-1])
    np.testing.assert_allclose(all_filters, columns, rtol=0, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(columns.sum(axis=1), expected.ravel(), rtol=0, atol=1e-12 * np.abs(expected).max())
    for channel in range(shape[-1]):  # each column is what the channel alone gives
        alone = np.asarray(layer(x * (np.arange(shape[-1]) == channel)))
        alone = alone - (np.asarray(layer.bias) if layer.use_bias else 0)
        np.testing.assert_allclose(columns[:, channel], alone.ravel(), rtol=0, atol=1e-12 * np.abs(expected).max())


def test_what_is_drawn_is_what_the_network_computes(K: Any) -> None:
    model = convolutions(K)
    targets = [target for target in list_variables(model) if target.path in ("b/kernel", "c/kernel", "head/kernel")]
    sampler = LayerSampler(model, Batches(images()).take(1), places=1000, seed=0)
    for target in targets:
        sample = sampler.draw([target])[target.path]
        _, expected = tap(K, model, target.path.split("/")[0])
        expected = expected.reshape(-1, expected.shape[-1])
        kernel = np.array(target.tensor).reshape(-1, *target.shape[-2:])
        found = sample.compute_outputs(kernel, np.arange(kernel.shape[1]))
        assert found.shape == expected.shape  # all places, each once
        order, other = np.argsort(found[:, 0]), np.argsort(expected[:, 0])
        # Inputs are computed in float32 at least; here in float64.
        np.testing.assert_allclose(found[order], expected[other], rtol=0, atol=1e-12 * np.abs(expected).max())


def test_places_and_filters_are_drawn_without_doubles() -> None:
    model = convolutions(keras)
    targets = {target.path: target for target in list_variables(model)}
    sampler = LayerSampler(model, Batches(images()).take(1), places=3, seed=0)
    drawn_ones = sampler.draw([targets["b/kernel"], targets["c/kernel"]])
    assert drawn_ones["b/kernel"].patches.shape == (40 * 3, 9, 6)
    of_b, of_c = (np.array(drawn_ones[path].filters) for path in ("b/kernel", "c/kernel"))
    assert of_b.shape == (120, 1)
    assert set(of_b.ravel().tolist()) == set(range(5))
    # A dense layer has one place, and gives its three rows by three filters.
    assert of_c.shape == (40, 3)
    assert all(len(set(filters)) == 3 for filters in of_c.tolist())
    again = LayerSampler(model, Batches(images()).take(1), places=3, seed=0).draw([targets["b/kernel"]])["b/kernel"]
    np.testing.assert_array_equal(again.patches, drawn_ones["b/kernel"].patches)
    other = LayerSampler(model, Batches(images()).take(1), places=3, seed=1).draw([targets["b/kernel"]])["b/kernel"]
    assert not np.array_equal(other.patches, again.patches)


# Choice and refit, against brute force on all that the network computes.


def columns_of_c(K: Any, model: Any) -> np.ndarray:
    """What each of the five units of b contributes to c, on all examples and filters; behind Flatten."""
    x, _ = tap(K, model, "c")
    kernel = np.array(model.get_layer("c").kernel)
    parts = x.reshape(len(x), -1, 5, 1) * kernel.reshape(-1, 5, 8)
    return np.asarray(parts.sum(axis=1).transpose(0, 2, 1).reshape(-1, 5))


def test_thinet_is_what_brute_force_finds_behind_flatten(K: Any) -> None:
    model = convolutions(K)
    X = columns_of_c(K, model)
    removed: list[int] = []
    for _ in range(3):
        left = [c for c in range(5) if c not in removed]
        removed.append(min(left, key=lambda c: float(np.linalg.norm(X[:, [*removed, c]].sum(axis=1)))))
    kept = sorted(set(range(5)) - set(removed))
    scales = np.linalg.lstsq(X[:, kept], X.sum(axis=1), rcond=None)[0]
    before = values(model)
    found = tpi.reconstruct_channels(model, images(), method="thinet", keep={"b": 2}, places=1000)
    (layer,) = found.layers
    assert (layer.path, layer.next_path, layer.channels, layer.kept) == ("b/kernel", "c/kernel", 5, tuple(kept))
    expected = before["c/kernel"].reshape(-1, 5, 8) * 0
    expected[:, kept] = before["c/kernel"].reshape(-1, 5, 8)[:, kept] * scales[:, None]
    np.testing.assert_allclose(found.weights["c/kernel"], expected.reshape(-1, 8), rtol=1e-9, atol=1e-12)
    total = np.sum(X.sum(axis=1) ** 2)
    assert layer.error_before == pytest.approx(np.sum(X[:, removed].sum(axis=1) ** 2) / total)
    assert layer.error_after == pytest.approx(np.sum((X.sum(axis=1) - X[:, kept] @ scales) ** 2) / total)
    assert set(found.weights) == {"c/kernel"}


def test_lasso_refits_to_the_network_before_any_pruning(K: Any) -> None:
    """The second layer's inputs come from the pruned network, what it should give from the original one."""
    model = convolutions(K)
    _, before = tap(K, model, "c")
    found = tpi.reconstruct_channels(model, images(), method="lasso", keep={"a": 3, "b": 2}, places=1000)
    first, second = found.layers
    assert (first.path, second.path) == ("a/kernel", "b/kernel")
    assert found.refit == "least_squares"
    found.apply(model)
    x, after = tap(K, model, "c")
    rows_of_kept = np.flatnonzero(np.isin(np.arange(x.shape[1]) % 5, second.kept))
    solution = np.linalg.lstsq(np.c_[x[:, rows_of_kept], np.ones(len(x))], before, rcond=None)[0]
    kernel = np.array(model.get_layer("c").kernel)
    np.testing.assert_allclose(kernel[rows_of_kept], solution[:-1], rtol=0, atol=1e-8)
    offsets = found.weights["c/bias"] - values(convolutions(K))["c/bias"]
    np.testing.assert_allclose(offsets, solution[-1], rtol=0, atol=1e-8)
    error = np.sum((before - after - offsets) ** 2) / np.sum(before**2)
    assert second.error_after == pytest.approx(error, rel=1e-6)
    assert second.error_after < (second.error_before or 0)
    assert "b/bias" not in found.weights  # it has none, so it was fitted without an intercept


def test_of_units_side_by_side_the_second_make_up_for_the_first(K: Any) -> None:
    """Both are refitted in one kernel, and add to one bias."""
    with in_dtype(K, "float64"):
        inputs = K.Input((6,))
        sides = [K.layers.Dense(8, "sigmoid", name=name)(inputs) for name in "ab"]
        model = K.Model(inputs, K.layers.Dense(3, name="head")(K.layers.Concatenate()(sides)))
    drawn(model, 0)
    x = np.random.default_rng(1).normal(size=(100, 6))
    original, before = values(model), np.asarray(model(x))
    of_b = np.asarray(K.Model(model.inputs, sides[1])([x])) @ original["head/kernel"][8:]
    found = tpi.reconstruct_channels(model, x, method="lasso", keep=0.5)
    assert [(layer.path, layer.next_path) for layer in found.layers] == [
        ("a/kernel", "head/kernel"),
        ("b/kernel", "head/kernel"),
    ]
    found.apply(model)
    of_a = np.asarray(K.Model(model.inputs, sides[0])([x])) @ values(model)["head/kernel"][:8]
    # a was refitted beside all of b; the intercept takes the mean of what it leaves.
    added = (before - original["head/bias"] - of_b - of_a).mean(axis=0)
    target = before - original["head/bias"] - added - of_a
    left = before - np.asarray(model(x))
    assert found.layers[1].error_after == pytest.approx(np.sum(left**2) / np.sum(target**2), rel=1e-9)
    assert np.abs(left.mean(axis=0)).max() < 1e-9  # of b's refit, too


@pytest.mark.parametrize(("method", "refit"), [("thinet_forward", "scale"), ("lasso", "least_squares")])
def test_channels_that_are_there_twice_cost_nothing(K: Any, method: str, refit: str) -> None:
    model = convolutions(K)
    for path in ("a/kernel", "a/bias"):
        variable = next(target.tensor for target in list_variables(model) if target.path == path)
        half = np.array(variable)[..., :3]
        variable.assign(np.concatenate([half, 2 * half], axis=-1))
    if refit == "scale":  # then one factor makes up for a twin only if the weights on both are the same
        half = np.array(model.get_layer("b").kernel)[:, :, :3]
        model.get_layer("b").kernel.assign(np.concatenate([half, half], axis=2))
    before = np.asarray(model(images(), training=False))
    found = tpi.reconstruct_channels(model, images(), method=method, keep={"a": 3}, places=100)
    (layer,) = found.layers
    assert sorted(channel % 3 for channel in layer.kept) == [0, 1, 2]
    assert layer.error_before > 0.01
    assert layer.error_after < 1e-20
    found.apply(model)
    np.testing.assert_allclose(np.asarray(model(images(), training=False)), before, rtol=0, atol=1e-9)


def test_l1_looks_at_the_original_weights_alone() -> None:
    model = convolutions(keras)
    sums = np.abs(values(model)["b/kernel"]).sum(axis=(0, 1, 2))
    found = tpi.reconstruct_channels(model, method="l1", keep=0.5)
    by_path = {layer.path: layer for layer in found.layers}
    assert by_path["b/kernel"].kept == tuple(sorted(np.argsort(-sums)[:2].tolist()))
    assert by_path["b/kernel"].error_before is None
    assert found.weights == {}
    with_data = tpi.reconstruct_channels(model, images(), method="l1", keep=0.5)
    assert with_data.masks == found.masks
    assert all(layer.error_after == layer.error_before for layer in with_data.layers)
    assert min(layer.error_before or 0 for layer in with_data.layers) > 0


# What holds for every method.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "name", rows(list(NETWORKS), ["lenet", "residual", "dense_blocks", "several_ends", "transposed"])
)
@pytest.mark.parametrize("package", rows(list(KERAS), ["keras"]))
def test_the_smaller_model_gives_what_the_masked_one_gives(method: str, name: str, package: str) -> None:
    """What can be pruned depends on the network, what is sampled on the Keras version."""
    with in_dtype(KERAS[package], "float64"):
        model = drawn(NETWORKS[name](KERAS[package]), 0)
    x, before = inputs_for(model, 24), values(model)
    options: dict[str, Any] = {"method": method, "keep": 0.5, "refit": "scale" if method == "lasso" else None}
    if name in NOTHING_GOES or (name == "transposed" and method != "l1"):
        with pytest.raises(OptionError, match="No channel would go"):
            tpi.reconstruct_channels(model, [(x,)], **options)
        return
    found = tpi.reconstruct_channels(model, [(x,)], **options)
    for path, array in values(model).items():
        np.testing.assert_array_equal(array, before[path])
    again = tpi.reconstruct_channels(model, [(x,)], **options)
    assert again.masks == found.masks
    assert {path: array.tobytes() for path, array in again.weights.items()} == {
        path: array.tobytes() for path, array in found.weights.items()
    }
    for layer in found.layers:
        assert len(layer.kept) == max(1, layer.channels // 2)
    kernels = {target.path for target in list_variables(model) if target.path in found.skipped}
    assert kernels == set(found.skipped)
    found.apply(model)
    smaller = compact(model)
    assert_same(model, smaller.model, 1e-10)
    for layer in found.layers:
        left = smaller.channels[layer.path.rsplit("/", 1)[0]].tolist()
        # Compaction cuts groups alike, and nothing that enters a layer that it does not follow.
        assert left == list(layer.kept) or (name in MORE_STAYS and set(left) > set(layer.kept))
    assert all(np.isfinite(array).all() for array in found.weights.values())


def test_zeros_hold_while_the_network_trains(K: Any) -> None:
    model = convolutions(K, "float32")
    model.compile("adam", K.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = tpi.reconstruct_channels(model, images(), keep=0.5)
    found.apply(model)
    applied = values(model)
    for path, array in found.weights.items():
        np.testing.assert_array_equal(applied[path], array)
    model.fit(images(), np.arange(40) % 3, verbose=0)
    now = values(model)
    assert all(not now[path][~mask].any() for path, mask in found.masks.items())
    assert not np.array_equal(now["c/kernel"], applied["c/kernel"])
    assert compact(model).after.parameters < compact(model).before.parameters / 2


def test_a_subclassed_model_is_found_by_running_it() -> None:
    class Tower(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first = keras.layers.Dense(6, activation="relu", name="first")
            self.last = keras.layers.Dense(2, name="last")

        def call(self, x: Any) -> Any:
            return self.last(self.first(x))

    model = Tower()
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    model(x)
    found = tpi.reconstruct_channels(model, x, keep=0.5)
    assert [(layer.path, len(layer.kept)) for layer in found.layers] == [("first/kernel", 3)]
    with pytest.raises(ModelError, match="subclassed"):
        tpi.reconstruct_channels(model, method="l1")


def test_reasons_say_why_layers_keep_all_channels() -> None:
    model = NETWORKS["residual"](keras)
    found = tpi.reconstruct_channels(model, inputs_for(model, 4), keep={"a1": 0.5})
    assert found.skipped["head/kernel"] == "is an output of the model"
    assert found.skipped["b1/kernel"] == "keep= does not name it"
    assert found.skipped["stem/kernel"] == "its units go only together with those of a2/kernel, b2/kernel"
    whole = NETWORKS["dense_blocks"](keras)
    skipped = tpi.reconstruct_channels(whole, inputs_for(whole, 24), keep=0.5).skipped
    assert skipped["a/kernel"] == "its units are taken by several kernels, b/kernel, c/kernel"


# In a procedure.


def run_events(folder: Any, events: Any = None, seed: int = 0) -> tpi.training.RunResult:
    data = images().astype("float32"), np.arange(40) % 3

    def build(seed: int) -> Any:
        return convolutions(keras, "float32", seed)

    parts = [Train(2), ReconstructChannels("thinet", keep={"a": 3, "b": 2}), Evaluate("pruned"), Train(steps=2)]
    return tpi.run(
        parts if events is None else events, build, (data, data), steps=2, seed=seed, folder=folder, verbose=0
    )


def test_an_event_prunes_and_refits_and_is_done_again_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_events(tmp_path / "whole")
    assert whole.masks is not None
    assert {path: int(mask.sum()) for path, mask in whole.masks.items() if path.endswith("/bias")} == {
        "a/bias": 3,
        "c/bias": 8,
        "head/bias": 3,
    }
    assert whole.cost.training_steps == 4
    assert whole.cost.scoring_steps == 0
    now = values(whole.model)
    assert all(not now[path][~mask].any() for path, mask in whole.masks.items())
    # Killed within the event, once its weights are written; the folder holds what was before it.
    with monkeypatch.context() as patched:
        patched.setattr(ChannelReconstruction, "apply", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_events(tmp_path / "parts")
    again = run_events(tmp_path / "parts")
    assert again.masks == whole.masks
    assert {path: array.tobytes() for path, array in values(again.model).items()} == {
        path: array.tobytes() for path, array in now.items()
    }


def interrupt(found: ChannelReconstruction, model: Any) -> None:
    for path, target in found.masks.check(model).items():
        target.tensor.assign(found.weights.get(path, np.ones(target.shape)))
    raise KeyboardInterrupt


def test_an_event_that_cannot_work_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="before other pruning"):
        run_events(tmp_path, [Train(2), Prune("magnitude", Fraction(1, 2)), ReconstructChannels()])
    with pytest.raises(OptionError, match="'nothing', which matches no layer"):
        run_events(tmp_path, [Train(2), ReconstructChannels(keep={"nothing": 1})])
    assert not any(tmp_path.iterdir())


# Published widths.


@pytest.mark.parametrize(
    ("name", "multiply_adds", "parameters"),
    [
        ("vgg16_a", (313.2e6, 206.1e6, -0.342), (14.72e6, 5.26e6, -0.643)),
        pytest.param(
            "resnet56_a", (125.5e6, 112.4e6, -0.104), (0.853e6, 0.773e6, -0.093), marks=pytest.mark.exhaustive
        ),
        ("resnet56_b", (125.5e6, 90.9e6, -0.276), (0.853e6, 0.736e6, -0.138)),
        pytest.param("resnet110_a", (252.9e6, 212.8e6, -0.159), (1.73e6, 1.69e6, -0.023), marks=pytest.mark.slow),
        pytest.param("resnet110_b", (252.9e6, 155.1e6, -0.387), (1.73e6, 1.17e6, -0.324), marks=pytest.mark.slow),
    ],
)
def test_published_widths_give_published_sizes(
    name: str, multiply_adds: tuple[float, ...], parameters: tuple[float, ...]
) -> None:
    """Sizes of the paper's networks, whose shortcuts have no weights."""
    model = getattr(tpi.models, name.split("_")[0])(seed=0)
    tpi.reconstruct_channels(model, method="l1", keep=tpi.find_published_widths(name)).apply(model)
    smaller = compact(model).model

    def count(one: Any) -> tuple[int, int]:
        uses = CostModel(one).uses
        own = {v.path: int(np.prod(v.shape)) for v in one.trainable_variables if "shortcut" not in v.path}
        return sum((uses.get(path) or 0) * size for path, size in own.items()), sum(own.values())

    for before, after, (full, left, share) in zip(
        count(model), count(smaller), (multiply_adds, parameters), strict=True
    ):
        digits = 0.0005 * full
        assert before == pytest.approx(full, abs=5 * digits)
        assert after == pytest.approx(left, abs=5 * digits)
        assert after / before - 1 == pytest.approx(share, abs=0.0006)


def test_published_widths_are_those_of_the_papers() -> None:
    assert {name: sorted(set(widths.values())) for name, widths in PUBLISHED_WIDTHS.items()} == {
        "vgg16_a": [32, 256],
        "resnet56_a": [14, 28, 57],
        "resnet56_b": [6, 22, 57],
        "resnet110_a": [8],
        "resnet110_b": [8, 19, 44],
    }
    left_alone = {
        "resnet56_a": {16, 20, 38, 54},
        "resnet56_b": {16, 18, 20, 34, 38, 54},
        "resnet110_b": {36, 38, 74},
    }
    for name, numbers in left_alone.items():
        blocks = 9 if "56" in name else 18
        widths = tpi.find_published_widths(name)
        every = [f"stage{stage}_block{block}_conv1" for stage in (1, 2, 3) for block in range(1, blocks + 1)]
        # Convolutions are counted from the stem as the first; a block has two.
        assert {2 * place for place, layer in enumerate(every, start=1) if layer not in widths} == numbers
    tpi.find_published_widths("vgg16_a").clear()
    assert tpi.find_published_widths("vgg16_a")["block1_conv1"] == 32
    with pytest.raises(OptionError, match="resnet56_a"):
        tpi.find_published_widths("resnet56")


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "thinnet"}, "Did you mean 'thinet'"),
        ({"refit": "scales"}, "Did you mean 'scale'"),
        ({"keep": 0}, "keep must be|must be a positive"),
        ({"keep": 1.5}, "keep must be a share"),
        ({"keep": 1.0}, "No channel would go"),
        ({"keep": True}, "keep must be a share"),
        ({"keep": "half"}, "keep must be a share"),
        ({"keep": {"a": 7}}, "a/kernel has 6 channels"),
        ({"keep": {"a": 6}}, "No channel would go"),
        ({"keep": {"head": 1}}, r"head/kernel: is an output of the model"),
        ({"keep": {"nothing": 1}}, "'nothing', which matches no layer"),
        ({"keep": {"a": 1, "a/*": 2}}, "a/kernel twice"),
        ({"batches": 0}, "batches=0"),
        ({"places": 1.5}, "places=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"verbose": 7}, "verbose"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    model = convolutions(keras)
    before = values(model)
    with pytest.raises(OptionError, match=message):
        tpi.reconstruct_channels(model, images(), **options)
    assert all(np.array_equal(array, before[path]) for path, array in values(model).items())


def test_options_without_effect_are_refused() -> None:
    model = convolutions(keras)
    for options in ({"method": "thinet"}, {"method": "l1", "refit": "scale"}):
        with pytest.raises(OptionError, match="pass some"):
            tpi.reconstruct_channels(model, **options)
    for name in ("batches", "places", "seed"):
        with pytest.raises(OptionError, match=f"{name}=1 has no effect"):
            tpi.reconstruct_channels(model, method="l1", **{name: 1})


def test_too_few_samples_for_least_squares_are_refused() -> None:
    model = convolutions(keras)
    before = values(model)
    with pytest.raises(DataError, match="c/kernel has 17 unknowns a filter and 4 samples"):
        tpi.reconstruct_channels(model, images(4), method="lasso", keep={"b": 4}, places=1)
    assert all(np.array_equal(array, before[path]) for path, array in values(model).items())


def test_what_tells_no_channels_apart_is_refused() -> None:
    model = convolutions(keras)
    model.get_layer("c").kernel.assign(np.zeros((20, 8)))
    with pytest.raises(ScoreError, match="b/kernel contribute nothing to c/kernel"):
        tpi.reconstruct_channels(model, images(), keep={"b": 2})
    model.get_layer("a").kernel.assign(np.full((3, 3, 2, 6), np.nan))
    with pytest.raises(ScoreError, match="enters the layer of b/kernel holds NaN, Inf"):
        tpi.reconstruct_channels(model, images(), keep={"a": 2})


def test_layers_that_compute_in_another_way_are_refused() -> None:
    class Doubled(keras.layers.Dense):
        """Computes with a weight that it derives from its kernel."""

        @property
        def kernel(self) -> Any:
            return 2.0 * super().kernel

    layers = [keras.layers.Dense(6, name="first"), Doubled(4, name="second"), keras.layers.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((5,)), *layers])
    x = np.random.default_rng(0).normal(size=(20, 5))
    with pytest.raises(ModelError, match="'second' gives something else than its kernel"):
        tpi.reconstruct_channels(model, x, keep={"first": 3})
    plain = keras.Sequential([keras.Input((5,)), layers[0], keras.layers.Dense(4, name="other"), layers[2]])
    plain.get_layer("other").enable_lora(2)
    with pytest.raises(OptionError, match="first/kernel: what takes its units is not known"):
        tpi.reconstruct_channels(plain, x, keep={"first": 3})


def test_masks_and_frozen_weights_are_refused() -> None:
    model = convolutions(keras)
    found = tpi.reconstruct_channels(model, images(), keep=0.5)
    found.apply(model)
    with pytest.raises(EnforcementError, match=r"tpi\.strip"):
        tpi.reconstruct_channels(model, images(), keep=0.5)


def test_another_model_is_refused_and_stays_as_it_is() -> None:
    model = convolutions(keras)
    found = tpi.reconstruct_channels(model, images(), keep=0.5)
    trained = convolutions(keras, seed=1)
    before = values(trained)
    with pytest.raises(MaskMismatchError, match="not those that this reconstruction started from"):
        found.apply(trained)
    with pytest.raises(MaskMismatchError, match="do not fit"):
        found.apply(NETWORKS["mlp"](keras))
    assert all(np.array_equal(array, before[path]) for path, array in values(trained).items())
    found.apply(convolutions(keras))  # the same weights, so the same network


def test_without_scikit_learn_lasso_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingDependencyError, match=r"LASSO needs scikit-learn.*tfprune_init\[reconstruction\]"):
        tpi.reconstruct_channels(convolutions(keras), images(), method="lasso", keep={"a": 2})


def test_the_account_is_printed_and_written() -> None:
    found = tpi.reconstruct_channels(convolutions(keras), images(), keep=0.5)
    text = io.StringIO()
    found.print(text)
    assert all(name in text.getvalue() for name in ("thinet, refit: scale", "b/kernel", "is an output of the model"))
    record = json.loads(json.dumps(found.to_dict()))
    assert record["layers"][0]["path"] == "a/kernel"
    assert record["layers"][0]["kept"] == list(found.layers[0].kept)


def test_fewer_batches_than_asked_are_each_looked_at_once() -> None:
    model = convolutions(keras)
    batches = tf.data.Dataset.from_tensor_slices(images()).batch(16)
    one = tpi.reconstruct_channels(model, batches, keep=0.5, batches=3)
    many = tpi.reconstruct_channels(model, batches, keep=0.5, batches=50)
    assert one.to_dict() == many.to_dict()
    assert tpi.reconstruct_channels(model, batches, keep=0.5, batches=1).to_dict() != one.to_dict()


def test_every_refit_goes_with_every_method() -> None:
    model = convolutions(keras)
    for method in METHODS:
        errors = {
            refit: tpi.reconstruct_channels(
                model, images(), method=method, keep={"a": 2}, refit=refit, places=50
            ).layers[0]
            for refit in REFITS
        }
        assert len({layer.kept for layer in errors.values()}) == 1
        after = [errors[refit].error_after or 0 for refit in ("none", "scale", "least_squares")]
        assert after == sorted(after, reverse=True)  # the more is free, the nearer
        assert after[0] > after[2]
