"""The data that users bring: every form that Keras trains on scores like the plain one, or an error helps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import command
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from model_kinds import KERAS

import tfprune_init as tpi
from tfprune_init.backend.batches import to_dataset
from tfprune_init.backend.replicas import Replicas
from tfprune_init.errors import DataError, ModelError, NetworkCollapseError, OptionError
from tfprune_init.graph.string_inputs import split_at_strings

RNG = np.random.default_rng(11)
X = RNG.normal(size=(20, 6)).astype("float32")
Y = RNG.integers(0, 3, 20)
BATCHES = [(X[start : start + 8], Y[start : start + 8]) for start in (0, 8, 16)]  # 8, 8 and 4 examples


def loss_of(K: Any) -> Any:
    return K.losses.SparseCategoricalCrossentropy(from_logits=True)


def mlp(K: Any, name: str | None = None) -> Any:
    K.utils.set_random_seed(0)
    layers = [K.layers.Dense(8, "relu", name="a"), K.layers.Dense(3, name="b")]
    model = K.Sequential([K.Input((6,), name=name), *layers])
    model.compile("sgd", loss_of(K))
    return model


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for path in expected:
        np.testing.assert_array_equal(found[path], expected[path])


def give_batches() -> Iterator[Any]:
    yield from BATCHES


def as_sequence(K: Any) -> Any:
    class Batches(K.utils.PyDataset if K is keras else K.utils.Sequence):
        def __len__(self) -> int:
            return len(BATCHES)

        def __getitem__(self, place: int) -> Any:
            return BATCHES[place]

    return Batches()


def as_dataset() -> Any:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)


SOURCES: dict[str, Callable[[Any], Any]] = {
    "PyDataset": as_sequence,
    "generator function": lambda K: give_batches,
    "function that returns a list": lambda K: lambda: BATCHES,
    "function that returns a dataset": lambda K: as_dataset,
    "list of tuples": lambda K: BATCHES,
    "generator": lambda K: give_batches(),
    "iterator of a dataset": lambda K: iter(as_dataset()),
}
AGAIN = [name for name in SOURCES if name not in ("generator", "iterator of a dataset")]


class TestBatchesFromPython:
    def test_all_give_the_scores_of_the_dataset(self, K: Any) -> None:
        model = mlp(K)
        expected = tpi.score(model, as_dataset(), "snip", batches=3)
        for make in SOURCES.values():
            assert_same(tpi.score(model, make(K), "snip", batches=3), expected)

    def test_after_the_last_batch_comes_the_first(self) -> None:
        model = mlp(keras)
        options = {"sparsity": 0.8, "method": "force", "steps": 5}
        expected = tpi.find_masks(model, as_dataset(), **options)
        for name in AGAIN:
            assert tpi.find_masks(model, SOURCES[name](keras), **options).fingerprint == expected.fingerprint

    def test_a_generator_is_read_no_further_than_needed(self) -> None:
        model = mlp(keras)
        batches = give_batches()
        options = {"sparsity": 0.5, "method": "snip", "batches": 2, "granularity": "units", "exclude": "b"}
        found = tpi.find_masks(model, batches, **options)
        assert found.fingerprint == tpi.find_masks(model, as_dataset(), **options).fingerprint
        np.testing.assert_array_equal(next(batches)[0], BATCHES[2][0])

    def test_a_generator_that_ends_too_early_says_so(self) -> None:
        with pytest.raises(DataError, match=r"ended after 3 batches.*data=make_batches.*data=list\(batches\)"):
            tpi.find_masks(mlp(keras), give_batches(), sparsity=0.5, method="force", steps=5)

    def test_weights_and_lists_of_parts(self) -> None:
        model = mlp(keras)
        weights = RNG.uniform(0.5, 2, 20).astype("float32")
        expected = tpi.score(model, (X, Y, weights), "snip")
        assert_same(tpi.score(model, lambda: iter([[X, Y.tolist(), weights]]), "snip"), expected)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (lambda: iter(zip(X, Y, strict=True)), r"batch 1 must have the same number.*single examples.*\(6,\), \(\)"),
            (lambda: iter([(X, Y, Y, Y)]), r"Batch 1 must be x, \(x, y\).*4 parts"),
            (lambda: iter([(X, Y[:3])]), "same number of examples"),
            (lambda: iter([None]), "Batch 1 must be x"),
            (lambda: (X, Y), "must return batches to iterate over.*tuple"),
            (lambda: iter([]), "The dataset is empty"),
            (lambda size, *more, seed=0: iter(BATCHES), "without arguments.*needs size"),
            ([X, X, X, X], r"a tuple for each: \[\(x1, y1\), \(x2, y2\)\]"),
            (lambda: iter([(np.full_like(X, np.nan), Y)]), "x of batch 1 holds NaN"),
            ("digits", "Received: builtins.str"),
            (([[1.0, 2.0], [3.0]], [0, 1]), r"rows of different lengths: pass tf.ragged.constant\(rows\)"),
            ((np.array([[1, "a"], [2, "b"]], dtype=object), Y[:2]), r"ndarray of int, str.*dict\(x\)"),
        ],
    )
    def test_what_is_no_batch(self, data: Any, words: str) -> None:
        with pytest.raises(DataError, match=f"(?s){words}"):
            tpi.score(mlp(keras), data, "snip")


@pytest.mark.parametrize("data", [give_batches, BATCHES, as_sequence(keras)])
def test_where_epochs_are_needed_a_dataset_is_asked_for(data: Any) -> None:
    with pytest.raises(DataError, match=r"tf.data.Dataset.from_generator\(make_batches"):
        to_dataset(data)


def test_lists_of_numbers_are_arrays() -> None:
    model = mlp(keras)
    expected = tpi.score(model, (X.astype("float64"), Y), "snip")
    assert_same(tpi.score(model, (X.tolist(), Y.tolist()), "snip"), expected)


class TestPandas:
    def test_tables_and_columns(self, K: Any) -> None:
        pd = pytest.importorskip("pandas")
        table = pd.DataFrame(X, columns=list("abcdef"), index=np.arange(20)[::-1])
        model = mlp(K)
        expected = tpi.score(model, (X, Y), "snip")
        for data in ((table, pd.Series(Y)), (X, pd.Series(Y)), [(table, Y)]):
            assert_same(tpi.score(model, data, "snip"), expected)

    def test_a_column_for_each_input(self, K: Any) -> None:
        pd = pytest.importorskip("pandas")
        table = pd.DataFrame({"size": X[:, 0], "colour": np.where(X[:, 1] > 0, "red", "blue")})
        inputs = {"size": K.Input((1,), name="size"), "colour": K.Input((1,), dtype="string", name="colour")}
        colours = K.layers.StringLookup(vocabulary=["red", "blue"], output_mode="one_hot")(inputs["colour"])
        model = K.Model(inputs, K.layers.Dense(3, name="d")(K.layers.Concatenate()([colours, inputs["size"]])))
        model.compile("sgd", loss_of(K))
        columns = {"size": X[:, :1], "colour": table["colour"].to_numpy(dtype=object)[:, None]}
        expected = tpi.score(model, (columns, Y), "snip")
        assert_same(tpi.score(model, (dict(table), pd.Series(Y)), "snip"), expected)
        with pytest.raises(DataError, match=r"DataFrame of float, str.*dict\(x\)"):
            tpi.score(model, (table, Y), "snip")


def pooled(K: Any) -> Any:
    """A head on the mean of rows of different lengths; only tf_keras has ragged inputs to declare."""

    class Pooled(K.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head = K.layers.Dense(2, name="head", use_bias=False)

        def call(self, x: Any) -> Any:
            return self.head(tf.reduce_mean(x, axis=1))

    K.utils.set_random_seed(0)
    model = Pooled()
    model(tf.ones((1, 2, 4)))
    model.compile("sgd", "mse")
    return model


def test_ragged_tensors(K: Any) -> None:
    rows = [RNG.normal(size=(length, 4)).astype("float32") for length in (1, 3, 2, 5)]
    ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(rows), [len(row) for row in rows])
    labels = RNG.normal(size=(4, 2)).astype("float32")
    model = pooled(K)
    kernel = np.asarray(model.head.kernel, "float64")
    means = np.stack([row.mean(0, dtype="float64") for row in rows])
    expected = abs(kernel * (means.T @ (means @ kernel - labels)) * 2 / labels.size)
    for data in (
        (ragged, labels),
        tf.data.Dataset.from_tensor_slices((ragged, labels)).batch(4),
        lambda: iter([(ragged, labels)]),
    ):
        np.testing.assert_allclose(tpi.score(model, data, "snip")["head/kernel"], expected, rtol=1e-4)
    report = tpi.prune_at_init(model, (ragged, labels), sparsity=0.5, method="snip")
    assert report.connected is True
    poisoned = tf.RaggedTensor.from_row_lengths(np.full((4, 4), np.inf, "float32"), [1, 3])
    with pytest.raises(DataError, match="x of batch 1 holds NaN or Inf"):
        tpi.score(model, (poisoned, labels[:2]), "snip")


def test_replicas_take_dense_tensors_only() -> None:
    for leaf in (tf.ragged.constant([[1.0], [2.0, 3.0]]), tf.sparse.from_dense(X)):
        with pytest.raises(DataError, match=rf"Received: a {type(leaf).__name__}; make it dense"):
            Replicas(None, 2).share_batch((leaf, None, None), 2)


def test_sparse_tensors(K: Any) -> None:
    dense = np.where(abs(X) < 1, 0, X)
    sparse = tf.sparse.from_dense(dense)
    model = mlp(K)
    plain = tpi.score(model, (dense, Y), "snip")
    inputs = K.Input((6,), sparse=True)
    taking = K.Model(inputs, model.layers[-1](model.layers[-2](inputs)))
    taking.compile("sgd", loss_of(K))
    for data in ((sparse, Y), tf.data.Dataset.from_tensor_slices((sparse, Y)).batch(20)):
        found = tpi.score(taking, data, "snip")
        for path, value in plain.items():
            np.testing.assert_allclose(found[path], value, rtol=1e-4, atol=1e-7)
    assert tpi.prune_at_init(taking, (sparse, Y), sparsity=0.5, method="snip").connected is True


def test_synflow_on_ragged_rows_takes_ones_of_the_length_of_the_first() -> None:
    rows = tf.ragged.constant([[[1.0] * 4] * 3, [[2.0] * 4]], ragged_rank=1)
    model = pooled(keras)
    found = tpi.score(model, (rows, np.zeros((2, 2))), "synflow")["head/kernel"]
    np.testing.assert_allclose(found, abs(np.asarray(model.head.kernel)), rtol=1e-6)


def test_a_dict_of_one_key_and_a_plain_array_are_the_same_without_warnings(K: Any) -> None:
    def model_of(inputs: Any, symbol: Any) -> Any:
        K.utils.set_random_seed(0)
        model = K.Model(inputs, K.layers.Dense(3, name="b")(symbol))
        model.compile("sgd", loss_of(K))
        return model

    for declare in (lambda x: x, lambda x: [x], lambda x: {"feature": x}):
        symbol = K.Input((6,), name="feature")
        model = model_of(declare(symbol), symbol)
        expected = tpi.score(mlp_like(model), (X, Y), "snip")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for x in (X, {"feature": X}, [X]):
                assert_same(tpi.score(model, (x, Y), "snip"), expected)
            tpi.find_masks(model, None, sparsity=0.5, method="magnitude")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = mlp(K, name="feature")
        assert_same(tpi.score(model, ({"feature": X}, Y), "snip"), tpi.score(model, (X, Y), "snip"))


def mlp_like(model: Any) -> Any:
    """A plain model with the same layer."""
    K = KERAS[type(model).__module__.split(".")[0]]
    plain = K.Sequential([K.Input((6,)), model.get_layer("b")])
    plain.compile("sgd", loss_of(K))
    return plain


WORDS = np.array(["red green", "blue red", "green", "blue blue red", "grey"] * 4)


def texts(K: Any, deep: int = 1) -> tuple[Any, Any]:
    """A model of texts, and the same layers behind the vectorizer."""
    K.utils.set_random_seed(0)
    vectorize = K.layers.TextVectorization(8, output_sequence_length=4)
    vectorize.adapt(WORDS)
    layers = [K.layers.Embedding(8, 3), K.layers.Flatten()]
    layers += [K.layers.Dense(6, "relu", name=f"a{place}") for place in range(deep)]
    layers += [K.layers.Dense(3, name="b")]
    model = K.Sequential([K.Input((1,), dtype="string", name="text"), vectorize, *layers])
    behind = K.Sequential([K.Input((4,), dtype="int64"), *layers])
    for one in (model, behind):
        one.compile("sgd", loss_of(K))
    return model, behind


def tokens(model: Any) -> np.ndarray:
    return np.asarray(split_at_strings(model).front(tf.constant(WORDS[:, None])))


class TestStrings:
    def test_a_model_of_texts_scores_as_the_model_behind_its_vectorizer(self, K: Any) -> None:
        model, behind = texts(K)
        expected = tpi.score(behind, (tokens(model), Y), "snip")
        for strings in (WORDS[:, None], tf.constant(WORDS[:, None]), WORDS.tolist()):
            assert_same(tpi.score(model, (strings, Y), "snip"), expected)
        report = tpi.prune_at_init(model, (WORDS[:, None], Y), sparsity=0.5, method="snip")
        assert report.connected is True
        assert sorted(report.masks) == ["a0/kernel", "b/kernel"]

    def test_methods_without_data_look_at_what_is_behind(self, K: Any) -> None:
        model, behind = texts(K)
        found = tpi.prune_at_init(model, None, sparsity=0.5, method="magnitude")
        assert found.masks.fingerprint == tpi.find_masks(behind, None, sparsity=0.5, method="magnitude").fingerprint
        assert found.connected is True
        deep, _ = texts(K, deep=8)
        with pytest.raises(NetworkCollapseError, match="no signal"):
            tpi.find_masks(deep, None, sparsity=0.98, method="random")

    def test_synflow_names_the_input_and_runs_behind_it(self, K: Any) -> None:
        model, behind = texts(K)
        with pytest.raises(OptionError, match=r"input 'text' of model.*strings.*tpi.cut_string_inputs\(model\)"):
            tpi.find_masks(model, None, sparsity=0.5, method="synflow")
        cut = tpi.cut_string_inputs(model)
        assert cut.layers[-1] is model.layers[-1]
        found = tpi.find_masks(cut, None, sparsity=0.5, method="synflow")
        assert found.fingerprint == tpi.find_masks(behind, None, sparsity=0.5, method="synflow").fingerprint

    def test_units_need_an_example(self) -> None:
        model, _ = texts(keras)
        options = {"sparsity": 0.5, "method": "magnitude", "granularity": "units"}
        with pytest.raises(ModelError, match=r"inputs of strings, 'text'.*Pass data"):
            tpi.find_masks(model, None, **options)
        assert tpi.find_masks(model, (WORDS[:, None], Y), **options).size > 0

    def test_xla_takes_none(self) -> None:
        model, _ = texts(keras)
        with pytest.raises(OptionError, match=r"XLA, which takes no strings, and input 'text'"):
            tpi.score(model, (WORDS[:, None], Y), "snip", jit_compile=True)

    def test_copies_keep_their_vocabulary(self, K: Any) -> None:
        model, _ = texts(K)
        strings = tf.constant(WORDS[:, None])
        tpi.prune_at_init(model, (strings, Y), sparsity=0.5, method="snip", granularity="units")
        expected = np.asarray(model(strings))
        assert len(np.unique(expected.round(5), axis=0)) > 2
        smaller = tpi.compact(tpi.cut_string_inputs(model)).model
        np.testing.assert_allclose(smaller(tokens(model)), expected, rtol=1e-5, atol=1e-6)
        if K is keras:
            wrapped = tpi.wrap(model, tpi.find_masks(model, None, sparsity=0.0, method="magnitude"))
            np.testing.assert_allclose(wrapped(strings), expected, rtol=1e-5, atol=1e-6)
        counting = K.layers.TextVectorization(8, output_mode="tf_idf", name="counting")
        counting.adapt(WORDS)
        weighed = K.Sequential([K.Input((1,), dtype="string"), counting, K.layers.Dense(3), K.layers.Dense(2)])
        np.testing.assert_allclose(tpi.compact(weighed).model(strings), weighed(strings), rtol=1e-5, atol=1e-6)
        compacted = tpi.compact(model).model
        np.testing.assert_allclose(compacted(strings), expected, rtol=1e-5, atol=1e-6)

    def test_strings_that_become_floats_pass_signals(self, K: Any) -> None:
        """No embedding table is there to differentiate by."""
        inputs = {"colour": K.Input((1,), dtype="string", name="colour"), "size": K.Input((2,), name="size")}
        colours = K.layers.StringLookup(vocabulary=["red", "blue"], output_mode="one_hot")(inputs["colour"])
        joined = K.layers.Concatenate()([colours, inputs["size"]])
        model = K.Model(inputs, {"by colour": K.layers.Dense(3)(colours), "by both": K.layers.Dense(3)(joined)})
        data = {"colour": tf.constant([["red"], ["blue"], ["?"]]), "size": tf.ones((3, 2))}
        report = tpi.prune_at_init(model, (data,), sparsity=0.3, method="magnitude")
        assert report.connected is True
        assert len(report.signal) == 2
        cut = split_at_strings(model)
        for name, output in cut.rest(cut.run_front(data)).items():
            np.testing.assert_array_equal(output, model(data)[name])

    def test_what_cannot_be_cut(self, K: Any) -> None:
        model, behind = texts(K)
        with pytest.raises(ModelError, match="takes no strings"):
            tpi.cut_string_inputs(behind)
        nested = K.Sequential([K.Input((1,), dtype="string"), model])
        with pytest.raises(ModelError, match=f"Layer '{model.name}' .* takes strings and has weights"):
            tpi.cut_string_inputs(nested)
        assert tpi.prune_at_init(nested, None, sparsity=0.5, method="magnitude").connected is None
        with pytest.raises(ModelError, match="is subclassed"):
            tpi.cut_string_inputs(pooled(K))


class TestExport:
    def test_a_model_of_texts_is_cut_if_asked(self, K: Any, export: Any, tmp_path: Path) -> None:
        model, _ = texts(K)
        path = tmp_path / "texts.tflite"
        with pytest.raises(ModelError, match=r"Input 'text' of model.*cut_string_inputs=True"):
            export(model, path, measure=False)
        assert not path.exists()
        report = export(model, path, measure=False, cut_string_inputs=True, verify=WORDS[:, None])
        assert report.examples == len(WORDS)
        assert report.relative_difference < 1e-5
        run = Interpreter(str(path)).get_signature_runner()
        ((name, taken),) = run.get_input_details().items()
        assert taken["dtype"] is np.int64
        given = run(**{name: tokens(model)})
        expected = np.asarray(model(tf.constant(WORDS[:, None])))
        np.testing.assert_allclose(next(iter(given.values())), expected, rtol=1e-5, atol=1e-6)

    def test_without_strings_the_option_has_no_effect(self, export: Any, tmp_path: Path) -> None:
        model = mlp(keras)
        with pytest.raises(OptionError, match="no effect"):
            export(model, tmp_path / "a.tflite", measure=False, cut_string_inputs=True)
        model.save(tmp_path / "a.keras")
        done = command.call("export", "a.keras", "-o", "a.tflite", "--cut-string-inputs", cwd=tmp_path)
        assert done.code != 0
        assert "no effect" in done.err

    def test_what_the_front_does_not_take_is_named(self, export: Any, tmp_path: Path) -> None:
        model, _ = texts(keras)
        with pytest.raises(DataError, match="`verify` doesn't suit the model"):
            export(model, tmp_path / "a.tflite", measure=False, cut_string_inputs=True, verify=X)

    def test_the_generator_function_of_the_tflite_guide(self, export: Any, tmp_path: Path) -> None:
        def representative_dataset() -> Iterator[Any]:
            for row in tf.data.Dataset.from_tensor_slices(X).batch(1).take(20):
                yield [tf.dtypes.cast(row, tf.float32)]

        model = mlp(keras)
        sources = {"guide": representative_dataset, "generator": give_batches(), "arrays": (X, Y), "list": BATCHES}
        for name, data in sources.items():
            options = {"quantize": "int8", "measure": False, "representative_data": data}
            assert export(model, tmp_path / f"{name}.tflite", **options).examples == 20
        files = {(tmp_path / f"{name}.tflite").read_bytes() for name in sources}
        assert len(files) == 1

    def test_a_function_that_gives_no_arrays(self, export: Any, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="`verify` must be a batched"):
            export(mlp(keras), tmp_path / "a.tflite", measure=False, verify=lambda: iter([["a", "b"]]))
