"""The kinds of models that every law is tested on; a new kind is one row of KINDS."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from tfprune_init.backend import compat

KERAS = {"keras": keras, "tf_keras": tf_keras}
CLASSES = 3


def functional(K: Any) -> Any:
    """Convolutions, BatchNorm, Dropout and a residual connection."""
    inputs = K.Input((6, 6, 2))
    x = K.layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv1")(inputs)
    x = K.layers.BatchNormalization(name="bn1")(x)
    x = K.layers.ReLU(name="relu1")(x)
    y = K.layers.SeparableConv2D(4, 3, padding="same", name="sep")(x)
    x = K.layers.Add(name="add")([x, y])
    x = K.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = K.layers.Flatten(name="flat")(x)
    x = K.layers.Dropout(0.2, name="drop")(x)
    return K.Model(inputs, K.layers.Dense(CLASSES, name="head")(x))


def sequential(K: Any) -> Any:
    """A plain stack of Dense layers."""
    return K.Sequential(
        [
            K.layers.Input((6, 6, 2)),
            K.layers.Flatten(name="flat"),
            K.layers.Dense(12, activation="tanh", name="hidden"),
            K.layers.Dense(8, activation="relu", name="narrow"),
            K.layers.Dense(CLASSES, name="head"),
        ]
    )


@functools.cache
def _subclass(K: Any) -> type:
    class Tower(K.Model):
        """A subclassed model with a list of layers that share one name, and attention."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks = [K.layers.Dense(16, activation="relu", name="block") for _ in range(2)]
            self.attention = K.layers.MultiHeadAttention(2, 3, name="attention")
            self.pool = K.layers.GlobalAveragePooling1D(name="pool")
            self.head = K.layers.Dense(CLASSES, name="head")
            self.flat = K.layers.Reshape((36, 2), name="flat")

        def call(self, x: Any, training: bool = False) -> Any:
            x = self.flat(x)
            for block in self.blocks:
                x = block(x)
            x = self.attention(x, x, training=training)
            return self.head(self.pool(x))

    return Tower


def subclassed(K: Any) -> Any:
    """A subclassed model, built by a call."""
    model = _subclass(K)()
    model(np.zeros((1, 6, 6, 2), "float32"))
    return model


def nested(K: Any) -> Any:
    """A model in a model whose layers share names, one inner layer used twice, and a recurrent layer."""
    shared = K.layers.Dense(15, activation="relu", name="shared")
    inner = K.Sequential(
        [K.layers.Input((4, 15)), K.layers.Conv1D(8, 2, name="conv"), K.layers.Dense(8, name="dense")], name="inner"
    )
    inputs = K.Input((6, 6, 2))
    x = K.layers.Reshape((4, 18), name="rows")(inputs)
    x = K.layers.Dense(15, name="dense")(x)
    x = shared(shared(x))
    x = inner(x)
    x = K.layers.SimpleRNN(6, name="rnn")(x)
    return K.Model(inputs, K.layers.Dense(CLASSES, name="head")(x))


@functools.cache
def _self_writing(K: Any) -> tuple[type, type]:
    class Normed(K.layers.Dense):
        """Writes to its kernel whenever it trains, as SpectralNormalization does, which tf_keras cannot build."""

        def call(self, x: Any, training: bool = False) -> Any:
            if training:
                kernel = tf.convert_to_tensor(self.kernel)
                self.kernel.assign(kernel * 4 / tf.norm(kernel))
            return super().call(x)

    class Counting(K.layers.Layer):
        """Counts its calls in variables of TensorFlow that Keras does not know of."""

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.calls = tf.Variable(0.0, trainable=False)
            self.by_name = {"drawn": [tf.random.Generator.from_seed(1)]}

        def call(self, x: Any) -> Any:
            self.calls.assign_add(1.0)
            return x + 0 * tf.cast(self.by_name["drawn"][0].normal(()), x.dtype)

    return Normed, Counting


def self_writing(K: Any) -> Any:
    """Layers that write to their weights, and to variables that Keras does not know of, when they are called."""
    normed, counting = _self_writing(K)
    return K.Sequential(
        [
            K.layers.Input((6, 6, 2)),
            K.layers.Flatten(name="flat"),
            normed(12, activation="tanh", name="normed"),
            counting(name="counting"),
            K.layers.Dense(8, activation="relu", name="hidden"),
            K.layers.Dense(CLASSES, name="head"),
        ]
    )


KINDS: dict[str, Callable[[Any], Any]] = {
    "functional": functional,
    "sequential": sequential,
    "subclassed": subclassed,
    "nested": nested,
    "self_writing": self_writing,
}


def build(kind: str, package: str, *, seed: int = 0, optimizer: str = "adam") -> Any:
    """A compiled model of a kind, its weights drawn from the seed alone."""
    K = KERAS[package]
    K.utils.set_random_seed(seed)
    model = KINDS[kind](K)
    loss = K.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def data(examples: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that every kind takes."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(examples, 6, 6, 2)).astype("float32"), np.arange(examples) % CLASSES


def state(model: Any) -> dict[str, bytes]:
    """The bits of everything a model holds: weights, statistics, seeds, metrics, optimizer, variables of TensorFlow."""
    optimizer = model.optimizer.variables  # a method in tf_keras
    metrics = [v for metric in model.metrics for v in metric.variables]
    held = [*model.variables, *(optimizer() if callable(optimizer) else optimizer), *metrics]
    for layer in model.layers:
        held += [layer.calls, layer.by_name["drawn"][0].state] if layer.name == "counting" else []
    return {f"{i} {v.name}": compat.get_tf_variable(v).numpy().tobytes() for i, v in enumerate(held)}
