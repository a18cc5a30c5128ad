"""One weight for all that masks keep: measured as computed by hand, and the model is left as it was."""

from __future__ import annotations

import csv
import io
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from model_kinds import KERAS, build, state
from model_kinds import data as images
from tiers import rows
from training import Policy

import tfprune_init as tpi
from tfprune_init.errors import DataError, EnforcementError, MaskMismatchError, ModelError, OptionError, ScoreError
from tfprune_init.training.shared_values import count_votes

VALUES = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)


def network(K: Any, *, loss: Any = None) -> Any:
    """Two layers with biases, compiled with a loss and two metrics."""
    K.utils.set_random_seed(3)
    model = K.Sequential(
        [
            K.Input((6,)),
            K.layers.Dense(5, activation="tanh", bias_initializer="ones", name="hidden"),
            K.layers.Dense(3, bias_initializer="random_normal", name="head"),
        ]
    )
    chosen = loss or K.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", chosen, metrics=["accuracy", K.metrics.SparseTopKCategoricalAccuracy(2, name="top2")])
    return model


def masks_of(model: Any, sparsity: float = 0.5) -> tpi.Masks:
    return tpi.find_masks(model, None, sparsity=sparsity, method="random", seed=1, verbose=0)


def points(count: int = 150, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 6)).astype("float32"), rng.integers(0, 3, count)


def outputs_by_hand(model: Any, masks: tpi.Masks, x: np.ndarray, v: float, signs: str, bias: str) -> np.ndarray:
    """What the network computes at one value, in float64."""
    h = x.astype(np.float64)
    for name in ("hidden", "head"):
        layer = model.get_layer(name)
        w, b = np.float64(layer.kernel), np.float64(layer.bias)
        share = {"equal": np.ones_like, "present": np.sign}[signs]
        kernel = v * share(w) * masks[f"{name}/kernel"]
        h = h @ kernel + {"zero": 0 * b, "present": b, "shared": v * share(b)}[bias]
        h = np.tanh(h) if name == "hidden" else h
    return h


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]))


@pytest.mark.parametrize(("signs", "bias"), [("equal", "zero"), ("present", "present"), ("present", "shared")])
def test_each_value_is_measured_as_computed_by_hand(K, signs: str, bias: str) -> None:
    model = network(K)
    masks, (x, y) = masks_of(model), points()
    found = tpi.shared_weight(model, (x, y), masks, signs=signs, bias=bias)
    assert found.values == VALUES
    votes = np.zeros((len(y), 3))
    for one in found.swept:
        logits = outputs_by_hand(model, masks, x, one.value, signs, bias)
        right = logits.argmax(axis=1) == y
        top2 = (np.argsort(-logits, axis=1)[:, :2] == y[:, None]).any(axis=1)
        assert one.measured.right == right.sum()
        assert one.measured.metrics == pytest.approx(
            {"loss": cross_entropy(logits, y), "accuracy": right.mean(), "top2": top2.mean()}, rel=1e-5
        )
        votes += np.eye(3)[logits.argmax(axis=1)]
    assert found.ensemble_right == (votes.argmax(axis=1) == y).sum()
    assert found.mean_accuracy == pytest.approx(np.mean(found.accuracies))
    assert found.compute_mean("loss") == pytest.approx(np.mean([one.measured.metrics["loss"] for one in found.swept]))
    biases = {"zero": "bias, 0", "present": "bias, as it is", "shared": "bias, shares the weight"}
    assert found.others == {"hidden/bias": biases[bias], "head/bias": biases[bias]}
    assert found.kept == masks.kept


KINDS = ("functional", "sequential", "subclassed", "nested", "self_writing")
# What a sweep must put back depends on layers that keep statistics, layers that write to variables, and on metrics.
TRACES = {f"{kind}, {package}": (kind, package) for kind in KINDS for package in KERAS}


@pytest.mark.parametrize("case", rows(TRACES, ["functional, tf_keras", "self_writing, keras"]))
def test_a_sweep_leaves_no_trace(case: str) -> None:
    model = build(*TRACES[case])
    x, y = images()
    model.fit(x, y, epochs=1, verbose=0)
    before = state(model)
    found = tpi.shared_weight(model, (x, y), masks_of(model), values=(-1, 0.5), tune=True, steps=2)
    assert state(model) == before
    assert len(found.swept) == 2
    assert found.tuned is not None


def test_a_model_that_was_never_evaluated_keeps_no_measurement(K) -> None:
    model = network(K)
    before = [np.array(v) for v in model.variables]
    tpi.shared_weight(model, points(), masks_of(model))
    assert all((old == np.array(v)).all() for old, v in zip(before, model.variables, strict=True))
    for metric in model.metrics:
        assert all((np.array(v) == 0).all() for v in metric.variables)


def test_an_error_on_the_way_leaves_no_trace(K) -> None:
    model = network(K)
    model.evaluate(*points(), verbose=0)
    before = state(model)
    x, y = points()
    with pytest.raises(ModelError, match="NaN or Inf"):
        tpi.shared_weight(model, (x * np.float32(1e30), y), masks_of(model), values=(1.0, 1e38), bias="present")
    assert state(model) == before


def test_attached_masks_are_the_default_and_hold(K) -> None:
    model = network(K)
    masks = masks_of(model)
    apart = tpi.shared_weight(model, points(), masks)
    tpi.attach(model, masks)
    assert tpi.shared_weight(model, points()) == apart
    model.fit(*points(), epochs=1, verbose=0)
    assert all((np.array(model.get_layer(path.split("/")[0]).kernel)[~mask] == 0).all() for path, mask in masks.items())
    with pytest.raises(MaskMismatchError, match="hidden/kernel"):
        tpi.shared_weight(model, points(), tpi.Masks({path: np.ones_like(mask) for path, mask in masks.items()}))


def test_wrapped_models_share_the_weight_too() -> None:
    model = network(keras)
    masks = masks_of(model)
    plain = tpi.shared_weight(model, points(), masks)
    wrapped = tpi.wrap(model, masks)
    wrapped.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = tpi.shared_weight(wrapped, points())
    assert [one.measured.right for one in found.swept] == [one.measured.right for one in plain.swept]


def test_batch_normalization_is_the_identity(K) -> None:
    inputs = K.Input((4,))
    x = K.layers.Dense(4, use_bias=False, name="hidden")(inputs)
    model = K.Model(inputs, K.layers.BatchNormalization(epsilon=0.25, name="bn")(x))
    model.get_layer("bn").set_weights([np.full(4, number) for number in (3.0, 2.0, 5.0, 7.0)])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 4))
    masks = tpi.Masks({"hidden/kernel": np.eye(4, dtype=bool)})
    found = tpi.shared_weight(model, (x, y), masks, values=(0.5,))
    assert found.swept[0].measured.metrics["loss"] == pytest.approx(((0.5 * x - y) ** 2).mean(), rel=1e-5)
    assert found.swept[0].measured.right is None
    assert (found.ensemble_right, found.ensemble_accuracy, found.mean_accuracy) == (None, None, None)
    assert set(found.others) == {f"bn/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")}


def test_variables_without_a_mask_stay_as_they_are(K) -> None:
    model = network(K)
    x, y = points()
    masks = tpi.find_masks(model, None, sparsity=0.5, method="random", exclude="head", verbose=0)
    found = tpi.shared_weight(model, (x, y), masks, values=(1.5,))
    assert found.others["head/kernel"] == "as it is"
    logits = np.tanh(1.5 * x @ masks["hidden/kernel"]) @ np.float64(model.get_layer("head").kernel)
    assert found.swept[0].measured.metrics["loss"] == pytest.approx(cross_entropy(logits, y), rel=1e-5)


def test_masked_biases_share_the_weight(K) -> None:
    model = network(K)
    x, y = points()
    masks = tpi.find_masks(model, None, sparsity=0.5, method="random", prune_bias=True, verbose=0)
    found = tpi.shared_weight(model, (x, y), masks, values=(0.7,))
    h = np.tanh(0.7 * (x @ masks["hidden/kernel"] + masks["hidden/bias"]))
    logits = 0.7 * (h @ masks["head/kernel"] + masks["head/bias"])
    assert found.others == {}
    assert found.swept[0].measured.metrics["loss"] == pytest.approx(cross_entropy(logits, y), rel=1e-5)


def test_the_best_value_is_chosen_on_other_data_than_it_is_measured_on(K) -> None:
    model = network(K)
    masks, train, test = masks_of(model), points(150, 5), points(150, 6)
    found = tpi.shared_weight(model, test, masks, train=train)
    alone = tpi.shared_weight(model, train, masks)
    assert [one.chosen_by for one in found.swept] == [one.measured for one in alone.swept]
    key = [(-one.measured.right, one.measured.metrics["loss"]) for one in alone.swept]
    assert found.best.value == VALUES[key.index(min(key))]
    assert found.best.measured == tpi.shared_weight(model, test, masks).swept[key.index(min(key))].measured
    header, first, *_ = csv.reader(io.StringIO(found.to_csv()))
    names = ["loss", "accuracy", "top2", "right", "examples"]
    assert header == ["kind", "value", *names, *(f"train_{name}" for name in names)]
    one = found.swept[0]
    assert first[:2] == ["swept", "-2.0"]
    assert float(first[2]) == one.measured.metrics["loss"]
    assert int(first[-2]) == one.chosen_by.right


def test_tuning_is_adam_on_the_one_value(K) -> None:
    """Against Adam in float64, with the derivative by differences."""
    model = network(K)
    masks, (x, y) = masks_of(model), points(128)
    found = tpi.shared_weight(model, (x, y), masks, values=(0.5, 1.0), signs="present", tune=True, steps=5)

    def loss(v: float) -> float:
        return cross_entropy(outputs_by_hand(model, masks, x, v, "present", "zero"), y)

    v, first, second = found.best.value, 0.0, 0.0
    for step in range(1, 6):
        slope = (loss(v + 1e-6) - loss(v - 1e-6)) / 2e-6
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        v -= 0.01 * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-7)
    assert found.tuned.value == pytest.approx(v, rel=1e-5)
    assert found.tuned.measured.metrics["loss"] == pytest.approx(loss(v), rel=1e-4)
    assert found.tuned.measured.metrics["loss"] < found.best.measured.metrics["loss"]
    assert found.to_csv().splitlines()[-1].startswith(f"tuned,{found.tuned.value}")


def test_the_same_call_gives_the_same_numbers(K) -> None:
    first, second = (
        tpi.shared_weight(model, points(), masks_of(model), values=(-1, 1), tune=True, steps=3)
        for model in (network(K), network(K))
    )
    assert first == second


def test_one_hot_labels_count_as_classes(K) -> None:
    x, y = points()
    model = network(K)
    sparse = tpi.shared_weight(model, (x, y), masks_of(model))
    model = network(K)
    model = K.Sequential([K.Input((6,)), *model.layers])  # compiled anew, Keras 3 keeps the metrics that it had
    model.compile("sgd", K.losses.CategoricalCrossentropy(from_logits=True))
    one_hot = tpi.shared_weight(model, (x, np.eye(3, dtype="float32")[y]), masks_of(model))
    assert one_hot.accuracies == sparse.accuracies
    assert one_hot.ensemble_right == sparse.ensemble_right


def test_data_in_another_order_each_time_has_no_votes() -> None:
    model = network(keras)
    shuffled = tf.data.Dataset.from_tensor_slices(points()).shuffle(150, seed=1)
    with pytest.raises(DataError, match="another order"):
        tpi.shared_weight(model, shuffled.batch(50), masks_of(model))
    found = tpi.shared_weight(model, points(), masks_of(model), train=shuffled.batch(50))
    assert [one.chosen_by.right for one in found.swept] == [one.measured.right for one in found.swept]


def test_votes() -> None:
    assert count_votes(np.array([[3, 0, 1], [3, 2, 1], [0, 2, 0], [0, 1, 0]])).tolist() == [0, 2, 0]


def test_half_precision_takes_what_it_can_hold() -> None:
    with Policy("float16"):
        model = keras.Sequential([keras.Input((6,)), *network(keras).layers])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        found = tpi.shared_weight(model, points(), masks_of(model), values=(0.5,))
        assert found.swept[0].measured.right > 0
        for value in (1e6, 1e-9):
            with pytest.raises(OptionError, match="float16"):
                tpi.shared_weight(model, points(), masks_of(model), values=(value,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": []}, "at least one"),
        ({"values": (1.0, 0.0)}, "other than 0"),
        ({"values": (1.0, float("nan"))}, "values"),
        ({"values": (1.0, 1)}, "each once"),
        ({"values": 1.0}, "a sequence"),
        ({"signs": "random"}, "'equal' or 'present'"),
        ({"bias": None}, "'zero' or 'shared' or 'present'"),
        ({"tune": 1}, "True or False"),
        ({"steps": 3}, "without tune=True"),
        ({"learning_rate": 0.1}, "without tune=True"),
        ({"tune": True, "steps": 0}, "positive integer"),
        ({"tune": True, "learning_rate": 0}, "above 0"),
        ({"masks": {"hidden/kernel": np.ones((6, 5), bool)}}, "tpi.Masks"),
        ({"masks": tpi.Masks({"hidden/kernel": np.zeros((6, 5), bool)})}, "keep nothing"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    model = network(keras)
    with pytest.raises(OptionError, match=message):
        tpi.shared_weight(model, points(), **{"masks": masks_of(model), **options})


def test_options_without_effect_are_refused() -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, use_bias=False, name="head")])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(OptionError, match="no bias"):
        tpi.shared_weight(model, points(), masks_of(model), bias="shared")
    model = network(keras)
    for layer in model.layers:
        layer.bias.assign(np.zeros(layer.bias.shape))
    with pytest.raises(OptionError, match="all biases are 0"):
        tpi.shared_weight(model, points(), masks_of(model), bias="shared", signs="present")


def test_models_that_cannot_be_measured_are_refused_by_name(K) -> None:
    model = network(K)
    masks = masks_of(model)
    with pytest.raises(OptionError, match="carries none"):
        tpi.shared_weight(model, points())
    with pytest.raises(MaskMismatchError, match="Not in the model: tail/kernel"):
        tpi.shared_weight(model, points(), tpi.Masks({"tail/kernel": [True]}))
    with pytest.raises(ModelError, match="labels or inputs do not suit"):
        tpi.shared_weight(model, (points()[0], np.ones((150, 7, 7), "float32")), masks)
    with pytest.raises(DataError, match="empty"):
        tpi.shared_weight(model, tf.data.Dataset.from_tensor_slices(points()).take(0).batch(8), masks)
    tpi.freeze(model, masks, tpi.copy_weights(model))
    with pytest.raises(EnforcementError, match="unfreeze"):
        tpi.shared_weight(model, points(), masks)
    plain = K.Sequential([K.Input((6,)), *network(K).layers])
    with pytest.raises(ModelError, match="no loss"):
        tpi.shared_weight(plain, points(), masks)
    plain.compile("sgd")
    with pytest.raises(ModelError, match="no loss"):
        tpi.shared_weight(plain, points(), masks)


def test_layers_that_compute_with_other_weights_are_refused() -> None:
    model = network(keras)
    masks = masks_of(model)
    model.get_layer("hidden").enable_lora(2)
    with pytest.raises(EnforcementError, match="hidden"):
        tpi.shared_weight(model, points(), masks)


def test_tuning_starts_where_there_is_a_gradient(K) -> None:
    """Negative weights of positive inputs are nothing behind ReLU: all outputs are 0, and all are of class 0."""
    model = K.Sequential([K.Input((6,)), K.layers.Dense(4, activation="relu", name="a"), K.layers.Dense(3, name="b")])
    model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = abs(points()[0]), np.zeros(150, int)
    with pytest.raises(ScoreError, match="it is 0 at each of -1"):
        tpi.shared_weight(model, (x, y), masks_of(model), values=(-1,), tune=True, steps=3)
    masks = tpi.Masks({"a/kernel": np.ones((6, 4), bool), "b/kernel": np.array([[False, True, True]] * 4)})
    found = tpi.shared_weight(model, (x, y), masks, values=(-1, 0.5), tune=True, steps=3)
    assert found.accuracies == (1.0, 0.0)
    assert found.best.value == -1
    assert 0.4 < found.tuned.value < 0.5


def test_the_figure_draws_what_was_measured() -> None:
    model = network(keras)
    found = tpi.shared_weight(model, points(), masks_of(model), values=(2, -2, 0.5), tune=True, steps=2)
    figure = tpi.plots.shared_weight({"random": found}, title="a title")
    FigureCanvasAgg(figure).draw()
    curve, vote, star = figure.axes[0].lines
    np.testing.assert_array_equal(curve.get_xdata(), [-2, 0, 0.5, 2])
    first, *others = (100 * found.accuracies[place] for place in (1, 2, 0))
    np.testing.assert_allclose(curve.get_ydata(), [first, np.nan, *others])
    assert vote.get_ydata()[0] == 100 * found.ensemble_accuracy
    assert star.get_xdata()[0] == found.tuned.value
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "random",
        "random: vote of all",
        "random: tuned",
    ]
    with pytest.raises(OptionError, match="without results"):
        tpi.plots.shared_weight({})
