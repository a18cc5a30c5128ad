"""Networks that compaction is tested on, their weights and masks, and ways to compare them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from model_kinds import KERAS
from training import Policy

from tfprune_init import Masks
from tfprune_init.compaction import Compaction
from tfprune_init.graph.variables import find_prunable_variables, list_variables


def mlp(K: Any) -> Any:
    L = K.layers
    layers = [L.Dense(12, "tanh", name="a"), L.Dense(10, "softplus", use_bias=False, name="b"), L.Dense(3, name="c")]
    return K.Sequential([K.Input((6,)), *layers])


def steps_of_features(K: Any) -> Any:
    """Dense on each of several positions, and Softmax at the end."""
    L = K.layers
    layers = [L.Dense(12, "sigmoid", name="a"), L.Dense(8, "softplus", name="b"), L.GlobalAveragePooling1D()]
    return K.Sequential([K.Input((4, 6)), *layers, L.Dense(3, "softmax", name="c")])


def lenet(K: Any) -> Any:
    L = K.layers
    return K.Sequential(
        [
            K.Input((10, 9, 2)),
            L.Conv2D(8, 3, activation="tanh", name="a"),
            L.MaxPooling2D(2),
            L.Conv2D(10, 2, activation="elu", name="b"),
            L.AveragePooling2D((1, 2)),
            L.Flatten(),
            L.Dense(12, "tanh", name="c"),
            L.Dense(3, name="d"),
        ]
    )


def padded(K: Any) -> Any:
    """Constants other than 0 meet the padding."""
    L = K.layers
    return K.Sequential(
        [
            K.Input((8, 8, 2)),
            L.Conv2D(10, 3, padding="same", activation="sigmoid", name="a"),
            L.Conv2D(10, 3, padding="same", strides=2, activation="tanh", name="b"),
            L.Conv2D(10, 1, padding="same", activation="tanh", name="c"),
            L.Conv2D(6, 3, dilation_rate=2, padding="same", name="d"),
            L.GlobalAveragePooling2D(),
            L.Dense(3, name="e"),
        ]
    )


def normalized(K: Any) -> Any:
    """BatchNorm after convolutions without bias: dead channels are constants other than 0."""
    L, inputs = K.layers, K.Input((8, 8, 2))
    x = inputs
    for name, padding in (("a", "valid"), ("b", "same"), ("c", "valid")):
        x = L.Conv2D(9, 2, padding=padding, use_bias=False, name=name)(x)
        x = L.BatchNormalization(name=f"{name}_bn")(x)
        x = L.Activation("tanh")(x)
        x = L.Dropout(0.3)(x)
    return K.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))


def zero_padded(K: Any) -> Any:
    """Padding and cropping as layers."""
    L, inputs = K.layers, K.Input((7, 7, 2))
    x = L.Conv2D(10, 3, activation="tanh", use_bias=False, name="a")(inputs)
    x = L.ZeroPadding2D(1)(x)
    x = L.Conv2D(10, 3, strides=2, activation="softplus", name="b")(x)
    x = L.ZeroPadding2D(((0, 1), (1, 0)))(x)
    x = L.Conv2D(8, 2, name="c")(x)
    x = L.Cropping2D(((1, 0), (0, 1)))(x)
    x = L.UpSampling2D(2, interpolation="bilinear")(x)
    return K.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))


def depthwise(K: Any) -> Any:
    """Depthwise and separable convolution, with multipliers."""
    L, inputs = K.layers, K.Input((9, 8, 2))
    x = L.Conv2D(8, 3, activation="tanh", name="a")(inputs)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, activation="tanh", name="b")(x)
    x = L.SeparableConv2D(10, 2, depth_multiplier=2, activation="sigmoid", name="c")(x)
    x = L.DepthwiseConv2D(2, padding="same", use_bias=False, name="d")(x)
    x = L.SeparableConv2D(6, 3, padding="same", use_bias=False, name="e")(x)
    return K.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x)))


def one_dimension(K: Any) -> Any:
    L, inputs = K.layers, K.Input((14, 2))
    x = L.Conv1D(10, 3, padding="causal", activation="tanh", name="a")(inputs)
    x = L.SeparableConv1D(8, 2, activation="tanh", name="b")(x)
    x = L.ZeroPadding1D(1)(x)
    x = L.MaxPooling1D(2, padding="same")(x)
    x = L.DepthwiseConv1D(2, name="c")(x)
    x = L.UpSampling1D(2)(x)
    x = L.Cropping1D(1)(x)
    x = L.Conv1DTranspose(6, 3, strides=2, activation="tanh", name="d")(x)
    return K.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))


def volumes(K: Any) -> Any:
    L, inputs = K.layers, K.Input((5, 5, 5, 2))
    x = L.Conv3D(8, 2, activation="tanh", name="a")(inputs)
    x = L.UpSampling3D(2)(L.Cropping3D(1)(x))
    x = L.Conv3D(8, 2, padding="same", activation="tanh", name="b")(x)
    return K.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling3D()(x)))


def transposed(K: Any) -> Any:
    L, inputs = K.layers, K.Input((4, 4, 2))
    x = L.Conv2D(8, 2, activation="tanh", name="a")(inputs)
    x = L.Conv2DTranspose(8, 2, strides=2, activation="tanh", name="b")(x)
    return K.Model(inputs, L.Conv2DTranspose(3, 3, padding="same", use_bias=False, name="c")(x))


def residual(K: Any) -> Any:
    L, inputs = K.layers, K.Input((8, 8, 2))
    x = L.Conv2D(10, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = L.BatchNormalization(name="stem_bn")(x)
    for name in ("a", "b"):
        y = L.Conv2D(8, 3, padding="same", activation="tanh", name=f"{name}1")(x)
        y = L.Conv2D(10, 3, padding="same", use_bias=name == "a", name=f"{name}2")(y)
        x = L.Activation("tanh")(L.Add()([x, y]))
    return K.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x)))


def sums(K: Any) -> Any:
    """Differences, products and means of branches."""
    L, inputs = K.layers, K.Input((6,))
    a, b, c = (L.Dense(12, "tanh", name=name)(inputs) for name in "abc")
    x = L.Subtract()([L.Multiply()([a, b]), c])
    y = L.Average()([a, b, x])
    return K.Model(inputs, [L.Dense(3, name="head")(y), L.Dense(2, name="side")(x)])


def extremes(K: Any) -> Any:
    """The larger or smaller of branches, which may always be the same one."""
    L, inputs = K.layers, K.Input((6,))
    a, b, c = (L.Dense(12, "relu", name=name)(inputs) for name in "abc")
    return K.Model(inputs, L.Dense(3, name="head")(L.Maximum()([a, L.Minimum()([b, c])])))


def squeeze_excite(K: Any) -> Any:
    L, inputs = K.layers, K.Input((6, 6, 2))
    x = L.Conv2D(12, 3, activation="tanh", name="a")(inputs)
    s = L.Dense(6, "elu", name="squeeze")(L.GlobalAveragePooling2D()(x))
    s = L.Reshape((1, 1, 12))(L.Dense(12, "tanh", use_bias=False, name="excite")(s))
    x = L.Multiply()([x, s])
    gate = L.Conv2D(1, 1, activation="sigmoid", name="where")(x)
    return K.Model(inputs, L.Dense(3, name="head")(L.Flatten()(L.Multiply()([x, gate]))))


def dense_blocks(K: Any) -> Any:
    """Channels side by side; then positions side by side."""
    L, inputs = K.layers, K.Input((6, 6, 2))
    x = L.Conv2D(6, 3, activation="tanh", name="a")(inputs)
    y = L.Conv2D(5, 2, padding="same", activation="tanh", name="b")(x)
    x = L.Concatenate()([x, y, L.AveragePooling2D(2, strides=1, padding="same")(y)])
    x = L.Conv2D(8, 2, activation="tanh", name="c")(x)
    x = L.Concatenate(axis=1)([x, L.MaxPooling2D(2, strides=1, padding="same")(x)])
    flat = L.Concatenate()([L.Flatten()(x), L.Flatten()(inputs), L.GlobalMaxPooling2D()(y)])
    return K.Model(inputs, L.Dense(3, name="head")(flat))


def reshaped(K: Any) -> Any:
    """Channels in several shapes."""
    L, inputs = K.layers, K.Input((4, 4, 2))
    x = L.Conv2D(8, 2, activation="tanh", name="a")(inputs)
    x = L.Reshape((9, 8))(x)
    x = L.Conv1D(7, 2, activation="tanh", name="b")(x)
    x = L.Permute((2, 1))(x)
    x = L.Reshape((7, 2, 4))(x)
    x = L.Permute((2, 3, 1))(x)
    x = L.Reshape((-1,))(x)
    x = L.Dense(6, "tanh", name="c")(x)
    x = L.Flatten()(L.RepeatVector(3)(x))
    return K.Model(inputs, L.Dense(3, name="head")(x))


def not_separable(K: Any) -> Any:
    """A shape in which channels and positions are one, so that all channels stay."""
    L, inputs = K.layers, K.Input((4, 4, 2))
    x = L.Conv2D(8, 2, activation="tanh", name="a")(inputs)
    x = L.Reshape((24, 3), name="mixed")(x)
    x = L.Dense(6, "tanh", name="b")(x)
    return K.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))


def shared(K: Any) -> Any:
    """Layers that are called twice, on channels that differ."""
    L, inputs = K.layers, K.Input((6,))
    twice, norm = L.Dense(8, "tanh", name="twice"), L.BatchNormalization(name="norm")
    x = L.Dense(8, "sigmoid", name="a")(inputs)
    y = norm(twice(norm(twice(x))))
    return K.Model(inputs, L.Dense(3, name="head")(L.Concatenate()([y, x])))


def nested(K: Any) -> Any:
    """Models in models, one called twice."""
    L = K.layers
    inner = K.Sequential(
        [K.Input((5, 5, 8)), L.Conv2D(6, 2, name="conv", activation="tanh"), L.LeakyReLU()], name="inner"
    )
    start = K.Input((5, 5, 8), name="start")
    outer = K.Model(start, [inner(start), L.Conv2D(6, 2, name="conv", activation="sigmoid")(start)], name="outer")
    inputs = K.Input((6, 6, 2))
    x = L.Conv2D(8, 2, activation="tanh", name="a")(inputs)
    y, z = outer(x)
    w = inner(L.Conv2D(8, 2, padding="same", activation="sigmoid", name="b")(x), training=False)
    x = L.Add()([L.Concatenate()([y, z]), L.Concatenate()([w, w])])
    return K.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))


def several_ends(K: Any) -> Any:
    """Several inputs and outputs, by name, one output in the middle."""
    L = K.layers
    left, right = K.Input((6,), name="left"), K.Input((4, 4, 2), name="right")
    x = L.Dense(9, "tanh", name="a")(left)
    y = L.GlobalMaxPooling2D()(L.Conv2D(9, 3, activation="tanh", name="b")(right))
    z = L.Dense(5, "tanh", name="c")(L.Concatenate()([x, y]))
    return K.Model({"left": left, "right": right}, [L.Dense(3, name="head")(z), x])


def left_whole(K: Any) -> Any:
    """Layers that nothing is known of, or that look at several channels at once."""
    L, inputs = K.layers, K.Input((6, 4))
    x = L.Dense(8, "tanh", name="a")(inputs)
    x = L.LayerNormalization(name="norm")(x)
    x = L.Dense(8, "tanh", name="b")(x)
    x = L.Softmax(name="softmax")(x)
    y = L.SimpleRNN(6, return_sequences=True, name="rnn")(x)
    y = L.Dense(8, "tanh", name="c")(y)
    y = L.Conv1D(8, 2, groups=2, padding="same", name="grouped")(y)
    x = L.Add()([x, y])
    return K.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))


def grouped(K: Any) -> Any:
    """A convolution in groups, between others that take all channels."""
    L, inputs = K.layers, K.Input((6, 6, 2))
    x = L.Conv2D(12, 2, activation="tanh", name="a")(inputs)
    x = L.Conv2D(8, 2, groups=2, padding="same", activation="tanh", name="b")(x)
    x = L.Conv2D(8, 1, activation="tanh", name="c")(x)
    return K.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x)))


def slopes(K: Any) -> Any:
    """Activations as layers, some with weights, numbers scaled."""
    L, inputs = K.layers, K.Input((5, 5, 2))
    x = L.Rescaling(2.0, offset=-1.0)(inputs)
    x = L.PReLU(alpha_initializer="ones", name="first")(L.Conv2D(8, 2, name="a")(x))
    x = L.PReLU(alpha_initializer="ones", shared_axes=[1, 2], name="second")(L.Conv2D(8, 2, name="b")(x))
    x = L.ReLU(negative_slope=0.1)(L.Conv2D(8, 2, activation=L.LeakyReLU(), name="c")(x))
    return K.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))


def open_sizes(K: Any) -> Any:
    """Sizes that the model leaves open."""
    L, inputs = K.layers, K.Input((None, None, 2))
    x = L.Conv2D(8, 3, activation="sigmoid", name="a")(inputs)
    x = L.Conv2D(8, 2, strides=2, padding="same", activation="sigmoid", name="b")(x)
    x = L.Conv2D(8, 1, padding="same", activation="tanh", name="c")(x)
    x = L.Conv2D(8, 3, padding="valid", activation="tanh", name="d")(x)
    return K.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x)))


NETWORKS: dict[str, Callable[[Any], Any]] = {
    one.__name__: one
    for one in (
        *(
            mlp,
            steps_of_features,
            lenet,
            padded,
            normalized,
            zero_padded,
            depthwise,
            one_dimension,
            volumes,
            transposed,
        ),
        *(
            residual,
            sums,
            extremes,
            squeeze_excite,
            dense_blocks,
            reshaped,
            not_separable,
            shared,
            nested,
            several_ends,
        ),
        *(left_whole, grouped, slopes, open_sizes),
    )
}

# What is dead behind an extreme, in a layer that is not understood, or at sizes that are open, is not always known.
MORE_IS_DEAD = {"extremes", "left_whole", "open_sizes"}


def drawn(model: Any, seed: int) -> Any:
    """The model with random weights, biases, scales and statistics, some biases and scales at zero."""
    rng = np.random.default_rng(seed)
    for target in list_variables(model):
        if target.tensor.dtype.is_floating:
            values = rng.normal(0.0, 0.8, target.shape)
            if target.name == "moving_variance":
                values = rng.uniform(0.5, 1.5, target.shape)
            if target.name in ("bias", "gamma", "beta"):
                values *= rng.uniform(size=target.shape) < 0.7
            target.tensor.assign(values.astype(target.tensor.dtype.as_numpy_dtype))
    return model


def random_masks(model: Any, sparsity: float, seed: int) -> Masks:
    """Masks with whole units missing, as at high sparsity, and single weights."""
    rng = np.random.default_rng(seed)
    masks = {}
    for target in find_prunable_variables(model).prunable:
        mask = rng.uniform(size=target.shape) >= sparsity
        for axes in target.units:
            for axis in axes:
                keep = rng.uniform(size=target.shape[axis]) < 0.7
                mask &= keep.reshape([-1 if i == axis else 1 for i in range(mask.ndim)])
        masks[target.path] = mask
    return Masks(masks)


def set_to_zero(model: Any, masks: Masks) -> None:
    for path, target in masks.check(model).items():
        target.tensor.assign(np.where(masks[path], target.tensor.numpy(), 0))


def inputs_for(model: Any, examples: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)

    def one(symbol: Any) -> tf.Tensor:
        return tf.constant(
            rng.normal(size=(examples, *(9 if n is None else n for n in symbol.shape[1:]))), symbol.dtype
        )

    return tf.nest.map_structure(one, model.inputs[0] if len(model.inputs) == 1 else model.input)


def outputs(model: Any, x: Any) -> list[np.ndarray]:
    return [np.asarray(one).astype(np.float64) for one in tf.nest.flatten(model(x, training=False))]


def assert_same(model: Any, smaller: Any, tolerance: float, examples: int = 5) -> None:
    x = inputs_for(model, examples)
    for before, after in zip(outputs(model, x), outputs(smaller, x), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=tolerance * np.abs(before).max())


@contextlib.contextmanager
def in_dtype(K: Any, dtype: str) -> Iterator[None]:
    """Layers, inputs and constants of one dtype."""
    before = K.backend.floatx()
    with Policy(dtype, K):
        K.backend.set_floatx(dtype)
        try:
            yield
        finally:
            K.backend.set_floatx(before)


def made(name: str, package: str, seed: int, sparsity: float, dtype: str = "float64") -> tuple[Any, Masks]:
    """A network with its weights and masks, the weights at zero where masks say so; alive."""
    K = KERAS[package]
    with in_dtype(K, dtype):
        model = NETWORKS[name](K)
    for draw in range(seed, seed + 50):
        drawn(model, draw)
        masks = random_masks(model, sparsity, draw)
        set_to_zero(model, masks)
        if all((np.ptp(one, axis=0) > 1e-6 * np.abs(one).max()).any() for one in outputs(model, inputs_for(model, 3))):
            return model, masks
    raise AssertionError("no draw left the network alive")


def values(model: Any) -> dict[str, np.ndarray]:
    return {target.path: np.asarray(target.tensor).copy() for target in list_variables(model)}


def put(model: Any, arrays: dict[str, Any]) -> None:
    targets = {target.path: target for target in list_variables(model)}
    for path, array in arrays.items():
        targets[path].tensor.assign(np.asarray(array, targets[path].tensor.dtype.as_numpy_dtype))


def kept(done: Compaction) -> dict[str, list[int]]:
    return {path: indices.tolist() for path, indices in done.channels.items()}


def dead(done: Compaction) -> dict[str, dict[str, int]]:
    return {row.path: row.dead for row in done.layers if row.dead}


def pair(K: Any, **second: Any) -> Any:
    """Two convolutions: the first gives channel 0 that lives and channel 1 that is tanh(0.5) everywhere."""
    L = K.layers
    with in_dtype(K, "float64"):
        model = K.Sequential(
            [
                K.Input((6, 6, 1)),
                L.Conv2D(3, 2, activation="tanh", name="a"),
                L.Conv2D(2, name="b", **{"kernel_size": 3, **second}),
                L.Flatten(),
                L.Dense(2, name="head"),
            ]
        )
    drawn(model, 3)
    kernel = np.zeros((2, 2, 1, 3))
    kernel[..., 0] = 1.0
    put(model, {"a/kernel": kernel, "a/bias": [0.1, 0.5, 0.0]})
    return model
