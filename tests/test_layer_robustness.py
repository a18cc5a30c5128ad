"""Layers with other weights than they have learned: errors and distances against arithmetic by hand."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_kinds import CLASSES, KERAS, KINDS, build, data, state

import tfprune_init as tpi
from tfprune_init.errors import DataError, ModelError, OptionError
from tfprune_init.experiments import LayerRobustness
from tfprune_init.experiments.layer_groups import find_layer_groups
from tfprune_init.training import Prune, Rewind, Snapshot, Train

Values = dict[str, np.ndarray]
exhaustive = pytest.mark.exhaustive
POINTS = np.eye(2, dtype="float32"), np.array([0, 1])


def line(values: list[float], package: str = "keras") -> Any:
    """One dense layer without bias."""
    K = KERAS[package]
    model = K.Sequential([K.layers.Input((2,)), K.layers.Dense(2, use_bias=False, name="layer")])
    model.layers[-1].set_weights([np.reshape(values, (2, 2))])
    return model


@pytest.mark.parametrize("package", KERAS)
def test_distances_of_the_worked_example(package: str) -> None:
    start = tpi.copy_variables(line([0, 1, -1, 2], package))
    found = tpi.measure_layer_robustness(line([0.5, 1, -1, 1], package), POINTS, {"start": start}, draws=0)
    first, trained = found.rows
    assert trained.l2 == pytest.approx(1.118034, abs=1e-6)
    assert trained.normalized_l2 == pytest.approx(0.559017, abs=1e-6)
    assert trained.linf == 1.0
    assert (first.l2, first.normalized_l2, first.linf) == (0.0, 0.0, 0.0)
    # The identity gives the rows of the kernel: [0, 1], [-1, 2] are larger in class 1, and so are [0.5, 1], [-1, 1].
    assert (first.error, trained.error, found.error) == (0.5, 0.5, 0.5)
    assert (first.checkpoint, trained.checkpoint, trained.parameters, found.examples) == ("start", "trained", 4, 2)
    assert found.skipped == ()


def mlp(package: str, seed: int) -> Any:
    """Two hidden layers with biases, on inputs of 5 and 4 classes."""
    K, rng = KERAS[package], np.random.default_rng(seed)
    layers = [K.layers.Dense(n, "relu" if n > 4 else None, name=name) for n, name in ((7, "a"), (6, "b"), (4, "head"))]
    model = K.Sequential([K.layers.Input((5,)), *layers])
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def answer(weights: Values, x: np.ndarray) -> np.ndarray:
    """What the network answers, in float64."""
    for name in ("a", "b"):
        x = np.maximum(x @ weights[f"{name}/kernel"].astype(float) + weights[f"{name}/bias"], 0)
    return np.argmax(x @ weights["head/kernel"].astype(float) + weights["head/bias"], axis=1)


def examples(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.normal(size=(count, 5)).astype("float32"), rng.integers(0, 4, count)


@pytest.mark.parametrize("package", KERAS)
def test_errors_are_those_of_a_network_put_together_by_hand(package: str) -> None:
    model, x_y = mlp(package, 0), examples()
    trained = tpi.copy_variables(model)
    checkpoints = {f"step {seed}": tpi.copy_variables(mlp(package, seed)) for seed in (1, 2)}
    found = tpi.measure_layer_robustness(model, x_y, checkpoints, draws=0)
    assert (found.layers, found.columns) == (("a", "b", "head"), ("step 1", "step 2", "trained"))
    assert found.error == np.mean(answer(trained, x_y[0]) != x_y[1])
    first = checkpoints["step 1"]
    for layer in found.layers:
        for name, weights in {**checkpoints, "trained": trained}.items():
            row = found.get(layer, name)
            own = {path: values for path, values in weights.items() if path.startswith(f"{layer}/")}
            assert row.error == np.mean(answer({**trained, **own}, x_y[0]) != x_y[1])
            assert (row.errors, row.deviation) == ((row.error,), None)
            change = np.concatenate([(v.astype(float) - first[path]).ravel() for path, v in own.items()])
            assert row.parameters == len(change)
            assert row.l2 == pytest.approx(np.linalg.norm(change), rel=1e-12)
            assert row.normalized_l2 == pytest.approx(np.sqrt(np.mean(change**2)), rel=1e-12)
            assert row.linf == np.abs(change).max()
    assert len({row.error for row in found.rows}) > 5


def test_layers_replaced_together_are_judged_together() -> None:
    model, x_y = mlp("keras", 0), examples()
    trained, start = tpi.copy_variables(model), tpi.copy_variables(mlp("keras", 1))
    groups = {"hidden": ["a", "b"], "all": "*"}
    found = tpi.measure_layer_robustness(model, x_y, {"start": start}, layers=groups, draws=1)
    hidden = {path: (trained if path.startswith("head") else start)[path] for path in trained}
    assert found.get("hidden", "start").error == np.mean(answer(hidden, x_y[0]) != x_y[1])
    assert found.get("all", "start").error == np.mean(answer(start, x_y[0]) != x_y[1])
    assert found.get("hidden", "start").parameters == 5 * 7 + 7 + 7 * 6 + 6
    assert found.get("hidden", "random").deviation is None


@pytest.mark.parametrize("kind", ["attached", "wrapped"])
def test_pruned_weights_stay_zero_whatever_is_put_in(kind: str) -> None:
    model, x_y = mlp("keras", 0), examples()
    masks = tpi.find_masks(model, None, sparsity=0.6, method="random", seed=3)
    start = tpi.copy_variables(mlp("keras", 1))
    masked = {path: np.where(masks[path], v, 0) if path in masks else v for path, v in start.items()}
    trained = {
        path: np.where(masks[path], v, 0) if path in masks else v for path, v in tpi.copy_variables(model).items()
    }
    if kind == "attached":
        tpi.attach(model, masks)
    else:
        model = tpi.wrap(model, masks)
    found = tpi.measure_layer_robustness(model, x_y, {"start": start}, draws=2)
    for layer in ("a", "b", "head"):
        mixed = {**trained, **{path: v for path, v in masked.items() if path.startswith(f"{layer}/")}}
        row, last = found.get(layer, "start"), found.get(layer, "trained")
        assert row.error == np.mean(answer(mixed, x_y[0]) != x_y[1])
        bias = trained[f"{layer}/bias"].size
        assert row.parameters == masks[f"{layer}/kernel"].sum() + bias
        change = np.concatenate(
            [(trained[p].astype(float) - masked[p]).ravel() for p in trained if p.startswith(layer)]
        )
        assert last.l2 == pytest.approx(np.linalg.norm(change), rel=1e-12)
        assert last.normalized_l2 == pytest.approx(np.linalg.norm(change) / row.parameters**0.5, rel=1e-12)
    dense = tpi.measure_layer_robustness(mlp("keras", 0), x_y, {"start": start}, draws=0)
    assert [row.error for row in dense.rows] != [row.error for row in found.rows if row.checkpoint != "random"]


def test_frozen_weights_stay_at_their_values() -> None:
    model, x_y = mlp("keras", 0), examples()
    trained = tpi.copy_variables(model)
    masks = tpi.Masks({"a/kernel": np.arange(35).reshape(5, 7) % 2 == 0})
    tpi.freeze(model, masks, trained)
    start = tpi.copy_variables(mlp("keras", 1))
    found = tpi.measure_layer_robustness(model, x_y, {"start": start}, layers="a", draws=0)
    mixed = {
        **trained,
        "a/kernel": np.where(masks["a/kernel"], start["a/kernel"], trained["a/kernel"]),
        "a/bias": start["a/bias"],
    }
    assert found.get("a", "start").error == np.mean(answer(mixed, x_y[0]) != x_y[1])


def fail_on_second_walk(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    walks: list[int] = []

    def examples_of_a_walk() -> Any:
        walks.append(1)
        yield x, y
        if len(walks) == 2:
            raise RuntimeError("in the second walk")

    return tf.data.Dataset.from_generator(
        examples_of_a_walk, output_signature=(tf.TensorSpec((None, *x.shape[1:])), tf.TensorSpec((None,), tf.int64))
    )


# The law depends on how layers hold variables, and on what their calls write: one Keras each, and the rest exhaustive.
CASES = [
    pytest.param(
        *(kind, package), marks=[] if (package == "keras") == (kind in ("functional", "subclassed")) else exhaustive
    )
    for kind in KINDS
    for package in KERAS
]


@pytest.mark.parametrize(("kind", "package"), CASES)
def test_no_trace_is_left_and_the_same_call_gives_the_same(kind: str, package: str) -> None:
    model, start = build(kind, package), tpi.copy_variables(build(kind, package, seed=1))
    start = dict(zip(tpi.copy_variables(model), start.values(), strict=True))  # names of layers are numbered anew
    x, y = data()
    tpi.attach(model, tpi.find_masks(model, None, sparsity=0.5, method="random"))
    before = state(model)
    found = tpi.measure_layer_robustness(model, (x, y), {"start": start}, draws=1)
    assert state(model) == before
    assert tpi.measure_layer_robustness(model, (x, y), {"start": start}, draws=1) == found
    # Every variable of floating point is in a row, or is said to be in none.
    groups, skipped = find_layer_groups(model, None, False)
    in_rows = [one.path for group in groups for one in group.variables]
    assert sorted([*in_rows, *(one.path for one in skipped)]) == sorted(start)
    assert list(found.layers) == [group.name for group in groups]
    with pytest.raises(tf.errors.OpError, match="in the second walk"):
        tpi.measure_layer_robustness(model, fail_on_second_walk(x, y), {"start": start}, draws=1)
    assert state(model) == before


def test_draws_depend_on_seed_and_layer_alone() -> None:
    model, x_y = mlp("keras", 0), examples()
    start = {"start": tpi.copy_variables(model)}
    every = tpi.measure_layer_robustness(model, x_y, start, draws=3, seed=5)
    one = tpi.measure_layer_robustness(model, x_y, start, draws=3, seed=5, layers="b")
    other = tpi.measure_layer_robustness(model, x_y, start, draws=3, seed=6, layers="b")
    row = every.get("b", "random")
    assert row == one.get("b", "random") != other.get("b", "random")
    assert len(set(row.errors)) > 1
    assert row.error == pytest.approx(np.mean(row.errors), rel=1e-12)
    assert row.deviation == pytest.approx(np.std(row.errors, ddof=1), rel=1e-12)
    assert (row.l2, row.normalized_l2, row.linf) == (None, None, None)


def test_errors_of_draws_are_those_of_a_network_with_what_was_drawn() -> None:
    model, x_y = mlp("keras", 0), examples()
    tpi.attach(model, tpi.find_masks(model, None, sparsity=0.5, method="random"))
    trained = tpi.copy_variables(model)
    found = tpi.measure_layer_robustness(model, x_y, {"start": trained}, draws=2)
    drawn = draws_of(model, 2)
    for layer in found.layers:
        for number, error in enumerate(found.get(layer, "random").errors):
            own = {path: values[number] for path, values in drawn.items() if path.startswith(f"{layer}/")}
            masked = {path: np.where(trained[path] == 0, 0, values) for path, values in own.items()}
            # Biases are not masked; those of the initializer are zeros, as it happens.
            assert error == np.mean(answer({**trained, **masked}, x_y[0]) != x_y[1])


def draws_of(model: Any, count: int = 1) -> dict[str, list[Any]]:
    groups, _ = find_layer_groups(model, None, False)
    return {one.path: [one.draw(0, i) for i in range(count)] for group in groups for one in group.variables}


@pytest.mark.parametrize("package", KERAS)
def test_draws_come_from_the_layers_own_initializers(package: str) -> None:
    K = KERAS[package]
    wide = K.initializers.RandomUniform(2.0, 3.0, seed=4)
    model = K.Sequential(
        [
            K.layers.Input((3, 2)),
            K.layers.LSTM(2, bias_initializer=K.initializers.Constant(0.25), name="r"),
            K.layers.BatchNormalization(gamma_initializer="zeros", moving_mean_initializer="ones", name="bn"),
            K.layers.Dense(50, kernel_initializer=wide, bias_initializer=wide, name="head"),
        ]
    )
    fresh = {path.split("/", 1)[1]: values for path, values in tpi.copy_variables(model).items()}
    drawn = {path.split("/", 1)[1]: values for path, values in draws_of(model, 2).items()}
    # What is no random number is drawn as Keras filled it: constants, and the ones of the gate that forgets.
    for name in ("lstm_cell/bias", "gamma", "beta", "moving_mean", "moving_variance"):
        assert (drawn[name][0] == fresh[name]).all(), name
    assert (drawn["lstm_cell/bias"][0] == [0.25, 0.25, 1, 1, 0.25, 0.25, 0.25, 0.25]).all()
    for name in ("kernel", "bias"):
        one, two = drawn[name]
        assert not (one == two).any()
        assert not (one == fresh[name]).any()
        assert one.min() >= 2
        assert one.max() < 3
    assert abs(drawn["kernel"][0].std() - 12**-0.5) < 0.05


def normalized(package: str) -> Any:
    """A convolution, its normalization, a normalization of a sum, and a head."""
    K = KERAS[package]
    inputs = K.Input((4, 4, 2))
    x = K.layers.Conv2D(3, 3, padding="same", name="conv")(inputs)
    x = y = K.layers.BatchNormalization(name="bn")(x)
    x = K.layers.Add(name="add")([x, y])
    x = K.layers.BatchNormalization(name="of_sum")(x)
    x = K.layers.Flatten(name="flat")(x)
    inner = K.Sequential(
        [K.layers.Input((48,)), K.layers.Dense(5, name="d"), K.layers.LayerNormalization(name="n")], name="in"
    )
    return K.Model(inputs, K.layers.Dense(3, name="head")(inner(x)))


@pytest.mark.parametrize("package", KERAS)
def test_a_normalization_is_a_row_of_its_own_or_goes_with_its_layer(package: str) -> None:
    model = normalized(package)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    trained, start = tpi.copy_variables(model), tpi.copy_variables(normalized(package))
    x, y = rng.normal(size=(60, 4, 4, 2)).astype("float32"), rng.integers(0, 3, 60)

    def error(*layers: str) -> float:
        own = {path: v for path, v in start.items() if path.startswith(tuple(f"{layer}/" for layer in layers))}
        put(model, {**trained, **own})
        scores = model.predict(x, verbose=0)
        put(model, trained)
        return float(np.mean(scores.argmax(axis=1) != y))

    alone = tpi.measure_layer_robustness(model, (x, y), {"start": start}, draws=0)
    assert alone.layers == ("conv", "bn", "of_sum", "in/d", "in/n", "head")
    assert alone.get("bn", "start").parameters == 6  # gamma and beta; statistics are replaced, and are no parameters
    assert alone.get("bn", "trained").l2 == pytest.approx(
        np.linalg.norm([trained[f"bn/{name}"] - start[f"bn/{name}"] for name in ("gamma", "beta")]), rel=1e-6
    )
    for layer in alone.layers:
        assert alone.get(layer, "start").error == error(layer)
    joined = tpi.measure_layer_robustness(model, (x, y), {"start": start}, draws=0, with_normalization=True)
    assert joined.layers == ("conv", "of_sum", "in/d", "head")
    assert joined.get("conv", "start").error == error("conv", "bn")
    assert joined.get("in/d", "start").error == error("in/d", "in/n")
    named = tpi.measure_layer_robustness(
        model, (x, y), {"start": start}, draws=0, layers=["bn", "head"], with_normalization=False
    )
    assert named.layers == ("bn", "head")


def put(model: Any, values: Values) -> None:
    """Write values by path into a model, as they are."""
    groups, _ = find_layer_groups(model, None, False)
    for one in (one for group in groups for one in group.variables):
        one.target.tensor.assign(values[one.path])


def test_masks_of_tfmot_hold_and_are_in_no_row() -> None:
    model, (x, y) = build("functional", "tf_keras"), data()
    start = tpi.copy_variables(model)
    masks = tpi.find_masks(model, None, sparsity=0.5, method="random")
    wrapped = tpi.tfmot.wrap(model, masks)
    tpi.attach(model, masks)
    expected = tpi.measure_layer_robustness(model, (x, y), {"start": start}, draws=2)
    found = tpi.measure_layer_robustness(wrapped, (x, y), {"start": start}, draws=0)
    assert found.layers == expected.layers
    assert found.rows == tuple(row for row in expected.rows if row.checkpoint != "random")
    assert found.skipped
    assert not {one.path for one in found.skipped} & set(start)


@pytest.mark.parametrize("package", KERAS)
def test_a_frozen_layer_has_parameters_all_the_same(package: str) -> None:
    model = normalized(package)
    parameters = [row.parameters for row in rows(model)]
    model.trainable = False
    assert [row.parameters for row in rows(model)] == parameters
    assert min(parameters) > 0


def rows(model: Any) -> tuple[Any, ...]:
    x_y = np.zeros((4, 4, 4, 2), "float32"), np.zeros(4, int)
    return tpi.measure_layer_robustness(model, x_y, {"start": tpi.copy_variables(model)}, draws=0).rows


@pytest.mark.parametrize("trainable", [True, False])
def test_states_are_in_no_row_and_are_listed(trainable: bool) -> None:
    model = tpi.models.sparse_cnn_1((8, 8, 1), 3, seed=0)
    model.trainable = trainable
    x_y = np.zeros((4, 8, 8, 1), "float32"), np.zeros(4, int)
    found = tpi.measure_layer_robustness(model, x_y, {"start": tpi.copy_variables(model)}, draws=1)
    assert "head" in found.layers
    reasons = {one.path.rpartition("/")[2]: one.reason for one in found.skipped}
    assert reasons["duty_cycle"] == "a state that no optimizer trains"
    assert not {one.path.rpartition("/")[0] for one in found.skipped} & set(found.layers)


def test_labels_may_be_one_hot_and_batches_of_any_size() -> None:
    model, (x, y) = mlp("keras", 0), examples()
    start = {"start": tpi.copy_variables(mlp("keras", 1))}
    found = tpi.measure_layer_robustness(model, (x, y), start)
    for labels in (np.eye(4, dtype="float32")[y], y[:, None]):
        dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(37)
        assert tpi.measure_layer_robustness(model, dataset, start) == found


def test_outputs_that_are_not_finite_are_wrong_and_refused_of_the_trained_network() -> None:
    model, start = line([1, 0, 0, 1]), tpi.copy_variables(line([3e38, 0, 0, 1]))
    x_y = np.array([[4, 0], [0, 4]], "float32"), np.array([0, 1])
    found = tpi.measure_layer_robustness(model, x_y, {"start": start}, draws=0)
    assert (found.error, found.get("layer", "start").error) == (0.0, 0.5)
    with pytest.raises(ModelError, match=r"not finite, for 1 of the 2 examples of batch 1"):
        tpi.measure_layer_robustness(line([3e38, 0, 0, 1]), x_y, {"start": start}, draws=0)


def test_rows_as_csv() -> None:
    found = tpi.measure_layer_robustness(mlp("keras", 0), examples(), {"start": tpi.copy_variables(mlp("keras", 1))})
    read = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert len(read) == len(found.rows) == 9
    for cells, row in zip(read, found.rows, strict=True):
        assert (cells["layer"], cells["checkpoint"], float(cells["error"])) == (row.layer, row.checkpoint, row.error)
        assert tuple(map(float, cells["errors"].split())) == row.errors
        assert cells["l2"] == ("" if row.l2 is None else repr(row.l2))


START = {"start": tpi.copy_variables(mlp("keras", 1))}


@pytest.mark.parametrize(
    ("checkpoints", "options", "words"),
    [
        ({}, {}, "at least one"),
        (START["start"], {}, "checkpoints['a/kernel']= is a mapping from variable path to an array"),
        ({"start": tpi.copy_variables(line([0, 0, 0, 0]))}, {}, "Not in the model: layer/kernel"),
        ({"start": tpi.copy_weights(mlp("keras", 1))}, {}, "Without weights: a/bias, b/bias, head/bias"),
        ({"start": {**START["start"], "a/bias": np.zeros(3)}}, {}, "a/bias is (7,)"),
        ({"start": {**START["start"], "a/bias": np.full(7, np.nan)}}, {}, "with NaN or Inf"),
        ({"random": START["start"]}, {}, "Received: 'random'"),
        ({"trained": START["start"]}, {}, "Received: 'trained'"),
        ({1: START["start"]}, {}, "named by a string, other than the columns 'random' and 'trained'. Received: 1"),
        (START, {"layers": "haed"}, "'haed', which is no layer with weights of model"),
        (START, {"layers": []}, "names no layer"),
        (START, {"layers": {"x": ["a", "c"]}}, "'c', which is no layer with weights"),
        (START, {"layers": 3}, "Received: 3"),
        (START, {"layers": {"x": 3}}, "Received: 3"),
        (START, {"layers": [3]}, "3, which is no layer with weights"),
        (START, {"with_normalization": True}, "no normalization takes the output of one of these layers"),
        (START, {"draws": -1}, "Received: draws=-1"),
        (START, {"seed": 1.5}, "Received: seed=1.5"),
        (START, {"verbose": 2}, "Received: 2"),
    ],
)
def test_bad_options_are_refused(checkpoints: Any, options: dict[str, Any], words: str) -> None:
    model = mlp("keras", 0)
    before = tpi.copy_variables(model)
    with pytest.raises(OptionError, match=re.escape(words)):
        tpi.measure_layer_robustness(model, examples(), checkpoints, **options)
    assert all((before[path] == values).all() for path, values in tpi.copy_variables(model).items())


X, Y = examples(4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (X, "must be a batched"),
        ((X, Y, np.ones(4)), "Received: sample weights"),
        ((X, Y.astype("float32")), "Received in batch 1: shape (4,), float32"),
        ((X, np.full((4, 4), 0.25)), "Received in batch 1: shape (4, 4)"),
        ((X[:0], Y[:0]), "0 examples"),
        ((X, Y + 4), "Labels must be in 0..3"),
    ],
)
def test_bad_data_is_refused(given: Any, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)):
        tpi.measure_layer_robustness(mlp("keras", 0), given, START)


def test_data_that_shrinks_is_refused() -> None:
    sizes = iter([4, 3])

    def walk() -> Any:
        count = next(sizes)
        yield X[:count], Y[:count]

    signature = (tf.TensorSpec((None, 5)), tf.TensorSpec((None,), tf.int64))
    dataset = tf.data.Dataset.from_generator(walk, output_signature=signature)
    with pytest.raises(DataError, match="Received: 3 examples, 4 before"):
        tpi.measure_layer_robustness(mlp("keras", 0), dataset, START)


def test_models_that_cannot_be_judged_are_refused() -> None:
    regression = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, name="head")])
    with pytest.raises(ModelError, match=r"outputs of shape \(4, 1\)"):
        tpi.measure_layer_robustness(regression, (X, Y), {"start": tpi.copy_variables(regression)}, draws=0)
    inputs = keras.Input((5,))
    both = keras.Model(inputs, [keras.layers.Dense(n, name=f"head{n}")(inputs) for n in (2, 3)])
    with pytest.raises(ModelError, match="Received: 2 outputs"):
        tpi.measure_layer_robustness(both, (X, Y), {"start": tpi.copy_variables(both)}, draws=0)
    with pytest.raises(ModelError, match=r"Received: builtins\.dict"):
        tpi.measure_layer_robustness({}, (X, Y), START)
    model = build("subclassed", "keras")
    with pytest.raises(ModelError, match=r"Sequential and functional models alone.*layers=\{'conv1'"):
        tpi.measure_layer_robustness(
            model, data(), {"start": tpi.copy_variables(model)}, draws=0, with_normalization=True
        )
    assert CLASSES == 3


@pytest.mark.parametrize("package", KERAS)
def test_a_layer_that_does_not_say_how_it_began_is_refused_by_name(package: str) -> None:
    K = KERAS[package]

    class Scale(K.layers.Layer):  # type: ignore[misc, name-defined]
        def build(self, shape: Any) -> None:
            self.factor = self.add_weight(name="factor", shape=(shape[-1],), initializer="ones")

        def call(self, x: Any) -> Any:
            return x * self.factor

    model = K.Sequential([K.layers.Input((5,)), Scale(name="scale"), K.layers.Dense(4, name="head")])
    start = {"start": tpi.copy_variables(model)}
    with pytest.raises(ModelError, match=r"'scale' \(Scale\).*scale/factor.*factor_initializer, leave.*draws=0"):
        tpi.measure_layer_robustness(model, (X, Y), start)
    assert tpi.measure_layer_robustness(model, (X, Y), start, draws=0).layers == ("scale", "head")
    assert tpi.measure_layer_robustness(model, (X, Y), start, layers="head").layers == ("head",)


@pytest.mark.parametrize("package", KERAS)
def test_checkpoints_are_kept_on_the_way(package: str) -> None:
    x, y = data()
    model = build("functional", package)
    steps, epochs = tpi.KeepCheckpoints(steps=[3, 0, 4]), tpi.KeepCheckpoints(epochs=(1, 2))
    seen = [tpi.copy_variables(model)]
    look = KERAS[package].callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(tpi.copy_variables(model)))
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[steps, epochs, look])
    assert list(steps.checkpoints) == ["step 0", "step 3", "step 4"]
    assert list(epochs.checkpoints) == ["epoch 1", "epoch 2"]
    assert steps.history == [(0, 1.0), (3, 1.0), (4, 1.0)]
    for path, before in seen[0].items():
        assert (steps.checkpoints["step 0"][path] == before).all()
        assert (steps.checkpoints["step 3"][path] == seen[1][path]).all()
        assert (epochs.checkpoints["epoch 1"][path] == seen[1][path]).all()
        assert (epochs.checkpoints["epoch 2"][path] == seen[2][path]).all()
    between = [steps.checkpoints["step 4"]["conv1/kernel"], *(one["conv1/kernel"] for one in seen)]
    assert len({values.tobytes() for values in between}) == 4


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras's own, where a length is unknown
def test_a_training_that_goes_on_goes_on_with_its_checkpoints() -> None:
    (x, y), model = data(), build("sequential", "keras")
    keep = tpi.KeepCheckpoints(steps=[0, 2, 5])
    words = r"ends before step 5, whose weights.*Received: steps=\[0, 2, 5\], and a training of 3 steps"
    with pytest.raises(OptionError, match=words):
        model.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[keep])
    assert keep.checkpoints == {}
    unknown = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda *_: True).batch(8)
    with pytest.raises(OptionError, match=words):
        model.fit(unknown, epochs=1, shuffle=False, verbose=0, callbacks=[keep])
    assert list(keep.checkpoints) == ["step 0", "step 2"]
    keep = tpi.KeepCheckpoints(epochs=[0, 2])
    model.fit(x, y, epochs=2, verbose=0, callbacks=[keep])
    model.fit(x, y, initial_epoch=2, epochs=4, verbose=0, callbacks=[keep])
    assert list(keep.checkpoints) == ["epoch 0", "epoch 2"]
    with pytest.raises(OptionError, match=r"begins after 3 epochs.*epochs=\[1, 4\]"):
        model.fit(x, y, initial_epoch=3, epochs=4, verbose=0, callbacks=[tpi.KeepCheckpoints(epochs=[1, 4])])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Give epochs= or steps="),
        ({"epochs": [1], "steps": [1]}, "Give epochs= or steps="),
        ({"epochs": []}, "at least one. Received: epochs=[]"),
        ({"steps": [2, 2]}, "different numbers"),
        ({"steps": [-1]}, "Received: steps=-1"),
    ],
)
def test_bad_checkpoints_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=re.escape(words)):
        tpi.KeepCheckpoints(**options)


def test_snapshots_of_a_procedure_are_checkpoints(tmp_path: Any) -> None:
    x, y = data()
    events = [Snapshot("start"), Train(2), Snapshot("early"), Train(4), Prune("magnitude"), Rewind("early"), Train(6)]

    def follow(folder: Any = None) -> Any:
        return tpi.run(
            events, lambda seed: build("functional", "keras", seed=seed), ((x, y), (x, y)),
            sparsity=0.5, steps=6, folder=folder, verbose=0,
        )  # fmt: skip

    done = follow(tmp_path / "run")
    initial = tpi.copy_variables(build("functional", "keras"))
    assert list(done.snapshots) == ["start", "early"]
    assert list(done.snapshots["start"]) == list(tpi.copy_variables(done.model))
    for path in ("conv1/kernel", "bn1/moving_mean", "head/bias"):
        assert (done.snapshots["start"][path] == initial[path]).all()
        assert not (done.snapshots["early"][path] == initial[path]).all()
    found = tpi.measure_layer_robustness(done.model, (x, y), done.snapshots, draws=0)
    assert found.columns == ("start", "early", "trained")
    kept = int(done.masks["conv1/kernel"].sum())
    assert found.get("conv1", "start").parameters == kept < 72
    resumed = follow(tmp_path / "run").snapshots
    assert all((resumed[n][p] == v).all() for n, values in done.snapshots.items() for p, v in values.items())


def test_a_row_that_is_not_there_is_named() -> None:
    found: LayerRobustness = tpi.measure_layer_robustness(mlp("keras", 0), (X, Y), START, draws=0)
    with pytest.raises(OptionError, match=r"no row of layer 'a' at 'random'.*columns: start, trained"):
        found.get("a", "random")
