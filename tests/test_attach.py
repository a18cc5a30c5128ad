from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_kinds import KINDS, build
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
    weights,
)

import tfprune_init as tpi
from tfprune_init.errors import EnforcementError, MaskMismatchError, ModelError
from tfprune_init.masking.attachment import get_attached_masks
from tfprune_init.masking.constraint import MaskConstraint

K3 = keras.optimizers
EVERYTHING = {"weight_decay": 0.05, "use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 4, "clipnorm": 0.1}


def multi(chosen_late: bool) -> Any:
    """Muon for the first layer, SGD with clipnorm for the others, chosen by a map or only when built."""
    first, others = K3.Muon(0.01), K3.SGD(0.1, momentum=0.9, clipnorm=0.1)
    if chosen_late:
        return K3.MultiOptimizer(lambda variable: first if variable.path.endswith("/a/kernel") else others)
    return K3.MultiOptimizer(K3.OptimizerMap(others, {".*/a/kernel": first}))


def early_stopping() -> list[Any]:
    # The loss grows in the eyes of this callback, so it stops after two epochs and restores the first.
    return [keras.callbacks.EarlyStopping("loss", patience=1, mode="max", restore_best_weights=True)]


TRAININGS = {
    "sgd": Training(lambda o: o.SGD(0.1)),
    "momentum": Training(lambda o: o.SGD(0.1, momentum=0.9)),
    "nesterov": Training(lambda o: o.SGD(0.1, momentum=0.9, nesterov=True)),
    "sgd weight_decay": Training(lambda o: o.SGD(0.1, momentum=0.9, weight_decay=0.1)),
    "adam": Training(lambda o: o.Adam(0.01)),
    "amsgrad": Training(lambda o: o.Adam(0.01, amsgrad=True)),
    "adamw": Training(lambda o: o.AdamW(0.01, weight_decay=0.1)),
    "adamax": Training(lambda o: o.Adamax(0.01)),
    "nadam": Training(lambda o: o.Nadam(0.01)),
    "rmsprop": Training(lambda o: o.RMSprop(0.01, momentum=0.5)),
    "adagrad": Training(lambda o: o.Adagrad(0.1)),
    "adadelta": Training(lambda o: o.Adadelta(1.0)),
    "ftrl": Training(lambda o: o.Ftrl(0.1, l1_regularization_strength=0.001)),
    "lion": Training(lambda o: o.Lion(0.01)),
    "adafactor": Training(lambda o: o.Adafactor(0.1)),
    "lamb": Training(lambda o: o.Lamb(0.1)),
    "muon": Training(lambda o: o.Muon(0.01)),
    "schedule-free": Training(lambda o: o.ScheduleFreeAdamW(0.01)),
    "multi": Training(lambda o: multi(chosen_late=False)),
    "multi, chosen late": Training(lambda o: multi(chosen_late=True)),
    "lr schedule": Training(lambda o: o.SGD(o.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9)),
    "clipnorm": Training(lambda o: o.SGD(0.1, momentum=0.9, clipnorm=0.1)),
    "global_clipnorm": Training(lambda o: o.Adam(0.01, global_clipnorm=0.1)),
    "clipvalue": Training(lambda o: o.SGD(0.1, momentum=0.9, clipvalue=0.01)),
    "ema": Training(lambda o: o.Adam(0.01, use_ema=True, ema_momentum=0.9)),
    "ema_overwrite_frequency": Training(
        lambda o: o.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)
    ),
    "SwapEMAWeights": Training(
        lambda o: o.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.9),
        callbacks=lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
    ),
    "accumulation": Training(lambda o: o.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)),
    "accumulation, ema, clipnorm": Training(lambda o: o.Adam(0.01, gradient_accumulation_steps=2, **EVERYTHING)),
    "mixed_bfloat16": Training(lambda o: o.AdamW(0.01, weight_decay=0.1), policy="mixed_bfloat16"),
    "mixed_float16": Training(lambda o: o.Adam(0.01, clipnorm=0.1, use_ema=True), policy="mixed_float16"),
    "bfloat16": Training(lambda o: o.SGD(0.1, momentum=0.9), policy="bfloat16"),
    "float64": Training(lambda o: o.Adam(0.01, use_ema=True), policy="float64"),
    "jit_compile": Training(lambda o: o.Adam(0.01, **EVERYTHING), {"jit_compile": True}),
    "steps_per_execution": Training(lambda o: o.Adam(0.01, use_ema=True), {"steps_per_execution": 2}),
    "run_eagerly": Training(lambda o: o.Adam(0.01, **EVERYTHING), {"run_eagerly": True}),
    "EarlyStopping": Training(lambda o: o.Adam(0.05, use_ema=True, ema_momentum=0.1), callbacks=early_stopping),
}


# One of each way in which a step can reach the weights; the others share code with one of these.
USUAL = [
    "nesterov",
    "adamw",
    "rmsprop",
    "ftrl",
    "adafactor",
    "muon",
    "schedule-free",
    "multi, chosen late",
    "global_clipnorm",
]
USUAL += ["SwapEMAWeights", "accumulation, ema, clipnorm", "mixed_float16", "jit_compile", "steps_per_execution"]
USUAL += ["run_eagerly", "EarlyStopping"]


@pytest.mark.parametrize("name", rows(TRAININGS, USUAL))
def test_pruned_weights_are_zero_after_every_batch(name: str) -> None:
    training = TRAININGS[name]
    with Policy(training.policy):
        model = dense()
    masks = random_masks(model)
    model.compile(training.optimizer(K3), loss(), **{"jit_compile": False, **training.compile})
    tpi.attach(model, masks)
    fit_watched(model, masks, *data(), callbacks=training.callbacks(), epochs=3)
    assert get_attached_masks(model) == masks
    assert held(tpi.strip(model), masks)


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
@pytest.mark.parametrize("kind", rows(KINDS, ["functional", "nested"]))
def test_every_kind_of_model(kind: str, package: str) -> None:
    model = build(kind, package)
    K = keras if package == "keras" else pytest.importorskip("tf_keras")
    masks = random_masks(model, sparsity=0.6)
    model.compile(K.optimizers.Adam(0.01, **EVERYTHING), loss(K))
    tpi.attach(model, masks)
    fit_watched(model, masks, *images(), K=K)
    assert held(tpi.strip(model), masks)


def layer_zoo() -> keras.Model:
    """Every prunable kind of layer that model_kinds lacks, some of them inside other layers."""
    L = keras.layers
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,), dtype="int32")
    x = L.Embedding(9, 6, name="embedding")(inputs)
    x = L.Bidirectional(L.LSTM(3, return_sequences=True), name="bidirectional")(x)
    x = L.GRU(4, return_sequences=True, name="gru")(x)
    x = L.TimeDistributed(L.Dense(4), name="timed")(x)
    x = L.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = L.EinsumDense("abc,cd->abd", (8, 4), name="einsum")(x)
    x = L.SeparableConv1D(4, 2, name="separable")(x)
    x = L.DepthwiseConv1D(2, name="depthwise")(x)
    x = L.Conv1DTranspose(4, 2, name="transpose")(x)
    x = L.ConvLSTM1D(3, 1, name="convlstm")(L.Reshape((7, 2, 2), name="rows")(x))
    return keras.Model(inputs, L.Dense(CLASSES, name="head")(L.Flatten(name="flat")(x)))


@pytest.mark.slow
def test_every_kind_of_layer_with_biases_and_an_embedding_table() -> None:
    model = layer_zoo()
    table = np.random.default_rng(0).random((9, 6)) < 0.5
    masks = tpi.Masks(
        {**random_masks(model, sparsity=0.5, prune_bias=True, allocation="uniform"), "embedding/embeddings": table}
    )
    assert {path.rsplit("/", 1)[-1] for path in masks} == {
        "bias", "kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel", "embeddings"
    }  # fmt: skip
    model.compile(K3.Adam(0.01, **EVERYTHING), loss())
    tpi.attach(model, masks)
    fit_watched(model, masks, np.random.default_rng(1).integers(0, 9, (24, 8)), data()[1])
    assert held(tpi.strip(model), masks)


# Order of calls


def test_attached_before_compile_and_compiled_again() -> None:
    model, (x, y) = dense(), data()
    masks = random_masks(model)
    tpi.attach(model, masks)
    for optimizer in (K3.SGD(0.1, momentum=0.9), K3.Adam(0.01, use_ema=True), K3.SGD(0.1, clipnorm=0.1)):
        model.compile(optimizer, loss())
        fit_watched(model, masks, x, y)
    assert "apply" in vars(model.optimizer)


@pytest.mark.parametrize("optimizer", [lambda: K3.Adam(0.01, use_ema=True), lambda: K3.Lamb(0.1, use_ema=True)])
def test_attached_after_a_first_fit(optimizer: Any) -> None:
    model, (x, y) = dense(), data()
    model.compile(optimizer(), loss())
    model.fit(x, y, batch_size=8, verbose=0)
    masks = random_masks(model)
    assert leaks(model, masks)
    tpi.attach(model, masks)
    fit_watched(model, masks, x, y)
    # What LAMB shares must not remember the pruned connections of the first fit either.
    if isinstance(model.optimizer, K3.Lamb):
        slots = [*model.optimizer._momentums, *model.optimizer._velocities]
        remembered = {s.path: s.numpy()[~masks["a/kernel"]] for s in slots if "a_kernel" in s.path}
        assert len(remembered) == 2
        assert not any(slot.any() for slot in remembered.values())


def test_attached_again_with_other_masks() -> None:
    model, (x, y) = dense(), data()
    first, second = random_masks(model, seed=1), random_masks(model, sparsity=0.5, seed=2)
    model.compile(K3.Adam(0.01, clipnorm=0.1), loss())
    tpi.attach(model, first)
    fit_watched(model, first, x, y)
    tpi.attach(model, second)
    assert get_attached_masks(model) == second
    fit_watched(model, second, x, y)
    assert leaks(model, first)  # what only the first masks pruned grows again


def test_attached_again_with_masks_for_some_keeps_the_others() -> None:
    model, (x, y) = dense(), data()
    masks = random_masks(model)
    model.compile("adam", loss())
    tpi.attach(model, masks)
    other = tpi.Masks({"c/kernel": ~masks["c/kernel"]})
    tpi.attach(model, other)
    together = tpi.Masks({**masks, **other})
    assert get_attached_masks(model) == together
    model.fit(x, y, verbose=0)
    assert not leaks(model, together)


def test_train_on_batch_and_evaluation_between() -> None:
    model, (x, y) = dense(), data()
    masks = random_masks(model)
    model.compile(K3.Adam(0.05, use_ema=True, ema_overwrite_frequency=2), loss())
    tpi.attach(model, masks)
    for _ in range(3):
        model.train_on_batch(x, y)
        model.evaluate(x, y, verbose=0)
        assert held(model, masks)


def test_two_models_that_share_a_layer() -> None:
    shared = keras.layers.Dense(8, name="shared")
    inputs = keras.Input((6,))
    one = keras.Model(inputs, keras.layers.Dense(CLASSES, name="one")(shared(inputs)))
    two = keras.Model(inputs, keras.layers.Dense(CLASSES, name="two")(shared(inputs)))
    masks = random_masks(one, exclude="one")
    assert list(masks) == ["shared/kernel"]
    tpi.attach(one, masks)
    two.compile(K3.Adam(0.05, use_ema=True), loss())
    two.fit(*data(), verbose=0)
    assert held(one, masks)


# What else writes to weights


def test_nan_in_a_pruned_weight_becomes_zero() -> None:
    model, (x, y) = dense(), data()
    masks = random_masks(model)
    values = model.get_weights()
    values[0][~masks["a/kernel"]] = np.nan
    model.set_weights(values)
    model.compile(K3.SGD(0.1, momentum=0.9), loss())
    tpi.attach(model, masks)
    fit_watched(model, masks, x, y)
    assert np.isfinite(model.get_weights()[0]).all()


def test_set_weights_and_a_dense_checkpoint(tmp_path: Path) -> None:
    model, (x, y) = dense(), data()
    masks = random_masks(model)
    model.compile("adam", loss())
    model.fit(x, y, verbose=0)
    trained = model.get_weights()
    model.save_weights(tmp_path / "dense.weights.h5")
    tf.train.Checkpoint(model).write(str(tmp_path / "dense"))
    tpi.attach(model, masks)
    expected = [np.where(masks[path], values, 0) for path, values in zip(masks, trained[::2], strict=True)]
    writers = {
        "set_weights": lambda: model.set_weights(trained),
        "load_weights": lambda: model.load_weights(tmp_path / "dense.weights.h5"),
        "tf.train.Checkpoint": lambda: tf.train.Checkpoint(model).read(str(tmp_path / "dense")),
        "assign": lambda: [v.assign(value) for v, value in zip(model.variables, trained, strict=False)],
        "assign of the tf.Variable": lambda: [
            v.value.assign(value) for v, value in zip(model.variables, trained, strict=False)
        ],
    }
    for name, write in writers.items():
        model.set_weights([np.full_like(value, 7) for value in trained])
        write()
        assert [w.tobytes() for w in weights(model, masks).values()] == [w.tobytes() for w in expected], name


def test_kept_weights_come_back_as_they_were_although_a_constraint_would_change_them() -> None:
    model = dense(kernel_constraint=keras.constraints.UnitNorm())
    masks = random_masks(model)
    before = weights(model, masks)
    tpi.attach(model, masks)
    assert all(np.array_equal(w, before[path] * masks[path]) for path, w in weights(model, masks).items())
    model.set_weights([3 * value for value in model.get_weights()])
    assert all(np.array_equal(w, 3 * before[path] * masks[path]) for path, w in weights(model, masks).items())


def test_a_constraint_of_the_layer_holds_too_and_comes_back() -> None:
    limit = keras.constraints.MaxNorm(0.3, axis=0)
    model, (x, y) = dense(kernel_constraint=limit, kernel_regularizer="l2"), data()
    masks = random_masks(model, sparsity=0.5)
    model.compile(K3.SGD(0.5, momentum=0.9), loss())
    tpi.attach(model, masks)
    fit_watched(model, masks, x, y)
    norms = [np.linalg.norm(w, axis=0).max() for w in weights(model, masks).values()]
    assert max(norms) == pytest.approx(0.3, rel=1e-5)
    tpi.strip(model)
    assert all(layer.kernel.constraint is limit and layer.kernel_constraint is limit for layer in model.layers)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "tf.function"])
@pytest.mark.parametrize(
    "name",
    rows(["nesterov", "adamw", "ema_overwrite_frequency", "clipnorm", "accumulation", "lamb"], ["adamw", "lamb"]),
)
def test_training_loop_of_ones_own(name: str, graph: bool) -> None:
    model, (x, y) = dense(), data()
    masks = random_masks(model)
    tpi.attach(model, masks)
    optimizer, criterion = TRAININGS[name].optimizer(K3), loss()
    optimizer.build(model.trainable_variables)

    def step() -> None:
        with tf.GradientTape() as tape:
            value = criterion(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    step = tf.function(step) if graph else step
    before = weights(model, masks)
    for _ in range(4):
        step()
        assert held(model, masks)
    if getattr(optimizer, "use_ema", False):
        optimizer.finalize_variable_values(model.trainable_variables)
    assert held(tpi.strip(model), masks)
    assert (weights(model, masks)["a/kernel"] != before["a/kernel"]).any()


def test_a_function_traced_before_attach_is_refused_by_strip() -> None:
    model, (x, y) = dense(), data()
    optimizer, criterion = K3.Adam(0.01), loss()
    optimizer.build(model.trainable_variables)

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            value = criterion(y, model(x))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

    step()
    masks = random_masks(model)
    tpi.attach(model, masks)
    step()
    counts = leaks(model, masks)
    assert counts
    with pytest.raises(EnforcementError, match=f"{counts['a/kernel']} of a/kernel, {counts['b/kernel']} of b/kernel"):
        tpi.strip(model)
    assert get_attached_masks(model) == masks  # it stays attached, and can be mended
    tpi.attach(model, masks)
    assert held(tpi.strip(model), masks)


class KilledError(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Raises in the middle of the second epoch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.optimizer.iterations.numpy() == 5:
            raise KilledError


@pytest.mark.parametrize("name", ["ema", "clipnorm"])
def test_backup_and_restore_after_a_kill(name: str, tmp_path: Path) -> None:
    def new() -> tuple[keras.Model, tpi.Masks]:
        model = dense()
        masks = random_masks(model)
        model.compile(TRAININGS[name].optimizer(K3), loss())
        tpi.attach(model, masks)
        return model, masks

    def backup() -> Any:
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    x, y = data()
    killed, masks = new()
    with pytest.raises(KilledError):
        killed.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[backup(), Kill()])
    resumed, _ = new()
    watch = fit_watched(resumed, masks, x, y, callbacks=[backup()], epochs=3)
    assert watch.looks == 2 * (3 + 1)  # it goes on with the second of three epochs
    assert resumed.optimizer.iterations.numpy() == 3 * 3
    assert held(tpi.strip(resumed), masks)


# The kept weights get exactly the training they should


def run_by_hand(optimizer: Any, masks: tpi.Masks, *, mask_gradients: bool, steps: int = 6) -> dict[str, np.ndarray]:
    """Train without the package: weights times mask after every step, and gradients times mask before, if asked."""
    model, (x, y), criterion = dense(), data(), loss()
    kept = {id(target.variable): masks[path].astype("float32") for path, target in masks.check(model).items()}
    multipliers = [kept.get(id(variable), 1.0) for variable in model.trainable_variables]
    optimizer.build(model.trainable_variables)
    for variable, multiplier in zip(model.trainable_variables, multipliers, strict=True):
        variable.assign(variable * multiplier)

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            value = criterion(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        if mask_gradients:
            gradients = [g * m for g, m in zip(gradients, multipliers, strict=True)]
        optimizer.apply(gradients, model.trainable_variables)
        for variable, multiplier in zip(model.trainable_variables, multipliers, strict=True):
            variable.assign(variable * multiplier)

    for _ in range(steps):
        step()
    return weights(model, masks)


def run_attached(optimizer: Any, masks: tpi.Masks, steps: int = 6) -> dict[str, np.ndarray]:
    model, (x, y) = dense(), data()
    model.compile(optimizer, loss(), jit_compile=False)
    tpi.attach(model, masks)
    for _ in range(steps):
        model.train_on_batch(x, y)
    return weights(model, masks)


NOT_SHARING = [
    "momentum", "nesterov", "sgd weight_decay", "adam", "adamw", "nadam", "rmsprop", "lion", "adafactor", "clipvalue",
    "accumulation",
]  # fmt: skip


@pytest.mark.parametrize("name", rows(NOT_SHARING, ["nesterov", "adamw", "lion", "adafactor"]))
def test_kept_weights_equal_those_multiplied_by_the_mask_by_hand_bit_for_bit(name: str) -> None:
    masks = random_masks(dense(), sparsity=0.6)
    attached = run_attached(TRAININGS[name].optimizer(K3), masks)
    by_hand = run_by_hand(TRAININGS[name].optimizer(K3), masks, mask_gradients=False)
    for path in masks:
        assert np.array_equal(attached[path], by_hand[path]), path


@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm", "lamb", "muon", "multi", "multi, chosen late"])
def test_what_the_optimizer_shares_comes_from_kept_connections_only(name: str) -> None:
    masks = random_masks(dense(), sparsity=0.6)
    attached = run_attached(TRAININGS[name].optimizer(K3), masks)
    expected = run_by_hand(TRAININGS[name].optimizer(K3), masks, mask_gradients=True)
    unmasked = run_by_hand(TRAININGS[name].optimizer(K3), masks, mask_gradients=False)
    for path in masks:
        np.testing.assert_allclose(attached[path], expected[path], rtol=1e-4, atol=1e-6)
        assert np.abs(attached[path] - unmasked[path]).max() > 1e-4


def clipped(gradients: list[np.ndarray], norm: float, together: bool) -> list[np.ndarray]:
    norms = [np.sqrt(np.sum(g.astype("float64") ** 2)) for g in gradients]
    if together:
        norms = [np.sqrt(np.sum(np.square(norms)))] * len(gradients)
    return [g * min(1.0, norm / n) for g, n in zip(gradients, norms, strict=True)]


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_clipping_against_numpy(clip: str, package: str) -> None:
    K = keras if package == "keras" else pytest.importorskip("tf_keras")
    rate, norm, steps, (x, y) = 0.5, 0.05, 5, data()
    model = dense(K)
    masks = random_masks(model, sparsity=0.6)
    model.compile(K.optimizers.SGD(rate, **{clip: norm}), loss(K))
    tpi.attach(model, masks)
    for _ in range(steps):
        model.train_on_batch(x, y)

    def by_hand(masked: bool) -> list[np.ndarray]:
        twin, criterion = dense(K), loss(K)
        multipliers = [masks[f"{n}/kernel"] if kind == "kernel" else 1.0 for n in "abc" for kind in ("kernel", "bias")]
        values = [w * m for w, m in zip(twin.get_weights(), multipliers, strict=True)]
        for _ in range(steps):
            twin.set_weights(values)
            with tf.GradientTape() as tape:
                value = criterion(y, twin(x, training=True))
            gradients = [g.numpy() for g in tape.gradient(value, twin.trainable_variables)]
            if masked:
                gradients = [g * m for g, m in zip(gradients, multipliers, strict=True)]
            gradients = clipped(gradients, norm, clip == "global_clipnorm")
            values = [(v - rate * g) * m for v, g, m in zip(values, gradients, multipliers, strict=True)]
        return values

    trained, expected, unmasked = model.get_weights(), by_hand(masked=True), by_hand(masked=False)
    for got, right in zip(trained, expected, strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-6)
    assert np.abs(trained[0] - unmasked[0]).max() > 1e-3


def test_mask_gradients_for_a_loop_that_clips_itself() -> None:
    model = dense()
    masks = random_masks(model)
    tpi.attach(model, masks)
    gradients = [tf.ones(v.shape) for v in model.trainable_variables[:-1]] + [None]
    masked = tpi.mask_gradients(gradients, model.trainable_variables)
    assert [np.array_equal(m, masks[path]) for path, m in zip(masks, masked[::2], strict=True)] == [True] * 3
    assert all(g is m for g, m in zip(gradients[1::2], masked[1::2], strict=True))


# Taking masks off


def anatomy(model: Any) -> dict[str, Any]:
    """Everything attach may touch, by name."""
    found: dict[str, Any] = {"model": set(vars(model)), "optimizer": set(vars(model.optimizer))}
    for layer in [model, *model._flatten_layers(include_self=False)]:
        found[f"{id(layer)} attributes"] = set(vars(layer)) - {"_tracker"}
        found[f"{id(layer)} constraints"] = {k: v for k, v in vars(layer).items() if k.endswith("_constraint")}
    for variable in model.variables:
        holder = variable.value if isinstance(variable, keras.Variable) else variable
        found[f"{id(variable)} constraint"] = variable.constraint
        found[f"{id(variable)} attributes"] = set(vars(holder))
    return found


STRIPPED = [("functional", "keras"), ("subclassed", "keras"), ("nested", "keras"), ("nested", "tf_keras")]


@pytest.mark.parametrize(("kind", "package"), rows(STRIPPED, [("functional", "keras"), ("nested", "tf_keras")]))
def test_strip_leaves_no_trace(kind: str, package: str, tmp_path: Path) -> None:
    model = build(kind, package)
    K = keras if package == "keras" else pytest.importorskip("tf_keras")
    model.compile(K.optimizers.SGD(0.1, clipnorm=0.1), loss(K), jit_compile=False)
    x, y = images()
    model.fit(x, y, verbose=0)
    masks = random_masks(model, sparsity=0.6)
    before = anatomy(model)
    tpi.attach(model, masks)
    assert anatomy(model) != before
    model.fit(x, y, verbose=0)
    assert tpi.strip(model) is model
    assert held(model, masks)
    after = anatomy(model)
    assert {k: v for k, v in after.items() if v != before[k]} == {}

    # A plain model again: its pruned weights may grow, it is copied and saved like any other.
    model.fit(x, y, verbose=0)
    assert leaks(model, masks)
    with pytest.raises(EnforcementError, match="carries no masks"):
        tpi.strip(model)
    if kind != "subclassed":
        model.save(tmp_path / "plain.keras")
        assert b"tfprune" not in (tmp_path / "plain.keras").read_bytes()
        loaded = K.models.load_model(tmp_path / "plain.keras")
        np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5)
        assert get_attached_masks(K.models.clone_model(loaded)) is None


def test_copies_of_the_optimizer_and_the_model() -> None:
    model, (x, y) = dense(), data()
    masks = random_masks(model)
    model.compile(K3.Adam(0.01, clipnorm=0.1, use_ema=True), loss())
    tpi.attach(model, masks)
    optimizers = [copy.deepcopy(model.optimizer), pickle.loads(pickle.dumps(model.optimizer))]
    optimizers.append(K3.get(K3.serialize(model.optimizer)))
    model.fit(x, y, verbose=0)
    for optimizer in optimizers:
        assert optimizer is not model.optimizer
        assert optimizer.clipnorm == 0.1
        variable = keras.Variable(np.ones(4, "float32"))
        optimizer.apply([tf.ones(4)], [variable])
        assert (variable.numpy() < 1).all()
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), clone):
        assert get_attached_masks(twin) == masks
        if twin is clone:
            twin.compile(K3.Adam(0.01, use_ema=True), loss())
        fit_watched(twin, masks, x, y)
    assert held(tpi.strip(model), masks)


def test_an_attached_model_is_not_kept_alive() -> None:
    import weakref

    model = dense()
    model.compile(K3.SGD(0.1, clipnorm=0.1), loss())
    tpi.attach(model, random_masks(model))
    gone = weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert gone() is None


# Refusals


def test_masks_of_another_model_change_nothing() -> None:
    model = dense()
    before = model.get_weights()
    masks = random_masks(model)
    wrong = {**masks, "b/kernel": np.ones((2, 2), bool), "nowhere/kernel": np.ones(3, bool)}
    with pytest.raises(MaskMismatchError, match=r"nowhere/kernel.*b/kernel is \(16, 12\), its mask \(2, 2\)"):
        tpi.attach(model, tpi.Masks(wrong))
    assert get_attached_masks(model) is None
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert "compile" not in vars(model)


def test_nothing_to_attach_or_strip() -> None:
    model = dense()
    with pytest.raises(EnforcementError, match="carries no masks; pass them"):
        tpi.attach(model)
    with pytest.raises(EnforcementError, match="nothing to take off"):
        tpi.strip(model)
    with pytest.raises(ModelError, match="not built"):
        tpi.attach(keras.Sequential([keras.layers.Dense(3)]), random_masks(model))


def test_constraint_on_a_plain_tensor() -> None:
    constraint = MaskConstraint([[True, False], [False, True]], then="non_neg")
    projected = constraint(tf.constant([[-1.0, np.nan], [3.0, 4.0]]))
    assert projected.numpy().tolist() == [[0.0, 0.0], [0.0, 4.0]]
    again = MaskConstraint.from_config(constraint.get_config())
    assert np.array_equal(again.mask, constraint.mask)
    assert isinstance(again.then, keras.constraints.NonNeg)


# tf_keras

TF_KERAS = {
    "sgd": Training(lambda o: o.SGD(0.1, momentum=0.9, nesterov=True)),
    "ema": Training(lambda o: o.Adam(0.01, use_ema=True, ema_momentum=0.9)),
    "weight_decay": Training(lambda o: o.AdamW(0.01, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=2)),
    "clipnorm": Training(lambda o: o.SGD(0.1, clipnorm=0.1)),
    "legacy": Training(lambda o: o.legacy.Adam(0.01, clipnorm=0.1)),
    "mixed_bfloat16": Training(lambda o: o.Adam(0.01, use_ema=True), policy="mixed_bfloat16"),
    "mixed_float16": Training(lambda o: o.Adam(0.01, global_clipnorm=0.1), policy="mixed_float16"),
    "steps_per_execution": Training(lambda o: o.Adam(0.01, use_ema=True), {"steps_per_execution": 2}),
    "run_eagerly": Training(lambda o: o.Adam(0.01, use_ema=True), {"run_eagerly": True}),
}


@pytest.mark.parametrize("name", rows(TF_KERAS, ["ema", "weight_decay", "legacy", "mixed_float16"]))
def test_tf_keras(name: str, tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    training, (x, y) = TF_KERAS[name], data()
    with Policy(training.policy, tf_keras):
        model = dense(tf_keras)
    model.compile(training.optimizer(tf_keras.optimizers), loss(tf_keras), **training.compile)
    model.fit(x, y, batch_size=8, verbose=0)
    model.save_weights(tmp_path / "dense.h5")
    model.save_weights(tmp_path / "dense")
    masks = random_masks(model)
    tpi.attach(model, masks)
    assert get_attached_masks(model) == masks
    fit_watched(model, masks, x, y, K=tf_keras)
    model.load_weights(tmp_path / "dense.h5")
    assert held(model, masks)
    model.set_weights([np.ones_like(w) for w in model.get_weights()])
    assert held(model, masks)
    model.load_weights(tmp_path / "dense").expect_partial()
    if leaks(model, masks):  # TensorFlow restores the variables of mixed precision past every method of theirs
        assert training.policy.startswith("mixed")
        with pytest.raises(EnforcementError, match="of a/kernel"):
            tpi.strip(model)
        tpi.attach(model, masks)
    assert held(tpi.strip(model), masks)
    model.fit(x, y, verbose=0)
    assert leaks(model, masks)


# Many replicas

MIRRORED = """
import keras
import tfprune_init as tpi

for where in ("inside", "outside"):
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(3)])
        model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.1, clipnorm=0.1),
                      keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
        masks = tpi.find_masks(model, None, sparsity=0.8, method="random")
        if where == "inside":
            tpi.attach(model, masks)
    if where == "outside":
        tpi.attach(model, masks)
    start = {path: target.tensor.values[0].numpy() for path, target in masks.check(model).items()}
    leaks, looks = [], []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for path, target in masks.check(model).items():
                for copy in target.tensor.values:
                    looks.append(path)
                    leaks.append(int(np.count_nonzero(copy.numpy()[~masks[path]])))

    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[Watch()])
    model.set_weights([np.ones_like(value) for value in model.get_weights()])
    targets = masks.check(model)
    for path, target in targets.items():
        for copy in target.tensor.values:
            leaks.append(int(np.count_nonzero(copy.numpy()[~masks[path]])))
    moved = all((target.tensor.values[1].numpy() != start[path]).any() for path, target in targets.items())
    tpi.strip(model)
    result[where] = {"leaks": sum(leaks), "looks": len(looks), "moved": moved}
print(json.dumps(result))
"""


@pytest.mark.process
def test_mirrored_strategy_holds_every_replica() -> None:
    result = fresh_process(TWO_REPLICAS + MIRRORED)
    assert result["replicas"] == 2
    for where in ("inside", "outside"):
        assert result[where] == {"leaks": 0, "looks": 2 * 4 * 2 * 2, "moved": True}
