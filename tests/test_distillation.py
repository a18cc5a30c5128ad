"""Distillation: its loss by hand and in float64, masks that hold, teachers that stay as they are, runs that go on."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from model_kinds import KERAS
from model_kinds import build as build_kind
from model_kinds import data as kind_data

import tfprune_init as tpi
from tfprune_init.errors import DataError, ModelError, OptionError
from tfprune_init.training import Distill, Event, Prune, Snapshot, Train
from tfprune_init.training.distillation import compute_divergence
from tfprune_init.training.teachers import identify_teacher

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 6)).astype("float32")
Y = X[:, :3].argmax(1)
DATA = ((X[:160], Y[:160]), (X[160:], Y[160:]))
both = pytest.mark.parametrize("K", [keras, tf_keras], ids=["keras", "tf_keras"])


def build(seed: int = 0, K: Any = keras, units: int = 16, classes: int = 3, **options: Any) -> Any:
    K.utils.set_random_seed(seed)
    layers = [K.Input((6,)), K.layers.Dense(units, "relu", name="hidden", **options), K.layers.BatchNormalization()]
    model = K.Sequential([*layers, K.layers.Dropout(0.2), K.layers.Dense(classes, name="head")])
    loss = K.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(K.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return model


def plain(K: Any, kernel: np.ndarray, **options: Any) -> Any:
    """One layer whose logits are x @ kernel."""
    model = K.Sequential([K.Input((3,)), K.layers.Dense(3, use_bias=False, name="head", **options)])
    model.compile(K.optimizers.SGD(1.0), K.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.set_weights([kernel])
    return model


def log_softmax(z: np.ndarray) -> np.ndarray:
    shifted = z - z.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def divergence(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """KL of each example, in float64."""
    own, other = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return (np.exp(other) * (other - own)).sum(-1)


@both
def test_the_worked_example(K: Any) -> None:
    """Student (1, 0, -1), teacher (2, 0, 0), label 0, T 4, weight 0.9."""
    student, teacher = np.array([[1.0, 0, -1]]), np.array([[2.0, 0, 0]])
    assert divergence(student, teacher, 4.0)[0] == pytest.approx(0.006444, abs=1e-6)
    found = compute_divergence(tf.constant(student), tf.constant(teacher), 4.0)
    assert float(found) / 16 == pytest.approx(0.006444, abs=1e-6)
    x = np.array([[1.0, 0, 0]], "float32")
    kernels = [np.vstack([row, np.zeros((2, 3))]) for row in (student[0], teacher[0])]
    one, other = (plain(K, kernel) for kernel in kernels)
    history = tpi.distill(one, other, (x, np.array([0])), temperature=4, weight=0.9)
    # tf_keras logs what its compiled loss counts.
    assert history["loss"] == [pytest.approx(0.133557 if K is keras else 0.407606, abs=1e-6)]
    # One step of rate 1 on logits z moves them by 0.1 (onehot - softmax(z)) + 0.9 T (softmax(t / T) - softmax(z / T)).
    soft = [np.exp(log_softmax(z)) for z in (student[0], student[0] / 4, teacher[0] / 4)]
    moved = 0.1 * (np.eye(3)[0] - soft[0]) + 0.9 * 4 * (soft[2] - soft[1])
    np.testing.assert_allclose(one.get_weights()[0][0], student[0] + moved, atol=1e-6)


@both
def test_the_loss_with_weights_of_examples_and_a_regularizer(K: Any) -> None:
    kernels = RNG.normal(size=(2, 3, 3))
    x, y, weights = X[:7, :3], Y[:7], np.linspace(0.5, 2, 7).astype("float32")
    student = plain(K, kernels[0], kernel_regularizer=K.regularizers.L2(0.01))
    batches = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(7)

    def compute(kernel: np.ndarray) -> float:
        own, other = x.astype(float) @ kernel, x.astype(float) @ kernels[1]
        entropy = -log_softmax(own)[np.arange(7), y]
        learned = 2.5**2 * divergence(own, other, 2.5)
        return np.mean(weights * (0.7 * entropy + 0.3 * learned)) + 0.01 * (kernel**2).sum()

    history = tpi.distill(student, plain(K, kernels[1]), batches, temperature=2.5, weight=0.3)
    if K is keras:
        assert history["loss"][0] == pytest.approx(compute(kernels[0]), rel=1e-5)
    np.testing.assert_allclose(student.get_weights()[0], kernels[0] - differentiate(compute, kernels[0]), atol=1e-5)


def differentiate(function: Any, at: np.ndarray) -> np.ndarray:
    """The gradient by central differences."""
    gradient = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[place] = 1e-5
        gradient[place] = (function(at + shift) - function(at - shift)) / 2e-5
    return gradient


@both
def test_zeros_stay_the_teacher_stays_and_evaluation_is_the_students(K: Any) -> None:
    student, teacher = build(0, K), build(1, K, units=24)
    masks = tpi.find_masks(student, None, sparsity=0.7, method="random")
    tpi.attach(student, masks)
    before = [np.array(value) for value in teacher.get_weights()]
    start = tpi.copy_weights(student)
    history = tpi.distill(student, teacher, DATA[0], epochs=3, validation_data=DATA[1])
    assert len(history["loss"]) == 3
    for one, other in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    after = tpi.copy_weights(student)
    for path, mask in masks.items():
        assert not after[path][~mask].any()
        assert (after[path] != start[path])[mask].any()
    # Only training looks at the teacher: afterwards the model trains by its own loss again.
    logits = student.predict(DATA[1][0], verbose=0)
    entropy = -log_softmax(logits.astype(float))[np.arange(40), DATA[1][1]].mean()
    assert history["val_loss"][-1] == pytest.approx(entropy, rel=1e-4)
    assert "train_step" not in vars(student)
    assert "compute_loss" not in vars(student)


@both
def test_the_teacher_computes_in_inference(K: Any) -> None:
    """Its moving statistics, and no Dropout: at weight 1 the student moves by the divergence from its predictions."""
    teacher = build(1, K)
    tpi.distill(teacher, build(2, K), DATA[0], epochs=2)  # so that the statistics are those of no batch
    x, kernel = X[:9], RNG.normal(size=(6, 3))
    student = K.Sequential([K.Input((6,)), K.layers.Dense(3, use_bias=False)])
    student.compile(K.optimizers.SGD(1.0), K.losses.SparseCategoricalCrossentropy(from_logits=True))
    student.set_weights([kernel])
    logits = teacher.predict(x, verbose=0).astype(float)
    tpi.distill(student, teacher, (x, Y[:9]), temperature=2, weight=1)
    gradient = differentiate(lambda at: 4 * divergence(x.astype(float) @ at, logits, 2).mean(), kernel)
    np.testing.assert_allclose(student.get_weights()[0], kernel - gradient, atol=1e-5)


@pytest.mark.exhaustive
def test_the_teacher_may_be_of_the_other_keras() -> None:
    results = []
    for K in KERAS.values():
        teacher = build(1, K)
        teacher.set_weights(build(1).get_weights())
        student = build(0)
        tpi.distill(student, teacher, DATA[0])
        results.append(student.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("K", [keras, pytest.param(tf_keras, marks=pytest.mark.exhaustive)], ids=["keras", "tf_keras"])
def test_a_file_teaches_what_its_model_teaches(K: Any, tmp_path: Path) -> None:
    teacher = build(1, K)
    teacher.save(tmp_path / "teacher.keras")
    results = []
    for given in (teacher, tmp_path / "teacher.keras", str(tmp_path / "teacher.keras")):
        student = build(0, K)
        tpi.distill(student, given, DATA[0])
        results.append(student.get_weights())
    for first, *others in zip(*results, strict=True):
        assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        pytest.param(kind, package, marks=() if (kind, package) == ("functional", "keras") else pytest.mark.exhaustive)
        for kind, package in itertools.product(("sequential", "functional", "subclassed", "nested"), KERAS)
    ],
)
def test_own_weights_teach_as_a_copy_with_these_weights(kind: str, package: str) -> None:
    start = tpi.copy_variables(build_kind(kind, package, seed=1))
    results = []
    for teaches_itself in (True, False):
        student = build_kind(kind, package, seed=0)
        paths = tpi.copy_variables(student)
        own = dict(zip(paths, start.values(), strict=True))
        tpi.distill(student, own if teaches_itself else build_kind(kind, package, seed=1), kind_data(), weight=1)
        results.append(list(tpi.copy_variables(student).values()))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


class Kill(Event):
    """Stops a run once, as a crash would."""

    armed = True

    def __repr__(self) -> str:
        return "Kill()"

    def apply(self, run: Any) -> None:
        if Kill.armed:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "K"),
    [
        ("snapshot", keras),
        pytest.param("snapshot", tf_keras, marks=pytest.mark.slow),
        pytest.param("model", keras, marks=pytest.mark.slow),
        pytest.param("file", keras, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(kind: str, K: Any, tmp_path: Path) -> None:
    trained = build(1, K)
    trained.save(tmp_path / "teacher.keras")
    given = {"snapshot": "dense", "model": trained, "file": tmp_path / "teacher.keras"}[kind]

    def events() -> list[Event]:
        return [
            Train(2), Snapshot("dense"), Prune("magnitude", Fraction(1, 2)), Distill(given, steps=3), Kill(),
            Distill(given, steps=2, learning_rate_scale=0.5),
        ]  # fmt: skip

    def run(folder: Path) -> Any:
        return tpi.run(events(), lambda seed: build(seed, K), DATA, steps=2, folder=folder, verbose=0)

    Kill.armed = False
    whole = run(tmp_path / "whole")
    Kill.armed = True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    Kill.armed = False
    resumed = run(tmp_path / "killed")
    for one, other in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.history == resumed.history
    assert whole.cost == resumed.cost
    assert not resumed.model.get_weights()[0][~resumed.masks["hidden/kernel"]].any()


def test_the_teachers_passes_are_counted() -> None:
    teacher = build(1, units=24)
    found = tpi.run([Distill(teacher, steps=3)], build, DATA, steps=3, verbose=0)
    examples = 128 + 32 + 128
    assert found.cost.multiply_adds == examples * (3 * (6 * 16 + 16 * 3) + 6 * 24 + 24 * 3)
    assert found.cost.training_steps == 3


def test_the_event_is_the_function_on_the_same_batches() -> None:
    def without_dropout(seed: int) -> Any:
        base = build(seed)
        model = keras.Sequential([layer for layer in base.layers if "dropout" not in layer.name])
        model.build((None, 6))
        model.compile(keras.optimizers.SGD(0.1), base.loss)
        return model

    teacher, student = build(1), without_dropout(0)
    found = tpi.run([Distill(teacher, steps=4)], without_dropout, DATA, steps=4, verbose=0)
    tpi.distill(student, teacher, DATA[0], epochs=2)
    for one, other in zip(found.model.get_weights(), student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_runs_with_other_teachers_are_other_runs(tmp_path: Path) -> None:
    teacher = build(1)
    event = Distill(teacher, steps=1)
    assert repr(event) == repr(Distill(build(1), steps=1))
    assert repr(event) != repr(Distill(build(2), steps=1))
    assert identify_teacher(teacher) in repr(event)
    tpi.run([event], build, DATA, steps=1, folder=tmp_path / "run", verbose=0)
    with pytest.raises(OptionError, match="another run"):
        tpi.run([Distill(build(2), steps=1)], build, DATA, steps=1, folder=tmp_path / "run", verbose=0)
    teacher.set_weights(build(3).get_weights())
    with pytest.raises(OptionError, match="has changed since"):
        tpi.run([event], build, DATA, steps=1, verbose=0)


@pytest.mark.slow
def test_the_recipe_teaches_by_the_dense_network() -> None:
    options = {"sparsity": 0.5, "steps": 4, "verbose": 0}
    found = tpi.run("distill_fine_tune", build, DATA, temperature=2.0, **options)
    assert found.masks.kept == (6 * 16 + 16 * 3) // 2
    assert found.cost.training_steps == 8
    tuned = tpi.run("train_prune_fine_tune", build, DATA, rescale_dropout=False, **options)
    assert found.masks == tuned.masks
    assert any((a != b).any() for a, b in zip(found.model.get_weights(), tuned.model.get_weights(), strict=True))


def softmax_model() -> Any:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def two_heads() -> Any:
    inputs = keras.Input((6,))
    return keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])


@pytest.mark.parametrize(
    ("student", "teacher", "options", "error", "words"),
    [
        (build, build, {"temperature": 0}, OptionError, "temperature must be a number above 0"),
        (build, build, {"weight": 0}, OptionError, "above 0 and at most 1"),
        (build, build, {"weight": 1.5}, OptionError, "above 0 and at most 1"),
        (build, build, {"optimizer": "sgd"}, OptionError, "no effect"),
        (build, lambda: "start", {}, OptionError, "weights by variable path"),
        (build, lambda: 3, {}, OptionError, "Received: 3"),
        (build, dict, {}, OptionError, "Without weights"),
        (build, lambda: build(classes=4), {}, ModelError, r"shapes \(128, 3\) and \(128, 4\)"),
        (build, softmax_model, {}, ModelError, "outputs of the teacher are probabilities"),
        (softmax_model, build, {}, ModelError, "outputs of the student are probabilities"),
        (build, two_heads, {}, ModelError, "one output of logits"),
        (build, lambda: Path("no.keras"), {}, ModelError, "cannot be loaded"),
    ],
)  # fmt: skip
def test_refuses(student: Any, teacher: Any, options: Any, error: type, words: str) -> None:
    one = student()
    before = one.get_weights()
    with pytest.raises(error, match=words):
        tpi.distill(one, teacher(), DATA[0], **options)
    assert all(np.array_equal(a, b) for a, b in zip(before, one.get_weights(), strict=True))


def test_refuses_data_without_labels() -> None:
    for given in (X, 3, (X,)):
        with pytest.raises(DataError):
            tpi.distill(build(), build(1), given)


def test_refuses_itself_and_what_trains_by_a_step_of_its_own() -> None:
    model = build()
    with pytest.raises(OptionError, match=r"share variables.*hidden/kernel"):
        tpi.distill(model, model, DATA[0])

    class Own(keras.Model):
        def train_step(self, data: Any) -> Any:
            return super().train_step(data)

    own = Own(model.inputs, model.outputs)
    with pytest.raises(ModelError, match="train_step of Own"):
        tpi.distill(own, build(1), DATA[0])


def test_events_refuse_teachers_before_anything_trains(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no snapshot 'dense'"):
        tpi.run([Distill("dense", steps=1)], build, DATA, steps=1, verbose=0)
    with pytest.raises(OptionError, match="no file of a teacher"):
        Distill(tmp_path / "no.keras", steps=1)
    with pytest.raises(OptionError, match="the name of a snapshot"):
        Distill(3, steps=1)
    with pytest.raises(OptionError, match=r"until= or steps="):
        Distill("dense")
    with pytest.raises(ModelError, match=r"\(128, 3\) and \(128, 4\)"):
        tpi.run([Train(1), Distill(build(classes=4), steps=1)], build, DATA, steps=1, folder=tmp_path / "r", verbose=0)
    assert not (tmp_path / "r").exists()


@both
def test_a_compute_loss_of_the_users_own_is_part_of_it(K: Any) -> None:
    class Doubled(K.Model):
        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
            return 2 * tf.reduce_mean(y_pred**2)

    kernels = RNG.normal(size=(2, 3, 3))
    base = plain(K, kernels[0])
    student = Doubled(base.inputs, base.outputs)
    student.compile(K.optimizers.SGD(1.0))
    x = X[:7, :3]
    tpi.distill(student, plain(K, kernels[1]), (x, Y[:7]), temperature=2, weight=0.5)

    def compute(kernel: np.ndarray) -> float:
        own, other = x.astype(float) @ kernel, x.astype(float) @ kernels[1]
        return 0.5 * 2 * (own**2).mean() + 0.5 * 4 * divergence(own, other, 2).mean()

    np.testing.assert_allclose(student.get_weights()[0], kernels[0] - differentiate(compute, kernels[0]), atol=1e-5)
