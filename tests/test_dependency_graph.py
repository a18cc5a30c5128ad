"""Which weights go with which unit: judged by networks that must not notice, and by smaller ones made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_kinds import CLASSES, KERAS, KINDS, build, data

from tfprune_init.backend.compat import walk_layers
from tfprune_init.errors import DataError, ModelError, OptionError
from tfprune_init.graph import DependencyGraph, build_dependency_graph
from tfprune_init.graph.layer_rules import is_elementwise
from tfprune_init.graph.variables import list_variables

PACKAGES = list(KERAS)


def tensors(model: Any) -> dict[str, tf.Variable]:
    return {target.path: target.tensor for target in list_variables(model)}


def drawn(model: Any, seed: int = 0) -> Any:
    """The model with random biases, scales, offsets and statistics, so that nothing is zero by accident."""
    rng = np.random.default_rng(seed)
    for path, tensor in tensors(model).items():
        if tensor.dtype.is_floating:
            spread = path.endswith(("gamma", "scale", "variance"))
            values = rng.uniform(0.5, 1.5, tensor.shape) if spread else rng.normal(0, 0.5, tensor.shape)
            tensor.assign(values.astype(tensor.dtype.as_numpy_dtype))
    return model


def some(wiring: DependencyGraph, seed: int = 1, share: float = 0.4) -> np.ndarray:
    return wiring.removable & (np.random.default_rng(seed).uniform(size=wiring.removable.size) < share)


def zero(model: Any, masks: dict[str, np.ndarray]) -> None:
    for path, mask in masks.items():
        tensor = tensors(model)[path]
        tensor.assign(tensor.numpy() * mask)


def outgoing(model: Any, wiring: DependencyGraph, removed: np.ndarray) -> dict[str, np.ndarray]:
    """Where a weight of a kernel is an outgoing one of a removed unit."""
    gone = np.append(removed, False)
    found = {}
    for target in list_variables(model):
        for axis, labels in wiring.entries.get(target.path, ()):
            if target.path in wiring.units and axis in target.units.inputs:
                shape = [-1 if i == axis else 1 for i in range(len(target.shape))]
                found[target.path] = np.broadcast_to(gone[labels].reshape(shape), target.shape)
    assert sum(int(where.sum()) for where in found.values()), "no outgoing weight to test"
    return found


def disturb(model: Any, where: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(9)
    for path, places in where.items():
        tensor = tensors(model)[path]
        tensor.assign(np.where(places, rng.normal(size=places.shape), tensor.numpy()).astype("float32"))


def incoming(model: Any, wiring: DependencyGraph, removed: np.ndarray) -> dict[str, np.ndarray]:
    """Where a removed weight is not an outgoing one: of a kernel, bias, scale or offset."""
    out = outgoing(model, wiring, removed)
    return {path: ~mask & ~out.get(path, np.zeros(mask.shape, bool)) for path, mask in wiring.masks(removed).items()}


def outputs(model: Any, x: Any) -> np.ndarray:
    return np.asarray(model(x, training=False))


def check_silence(model: Any, x: Any, *, incoming_too: bool = True, silent: bool = True) -> DependencyGraph:
    """The masked network must not notice what its removed units' outgoing, or their incoming weights are."""
    wiring = build_dependency_graph(drawn(model), x)
    removed = some(wiring)
    zero(model, wiring.masks(removed))
    before, values = outputs(model, x), {path: tensor.numpy() for path, tensor in tensors(model).items()}
    assert np.ptp(before) > 0.01, "the test network is dead"
    for where in [outgoing] * silent + [incoming] * incoming_too:
        disturb(model, where(model, wiring, removed))
        np.testing.assert_array_equal(outputs(model, x), before)
        for path, tensor in tensors(model).items():
            tensor.assign(values[path])
    return wiring


def groups(wiring: DependencyGraph, path: str, axis: int) -> list[int]:
    return dict(wiring.entries[path])[axis].tolist()


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_network_never_notices_removed_units(kind: str, package: str) -> None:
    # Units that attention or a recurrent layer takes still enter those, if their incoming weights come back.
    known = kind in ("functional", "sequential")
    wiring = check_silence(build(kind, package), data(6)[0], incoming_too=known)
    assert not wiring.removable[wiring.units["head/kernel"]].any()
    assert wiring.removable.sum() == wiring.removable.size - CLASSES


@pytest.mark.parametrize("package", PACKAGES)
def test_a_residual_network_in_full(package: str) -> None:
    wiring = build_dependency_graph(build("functional", package))
    together = [0, 1, 2, 3]
    assert {path: labels.tolist() for path, labels in wiring.units.items()} == {
        "conv1/kernel": together, "sep/pointwise_kernel": together, "head/kernel": [4, 5, 6],
    }  # fmt: skip
    entries = {path: {axis: labels.tolist() for axis, labels in axes} for path, axes in wiring.entries.items()}
    assert entries == {
        "conv1/kernel": {3: together}, "bn1/gamma": {0: together}, "bn1/beta": {0: together},
        "sep/depthwise_kernel": {2: together}, "sep/pointwise_kernel": {2: together, 3: together},
        "sep/bias": {0: together}, "depthwise/kernel": {2: together}, "depthwise/bias": {0: together},
        "head/kernel": {0: together * 16, 1: [4, 5, 6]}, "head/bias": {0: [4, 5, 6]},
    }  # fmt: skip
    assert wiring.removable.tolist() == [True] * 4 + [False] * 3
    assert list(wiring.unlabelled) == ["sep/depthwise_kernel", "depthwise/kernel"]
    masks = wiring.masks(np.arange(7) == 1)
    assert {path: int((~mask).sum()) for path, mask in masks.items()} == {
        "conv1/kernel": 18, "bn1/gamma": 1, "bn1/beta": 1, "sep/depthwise_kernel": 9, "sep/pointwise_kernel": 7,
        "sep/bias": 1, "depthwise/kernel": 9, "depthwise/bias": 1, "head/kernel": 48, "head/bias": 0,
    }  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_layers_that_share_names_or_serve_twice(package: str) -> None:
    wiring = build_dependency_graph(build("nested", package))
    first = list(range(15))
    # The shared layer takes its own units in its second call, and those of "dense" in its first.
    assert wiring.units["dense/kernel"].tolist() == wiring.units["shared/kernel"].tolist() == first
    assert groups(wiring, "shared/kernel", 0) == groups(wiring, "inner/conv/kernel", 1) == first
    assert groups(wiring, "inner/dense/kernel", 0) == wiring.units["inner/conv/kernel"].tolist()
    assert "SimpleRNNCell is not" in wiring.unlabelled["rnn/simple_rnn_cell/recurrent_kernel"]
    tower = build_dependency_graph(build("subclassed", package), data(2)[0])
    assert groups(tower, "block#2/kernel", 0) == tower.units["block/kernel"].tolist()
    assert groups(tower, "attention/query/kernel", 0) == tower.units["block#2/kernel"].tolist()
    assert groups(tower, "head/kernel", 0) == tower.units["attention/attention_output/kernel"].tolist()
    assert not tower.unlabelled


def test_channels_are_zero_and_gradients_too(K: Any) -> None:
    model = drawn(build("functional", "keras" if K is keras else "tf_keras"))
    wiring = build_dependency_graph(model)
    removed = np.array([True, False, True, False] + [False] * CLASSES)
    zero(model, wiring.masks(removed))
    x = data(5)[0]
    inner = K.Model(model.inputs, [model.get_layer(name).output for name in ("relu1", "sep", "add", "depthwise")])
    for values in inner([x], training=False):
        channels = np.abs(np.asarray(values)).max(axis=(0, 1, 2))
        assert (channels > 0).tolist() == [False, True, False, True]
    where = outgoing(model, wiring, removed)
    kernels = {path: tensors(model)[path] for path in where}
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.square(model(x, training=False)))
    for (path, places), gradient in zip(where.items(), tape.gradient(total, list(kernels.values())), strict=True):
        assert not gradient.numpy()[places].any(), path
        # Where a row and a column of removed units don't meet, gradients flow.
        assert gradient.numpy()[wiring.masks(removed)[path]].all(), path


def test_a_smaller_dense_network_in_numpy(K: Any) -> None:
    model = drawn(build("sequential", "keras" if K is keras else "tf_keras"))
    wiring, x = build_dependency_graph(model), data(7)[0]
    removed = some(wiring)
    w1, b1, w2, b2, w3, b3 = (tensor.numpy() for tensor in tensors(model).values())
    one, two = ~removed[:12], ~removed[12:20]
    assert 0 < one.sum() < 12
    assert 0 < two.sum() < 8
    hidden = np.tanh(x.reshape(7, -1) @ w1[:, one] + b1[one])
    narrow = np.maximum(hidden @ w2[one][:, two] + b2[two], 0)
    zero(model, wiring.masks(removed))
    np.testing.assert_allclose(outputs(model, x), narrow @ w3[two] + b3, rtol=1e-4, atol=1e-5)


def conv_net(K: Any, filters: int, units: int, channels_first: bool = False) -> Any:
    L, kind = K.layers, {"data_format": "channels_first" if channels_first else "channels_last"}
    return K.Sequential(
        [
            K.Input((2, 8, 6) if channels_first else (8, 6, 2)),
            L.Conv2D(filters, 3, name="conv", **kind),
            L.BatchNormalization(axis=1 if channels_first else -1, name="bn"),
            L.LeakyReLU(name="leaky"),
            L.MaxPooling2D(2, **kind),
            L.Flatten(**kind),
            L.Dense(units, activation="relu", name="dense"),
            L.Dense(CLASSES, activation="softmax", name="head"),
        ]
    )


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_smaller_convolutional_network_by_hand(K: Any, channels_first: bool) -> None:
    model = drawn(conv_net(K, 5, 6, channels_first))
    wiring = build_dependency_graph(model)
    assert wiring.removable.tolist() == [True] * 11 + [False] * CLASSES
    removed = np.isin(np.arange(14), [1, 4, 5, 7, 8])
    filters, units = [0, 2, 3], [1, 4, 5]
    values = {path: tensor.numpy() for path, tensor in tensors(model).items()}
    small = conv_net(K, 3, 3, channels_first)
    pixels = values["dense/kernel"].reshape(6, 5, 6)  # Flatten puts channels last in either format
    by_hand = {
        "conv/kernel": values["conv/kernel"][..., filters],
        "dense/kernel": pixels[:, filters][:, :, units].reshape(18, 3),
        "dense/bias": values["dense/bias"][units],
        "head/kernel": values["head/kernel"][units],
        "head/bias": values["head/bias"],
    }
    for path, tensor in tensors(small).items():
        tensor.assign(by_hand[path] if path in by_hand else values[path][filters])
    zero(model, wiring.masks(removed))
    x = np.random.default_rng(3).normal(size=(4, *model.input_shape[1:])).astype("float32")
    np.testing.assert_allclose(outputs(model, x), outputs(small, x), rtol=1e-4, atol=1e-6)


def test_reshaping_resampling_and_transposed_convolution(K: Any) -> None:
    L = K.layers
    model = K.Sequential(
        [
            K.Input((6, 6, 2)),
            L.ZeroPadding2D(1),
            L.Conv2D(6, 3, strides=2, activation="relu", groups=2, name="grouped"),
            L.SeparableConv2D(5, 2, depth_multiplier=2, activation="elu", name="sep"),
            L.UpSampling2D(2),
            L.GroupNormalization(5, name="norm"),
            L.Cropping2D(1),
            L.DepthwiseConv2D(2, depth_multiplier=2, padding="same", activation="relu", name="depth"),
            L.PReLU(shared_axes=[1, 2], name="prelu"),
            L.Conv2DTranspose(3, 2, strides=2, name="up", activation=K.layers.LeakyReLU(name="inside")),
            L.AveragePooling2D(2),
            L.Permute((2, 1, 3)),
            L.Conv2DTranspose(4, 1, activation="relu", name="up2"),
            L.Reshape((4, 4)),
            L.SpatialDropout1D(0.5),
            L.Conv1D(6, 2, activation="relu", name="one"),
            L.GlobalAveragePooling1D(),
            L.RepeatVector(2),
            L.LayerNormalization(name="ln"),
            L.TimeDistributed(L.Dense(4, activation="tanh", name="each"), name="steps"),
            L.Activation("gelu"),
            L.Flatten(),
            L.Dense(CLASSES, name="head"),
        ]
    )
    wiring = check_silence(model, np.random.default_rng(2).normal(size=(3, 6, 6, 2)), incoming_too=False)
    units = {path: labels.tolist() for path, labels in wiring.units.items()}
    assert groups(wiring, "sep/depthwise_kernel", 2) == units["grouped/kernel"]
    assert groups(wiring, "sep/pointwise_kernel", 2) == np.repeat(units["grouped/kernel"], 2).tolist()
    assert groups(wiring, "norm/gamma", 0) == groups(wiring, "norm/beta", 0) == units["sep/pointwise_kernel"]
    twice = np.repeat(units["sep/pointwise_kernel"], 2).tolist()
    assert groups(wiring, "up/kernel", 3) == groups(wiring, "depth/bias", 0) == twice
    assert groups(wiring, "up/kernel", 2) == units["up/kernel"] == groups(wiring, "up2/kernel", 3)
    assert groups(wiring, "one/kernel", 1) == units["up2/kernel"]
    assert groups(wiring, "ln/gamma", 0) == groups(wiring, "steps/each/kernel", 0) == units["one/kernel"]
    assert groups(wiring, "head/kernel", 0) == units["steps/each/kernel"] * 2
    assert "prelu/alpha" not in wiring.entries
    assert [axis for axis, _ in wiring.entries["grouped/kernel"]] == [3]
    assert wiring.removable.sum() == 6 + 5 + 3 + 4 + 6 + 4


def test_branches(K: Any) -> None:
    L = K.layers
    inputs = K.Input((5,))
    side = L.Dense(4, activation="relu", name="side")(inputs)
    mixed = L.Concatenate()([inputs, side, L.Dense(3, activation="relu", name="other")(inputs)])
    gate = L.Dense(12, activation="sigmoid", name="gate")(mixed)
    x = L.Multiply()([L.Dense(12, activation="relu", name="main")(mixed), gate])
    x = L.Maximum()([x, L.Dense(12, activation="relu", name="third")(side)])
    half = L.Dense(5, activation="relu", name="half")(x)
    x = L.Concatenate()([x, L.Add()([inputs, half]), L.Subtract()([half, inputs])])
    model = K.Model(inputs, L.Dense(CLASSES, name="head")(x))
    x = np.random.default_rng(1).normal(size=(6, 5)).astype("float32")
    # The sum with the input ends the trail of "half": its incoming weights would be noticed.
    wiring = check_silence(model, x, incoming_too=False)
    side, other = wiring.units["side/kernel"].tolist(), wiring.units["other/kernel"].tolist()
    together = wiring.units["gate/kernel"].tolist()
    assert together == wiring.units["main/kernel"].tolist() == wiring.units["third/kernel"].tolist()
    assert groups(wiring, "main/kernel", 0) == groups(wiring, "gate/kernel", 0) == [-1] * 5 + side + other
    assert groups(wiring, "head/kernel", 0) == together + [-1] * 10
    assert wiring.removable[wiring.units["half/kernel"]].all()


def test_constants_stay_behind_masked_rows(K: Any) -> None:
    L = K.layers
    model = K.Sequential([K.Input((4,)), L.Dense(6, activation="sigmoid"), L.Dense(5, activation="softplus", name="b")])
    model.add(L.BatchNormalization(scale=False))
    model.add(L.Dense(CLASSES, name="head"))
    check_silence(model, np.random.default_rng(0).normal(size=(5, 4)).astype("float32"), silent=False)


@pytest.mark.parametrize("softmax", [lambda K: K.layers.Softmax(), lambda K: K.layers.Activation("softmax")])
def test_softmax_over_units_keeps_them(K: Any, softmax: Callable[[Any], Any]) -> None:
    L = K.layers
    model = K.Sequential([K.Input((4,)), L.Dense(6, name="a"), softmax(K), L.Dense(5, activation="softmax", name="b")])
    model.add(L.Dense(4, activation=tf.nn.relu, name="c"))
    model.add(L.Dense(7, activation=lambda x: x - tf.reduce_mean(x, -1, keepdims=True), name="d"))
    model.add(L.Dense(CLASSES, name="head"))
    wiring = build_dependency_graph(model)
    assert [bool(wiring.removable[labels].all()) for labels in wiring.units.values()] == [
        False, False, True, False, False,
    ]  # fmt: skip
    over_pixels = K.Sequential([K.Input((4, 3)), L.Dense(6, name="a"), L.Softmax(axis=1), L.Dense(2, name="head")])
    assert build_dependency_graph(over_pixels).removable.sum() == 6


def test_what_serves_others_too_keeps_its_units(K: Any) -> None:
    L = K.layers
    inputs = K.Input((4,))
    norm = L.LayerNormalization(name="norm")
    units = norm(L.Dense(4, activation="relu", name="units")(inputs))
    model = K.Model(inputs, L.Dense(CLASSES, name="head")(L.Concatenate()([units, norm(inputs)])))
    wiring = build_dependency_graph(model)
    assert not wiring.removable.any()
    assert "norm/gamma" not in wiring.entries
    # Without a scale the other channels stay mixed in: there is nothing to mask behind it.
    plain = K.Sequential([K.Input((4,)), L.Dense(4, name="a"), L.LayerNormalization(scale=False), L.Dense(2, name="b")])
    assert [axis for axis, _ in build_dependency_graph(plain).entries["b/kernel"]] == [1]


def test_rows_that_take_several_units_are_kept(K: Any) -> None:
    L = K.layers
    model = K.Sequential(
        [
            K.Input((6, 4)),
            L.Conv1D(4, 1, activation="relu", name="a"),
            L.Conv1D(6, 1, activation="relu", groups=2, name="b"),
            L.Flatten(),
            L.Dense(12, activation="relu", name="c"),
            L.Reshape((3, 4)),
            L.BatchNormalization(name="norm"),
            L.Dense(5, activation="relu", name="d"),
            L.TimeDistributed(L.Dense(2, activation="relu", name="e"), name="steps"),
            L.Permute((2, 1)),
            L.TimeDistributed(L.Dense(CLASSES, name="head"), name="ends"),
        ]
    )
    wiring = build_dependency_graph(model)
    axes = {path: [axis for axis, _ in wiring.entries.get(path, ())] for path in [*wiring.units, "norm/gamma"]}
    assert axes == {
        "a/kernel": [2], "b/kernel": [2], "c/kernel": [0, 1], "norm/gamma": [], "d/kernel": [1],
        "steps/e/kernel": [0, 1], "ends/head/kernel": [1],
    }  # fmt: skip
    assert wiring.removable.tolist() == [True] * (4 + 6 + 12 + 5 + 2) + [False] * CLASSES


def test_a_kernel_with_units_on_both_sides(K: Any) -> None:
    L = K.layers
    first = L.Conv1D(4, 1, activation="relu", name="first")

    class Tied(L.Conv1DTranspose):
        """Decodes with the kernel of `first`."""

        def build(self, shape: Any) -> None:
            self.kernel, self.bias, self.built = first.kernel, None, True

    inputs = K.Input((5, 3))
    x = L.Conv1D(6, 1, activation="relu", name="zeroth")(inputs)
    x = L.Dense(4, activation="relu", name="between")(first(x))
    x = Tied(6, 1, use_bias=False, name="tied")(x)
    wiring = build_dependency_graph(K.Model(inputs, L.Dense(CLASSES, name="head")(x)))
    assert groups(wiring, "first/kernel", 1) == wiring.units["zeroth/kernel"].tolist()
    assert groups(wiring, "first/kernel", 2) == wiring.units["first/kernel"].tolist()
    assert wiring.units["between/kernel"].tolist() == wiring.units["first/kernel"].tolist()
    assert [axis for axis, _ in wiring.entries["head/kernel"]] == [1]


def test_frozen_units_stay(K: Any) -> None:
    model = build("sequential", "keras" if K is keras else "tf_keras")
    model.get_layer("hidden").trainable = False
    wiring = build_dependency_graph(model)
    assert not wiring.removable[wiring.units["hidden/kernel"]].any()
    assert wiring.removable.sum() == 8


def subclass(K: Any, **members: Any) -> Any:
    """A model class with `build_layers` and `run` as given."""

    class Own(K.Model):
        def __init__(self) -> None:
            super().__init__()
            members["build_layers"](self, K.layers)

        def call(self, x: Any) -> Any:
            return members["run"](self, x)

    model = Own()
    model(members["x"])
    return model


VECTORS = np.random.default_rng(5).normal(size=(4, 6)).astype("float32")


def two_layers(self: Any, L: Any) -> None:
    self.first, self.second = L.Dense(5, activation="relu", name="first"), L.Dense(8, name="second")


@pytest.mark.parametrize(
    "tail",
    [
        lambda x: tf.nn.softmax(x),
        lambda x: x[:, :3] * 2.0,
        lambda x: tf.reshape(x, (-1, 2, 4)),
        lambda x: {"out": tf.nn.relu(x), "more": tf.reduce_sum(x, -1)},
    ],
    ids=["as many", "cropped", "reshaped", "several"],
)
def test_classes_behind_raw_operations_stay(K: Any, tail: Callable[[Any], Any]) -> None:
    model = subclass(K, build_layers=two_layers, run=lambda self, x: tail(self.second(self.first(x))), x=VECTORS)
    wiring = build_dependency_graph(model, VECTORS)
    assert wiring.removable[wiring.units["first/kernel"]].all()
    assert not wiring.removable[wiring.units["second/kernel"]].any()


def test_every_output_keeps_its_units(K: Any) -> None:
    def two_heads(self: Any, x: Any) -> Any:
        return tf.nn.softmax(self.second(x)), self.first(x)

    model = subclass(K, build_layers=two_layers, run=two_heads, x=VECTORS)
    assert not build_dependency_graph(model, VECTORS).removable.any()
    inputs = K.Input((6,))
    features = K.layers.Dense(5, name="features")(inputs)
    both = K.Model(inputs, [features, K.layers.Dense(3)(K.layers.Dense(4)(features))])
    assert build_dependency_graph(both).removable.tolist() == [False] * 5 + [True] * 4 + [False] * 3


def test_units_that_a_recurrent_layer_takes_may_go(K: Any) -> None:
    L = K.layers
    model = K.Sequential([K.Input((4, 3)), L.Dense(7, name="units"), L.GRU(CLASSES, name="last")])
    graph = build_dependency_graph(model)
    assert graph.removable.tolist() == [True] * 7 + [False] * CLASSES
    assert set(graph.reasons.values()) == {"is an output of the model"}


def test_raw_operations_end_the_trail_and_units_before_them_go(K: Any) -> None:
    model = subclass(
        K, build_layers=two_layers, run=lambda self, x: self.second(tf.nn.relu(self.first(x) + 1.0))[:, :3], x=VECTORS
    )
    wiring = build_dependency_graph(model, VECTORS)
    assert wiring.removable.tolist() == [True] * 5 + [False] * 8
    assert [axis for axis, _ in wiring.entries["second/kernel"]] == [1]


def test_a_compiled_call_is_seen_through(K: Any) -> None:
    @tf.function
    def run(self: Any, x: Any) -> Any:
        return self.second(self.first(x))

    wiring = build_dependency_graph(subclass(K, build_layers=two_layers, run=run, x=VECTORS), VECTORS)
    assert groups(wiring, "second/kernel", 0) == wiring.units["first/kernel"].tolist()
    assert not tf.config.functions_run_eagerly()


def test_blocks_are_transparent_and_own_ways_to_compute_are_not(K: Any) -> None:
    class Block(K.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.inner, self.drop = K.layers.Dense(4, activation="relu", name="inner"), K.layers.Dropout(0.5)

        def build(self, shape: Any) -> None:
            self.inner.build(shape)
            self.built = True

        def call(self, x: Any) -> Any:
            return self.drop(self.inner(x))

    class Doubled(K.layers.Dense):
        def call(self, x: Any) -> Any:
            return super().call(x) + tf.reduce_mean(x, -1, keepdims=True)

    class Renamed(K.layers.Dense):
        """A Dense by another name."""

    L = K.layers
    model = K.Sequential([K.Input((6,)), Block(name="block"), Renamed(5, name="renamed"), Doubled(4, name="doubled")])
    model.add(L.Dense(CLASSES, name="head"))
    wiring = build_dependency_graph(model)
    assert groups(wiring, "renamed/kernel", 0) == wiring.units["block/inner/kernel"].tolist()
    assert wiring.unlabelled == {"doubled/kernel": "Doubled is not a layer whose units are followed"}
    assert [axis for axis, _ in wiring.entries["head/kernel"]] == [1]
    assert wiring.removable.tolist() == [True] * 9 + [False] * CLASSES


def test_layers_that_are_not_called_say_so(K: Any) -> None:
    def layers(self: Any, L: Any) -> None:
        two_layers(self, L)
        self.spare = L.Dense(3, name="spare")
        self.spare.build((None, 6))

    model = subclass(K, build_layers=layers, run=lambda self, x: self.second(self.first(x)), x=VECTORS)
    assert build_dependency_graph(model, VECTORS).unlabelled == {
        "spare/kernel": "its layer was not called on the example"
    }


def test_mixed_precision_breaks_no_trail(K: Any) -> None:
    L, half = K.layers, {"dtype": "mixed_bfloat16"}
    model = K.Sequential(
        [K.Input((6,)), L.Dense(5, **half, name="a"), L.Dense(4, name="b"), L.Dense(3, **half, name="c"), L.Softmax()]
    )
    wiring = build_dependency_graph(model)
    assert groups(wiring, "c/kernel", 0) == wiring.units["b/kernel"].tolist()
    assert groups(wiring, "b/kernel", 0) == wiring.units["a/kernel"].tolist()
    assert wiring.removable.tolist() == [True] * 9 + [False] * 3
    assert str(model.get_layer("a")(np.ones((1, 6), "float32")).dtype).endswith("bfloat16'>")


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_trace_and_the_same_answer_again(kind: str, package: str) -> None:
    model = build(kind, package)
    x = data(4)[0]
    before = {path: tensor.numpy() for path, tensor in tensors(model).items()}
    metrics = [variable.numpy() for metric in model.metrics for variable in metric.variables]
    losses = len(model.losses)
    one, two = build_dependency_graph(model, x), build_dependency_graph(model, x[:1])
    assert all(np.array_equal(before[path], tensor.numpy()) for path, tensor in tensors(model).items())
    assert all(
        np.array_equal(value, variable.numpy())
        for value, variable in zip(metrics, (v for m in model.metrics for v in m.variables), strict=True)
    )
    assert len(model.losses) == losses
    assert not any("call" in vars(layer) for layer in walk_layers(model))
    assert one.removable.tolist() == two.removable.tolist()
    assert {p: [(a, v.tolist()) for a, v in axes] for p, axes in one.entries.items()} == {
        p: [(a, v.tolist()) for a, v in axes] for p, axes in two.entries.items()
    }


def test_states_are_put_back(K: Any) -> None:
    L = K.layers
    inputs = K.Input(batch_shape=(2, 4, 3))
    model = K.Model(inputs, L.Dense(2)(L.SimpleRNN(4, stateful=True, name="rnn")(inputs)))
    model(np.ones((2, 4, 3), "float32"))
    states = [np.asarray(state) for state in model.get_layer("rnn").states]
    assert np.any(states)
    build_dependency_graph(model)
    np.testing.assert_array_equal([np.asarray(state) for state in model.get_layer("rnn").states], states)


def test_both_keras_versions_agree() -> None:
    for kind in KINDS:
        one, two = (build_dependency_graph(build(kind, package), data(2)[0]) for package in PACKAGES)
        assert {p: v.tolist() for p, v in one.units.items()} == {p: v.tolist() for p, v in two.units.items()}
        assert list(one.entries) == list(two.entries)
        assert one.unlabelled == two.unlabelled


def test_what_cannot_be_done_is_said(K: Any) -> None:
    package = "keras" if K is keras else "tf_keras"
    with pytest.raises(ModelError, match="pass example="):
        build_dependency_graph(build("subclassed", package))
    model = build("sequential", package)
    with pytest.raises(DataError, match=r"an example of shapes \[\(2, 5\)\].*one small batch"):
        build_dependency_graph(model, np.ones((2, 5), "float32"))
    assert not any("call" in vars(layer) for layer in walk_layers(model))
    wiring = build_dependency_graph(model)
    with pytest.raises(OptionError, match=r"one boolean for each of the 23 groups.*int64 of shape \(23,\)"):
        wiring.masks(np.zeros(23, np.int64))
    with pytest.raises(OptionError, match=r"groups \[20, 21, 22\], units of head/kernel"):
        wiring.masks(np.ones(23, bool))


def test_units_are_numbered_in_the_order_of_the_variables(K: Any) -> None:
    """Whichever layer is called first: ties go to the lower number."""

    class Backwards(K.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.late, self.early = (K.layers.Dense(n, name=f"of{n}") for n in (2, 3, 5))

        def call(self, x: Any) -> Any:
            return self.head(self.late(self.early(x)))

    model = Backwards()
    x = np.zeros((1, 4), "float32")
    model(x)
    wiring = build_dependency_graph(model, x)
    paths = [target.path for target in list_variables(model) if target.path in wiring.units]
    numbers = np.concatenate([wiring.units[path] for path in paths])
    np.testing.assert_array_equal(numbers, np.arange(10))
    assert wiring.removable.sum() == 8


@pytest.mark.parametrize("error", [TypeError, ValueError, tf.errors.InvalidArgumentError])
def test_a_function_that_refuses_a_row_of_numbers_is_not_elementwise(error: type[Exception]) -> None:
    def refuse(x: tf.Tensor) -> tf.Tensor:
        raise error(None, None, "no") if issubclass(error, tf.errors.OpError) else error("no")

    assert not is_elementwise(refuse)
    assert is_elementwise(tf.nn.relu)


def test_what_no_layer_takes_may_be_a_head_of_the_network(K: Any) -> None:
    """Unless layers whose inputs are unknown come after it, which may be where it goes."""

    class Forked(K.Model):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.side, self.way, self.head = (K.layers.Dense(n, name=f"of{n}") for n in (5, 4, 3, 2))

        def call(self, x: Any) -> Any:
            y = self.stem(x)
            side = self.side(y)
            return self.head(self.way(y)) + tf.reduce_mean(side, axis=1, keepdims=True)

    model, x = Forked(), np.zeros((1, 6), "float32")
    model(x)
    wiring = build_dependency_graph(model, x)
    stays = {path: ~wiring.removable[units] for path, units in wiring.units.items()}
    assert {path: one.all() for path, one in stays.items()} == {
        "of5/kernel": False, "of4/kernel": True, "of3/kernel": False, "of2/kernel": True,
    }  # fmt: skip
