"""Rules of layers with structure inside: what goes with which unit, against smaller networks made by hand."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from compaction_networks import assert_same, dead, drawn, in_dtype, inputs_for, kept, outputs, put, values

from tfprune_init.compaction import compact
from tfprune_init.errors import OptionError
from tfprune_init.graph import DependencyGraph, build_dependency_graph
from tfprune_init.graph.layer_rules import LayerRule, find_channel_rule, find_rule, register_rule


def prune(model: Any, graph: DependencyGraph, removed: list[int]) -> dict[str, np.ndarray]:
    """Set to zero what goes with some groups; return the masks."""
    masks = graph.masks(np.isin(np.arange(graph.removable.size), removed))
    put(model, {path: values(model)[path] * mask for path, mask in masks.items()})
    return masks


def check_against(model: Any, small: Any, sliced: dict[str, np.ndarray]) -> None:
    """A smaller network with these weights, and otherwise those of the model, has the same outputs."""
    whole = values(model)
    put(small, {path: sliced.get(path, whole[path]) for path in values(small)})
    assert_same(model, small, 1e-12)


# Grouped convolution.


def grouped(K: Any, width: int, filters: int) -> Any:
    with in_dtype(K, "float64"):
        layers = [
            K.layers.Conv2D(width, 2, activation="relu", name="a"),
            K.layers.Conv2D(filters, 2, groups=2, activation="relu", name="b"),
            K.layers.GlobalAveragePooling2D(),
            K.layers.Dense(2, name="head"),
        ]
        return drawn(K.Sequential([K.Input((5, 5, 3)), *layers]), 1)


def test_a_weight_of_a_grouped_convolution_goes_with_the_channel_that_it_takes(K: Any) -> None:
    model = grouped(K, 4, 6)
    graph = build_dependency_graph(model)
    assert graph.removable.tolist() == [True] * 10 + [False] * 2
    # Units 0, 1, 2 of b take channels 0 and 1 of a; units 3, 4, 5 take 2 and 3.
    assert graph.cells["b/kernel"][0, 1].tolist() == [[0, 0, 0, 2, 2, 2], [1, 1, 1, 3, 3, 3]]
    mask = prune(model, graph, [1, 8])["b/kernel"]
    assert mask[1, 0].tolist() == [[True] * 4 + [False, True], [False] * 3 + [True, False, True]]
    before = outputs(model, inputs_for(model, 4))[0]
    put(model, {"a/kernel": values(model)["a/kernel"] + 1.0 * (np.arange(4) == 1)})
    np.testing.assert_array_equal(outputs(model, inputs_for(model, 4))[0], before)


def test_channels_at_the_same_place_of_all_groups_are_cut_out(K: Any) -> None:
    model = grouped(K, 4, 6)
    graph = build_dependency_graph(model)
    prune(model, graph, [1, 3, 4 + 2, 4 + 5, 4 + 0])  # unit 0 of b has its partner, unit 3, alive
    done = compact(model)
    assert kept(done) == {"a": [0, 2], "b": [0, 1, 3, 4], "head": [0, 1]}
    assert dead(done) == {"b": {"goes only together with channels that live": 1}}
    assert not done.left_whole
    kernel = values(model)["b/kernel"]
    np.testing.assert_array_equal(values(done.model)["b/kernel"], kernel[:, :, [0]][..., [0, 1, 3, 4]])
    assert_same(model, done.model, 1e-13)


# Gates.


def mobile_block(K: Any, width: int, squeezed: int, reshaped: bool) -> Any:
    """MBConv: expansion, depthwise convolution, squeeze and excitation, projection, around which there is a sum."""
    with in_dtype(K, "float64"):
        L, inputs = K.layers, K.Input((5, 5, 2))
        stem = L.Conv2D(3, 1, name="stem")(inputs)
        x = L.Conv2D(width, 1, use_bias=False, name="expand")(stem)
        x = L.Activation("relu")(L.BatchNormalization(name="bn")(x))
        x = L.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
        gate = L.Dense(squeezed, "relu", name="squeeze")(L.GlobalAveragePooling2D()(x))
        gate = L.Dense(width, "sigmoid", name="excite")(gate)
        gate = L.Reshape((1, 1, width))(gate) if reshaped else gate
        x = L.Conv2D(3, 1, name="project")(L.Multiply(name="gated")([x, gate]))
        x = L.GlobalAveragePooling2D()(L.Add(name="sum")([stem, x]))
        return drawn(K.Model(inputs, L.Dense(2, name="head")(x)), 0)


@pytest.mark.parametrize("reshaped", [True, False])
def test_a_gate_and_what_it_multiplies_are_one_group(K: Any, reshaped: bool) -> None:
    model = mobile_block(K, 5, 4, reshaped)
    graph = build_dependency_graph(model)
    units = {path: labels.tolist() for path, labels in graph.units.items()}
    assert units["expand/kernel"] == units["excite/kernel"] == [3, 4, 5, 6, 7]
    assert units["stem/kernel"] == units["project/kernel"] == [0, 1, 2]
    entries = {path: {axis: labels.tolist() for axis, labels in axes} for path, axes in graph.entries.items()}
    for path, axis in [("depthwise/kernel", 2), ("bn/gamma", 0), ("squeeze/kernel", 0), ("project/kernel", 2)]:
        assert entries[path][axis] == units["expand/kernel"], path
    assert entries["excite/kernel"] == {0: units["squeeze/kernel"], 1: units["expand/kernel"]}
    assert graph.removable.tolist() == [True] * 12 + [False] * 2

    prune(model, graph, [1, 4, 7, 9])
    done = compact(model)
    assert kept(done) == {
        "stem": [0, 2], "project": [0, 2], "squeeze": [0, 2, 3], "head": [0, 1],
        **{path: [0, 2, 3] for path in ("expand", "bn", "depthwise", "excite")},
    }  # fmt: skip
    assert not done.left_whole
    assert_same(model, done.model, 1e-13)


# Recurrent layers.


def recurrent(K: Any, kind: str, first: int, second: int, **options: Any) -> Any:
    with in_dtype(K, "float64"):
        layers = [
            getattr(K.layers, kind)(first, return_sequences=True, name="r", **options),
            getattr(K.layers, kind)(second, name="s", **options),
            K.layers.Dense(2, name="head"),
        ]
        return drawn(K.Sequential([K.Input((4, 3)), *layers]), 0)


@pytest.mark.parametrize(
    ("kind", "options"), [("LSTM", {}), ("LSTM", {"use_bias": False}), ("GRU", {}), ("GRU", {"reset_after": False})]
)
def test_a_recurrent_unit_has_columns_in_all_gates_and_a_row(K: Any, kind: str, options: Any) -> None:
    model, gates = recurrent(K, kind, 5, 4, **options), {"LSTM": 4, "GRU": 3}[kind]
    graph, cell = build_dependency_graph(model), f"{kind.lower()}_cell"
    assert not graph.unlabelled
    assert graph.units[f"r/{cell}/recurrent_kernel"].tolist() == [0, 1, 2, 3, 4] * gates
    assert dict(graph.entries[f"r/{cell}/recurrent_kernel"])[0].tolist() == [0, 1, 2, 3, 4]
    assert dict(graph.entries[f"s/{cell}/kernel"])[0].tolist() == [0, 1, 2, 3, 4]
    masks = prune(model, graph, [1, 4, 5 + 2])
    assert {path.split("/", 1)[1]: int((~mask).sum()) for path, mask in masks.items() if path[0] == "r"} == {
        f"{cell}/kernel": 2 * gates * 3,
        f"{cell}/recurrent_kernel": 2 * gates * 5 + 3 * gates * 2,
        **(
            {f"{cell}/bias": 2 * gates * (2 if options == {} and kind == "GRU" else 1)}
            if options.get("use_bias", True)
            else {}
        ),
    }
    whole, sliced = values(model), {}
    for layer, units, features, stay in (("r", 5, [0, 1, 2], [0, 2, 3]), ("s", 4, [0, 2, 3], [0, 1, 3])):
        columns = [gate * units + unit for gate in range(gates) for unit in stay]
        sliced[f"{layer}/{cell}/kernel"] = whole[f"{layer}/{cell}/kernel"][features][:, columns]
        sliced[f"{layer}/{cell}/recurrent_kernel"] = whole[f"{layer}/{cell}/recurrent_kernel"][stay][:, columns]
        if f"{layer}/{cell}/bias" in whole:
            sliced[f"{layer}/{cell}/bias"] = whole[f"{layer}/{cell}/bias"][..., columns]
    sliced["head/kernel"] = whole["head/kernel"][[0, 1, 3]]
    check_against(model, recurrent(K, kind, 3, 3, **options), sliced)

    done = compact(model)
    assert kept(done) == {"r": [0, 2, 3], "s": [0, 1, 3], "head": [0, 1]}
    for path, array in sliced.items():
        np.testing.assert_array_equal(values(done.model)[path], array, err_msg=path)
    assert_same(model, done.model, 1e-13)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_units_are_used_by_what_they_feed_back_to(K: Any, kind: str) -> None:
    """Unit 1 is read by unit 0 alone, unit 2 by nothing, unit 3 only through its bias moves."""
    model, gates, cell = recurrent(K, kind, 4, 3), {"LSTM": 4, "GRU": 3}[kind], f"{kind.lower()}_cell"
    weights = values(model)
    kernel, back = weights[f"r/{cell}/kernel"], weights[f"r/{cell}/recurrent_kernel"].reshape(4, gates, 4)
    back[1, :, 1:], back[2, :, [0, 1, 3]], back[:3, :, 3] = 0, 0, 0
    kernel.reshape(3, gates, 4)[..., 3] = 0
    bias = weights[f"r/{cell}/bias"].reshape(-1, gates, 4)
    bias[:, 2, 3] = 0.5
    rows = weights[f"s/{cell}/kernel"]
    rows[[1, 2]] = 0
    put(
        model, {f"r/{cell}/kernel": kernel, f"r/{cell}/recurrent_kernel": back.reshape(4, -1), f"s/{cell}/kernel": rows}
    )
    put(model, {f"r/{cell}/bias": bias.reshape(weights[f"r/{cell}/bias"].shape)})
    done = compact(model)
    assert kept(done)["r"] == [0, 1, 3]
    assert_same(model, done.model, 1e-13)


def test_constants_that_enter_a_recurrent_layer_stay(K: Any) -> None:
    with in_dtype(K, "float64"):
        layers = [K.layers.Dense(3, name="a"), K.layers.LSTM(3, name="r"), K.layers.Dense(2, name="head")]
        model = drawn(K.Sequential([K.Input((4, 2)), *layers]), 0)
    put(model, {"a/kernel": np.ones((2, 3)) * [1, 0, 0], "a/bias": [0, 0.5, 0]})
    done = compact(model)
    assert kept(done)["a"] == [0, 1]
    assert dead(done)["a"] == {"is a constant that enters r": 1}
    assert_same(model, done.model, 1e-13)


def test_recurrent_layers_that_keep_or_are_given_a_state_are_not_followed(K: Any) -> None:
    L, inputs = K.layers, K.Input(batch_shape=(2, 4, 3))
    x = L.GRU(3, stateful=True, return_sequences=True, name="stateful")(inputs)
    x, state = L.GRU(3, return_sequences=True, return_state=True, name="both")(x)
    x = L.GRU(3, name="given")(x, initial_state=state)
    model = K.Model(inputs, L.Dense(2, name="head")(x))
    graph = build_dependency_graph(model)
    assert list(graph.units) == ["head/kernel"]
    assert graph.unlabelled["given/gru_cell/kernel"] == "GRUCell is not a layer whose units are followed"
    assert list(compact(model).left_whole) == ["stateful", "both", "given"]


# Attention.


def attention(K: Any, heads: int, kind: str = "MultiHeadAttention", **options: Any) -> Any:
    with in_dtype(K, "float64"):
        L, inputs = K.layers, K.Input((4, 3))
        x = L.Dense(6, "relu", name="a")(inputs)
        if kind == "MultiHeadAttention":
            attend = L.MultiHeadAttention(heads, 2, value_dim=3, name="attend", **options)
        else:
            attend = L.GroupQueryAttention(2, 2 * heads, heads, name="attend", **options)
        x = L.Add()([x, attend(x, x)])
        return drawn(K.Model(inputs, L.Dense(2, name="head")(L.GlobalAveragePooling1D()(x))), 0)


@pytest.mark.parametrize("use_bias", [True, False])
def test_heads_are_units(K: Any, use_bias: bool) -> None:
    model = attention(K, 3, use_bias=use_bias)
    graph = build_dependency_graph(model)
    units = {path: labels.tolist() for path, labels in graph.units.items()}
    assert units["attend/query/kernel"] == units["attend/key/kernel"] == [6, 6, 7, 7, 8, 8]
    assert units["attend/value/kernel"] == [6, 6, 6, 7, 7, 7, 8, 8, 8]
    # The sum ties what attention gives to what it takes.
    assert units["attend/attention_output/kernel"] == units["a/kernel"] == [0, 1, 2, 3, 4, 5]
    assert graph.removable.tolist() == [True] * 9 + [False] * 2
    masks = prune(model, graph, [7])
    assert {path: int((~mask).sum()) for path, mask in masks.items() if not mask.all()} == {
        "attend/query/kernel": 12, "attend/key/kernel": 12, "attend/value/kernel": 18,
        "attend/attention_output/kernel": 18,
        **({"attend/query/bias": 2, "attend/key/bias": 2, "attend/value/bias": 3} if use_bias else {}),
    }  # fmt: skip
    whole, stay = values(model), [0, 2]
    sliced = {path: array[:, stay] for path, array in whole.items() if path.startswith("attend") and "kernel" in path}
    sliced |= {path: array[stay] for path, array in whole.items() if path.startswith("attend") and "bias" in path}
    sliced["attend/attention_output/kernel"] = whole["attend/attention_output/kernel"][stay]
    sliced["attend/attention_output/bias"] = whole.get("attend/attention_output/bias", np.zeros(0))
    check_against(model, attention(K, 2, use_bias=use_bias), sliced)

    done = compact(model)
    assert kept(done)["attend/heads"] == stay
    assert kept(done)["attend"] == kept(done)["a"] == [0, 1, 2, 3, 4, 5]
    for path in ("query/kernel", "key/kernel", "value/kernel", "attention_output/kernel"):
        np.testing.assert_array_equal(values(done.model)[f"attend/{path}"], sliced[f"attend/{path}"], err_msg=path)
    assert_same(model, done.model, 1e-12)


def test_a_head_is_dead_without_a_value_or_where_nothing_takes_it(K: Any) -> None:
    model = attention(K, 4)
    weights = values(model)
    value, bias, output = (
        weights[f"attend/{one}"] for one in ("value/kernel", "value/bias", "attention_output/kernel")
    )
    value[:, 0], bias[0] = 0, 0  # says nothing
    output[1] = 0  # is not heard
    value[:, 2], bias[2] = 0, 0.5  # says the same at all times, which no bias takes over
    put(model, {"attend/value/kernel": value, "attend/value/bias": bias, "attend/attention_output/kernel": output})
    done = compact(model)
    assert kept(done)["attend/heads"] == [2, 3]
    assert_same(model, done.model, 1e-12)
    output[:] = 0
    put(model, {"attend/attention_output/kernel": output})
    last = compact(model)
    assert kept(last)["attend/heads"] == [0]
    assert dead(last)["attend/heads"] == {"is the last of attend": 1}
    assert_same(model, last.model, 1e-12)


def test_channels_that_attention_takes_go_where_all_it_gives_is_dead(K: Any) -> None:
    model = attention(K, 2)
    graph = build_dependency_graph(model)
    prune(model, graph, [1, 4])
    done = compact(model)
    assert kept(done) == {"a": [0, 2, 3, 5], "attend": [0, 2, 3, 5], "attend/heads": [0, 1], "head": [0, 1]}
    assert values(done.model)["attend/query/kernel"].shape == (4, 2, 2)
    assert values(done.model)["attend/attention_output/kernel"].shape == (2, 3, 4)
    assert_same(model, done.model, 1e-12)
    put(model, {"a/bias": [0.1, 0.4, 0.1, 0.1, 0.1, 0.1]})  # channel 1 becomes a constant
    query = values(model)["attend/query/kernel"]
    query[1] = 1.0
    put(model, {"attend/query/kernel": query})
    later = compact(model)
    assert kept(later)["a"] == [0, 1, 2, 3, 5]
    assert dead(later)["a"] == {"is a constant that enters attend": 1}
    assert_same(model, later.model, 1e-12)


def test_attention_under_a_mask_is_left_whole(K: Any) -> None:
    L, inputs = K.layers, K.Input((4, 3))
    x = L.Dense(6, name="a", kernel_initializer="zeros")(inputs)
    masks = [K.Input((4, 4), dtype="bool")] if K is not keras else [K.Input((4,), dtype="bool")]
    x = L.MultiHeadAttention(2, 3, name="attend")(x, x, x, *masks)
    done = compact(K.Model([inputs, *masks], L.Dense(2, name="head")(x)))
    assert done.left_whole == {"attend": "MultiHeadAttention is called with more than 3 tensors"}
    assert dead(done)["a"] == {"enters attend, which is left whole": 6}


def test_attention_between_two_sequences(K: Any) -> None:
    """Keys and values come from other channels than queries, at a length of their own that is open."""
    with in_dtype(K, "float64"):
        L, inputs, others = K.layers, K.Input((4, 3)), K.Input((None, 2))
        x, y = L.Dense(5, "relu", name="a")(inputs), L.Dense(6, "relu", name="b")(others)
        x = L.MultiHeadAttention(3, 2, name="attend")(x, y)
        model = drawn(K.Model([inputs, others], L.Dense(2, name="head")(x)), 0)
    key, value = values(model)["attend/key/kernel"], values(model)["attend/value/kernel"]
    key[[1, 4]], value[[1, 5]], key[3, 1:], value[3, 1:] = 0, 0, 0, 0
    output = values(model)["attend/attention_output/kernel"]
    output[0] = 0  # head 0 goes, and channel 3 of b, which it takes alone
    put(model, {"attend/key/kernel": key, "attend/value/kernel": value, "attend/attention_output/kernel": output})
    done = compact(model)
    assert kept(done) == {
        "a": [0, 1, 2, 3, 4], "b": [0, 2, 4, 5], "attend": [0, 1, 2, 3, 4], "attend/heads": [1, 2], "head": [0, 1],
    }  # fmt: skip
    assert done.before.multiply_adds is None
    assert_same(model, done.model, 1e-12)


def test_groups_without_a_unit_in_some_kernels_can_be_pinned(K: Any) -> None:
    graph = build_dependency_graph(attention(K, 3))
    pinned = graph.pin_all_but({"a/kernel", "head/kernel"}, "is not scored")
    assert pinned.removable.tolist() == [True] * 6 + [False] * 5
    assert pinned.reasons == {
        **dict.fromkeys([6, 7, 8], "is not scored"), **dict.fromkeys([9, 10], "is an output of the model")
    }  # fmt: skip
    assert graph.removable.sum() == 9


def test_queries_that_share_keys_are_one_unit() -> None:
    model = attention(keras, 3, "GroupQueryAttention")
    graph = build_dependency_graph(model)
    entries = {path: dict(axes) for path, axes in graph.entries.items()}
    assert entries["attend/query/kernel"][1].tolist() == [6, 6, 7, 7, 8, 8]
    assert entries["attend/key/kernel"][1].tolist() == entries["attend/value/bias"][0].tolist() == [6, 7, 8]
    assert entries["attend/attention_output/kernel"][0].tolist() == [6, 6, 7, 7, 8, 8]
    prune(model, graph, [6])
    whole, sliced = values(model), {}
    for part, stay in (("query", [2, 3, 4, 5]), ("key", [1, 2]), ("value", [1, 2])):
        sliced[f"attend/{part}/kernel"] = whole[f"attend/{part}/kernel"][:, stay]
        sliced[f"attend/{part}/bias"] = whole[f"attend/{part}/bias"][stay]
    sliced["attend/attention_output/kernel"] = whole["attend/attention_output/kernel"][2:]
    check_against(model, attention(keras, 2, "GroupQueryAttention"), sliced)

    done = compact(model)
    assert done.left_whole == {}
    assert kept(done)["attend/heads"] == [1, 2]
    assert done.model.get_layer("attend").get_config()["num_query_heads"] == 4
    for path in sliced:
        np.testing.assert_array_equal(values(done.model)[path], sliced[path], err_msg=path)
    assert_same(model, done.model, 1e-12)


def test_queries_stay_while_one_of_those_that_share_keys_is_heard() -> None:
    model = attention(keras, 2, "GroupQueryAttention")
    output = values(model)["attend/attention_output/kernel"]
    output[[0, 1, 2]] = 0  # both queries of head 0, and one of head 1
    put(model, {"attend/attention_output/kernel": output})
    done = compact(model)
    assert kept(done)["attend/heads"] == [1]
    assert values(done.model)["attend/query/kernel"].shape == (6, 2, 2)
    assert_same(model, done.model, 1e-12)


# Embeddings.


def test_the_width_of_an_embedding_is_left_whole_by_name(K: Any) -> None:
    with in_dtype(K, "float64"):
        L, inputs = K.layers, K.Input((4,), dtype="int32")
        x = L.Embedding(7, 6, name="tokens")(inputs)
        y = L.Dense(5, "relu", name="up")(x)
        x = L.Add(name="sum")([x, L.Dense(6, name="down")(y)])
        model = drawn(K.Model(inputs, L.Dense(2, name="head")(L.GlobalAveragePooling1D()(x))), 0)
    graph, why = build_dependency_graph(model), "has the width of tokens/embeddings, which is not cut"
    assert graph.removable[graph.units["up/kernel"]].all()
    assert {graph.reasons[group] for group in graph.units["down/kernel"].tolist()} == {why}
    with pytest.raises(OptionError, match=why):
        graph.masks(np.isin(np.arange(graph.removable.size), graph.units["down/kernel"]))
    assert "tokens/embeddings" not in graph.entries

    head = values(model)["head/kernel"]
    head[2], kernel = 0, values(model)["up/kernel"]
    kernel[:, 1], kernel[2] = 0, 0
    put(model, {"head/kernel": head, "up/kernel": kernel, "up/bias": [0.1, 0, 0, 0.1, 0]})
    done = compact(model)
    assert kept(done)["up"] == [0, 2, 3, 4]
    assert dead(done) == {"tokens": {why: 1}, "down": {why: 1}}
    assert done.left_whole == {"tokens": "Embedding keeps its width, and so does what is added to it"}
    tokens = np.array([[0, 1, 2, 3], [4, 5, 6, 0]])
    np.testing.assert_allclose(np.asarray(done.model(tokens)), np.asarray(model(tokens)), rtol=1e-12)


# The table.


def test_a_name_has_one_rule() -> None:
    with pytest.raises(ValueError, match="There is a rule for Dense already"):
        register_rule("Dense")(LayerRule)


def test_a_rule_that_says_nothing_claims_nothing(K: Any) -> None:
    layer = K.layers.TimeDistributed(K.layers.Dense(3), name="steps")
    model = K.Sequential([K.Input((4, 2)), layer])
    assert find_rule(layer) is not None
    assert find_channel_rule(layer) == "TimeDistributed is not a layer whose channels are followed"
    assert list(compact(model).left_whole) == ["steps"]
    with pytest.raises(NotImplementedError, match="LayerRule does not say"):
        LayerRule().find_used(None, None)  # type: ignore[arg-type]
