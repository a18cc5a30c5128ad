"""Which loss judges connections: the compiled one, what layers add, compute_loss, or a function of model and batch."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import variables
from test_conformance import state

import tfprune_init as tpi
from tfprune_init.errors import DataError, LossWarning, ModelError, OptionError, ScoreError

RNG = np.random.default_rng(5)
X = RNG.normal(size=(12, 5)).astype("float32")
Y = RNG.normal(size=(12, 2)).astype("float32")
WEIGHTS = RNG.uniform(0.5, 2, 12).astype("float32")


def kernels(model: Any) -> dict[str, np.ndarray]:
    return {path: np.asarray(v, "float64") for path, v in variables(model).items() if path.endswith("/kernel")}


def differentiate(loss: Callable[[dict[str, np.ndarray]], float], weights: dict[str, np.ndarray]) -> dict:
    """Central differences of a float64 function."""
    slopes = {path: np.zeros_like(value) for path, value in weights.items()}
    for path, value in weights.items():
        for place in np.ndindex(*value.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = value.copy()
                moved[place] += step
                ends.append(loss({**weights, path: moved}))
            slopes[path][place] = (ends[0] - ends[1]) / 2e-5
    return slopes


def assert_scores(found: dict[str, np.ndarray], weights: dict[str, np.ndarray], slopes: dict) -> None:
    assert set(found) == set(weights)
    for path, value in found.items():
        np.testing.assert_allclose(value, abs(weights[path] * slopes[path]), rtol=1e-3, atol=1e-6, err_msg=path)


def autoencoder(K: Any) -> Any:
    """Two layers add losses: the size of the code, and the error of the reconstruction."""

    class Code(K.layers.Layer):
        def call(self, code: Any) -> Any:
            self.add_loss(0.1 * tf.reduce_mean(tf.square(code)))
            return code

    class Reconstruction(K.layers.Layer):
        def call(self, inputs: Any) -> Any:
            x, given = inputs
            self.add_loss(tf.reduce_mean(tf.square(x - given)))
            return given

    x = K.Input((5,))
    code = Code()(K.layers.Dense(3, name="encoder", use_bias=False, kernel_regularizer="l2")(x))
    given = K.layers.Dense(5, name="decoder", use_bias=False)(code)
    model = K.Model(x, Reconstruction()([x, given]))
    model.compile("sgd")
    return model


def autoencoder_loss(weights: dict[str, np.ndarray], x: np.ndarray = X) -> float:
    code = x.astype("float64") @ weights["encoder/kernel"]
    return float(0.1 * np.mean(code**2) + np.mean((x - code @ weights["decoder/kernel"]) ** 2))


FORMS: dict[str, Callable[[], Any]] = {
    "array": lambda: X,
    "tuple": lambda: (X,),
    "with None": lambda: (X, None),
    "tensor": lambda: tf.constant(X),
    "dataset of x": lambda: tf.data.Dataset.from_tensor_slices(X).batch(12),
    "dataset of (x,)": lambda: tf.data.Dataset.from_tensor_slices((X,)).batch(12),
    "list of batches": lambda: [(X,)],
}


def test_losses_that_layers_add_judge_without_a_compiled_one(K: Any) -> None:
    model = autoencoder(K)
    weights = kernels(model)
    slopes = differentiate(autoencoder_loss, weights)
    before = state(model)
    for form in FORMS.values():
        assert_scores(tpi.score(model, form(), "snip"), weights, slopes)
    assert state(model) == before
    report = tpi.prune_at_init(model, X, sparsity=0.5, method="force", steps=3)
    assert report.loss == "the losses that layers add"
    assert report.to_dict()["loss"] == report.loss
    text = io.StringIO()
    report.print(text)
    assert "Connections were judged by the losses that layers add." in text.getvalue()
    model.fit(X, epochs=1, verbose=0)
    assert all(not np.asarray(variables(model)[path])[~mask].any() for path, mask in report.masks.items())


def test_batches_of_x_alone_are_averaged_by_examples() -> None:
    model = autoencoder(keras)
    found = tpi.score(model, tf.data.Dataset.from_tensor_slices(X).batch(8), "snip", batches=2)  # 8 and 4
    weights = kernels(model)
    assert_scores(found, weights, differentiate(autoencoder_loss, weights))


def ctc_by_brute_force(kernel: np.ndarray, images: np.ndarray, labels: np.ndarray) -> float:
    """Minus the mean log probability of labels: the sum over all paths of classes that collapse to them; 0 is blank."""
    total = 0.0
    for image, label in zip(images, labels, strict=True):
        logits = image.astype("float64") @ kernel
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        likely = 0.0
        for path in itertools.product(range(kernel.shape[1]), repeat=len(image)):
            collapsed = [one for one, _ in itertools.groupby(path) if one]
            if collapsed == list(label):
                likely += np.prod([chances[time, one] for time, one in enumerate(path)])
        total -= np.log(likely)
    return total / len(images)


def test_ctc_endpoint(K: Any) -> None:
    class Endpoint(K.layers.Layer):
        def call(self, label: Any, logits: Any) -> Any:
            count, times, length = tf.shape(logits)[0], tf.shape(logits)[1], tf.shape(label)[1]
            lost = tf.nn.ctc_loss(
                tf.cast(label, tf.int32), logits, tf.fill([count], length), tf.fill([count], times),
                logits_time_major=False, blank_index=0,
            )  # fmt: skip
            self.add_loss(tf.reduce_mean(lost))
            return logits

    images = K.Input((4, 3), name="image")
    label = K.Input((2,), name="label")
    model = K.Model([images, label], Endpoint()(label, K.layers.Dense(3, use_bias=False, name="chars")(images)))
    model.compile("sgd")
    data = {
        "image": RNG.normal(size=(3, 4, 3)).astype("float32"),
        "label": np.array([[1, 2], [2, 1], [1, 1]], "float32"),
    }
    weights = kernels(model)
    slopes = differentiate(lambda w: ctc_by_brute_force(w["chars/kernel"], data["image"], data["label"]), weights)
    assert_scores(tpi.score(model, data, "snip"), weights, slopes)
    assert_scores(tpi.score(model, tf.data.Dataset.from_tensor_slices(data).batch(3), "snip"), weights, slopes)


def regressor(K: Any, **methods: Any) -> Any:
    x = K.Input((5,))
    out = K.layers.Dense(2, name="out", use_bias=False)(K.layers.Dense(4, "tanh", name="hidden", use_bias=False)(x))
    return type("Own", (K.Model,), methods)(x, out)


def quartic(weights: dict[str, np.ndarray], example_weights: np.ndarray | float = 1.0) -> float:
    errors = np.tanh(X.astype("float64") @ weights["hidden/kernel"]) @ weights["out/kernel"] - Y
    return float(np.mean(np.mean(errors**4, axis=1) * example_weights))


def fourth_power(model: Any, batch: Any) -> Any:
    x, y = batch
    return tf.reduce_mean((model(x, training=True) - y) ** 4)


def test_a_function_of_model_and_batch_judges(K: Any) -> None:
    model = regressor(K)
    weights = kernels(model)
    slopes = differentiate(quartic, weights)
    before = [np.asarray(v).tobytes() for v in model.variables]
    assert_scores(tpi.score(model, (X, Y), "snip", loss=fourth_power), weights, slopes)
    assert [np.asarray(v).tobytes() for v in model.variables] == before
    options = {"sparsity": 0.5, "method": "iter_snip", "steps": 2, "loss": fourth_power}
    again = tpi.find_masks(model, (X, Y), **options)
    report = tpi.prune_at_init(model, (X, Y), **options)
    assert report.masks.fingerprint == again.fingerprint
    assert report.loss == "loss=fourth_power(model, batch)"
    assert report.masks.kept == 14


def test_it_gets_what_the_data_gives(K: Any) -> None:
    model = regressor(K)
    weights = kernels(model)

    def weighted(model: Any, batch: Any) -> Any:
        x, y, sample_weight = batch
        return tf.reduce_mean(tf.reduce_mean((model(x) - y) ** 4, axis=1) * sample_weight)

    slopes = differentiate(lambda w: quartic(w, WEIGHTS), weights)
    assert_scores(tpi.score(model, (X, Y, WEIGHTS), "snip", loss=weighted), weights, slopes)
    slopes = differentiate(lambda w: quartic(w) * 3, weights)
    labels = {X.tobytes(): Y}
    found = tpi.score(
        model, X, "snip", loss=lambda model, batch: 3 * tf.reduce_mean((model(batch) - labels[X.tobytes()]) ** 4)
    )
    assert_scores(found, weights, slopes)


def test_it_takes_part_in_second_order_and_exact_methods(K: Any) -> None:
    model = regressor(K)
    weights = kernels(model)
    found = tpi.score(model, (X, Y), "exact", loss=fourth_power)
    whole = quartic(weights)
    for path, value in found.items():
        for place in np.ndindex(*value.shape):
            without = weights[path].copy()
            without[place] = 0
            assert value[place] == pytest.approx(abs(quartic({**weights, path: without}) - whole), rel=1e-6, abs=1e-12)
    grasp = tpi.score(model, (X, Y), "grasp", loss=fourth_power, temperature=1)
    mse = tpi.score(model, (X, Y), "grasp", loss="mse", temperature=1)
    assert all(np.isfinite(one).all() for one in grasp.values())
    assert not np.allclose(grasp["out/kernel"], mse["out/kernel"])


def test_its_parameters_with_defaults_keep_them() -> None:
    def scaled(model: Any, data: Any, factor: float = 3.0) -> Any:
        return factor * fourth_power(model, data)

    model = regressor(keras)
    weights = kernels(model)
    slopes = differentiate(lambda w: quartic(w) * 3, weights)
    assert_scores(tpi.score(model, (X, Y), "snip", loss=scaled), weights, slopes)


def test_training_reaches_it_only_where_it_takes_it() -> None:
    seen = []

    def told(model: Any, batch: Any, training: bool) -> Any:
        seen.append(training)
        return tf.reduce_mean((model(batch[0], training=training) - batch[1]) ** 2)

    model = regressor(keras)
    tpi.score(model, (X, Y), "snip", loss=told)
    tpi.score(model, (X, Y), "snip", loss=told, training=False)
    assert seen == [True, False]
    with pytest.raises(OptionError, match=r"calls the model itself.*training=False"):
        tpi.score(model, (X, Y), "snip", loss=fourth_power, training=False)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda model, batch: tf.square(model(batch[0]) - batch[1]), r"must return a scalar.*\(12, 2\)"),
        (lambda model, batch: None, "must return a scalar.*None"),
    ],
)
def test_what_is_no_scalar_is_refused(K: Any, loss: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        tpi.score(regressor(K), (X, Y), "snip", loss=loss)


def test_functions_of_other_arguments_are_losses_of_outputs() -> None:
    model = regressor(keras)
    weights = kernels(model)
    found = tpi.score(model, (X, Y), "snip", loss=lambda y_true, y_pred: keras.ops.mean((y_true - y_pred) ** 4, -1))
    assert_scores(found, weights, differentiate(quartic, weights))


def test_a_function_of_other_names_that_fails_is_told_of_the_names() -> None:
    with pytest.raises(DataError, match=r"function of model and batch\? Call its parameters model and batch"):
        tpi.score(regressor(keras), (X, Y), "snip", loss=lambda net, data: tf.reduce_mean(net(data[0])))


def test_what_it_does_not_depend_on_is_named() -> None:
    with pytest.raises(ScoreError, match=r"hidden/kernel, out/kernel.*exclude"):
        tpi.score(regressor(keras), (X, Y), "snip", loss=lambda model, batch: tf.reduce_mean(batch[0]))


def own_step(self: Any, data: Any) -> Any:
    raise AssertionError("scoring trains nothing")


def test_a_train_step_of_its_own_needs_to_tell_its_loss(K: Any) -> None:
    model = regressor(K, train_step=own_step)
    model.compile("sgd")
    with pytest.raises(ModelError, match=r"train_step of Own.*loss=, a function \(model, batch\)"):
        tpi.score(model, (X, Y), "snip")
    weights = kernels(model)
    assert_scores(tpi.score(model, (X, Y), "snip", loss=fourth_power), weights, differentiate(quartic, weights))


def test_a_train_step_beside_a_compiled_loss_is_warned_of(K: Any) -> None:
    model = regressor(K, train_step=own_step)
    model.compile("sgd", loss="mse")
    with pytest.warns(LossWarning, match=r"train_step of Own.*compiled one, mse.*loss=model.loss"):
        report = tpi.prune_at_init(model, (X, Y), sparsity=0.5, method="snip")
    assert report.loss == "the compiled loss mse"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tpi.score(model, (X, Y), "snip", loss=model.loss)
        tpi.score(model, (X, Y), "snip", loss=fourth_power)
        tpi.score(model, None, "magnitude")
        plain = regressor(K)
        plain.compile("sgd", loss="mse")
        tpi.score(plain, (X, Y), "snip")


def test_compute_loss_of_its_own_judges_and_is_named(K: Any) -> None:
    def compute_loss(
        self: Any, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        return tf.reduce_mean((y_pred - y) ** 4)

    model = regressor(K, compute_loss=compute_loss)
    model.compile("sgd", loss="mse")
    weights = kernels(model)
    assert_scores(tpi.score(model, (X, Y), "snip"), weights, differentiate(quartic, weights))
    assert tpi.prune_at_init(model, (X, Y), sparsity=0.5, method="snip").loss == "compute_loss of Own"


def test_reports_name_losses_of_several_outputs_and_no_loss() -> None:
    x = keras.Input((5,))
    outputs = {"a": keras.layers.Dense(2, name="a")(x), "b": keras.layers.Dense(2, name="b")(x)}
    model = keras.Model(x, outputs)
    model.compile("sgd", {"a": "mse", "b": keras.losses.Huber()})
    report = tpi.prune_at_init(model, (X, {"a": Y, "b": Y}), sparsity=0.5, method="snip")
    assert report.loss == "the compiled loss mse + huber_loss"
    assert tpi.prune_at_init(model, None, sparsity=0.5, method="magnitude").loss is None


def test_a_loss_of_labels_needs_labels(K: Any) -> None:
    model = regressor(K)
    model.compile("sgd", loss="mse")
    for data in (X, tf.data.Dataset.from_tensor_slices(X).batch(4)):
        with pytest.raises(DataError, match=r"compiled loss mse compares .* must give \(x, y\).*x alone"):
            tpi.score(model, data, "snip")


def test_errors_of_this_package_pass_through_a_trace_as_they_are() -> None:
    """AutoGraph would raise an error of its own in place."""

    def refuses(model: Any, batch: Any) -> Any:
        raise ModelError("refused")

    with pytest.raises(ModelError, match=r"^refused$"):
        tpi.score(regressor(keras), (X, Y), "snip", loss=refuses)
