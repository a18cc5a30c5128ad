"""What the tests of mask enforcement share: small models, ways to train them, and an independent look for leaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

import tfprune_init as tpi

CLASSES = 3


def data(examples: int = 24, features: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(examples, features)).astype("float32"), np.arange(examples) % CLASSES


def loss(K: Any = keras) -> Any:
    return K.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(K: Any = keras, seed: int = 0, **kernel: Any) -> Any:
    """6 -> 16 -> 12 -> 3, with the same weights for the same seed."""
    K.utils.set_random_seed(seed)
    return K.Sequential(
        [
            K.Input((6,)),
            K.layers.Dense(16, activation="tanh", name="a", **kernel),
            K.layers.Dense(12, activation="tanh", name="b", **kernel),
            K.layers.Dense(CLASSES, name="c", **kernel),
        ]
    )


def two_inputs(K: Any = keras) -> Any:
    """Two inputs, a layer and a nested model used twice each, attention between, a state handed over."""
    shared = K.layers.Dense(4, activation="relu", name="shared")
    inner = K.Sequential(
        [K.Input((3, 4)), K.layers.SeparableConv1D(4, 2, padding="same", name="separable")], name="inner"
    )
    left, right = K.Input((6,), name="left"), K.Input((6,), name="right")
    a, b = (inner(shared(K.layers.Reshape((3, 2))(x))) for x in (left, right))
    x = K.layers.MultiHeadAttention(2, 3, name="attention")(a, b)
    x, state = K.layers.GRU(4, return_sequences=True, return_state=True, name="gru")(x)
    x = K.layers.SimpleRNN(4, name="rnn")(K.layers.Add()([x, a]), initial_state=state)
    return K.Model([left, right], K.layers.Dense(CLASSES, name="head")(x))


def random_masks(model: Any, sparsity: float = 0.8, seed: int = 0, **options: Any) -> tpi.Masks:
    return tpi.find_masks(model, None, sparsity=sparsity, method="random", seed=seed, **options)


def weights(model: Any, masks: tpi.Masks) -> dict[str, np.ndarray]:
    """Values of the masked variables."""
    return {path: target.tensor.numpy() for path, target in masks.check(model).items()}


def leaks(model: Any, masks: tpi.Masks) -> dict[str, int]:
    """How many pruned weights of which variable are not exactly 0.0; NaN is not."""
    counts = {p: int(np.count_nonzero(w[~masks[p]] != 0.0)) for p, w in weights(model, masks).items()}
    return {path: count for path, count in counts.items() if count}


def held(model: Any, masks: tpi.Masks) -> bool:
    """Whether every pruned weight is exactly 0.0 while kept ones are neither all zero nor NaN."""
    kept = [w[masks[path]] for path, w in weights(model, masks).items() if masks[path].any()]
    return not leaks(model, masks) and all(np.isfinite(k).all() and k.any() for k in kept)


def zeros_watch(model: Any, masks: tpi.Masks, K: Any = keras) -> Any:
    """A callback that looks for leaks after every batch and at the end of every epoch."""

    class Watch(K.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.looks = 0
            self.found: list[tuple[str, dict[str, int]]] = []

        def look(self, when: str) -> None:
            self.looks += 1
            found = leaks(model, masks)
            if found:
                self.found.append((when, found))

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.look(f"after batch {batch}")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.look(f"after epoch {epoch}")

    return Watch()


def fit_watched(
    model: Any, masks: tpi.Masks, x: Any, y: Any, *, callbacks: Any = (), epochs: int = 2, K: Any = keras
) -> Any:
    """Fit in batches of 8; fails on any leak, and if the kept weights did not move. Returns the watch."""
    before = weights(model, masks)
    watch = zeros_watch(model, masks, K)
    model.fit(x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=[watch, *callbacks])
    assert watch.looks > epochs
    assert not watch.found
    assert held(model, masks)
    after = weights(model, masks)
    assert all((after[path] != before[path])[masks[path]].any() for path in masks if masks[path].any())
    return watch


@dataclass(frozen=True)
class Training:
    """One way to train: a row of a table."""

    optimizer: Callable[[Any], Any]
    compile: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Any]] = list
    policy: str = "float32"


class Policy:
    """A dtype policy for the models built within."""

    def __init__(self, name: str, K: Any = keras):
        self.name, self.mixed = name, K.mixed_precision

    def __enter__(self) -> None:
        self.before = (getattr(self.mixed, "dtype_policy", None) or self.mixed.global_policy)()
        self._set(self.name)

    def __exit__(self, *error: object) -> None:
        self._set(self.before)

    def _set(self, policy: Any) -> None:
        (getattr(self.mixed, "set_dtype_policy", None) or self.mixed.set_global_policy)(policy)


def fresh_process(code: str, *arguments: str) -> dict[str, Any]:
    """Run Python code in a new process; what it prints last is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


# Begins a program for `fresh_process`, before anything else is imported that starts TensorFlow's devices.
TWO_REPLICAS = """
import json
import numpy as np, tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
y = np.arange(32) % 3
result = {"replicas": strategy.num_replicas_in_sync}
"""
