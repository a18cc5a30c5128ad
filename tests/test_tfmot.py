from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from model_kinds import build
from model_kinds import data as images
from tiers import rows
from training import (
    CLASSES,
    TWO_REPLICAS,
    Policy,
    Training,
    data,
    dense,
    fit_watched,
    fresh_process,
    held,
    leaks,
    loss,
    random_masks,
    two_inputs,
)

import tfprune_init as tpi
from tfprune_init import tfmot
from tfprune_init.errors import EnforcementError, MaskMismatchError, ModelError
from tfprune_init.graph.variables import find_prunable_variables, list_variables
from tfprune_init.masking.attachment import get_attached_masks
from tfprune_init.masking.constraint import get_constraint
from tfprune_init.tfmot.imports import sparsity

L, K2 = tf_keras.layers, tf_keras.optimizers


def text() -> Any:
    """Layers with several masked variables each, time steps masked throughout."""
    inputs = tf_keras.Input((5,), dtype="int32")
    x = L.Embedding(9, 6, mask_zero=True, name="embedding")(inputs)
    x = L.MultiHeadAttention(2, 3, name="attention")(query=x, value=x)
    x = L.LSTM(4, return_sequences=True, dropout=0.2, name="lstm")(x)
    x = L.Bidirectional(L.SimpleRNN(3), name="both")(x)
    return tf_keras.Model(inputs, L.Dense(CLASSES, name="head")(x))


def tokens() -> np.ndarray:
    """Sentences of different lengths, padded with 0."""
    x = np.random.default_rng(2).integers(1, 9, (24, 5))
    x[np.arange(5) >= 2 + np.arange(24)[:, None] % 4] = 0
    return x


def beyond_tfmot() -> Any:
    """Layers that TF-MOT refuses, or wraps and leaves dense."""
    inputs = tf_keras.Input((6,))
    x = L.Reshape((3, 2))(L.Rescaling(0.5)(inputs))
    x = L.EinsumDense("abc,cd->abd", (3, 8), bias_axes="d", name="einsum")(x)
    x = L.DepthwiseConv1D(2, padding="same", name="depthwise")(x)
    x = L.TimeDistributed(L.Dense(8, activation="relu", name="dense"), name="each")(x)
    x = L.LayerNormalization(name="norm")(x)
    return tf_keras.Model(inputs, Scaled(CLASSES, name="head")(L.Flatten()(x)))


class Scaled(tf_keras.layers.Dense):
    """A subclass of Dense."""

    def call(self, x: Any) -> Any:
        return 0.5 * super().call(x)


class Gated(tf_keras.layers.Layer, sparsity.PrunableLayer):
    """A layer that tells TF-MOT what to prune: its gate, and not its shift."""

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape: Any) -> None:
        self.gate = self.add_weight("gate", (shape[-1], self.units))
        self.shift = self.add_weight("shift", (shape[-1], self.units))

    def call(self, x: Any) -> Any:
        return tf.sigmoid(x @ self.gate) * (x @ self.shift)

    def get_prunable_weights(self) -> list[Any]:
        return [self.gate]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


class Block(tf_keras.layers.Layer):
    """Layers inside that have no names and get their weights when it is called, a regularizer, a random state."""

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units
        self.first = L.Dense(units, kernel_regularizer="l2", activity_regularizer="l2", kernel_constraint="max_norm")
        self.second, self.drop = L.Dense(units), L.Dropout(0.3)

    def call(self, x: Any, training: Any = None) -> Any:
        return self.second(self.drop(self.first(x), training=training))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def own_layers() -> Any:
    inputs = tf_keras.Input((6,))
    return tf_keras.Model(inputs, L.Dense(CLASSES, name="head")(Block(8, name="block")(Gated(6, name="gated")(inputs))))


def legacy_dense(**kernel: Any) -> Any:
    return dense(tf_keras, **kernel)


# Each kind of model with an input for it.
MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "dense": (legacy_dense, lambda: data()[0]),
    "text": (text, tokens),
    "two inputs": (lambda: two_inputs(tf_keras), lambda: [data()[0], data()[0][::-1]]),
    "beyond TF-MOT": (beyond_tfmot, lambda: data()[0]),
    "own layers": (own_layers, lambda: data()[0]),
    "functional": (lambda: build("functional", "tf_keras"), lambda: images()[0]),
    "sequential": (lambda: build("sequential", "tf_keras"), lambda: images()[0]),
    "nested": (lambda: build("nested", "tf_keras"), lambda: images()[0]),
}


def made(name: str, sparsity: float = 0.6) -> tuple[Any, tpi.Masks, Any]:
    tf_keras.utils.set_random_seed(0)
    model = MODELS[name][0]()
    return model, random_masks(model, sparsity, allocation="uniform"), MODELS[name][1]()


def collected(model: Any) -> list[Any]:
    """TF-MOT's own look for its wrappers."""
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import collect_prunable_layers

    return collect_prunable_layers(model)


SLOW = ("text", "two inputs")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODELS])
def test_wrapped_trained_stripped(name: str) -> None:
    model, masks, x = made(name)
    tpi.attach(model, masks)
    expected = model.predict(x, verbose=0)
    wrapped = tfmot.wrap(model, masks)
    assert np.array_equal(wrapped.predict(x, verbose=0), expected)
    assert not leaks(wrapped, masks)
    assert tfmot.get_masks(wrapped) == get_attached_masks(wrapped) == masks
    assert {path.rsplit("/", 1)[0] for path in masks}  # the same paths as on the plain model
    assert all(isinstance(layer, tfmot.PruneAtInit) for layer in collected(wrapped))
    assert sum(len(layer.get_prunable_weights()) for layer in collected(wrapped)) == len(masks)

    wrapped.compile(K2.AdamW(0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.5), loss(tf_keras))
    fit_watched(wrapped, masks, x, data()[1], K=tf_keras)
    predicted = wrapped.predict(x, verbose=0)

    plain = tfmot.strip(wrapped)
    assert not collected(plain)
    assert get_attached_masks(plain) is None
    assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
    assert not leaks(plain, masks)
    assert np.array_equal(plain.predict(x, verbose=0), predicted)
    plain.compile(K2.Adam(0.01), loss(tf_keras))
    plain.fit(x, data()[1], verbose=0)
    assert leaks(plain, masks)


@pytest.mark.parametrize("name", ["functional", "nested", "own layers"])
def test_with_the_callbacks_of_tfmot_and_its_strip_pruning(name: str) -> None:
    model, masks, x = made(name)
    wrapped = tfmot.wrap(model, masks)
    wrapped.compile(K2.Adam(0.01, use_ema=True), loss(tf_keras))
    fit_watched(wrapped, masks, x, data()[1], callbacks=[sparsity.UpdatePruningStep()], K=tf_keras)
    assert all(int(layer.pruning_step.numpy()) == 0 for layer in collected(wrapped))
    assert tfmot.get_masks(wrapped) == masks
    predicted = wrapped.predict(x, verbose=0)
    plain = sparsity.strip_pruning(wrapped)
    assert not collected(plain)
    assert held(plain, masks)
    assert np.array_equal(plain.predict(x, verbose=0), predicted)


TRAININGS = {
    "sgd": Training(lambda o: o.SGD(0.1, momentum=0.9, nesterov=True)),
    "adafactor": Training(lambda o: o.Adafactor(0.01)),
    "lion": Training(lambda o: o.Lion(0.01)),
    "legacy adam": Training(lambda o: o.legacy.Adam(0.01)),
    "ema_overwrite_frequency": Training(lambda o: o.Adam(0.01, use_ema=True, ema_overwrite_frequency=2)),
    "global_clipnorm": Training(lambda o: o.SGD(0.1, momentum=0.9, global_clipnorm=0.1)),
    "steps_per_execution": Training(lambda o: o.Adam(0.01, use_ema=True), {"steps_per_execution": 2}),
    "jit_compile": Training(lambda o: o.Adam(0.01, clipnorm=0.1), {"jit_compile": True}),
    "run_eagerly": Training(lambda o: o.Adam(0.01, use_ema=True), {"run_eagerly": True}),
    "mixed_float16": Training(lambda o: o.Adam(0.01, use_ema=True), policy="mixed_float16"),
    "mixed_bfloat16": Training(lambda o: o.SGD(0.1, momentum=0.9), policy="mixed_bfloat16"),
}


@pytest.mark.parametrize("name", rows(TRAININGS, ["legacy adam", "global_clipnorm", "mixed_float16", "run_eagerly"]))
def test_ways_to_train(name: str) -> None:
    training = TRAININGS[name]
    with Policy(training.policy, tf_keras):
        model = legacy_dense(kernel_constraint="max_norm", kernel_regularizer="l2")
    masks, (x, y) = random_masks(model), data()
    wrapped = tfmot.wrap(model, masks)  # under the default policy: a wrapper has that of the layer inside
    assert {layer.dtype_policy.name for layer in wrapped.layers} == {training.policy}
    assert len(wrapped.losses) == 3
    wrapped.compile(training.optimizer(K2), loss(tf_keras), **training.compile)
    fit_watched(wrapped, masks, x, y, epochs=3, K=tf_keras, callbacks=[sparsity.UpdatePruningStep()])
    wrapped.layers[0].set_weights([np.ones_like(w) for w in wrapped.layers[0].get_weights()])
    assert held(wrapped, masks)


CLIPPING = [{"clipnorm": 0.05}, {"global_clipnorm": 0.05}, {}]


@pytest.mark.parametrize("clipping", CLIPPING)
def test_training_equals_masked_gradients(clipping: dict[str, float]) -> None:
    """A loop of plain TensorFlow with masked gradients and its own norms reaches the same weights."""
    x, y = data()
    reference, model = legacy_dense(), legacy_dense()
    masks = random_masks(model)
    wrapped = tfmot.wrap(model, masks)
    wrapped.compile(K2.SGD(0.5, **clipping), loss(tf_keras))
    wrapped.fit(x, y, batch_size=24, epochs=4, verbose=0)

    kept = [tf.constant(masks[path], tf.float32) if path in masks else 1.0 for path in order(reference)]
    for variable, mask in zip(reference.trainable_variables, kept, strict=True):
        variable.assign(variable * mask)
    for _ in range(4):
        with tf.GradientTape() as tape:
            value = loss(tf_keras)(y, reference(x, training=True))
        gradients = [g * m for g, m in zip(tape.gradient(value, reference.trainable_variables), kept, strict=True)]
        if "clipnorm" in clipping:
            gradients = [tf.clip_by_norm(gradient, clipping["clipnorm"]) for gradient in gradients]
        elif clipping:
            gradients, _ = tf.clip_by_global_norm(gradients, clipping["global_clipnorm"])
        for variable, gradient in zip(reference.trainable_variables, gradients, strict=True):
            variable.assign_sub(0.5 * gradient)
    for path, target in masks.check(wrapped).items():
        assert np.allclose(target.tensor, masks.check(reference)[path].tensor, rtol=0, atol=1e-6)
        assert np.abs(target.tensor.numpy()).max() > 0


def order(model: Any) -> list[str]:
    return [f"{layer.name}/{name}" for layer in model.layers for name in ("kernel", "bias")]


def test_a_loop_of_ones_own() -> None:
    model, masks, x = made("functional")
    wrapped = tfmot.wrap(model, masks)
    optimizer = K2.Adam(0.01, use_ema=True, ema_momentum=0.5)

    @tf.function
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            value = loss(tf_keras)(y, wrapped(x, training=True))
        variables = wrapped.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))

    start = [v.numpy() for v in wrapped.trainable_variables]
    for _ in range(3):
        step(x, data()[1])
        assert held(wrapped, masks)
    optimizer.finalize_variable_values(wrapped.trainable_variables)
    assert held(wrapped, masks)
    assert all((v.numpy() != before).any() for v, before in zip(wrapped.trainable_variables, start, strict=True))


class Careless(tf_keras.Model):
    """A training step that writes past the optimizer and past assign."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        for variable in self.trainable_variables:
            variable.assign_add(tf.ones_like(variable))
        return {"loss": tf.constant(0.0)}


def test_the_callback_puts_zeros_back_before_other_callbacks_see_them() -> None:
    model, masks, x = made("dense")
    wrapped = tfmot.wrap(model, masks)
    careless = Careless(wrapped.inputs, wrapped.outputs)
    careless.compile("sgd")
    seen: list[Any] = []
    look = tf_keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(bool(leaks(careless, masks))),
        on_epoch_end=lambda epoch, logs: seen.append(bool(leaks(careless, masks))),
    )
    careless.fit(x, data()[1], batch_size=12, epochs=2, verbose=0, callbacks=[*tfmot.callbacks(), look])
    assert seen == [True, True, False] * 2
    careless.train_on_batch(x, data()[1])
    with pytest.raises(EnforcementError, match="of a/kernel"):
        tfmot.strip(wrapped)


# TF-MOT's own wrappers


def magnitude(model: Any, **options: Any) -> Any:
    schedule = sparsity.ConstantSparsity(0.75, begin_step=0, end_step=0, frequency=1)
    return sparsity.prune_low_magnitude(model, pruning_schedule=options.pop("pruning_schedule", schedule), **options)


def test_masks_of_a_model_that_tfmot_wrapped() -> None:
    model = build("sequential", "tf_keras")
    paths = [target.path for target in find_prunable_variables(model).prunable]
    wrapped = magnitude(model, pruning_schedule=sparsity.ConstantSparsity(0.75, 0, frequency=1))
    assert tfmot.get_masks(wrapped).density == 1.0
    wrapped.compile("adam", loss(tf_keras))
    wrapped.fit(*images(), batch_size=8, verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    masks = tfmot.get_masks(wrapped)
    assert list(masks) == paths
    # TF-MOT keeps round(n * 0.25) weights of each variable, ties aside.
    assert [int(mask.sum()) for mask in masks.values()] == [round(mask.size / 4) for mask in masks.values()]
    for layer in collected(wrapped):
        for weight, mask, _ in layer.pruning_vars:
            assert not weight.numpy()[mask.numpy() == 0].any()
    other = build("sequential", "tf_keras")
    assert tfmot.get_masks(tfmot.wrap(other, masks)) == masks


def test_the_callback_closes_the_leaks_of_tfmots_own_wrappers() -> None:
    x, y = images()
    for callbacks, leaking in ([sparsity.UpdatePruningStep()], True), (tfmot.callbacks(), False):
        wrapped = magnitude(
            build("sequential", "tf_keras"), pruning_schedule=sparsity.ConstantSparsity(0.75, 0, frequency=2)
        )
        wrapped.compile(K2.Adam(0.01, use_ema=True), loss(tf_keras))
        found: list[int] = []

        def look(*args: Any, wrapped: Any = wrapped, found: list[int] = found) -> None:
            triples = [triple for layer in collected(wrapped) for triple in layer.pruning_vars]
            found.append(sum(int(np.count_nonzero(w.numpy()[m.numpy() == 0])) for w, m, _ in triples))

        watch = tf_keras.callbacks.LambdaCallback(on_train_batch_end=look, on_train_end=look)
        wrapped.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[*callbacks, watch])
        look()
        assert len(found) == 2 * 3 + 2
        assert (found[-1] > 0) is leaking
        assert any(found) is leaking
        assert tfmot.get_masks(wrapped).density == pytest.approx(0.25, abs=0.01)
    masks = tfmot.get_masks(wrapped)
    plain = tfmot.strip(wrapped)
    assert get_attached_masks(plain) is None
    assert not leaks(plain, masks)


def test_strip_masks_what_tfmot_left_unmasked() -> None:
    wrapped = magnitude(build("sequential", "tf_keras"))
    wrapped.compile(K2.Adam(0.01, use_ema=True), loss(tf_keras))
    wrapped.layers[1].pruning_vars[0][1].assign(np.eye(72, 12))
    plain = tfmot.strip(wrapped)
    assert np.count_nonzero(plain.layers[1].kernel.numpy()) == 12


def test_fixed_masks_keep_the_masks_of_tfmots_own_wrapper() -> None:
    wrapped = magnitude(build("sequential", "tf_keras"), pruning_schedule=tfmot.FixedMasks())
    mask = np.arange(72 * 12).reshape(72, 12) % 3 == 0
    wrapped.layers[1].pruning_vars[0][1].assign(mask.astype("float32"))
    wrapped.compile("adam", loss(tf_keras))
    wrapped.fit(*images(), verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    assert np.array_equal(tfmot.get_masks(wrapped)["hidden/kernel"], mask)
    assert not wrapped.layers[1].layer.kernel.numpy()[~mask].any()


# One call, policies, crossing over


def test_prune_at_init_is_ready_for_fit() -> None:
    reference = build("functional", "tf_keras")
    expected = tpi.find_masks(reference, images(), sparsity=0.7, method="snip", exclude="head")
    model = build("functional", "tf_keras")
    wrapped = tfmot.prune_at_init(model, images(), sparsity=0.7, method="snip", exclude="head")
    report = tfmot.get_report(wrapped)
    assert report.masks == tfmot.get_masks(wrapped) == expected
    assert report.method == "snip"
    reasons = {one.path: one.reason for one in tfmot.unmasked_variables(wrapped)}
    assert reasons["head/kernel"] == "no mask was given for it"
    assert reasons["bn1/gamma"] == "normalization (BatchNormalization)"
    every = {target.path for target in list_variables(build("functional", "tf_keras"))}
    assert reasons.keys() | expected.keys() == every
    assert not reasons.keys() & expected.keys()
    fit_watched(wrapped, expected, *images(), K=tf_keras)
    assert wrapped.metrics_names == ["loss", "accuracy"]
    with pytest.raises(ModelError, match="carries no report"):
        tfmot.get_report(tfmot.strip(wrapped))


def test_prune_at_init_under_the_policy_for_xnnpack() -> None:
    def mobile(first: int) -> Any:
        tf_keras.utils.set_random_seed(0)
        inputs = tf_keras.Input((8, 8, 3))
        x = L.ZeroPadding2D(1)(inputs)
        x = L.Conv2D(4, 3, strides=first, padding="valid", name="first")(x)
        x = L.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
        x = L.Conv2D(8, 1, activation="relu", name="pointwise")(x)
        x = L.GlobalAveragePooling2D(keepdims=True)(x)
        model = tf_keras.Model(inputs, L.Dense(CLASSES, name="head")(L.Flatten()(x)))
        model.compile("adam", loss(tf_keras))
        return model

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 8, 8, 3)).astype("float32"), np.arange(24) % CLASSES
    policy = sparsity.PruneForLatencyOnXNNPack()
    wrapped = tfmot.prune_at_init(mobile(2), (x, y), sparsity=0.5, method="snip", pruning_policy=policy)
    assert list(tfmot.get_masks(wrapped)) == ["pointwise/kernel"]
    assert tfmot.get_masks(wrapped).kept == 16
    assert {one.path: one.reason for one in tfmot.unmasked_variables(wrapped)}[
        "head/kernel"
    ] == "no mask was given for it"
    policy.ensure_model_supports_pruning(wrapped)
    fit_watched(wrapped, tfmot.get_masks(wrapped), x, y, callbacks=[sparsity.UpdatePruningStep()], K=tf_keras)
    with pytest.raises(ValueError, match="Could not find `Conv2D 3x3`"):
        tfmot.prune_at_init(mobile(1), (x, y), sparsity=0.5, method="snip", pruning_policy=policy)
    only = build("sequential", "tf_keras")

    class Everything(sparsity.PruningPolicy):
        def allow_pruning(self, layer: Any) -> bool:
            return True

        def ensure_model_supports_pruning(self, model: Any) -> None:
            assert model is only

    wrapped = tfmot.prune_at_init(only, images(), sparsity=0.5, method="snip", pruning_policy=Everything())
    assert len(tfmot.get_masks(wrapped)) == 3


@pytest.mark.parametrize("kind", ["functional", "sequential", "nested"])
def test_masks_cross_from_one_keras_to_the_other(kind: str) -> None:
    theirs, ours = build(kind, "keras"), build(kind, "tf_keras")
    found = tpi.find_masks(theirs, images(), sparsity=0.7, method="snip")
    wrapped = tfmot.wrap(ours, found.carried_to(ours))
    assert all(np.array_equal(a, b) for a, b in zip(tfmot.get_masks(wrapped).values(), found.values(), strict=True))
    fit_it(wrapped)
    back = tfmot.get_masks(wrapped).carried_to(theirs)
    assert back == found
    tpi.attach(theirs, back)
    assert not leaks(theirs, found)
    if kind != "nested":  # whose recurrent cells tf_keras may number
        assert found.check(wrapped)


def fit_it(model: Any) -> None:
    masks = tfmot.get_masks(model)
    model.compile("adam", loss(tf_keras))
    fit_watched(model, masks, *images(), K=tf_keras)


# What wrappers share, and what they refuse


def test_the_wrapped_model_is_made_of_the_layers_of_the_given_one() -> None:
    model, masks, x = made("dense")
    tpi.attach(model, random_masks(model, seed=5))
    wrapped = tfmot.wrap(model, masks)
    assert all(a is b for a, b in zip(model.trainable_variables, wrapped.trainable_variables, strict=True))
    wrapped.compile("sgd", loss(tf_keras))
    wrapped.fit(x, data()[1], verbose=0)
    assert np.array_equal(model.predict(x, verbose=0), wrapped.predict(x, verbose=0))
    model.compile("adam", loss(tf_keras))
    fit_watched(model, masks, x, data()[1], K=tf_keras)
    with pytest.raises(ModelError, match="whose layers another wrapped model holds"):
        tfmot.wrap(model, masks)
    with pytest.raises(ModelError, match="Received: one that is wrapped"):
        tfmot.wrap(wrapped, masks)
    other = random_masks(model, sparsity=0.5, seed=7)
    tpi.attach(wrapped, other)
    assert tfmot.get_masks(wrapped) == other
    wrapped.compile("adam", loss(tf_keras))
    start = np.asarray(model.layers[0].kernel)
    wrapped.fit(x, data()[1], verbose=0)
    assert held(wrapped, other)
    assert (np.asarray(model.layers[0].kernel) != start).any()
    again = tfmot.wrap(tfmot.strip(wrapped), masks)
    assert tfmot.get_masks(again) == masks


def test_a_layer_shared_by_two_models_gets_one_wrapper() -> None:
    shared = L.Dense(6, activation="relu", name="shared")
    inner = tf_keras.Sequential([tf_keras.Input((6,)), shared, L.Dense(6, name="own")], name="inner")
    plain = tf_keras.Sequential([tf_keras.Input((6,)), L.Activation("relu")], name="plain")
    inputs = tf_keras.Input((6,))
    model = tf_keras.Model(inputs, L.Dense(CLASSES, name="head")(plain(inner(shared(inputs)))))
    masks = random_masks(model, 0.5, allocation="uniform")
    wrapped = tfmot.wrap(model, masks)
    assert wrapped.get_layer("prune_at_init_shared") is wrapped.get_layer("inner").layers[0]
    assert wrapped.get_layer("plain") is plain
    wrapped.compile("adam", loss(tf_keras))
    fit_watched(wrapped, masks, *data(), K=tf_keras)
    assert not leaks(tfmot.strip(wrapped), masks)


def test_a_sequential_model_built_by_a_call() -> None:
    model = tf_keras.Sequential([L.Dense(8, activation="relu", name="a"), L.Dense(CLASSES, name="b")])
    model(data()[0])
    masks = random_masks(model)
    wrapped = tfmot.wrap(model, masks)
    wrapped.compile("adam", loss(tf_keras))
    fit_watched(wrapped, masks, *data(), K=tf_keras)


def test_states_of_recurrent_layers_are_reset() -> None:
    model = tf_keras.Sequential(
        [L.LSTM(4, stateful=True, batch_input_shape=(2, 3, 2), name="lstm"), L.Dense(CLASSES, name="head")]
    )
    wrapped = tfmot.wrap(model, random_masks(model))
    x = np.ones((2, 3, 2), "float32")
    first, second = wrapped(x).numpy(), wrapped(x).numpy()
    assert (first != second).any()
    wrapped.reset_states()
    assert np.array_equal(wrapped(x), first)


def test_a_wrapper_made_by_hand() -> None:
    layer = tfmot.PruneAtInit(L.Dense(4), {"bias": [True, False, True, False], "kernel": np.eye(6, 4, dtype=bool)})
    model = tf_keras.Sequential([tf_keras.Input((6,)), layer, L.Dense(CLASSES)])
    model.compile(K2.SGD(0.5), loss(tf_keras))
    model.train_on_batch(*data())
    assert np.array_equal(layer.layer.kernel.numpy() != 0, np.eye(6, 4, dtype=bool))
    assert np.array_equal(layer.layer.bias.numpy() != 0, [True, False, True, False])
    assert [w.name.rsplit("/", 1)[-1] for w in layer.get_prunable_weights()] == ["bias:0", "kernel:0"]
    assert [w.name.rsplit("/", 1)[-1] for w in layer.non_trainable_weights] == [
        "mask_bias:0",
        "mask_kernel:0",
        "threshold:0",
        "pruning_step:0",
    ]
    for wrong in ({"nothing": [True]}, {"kernel": np.ones((6, 5))}):
        with pytest.raises(ModelError, match=r"Received: a layer with kernel \(6, 4\), bias \(4,\)"):
            tfmot.PruneAtInit(L.Dense(4), wrong)(np.ones((1, 6), "float32"))


class Doubled(tf_keras.Model):
    def __init__(self, units: int):
        inputs = tf_keras.Input((6,))
        super().__init__(inputs, L.Dense(units, name="d")(inputs))

    def call(self, x: Any) -> Any:
        return 2 * super().call(x)


class Weighted(tf_keras.Model):
    """A functional model with a weight that belongs to no layer."""

    def get_prunable_weights(self) -> list[Any]:
        return [self.scale]


def test_refusals() -> None:
    modern, subclassed = dense(), build("subclassed", "tf_keras")
    for call in (
        lambda: tfmot.wrap(modern, random_masks(modern)),
        lambda: tfmot.prune_at_init(modern, None, sparsity=0.5, method="random"),
        lambda: tfmot.get_masks(modern),
        lambda: tfmot.strip(modern),
    ):
        with pytest.raises(ModelError, match=r"takes tf_keras models.*Received: a Keras 3 model; use tpi\."):
            call()
    with pytest.raises(ModelError, match="a subclassed model; use tpi"):
        tfmot.prune_at_init(subclassed, None, sparsity=0.5, method="random")
    with pytest.raises(ModelError, match=r"A keras\.Model .* is needed"):
        tfmot.wrap(L.Dense(3), random_masks(modern))
    with pytest.raises(ModelError, match="would lack call of class Doubled"):
        tfmot.wrap(Doubled(8), random_masks(Doubled(8)))
    nested = tf_keras.Sequential([tf_keras.Input((6,)), Doubled(8), L.Dense(3)])
    with pytest.raises(ModelError, match="would lack call of class Doubled"):
        tfmot.wrap(nested, random_masks(nested))
    legacy = legacy_dense()
    with pytest.raises(MaskMismatchError, match="nowhere"):
        tfmot.wrap(legacy, tpi.Masks({"nowhere": [True]}))
    with pytest.raises(EnforcementError, match="no TF-MOT wrappers with masks"):
        tfmot.get_masks(legacy)
    with pytest.raises(EnforcementError, match="nothing to take off"):
        tfmot.strip(legacy)
    assert get_attached_masks(legacy) is None

    inputs = tf_keras.Input((6,))
    own = Weighted(inputs, L.Dense(CLASSES, name="d")(inputs))
    own.scale = own.add_weight("scale", (4,))
    with pytest.raises(ModelError, match=r"No layer of model .* holds scale"):
        tfmot.wrap(own, tpi.Masks({"scale": [True, False, True, True], "d/kernel": np.eye(6, CLASSES)}))
    assert get_constraint(own.layers[1].kernel) is None
    own.get_prunable_weights = lambda: [own.scale]
    before = own.get_weights()
    with pytest.raises(ModelError, match=r"No layer of model .* holds scale"):
        tfmot.prune_at_init(own, None, sparsity=0.5, method="random")
    assert all(map(np.array_equal, before, own.get_weights()))
    assert get_attached_masks(own) is None


class Tower(tf_keras.Model):
    """A subclassed model."""

    def __init__(self) -> None:
        super().__init__(name="tower")
        self.first, self.second = L.Dense(8, activation="relu", name="first"), L.Dense(4, name="second")

    def call(self, x: Any) -> Any:
        return self.second(self.first(x))


def test_models_with_methods_of_their_own() -> None:
    inputs = tf_keras.Input((6,))
    # A class that is built like tf_keras.Model keeps its methods.
    own = Careless(inputs, L.Dense(CLASSES, name="d")(inputs))
    assert type(tfmot.wrap(own, random_masks(own))) is Careless
    # A subclassed model inside is wrapped as one layer.
    model = tf_keras.Model(inputs, L.Dense(CLASSES, name="head")(Tower()(inputs)))
    masks = random_masks(model)
    assert "tower/first/kernel" in masks
    wrapped = tfmot.wrap(model, masks)
    assert wrapped.layers[1].name == "prune_at_init_tower"
    wrapped.compile("adam", loss(tf_keras))
    fit_watched(wrapped, masks, *data(), callbacks=[sparsity.UpdatePruningStep()], K=tf_keras)
    plain = tfmot.strip(wrapped)
    assert isinstance(plain.layers[1], Tower)
    assert not leaks(plain, masks)


# The process


MIRRORED = """
import tf_keras
import tfprune_init as tpi
from tfprune_init import tfmot
from tfprune_init.tfmot.imports import sparsity

for with_theirs in (False, True):
    with strategy.scope():
        model = tf_keras.Sequential([tf_keras.Input((6,)), tf_keras.layers.Dense(16, "tanh"), tf_keras.layers.Dense(3)])
        optimizer = tf_keras.optimizers.AdamW(0.05, weight_decay=0.1, clipnorm=0.1, use_ema=True)
        model.compile(optimizer, tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    masks = tpi.find_masks(model, None, sparsity=0.8, method="random")
    wrapped = tfmot.wrap(model, masks)
    with strategy.scope():
        wrapped.compile(optimizer, tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    start = {path: target.tensor.values[0].numpy() for path, target in masks.check(wrapped).items()}
    leaks, looks = [], []

    class Watch(tf_keras.callbacks.Callback):
        def look(self, *args):
            for path, target in masks.check(wrapped).items():
                for copy in target.tensor.values:
                    looks.append(path)
                    leaks.append(int(np.count_nonzero(copy.numpy()[~masks[path]])))
        on_train_batch_end = on_train_end = look

    theirs = [sparsity.UpdatePruningStep()] if with_theirs else []
    wrapped.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[*tfmot.callbacks(), *theirs, Watch()])
    Watch().look()
    targets = masks.check(wrapped)
    moved = all((target.tensor.values[1].numpy() != start[path]).any() for path, target in targets.items())
    same = tfmot.get_masks(wrapped) == masks
    tfmot.strip(wrapped)
    result[str(with_theirs)] = {"leaks": sum(leaks), "looks": len(looks), "moved": moved, "masks": same}
print(json.dumps(result))
"""


@pytest.mark.process
@pytest.mark.slow
def test_mirrored_strategy_holds_every_replica() -> None:
    result = fresh_process(TWO_REPLICAS + MIRRORED)
    assert result["replicas"] == 2
    for with_theirs in ("False", "True"):
        assert result[with_theirs] == {"leaks": 0, "looks": 2 * 2 * (2 * 4 + 2), "moved": True, "masks": True}


IMPORTING = """
import json, os, sys
import keras, tensorflow as tf
import tfprune_init
light = not {"tf_keras", "tensorflow_model_optimization"} & set(sys.modules)
before = dict(os.environ)
refused = []
for package in ("tf_keras", "tensorflow_model_optimization"):
    sys.modules[package] = None
    try:
        import tfprune_init.tfmot
    except ImportError as error:
        refused.append(str(error).split(".")[1])
    del sys.modules[package]
same = dict(os.environ) == before
import tfprune_init.tfmot
same = same and dict(os.environ) == before
own = vars(tf)["keras"].__version__ == keras.__version__
import tensorflow_model_optimization, tf_keras
from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry
model = tf_keras.Sequential([tf_keras.Input((4, 3)), tf_keras.layers.LSTM(4), tf_keras.layers.Dense(2)])
wrapped = tensorflow_model_optimization.sparsity.keras.prune_low_magnitude(model)
print(json.dumps({"light": light, "same": same, "own": own, "refused": refused,
                  "wrapped": len(tfprune_init.tfmot.get_masks(wrapped))}))
"""


@pytest.mark.process
@pytest.mark.slow
def test_importing_it_changes_no_more_than_it_must() -> None:
    result = fresh_process(IMPORTING)
    assert result.pop("refused") == 2 * ["tfmot needs tensorflow-model-optimization and tf_keras"]
    assert result == {"light": True, "same": True, "own": True, "wrapped": 3}


def test_pruning_summaries_write_the_sparsity_of_the_masks(tmp_path: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model, masks, x = made("dense")
    wrapped = tfmot.wrap(model, masks)
    wrapped.compile("adam", loss(tf_keras))
    theirs = [sparsity.UpdatePruningStep(), sparsity.PruningSummaries(str(tmp_path))]
    wrapped.fit(x, data()[1], verbose=0, epochs=2, callbacks=[*tfmot.callbacks(), *theirs])
    events = EventAccumulator(str(tmp_path / "metrics"), size_guidance={"tensors": 0}).Reload()
    written = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"] if tag.endswith("/sparsity")}
    shares = [float(tf.make_ndarray(last.tensor_proto)) for *_, last in written.values()]
    assert sorted(shares) == pytest.approx(sorted(1 - mask.mean() for mask in masks.values()), abs=1e-6)


def test_the_package_s_own_strip_names_the_one_to_call() -> None:
    L = tf_keras.layers
    model = tf_keras.Sequential([tf_keras.Input((8,)), L.Dense(4, name="head")])
    wrapped = tfmot.wrap(model, tpi.find_masks(model, None, sparsity=0.75, method="random"))
    with pytest.raises(tpi.PruningError, match=r"tfmot\.strip"):
        tpi.strip(wrapped)
    assert int((np.asarray(tfmot.strip(wrapped).layers[0].kernel) != 0).sum()) == 8
