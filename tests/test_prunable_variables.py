"""Which variables are prunable, and why the others are not."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from model_kinds import KERAS, build

import tfprune_init as tpi
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.kernel_axes import count_dead_units, find_kernel_axes
from tfprune_init.graph.variables import find_prunable_variables, list_variables


def paths(model: Any, **options: Any) -> list[str]:
    return [target.path for target in find_prunable_variables(model, **options).prunable]


def reasons(model: Any, **options: Any) -> dict[str, str]:
    return {skipped.path: skipped.reason for skipped in find_prunable_variables(model, **options).skipped}


@pytest.fixture(params=list(KERAS))
def everything(request: pytest.FixtureRequest) -> Any:
    """A model with a layer of every family."""
    K = KERAS[request.param]
    L = K.layers
    tokens = K.Input((6,), dtype="int32", name="tokens")
    x = L.Embedding(11, 6, name="embedding")(tokens)
    x = L.LayerNormalization(name="norm")(x)
    x = L.MultiHeadAttention(2, 3, name="mha")(x, x)
    x = L.Conv1D(4, 3, padding="same", name="conv1d")(x)
    x = L.Conv1DTranspose(4, 3, padding="same", name="deconv")(x)
    x = L.SeparableConv1D(4, 3, padding="same", name="separable")(x)
    x = L.DepthwiseConv1D(3, padding="same", name="depthwise")(x)
    x = L.EinsumDense("abc,cd->abd", output_shape=(6, 5), bias_axes="d", name="einsum")(x)
    x = L.Bidirectional(L.LSTM(3, return_sequences=True, name="lstm"), name="both")(x)
    x = L.GRU(3, return_sequences=True, name="gru")(x)
    x = L.TimeDistributed(L.Dense(3, name="inner"), name="each")(x)
    x = L.PReLU(name="prelu")(x)
    x = L.Flatten(name="flat")(x)
    return K.Model(tokens, L.Dense(2, name="head")(x))


def test_defaults(everything: Any) -> None:
    assert paths(everything) == [
        "mha/query/kernel", "mha/key/kernel", "mha/value/kernel", "mha/attention_output/kernel",
        "conv1d/kernel", "deconv/kernel", "separable/depthwise_kernel", "separable/pointwise_kernel",
        "depthwise/kernel", "einsum/kernel",
        "both/forward_lstm/lstm_cell/kernel", "both/forward_lstm/lstm_cell/recurrent_kernel",
        "both/backward_lstm/lstm_cell/kernel", "both/backward_lstm/lstm_cell/recurrent_kernel",
        "gru/gru_cell/kernel", "gru/gru_cell/recurrent_kernel", "each/inner/kernel", "head/kernel",
    ]  # fmt: skip
    why = reasons(everything)
    assert why["embedding/embeddings"] == "embedding table"
    assert why["norm/gamma"].startswith("normalization")
    assert why["prelu/alpha"] == "PReLU is not known to be prunable; give it get_prunable_weights()"
    assert why["head/bias"] == "bias (prune_bias=True prunes it)"
    assert len(why) + 18 == len(list_variables(everything)) == len({id(v) for v in everything.variables})


def test_biases(everything: Any) -> None:
    with_biases = set(paths(everything, prune_bias=True)) - set(paths(everything))
    assert "head/bias" in with_biases
    assert "norm/beta" not in with_biases
    assert all(path.endswith("/bias") for path in with_biases)
    bare = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    with pytest.raises(OptionError, match="prune_bias=True has no effect"):
        find_prunable_variables(bare, prune_bias=True)


@pytest.mark.parametrize(
    ("exclude", "left_alone"),
    [
        ("head", ["head/kernel"]),
        ("gru/gru_cell/kernel", ["gru/gru_cell/kernel"]),
        ("mha/*", ["mha/query/kernel", "mha/key/kernel", "mha/value/kernel", "mha/attention_output/kernel"]),
        (["*/recurrent_kernel", "both"], None),
        (lambda target: len(target.shape) == 2 and target.shape[1] == 2, ["head/kernel"]),
    ],
)
def test_exclusions(everything: Any, exclude: Any, left_alone: list[str] | None) -> None:
    left = [path for path in paths(everything) if path not in paths(everything, exclude=exclude)]
    if left_alone is None:
        left_alone = [p for p in paths(everything) if p.startswith("both") or p.endswith("recurrent_kernel")]
    assert left == left_alone
    assert {reasons(everything, exclude=exclude)[path] for path in left} == {"excluded"}


def test_filters_without_effect_are_errors(everything: Any) -> None:
    with pytest.raises(OptionError, match=r"'haed' matches no prunable variable. Did you mean 'head'"):
        find_prunable_variables(everything, exclude=["head", "haed"])
    with pytest.raises(OptionError, match="has no effect"):
        find_prunable_variables(everything, exclude=lambda target: False)
    with pytest.raises(ModelError, match="no prunable variable"):
        find_prunable_variables(everything, exclude="*")


def test_shared_layers_count_once() -> None:
    shared = keras.layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    assert paths(model) == ["shared/kernel"]
    assert find_prunable_variables(model).size == 16


@pytest.mark.parametrize("package", list(KERAS))
def test_paths_are_unique_where_names_are_not(package: str) -> None:
    assert paths(build("subclassed", package))[:2] == ["block/kernel", "block#2/kernel"]


def test_custom_layers_choose_their_own() -> None:
    class Bilinear(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.left = self.add_weight(shape=(shape[-1], 3), name="left")
            self.right = self.add_weight(shape=(shape[-1], 3), name="right")

        def call(self, x: Any) -> Any:
            return keras.ops.matmul(x, self.left) * keras.ops.matmul(x, self.right)

    class Chosen(Bilinear):
        def get_prunable_weights(self) -> list[Any]:
            return [self.left]

    def model_of(layer: keras.layers.Layer) -> keras.Model:
        return keras.Sequential([keras.Input((4,)), layer])

    with pytest.raises(ModelError, match="Bilinear is not known to be prunable"):
        find_prunable_variables(model_of(Bilinear()))
    assert paths(model_of(Chosen(name="chosen"))) == ["chosen/left"]


def test_frozen_quantized_and_adapted_layers_have_their_reason() -> None:
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, name="frozen"), keras.layers.Dense(8, name="lora"),
         keras.layers.Dense(8, name="int8"), keras.layers.Dense(2, name="head")]
    )  # fmt: skip
    model.get_layer("frozen").trainable = False
    model.get_layer("lora").enable_lora(2)
    model.get_layer("int8").quantize("int8")
    assert paths(model) == ["head/kernel"]
    why = reasons(model)
    assert why["frozen/kernel"] == why["lora/kernel"] == "not trainable"
    assert why["int8/kernel"] == "integer variable (a state, or quantized)"


def test_what_is_no_built_model_is_refused() -> None:
    for wrong, words in (
        (keras.Sequential([keras.layers.Dense(3)]), "not built"),
        (tf_keras.Sequential([tf_keras.layers.Dense(3)]), "not built"),
        (keras.layers.Dense(3), "keras.Model"),
        ("model", "Received: builtins.str"),
        (keras.Sequential([keras.Input((3,)), keras.layers.ReLU()]), "not built|no prunable"),
    ):
        with pytest.raises(ModelError, match=words):
            find_prunable_variables(wrong)


def test_unit_axes() -> None:
    dense, conv = frozenset(["Dense"]), frozenset(["Conv2D", "BaseConv"])
    assert find_kernel_axes(dense, "kernel", 2) == ((0,), (1,))
    assert find_kernel_axes(conv, "kernel", 4) == ((2,), (3,))
    assert find_kernel_axes(frozenset(["Conv2DTranspose"]), "kernel", 4) == ((3,), (2,))
    assert find_kernel_axes(frozenset(["DepthwiseConv2D"]), "kernel", 4) == ((2,), (2, 3))
    assert find_kernel_axes(frozenset(["SeparableConv2D"]), "depthwise_kernel", 4) == ((2,), (2, 3))
    assert find_kernel_axes(frozenset(["SeparableConv2D"]), "pointwise_kernel", 4) == ((2,), (3,))
    assert find_kernel_axes(frozenset(["EinsumDense"]), "kernel", 3, "abc,cde->abde") == ((0,), (1, 2))
    assert find_kernel_axes(frozenset(["EinsumDense"]), "kernel", 3, "abcd,cde->abe") == ((0, 1), (2,))
    assert find_kernel_axes(dense, "bias", 1) == ((), (0,))


def test_dead_units_by_counting() -> None:
    mask = np.random.default_rng(0).random((3, 3, 5, 8)) < 0.01
    inputs = sum(not mask[:, :, i, :].any() for i in range(5))
    outputs = sum(not mask[:, :, :, o].any() for o in range(8))
    assert (count_dead_units(mask, (2,)), count_dead_units(mask, (3,))) == (inputs, outputs)
    assert inputs > 0
    assert outputs > 0
    assert count_dead_units(np.array([True, False, False]), (0,)) == 2
    assert count_dead_units(mask, ()) == 0


def test_the_report_counts_dead_units() -> None:
    model = build("sequential", "keras")
    report = tpi.prune_at_init(model, None, sparsity=0.9, method="random")
    for row in report.layers:
        kernel = model.get_layer(row.path.split("/")[0]).kernel.numpy()
        assert (row.inputs, row.outputs) == kernel.shape
        assert row.dead_inputs == int((kernel == 0).all(1).sum())
        assert row.dead_outputs == int((kernel == 0).all(0).sum())
