"""Parameters and multiply-adds: against sums written out, and against the network that compaction leaves."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from compaction_networks import NETWORKS, drawn, made, put, values
from model_kinds import build, data

from tfprune_init.compaction import compact
from tfprune_init.errors import ModelError
from tfprune_init.graph import build_dependency_graph
from tfprune_init.graph.cost import CostModel, ModelCost


def network(K: Any) -> Any:
    L, inputs = K.layers, K.Input((8, 8, 4))
    x = L.Conv2D(6, 3, groups=2, name="grouped")(inputs)  # 6x6 positions
    x = L.BatchNormalization(name="bn")(x)
    x = L.Conv2DTranspose(3, 2, strides=2, name="up")(x)  # 36 positions in
    x = L.DepthwiseConv2D(3, strides=2, name="depthwise")(x)  # 5x5 positions
    x = L.Reshape((25, 3))(x)
    x = L.TimeDistributed(L.Dense(4, name="each"), name="steps")(x)  # 25 steps
    twice = L.Dense(4, name="twice")
    x = twice(twice(x))  # 2 x 25 positions
    y = L.MultiHeadAttention(2, 3, name="attend")(x, L.Dense(5, name="rows")(L.RepeatVector(7)(L.Flatten()(x))))
    x = L.LSTM(3, name="lstm")(y)
    return K.Model(inputs, L.Dense(2, name="head")(x))


def test_every_weight_counts_as_often_as_it_is_used(K: Any) -> None:
    model = network(K)
    cost = CostModel(model)
    assert cost.uses == {
        "grouped/kernel": 36, "up/kernel": 36, "depthwise/kernel": 25, "steps/each/kernel": 25, "twice/kernel": 50,
        "rows/kernel": 7, "attend/query/kernel": 25, "attend/key/kernel": 7, "attend/value/kernel": 7,
        "attend/attention_output/kernel": 25, "lstm/lstm_cell/kernel": 25, "lstm/lstm_cell/recurrent_kernel": 25,
        "head/kernel": 1,
    }  # fmt: skip
    assert not cost.uncounted
    expected = 36 * 9 * 2 * 6 + 36 * 4 * 3 * 6 + 25 * 9 * 3 + 25 * 3 * 4 + 50 * 4 * 4 + 7 * 100 * 5
    expected += 25 * 4 * 6 + 2 * 7 * 5 * 6 + 25 * 6 * 4 + 25 * (4 + 3) * 12 + 3 * 2
    assert cost.count() == ModelCost(model.count_params(), expected)
    # A run on an example says the same as the graph.
    assert CostModel(model, np.zeros((1, 8, 8, 4), "float32")).count() == cost.count()


def test_under_masks_only_what_is_kept_counts(K: Any) -> None:
    model = network(K)
    cost, dense = CostModel(model), CostModel(model).count()
    masks = {"up/kernel": np.arange(72).reshape(2, 2, 3, 6) < 10, "head/bias": np.array([True, False])}
    count = cost.count_nonzero(masks)
    assert dense.parameters - count.parameters == 62 + 1
    assert dense.multiply_adds - count.multiply_adds == 62 * 36
    assert cost.count({"up/kernel": (2, 2, 3, 4)}).multiply_adds == dense.multiply_adds - 36 * 2 * 2 * 3 * 2


@pytest.mark.parametrize("name", ["lenet", "mlp", "transposed", "sums"])
def test_without_units_a_network_costs_what_compaction_leaves(K: Any, name: str) -> None:
    model = drawn(NETWORKS[name](K), 0)
    put(model, {path: 0 * array for path, array in values(model).items() if path.endswith("bias")})
    graph, cost = build_dependency_graph(model), CostModel(model)
    removed = np.isin(np.arange(graph.removable.size), [labels[1] for labels in graph.units.values()])
    removed &= graph.removable
    masks = graph.masks(removed)
    put(model, {path: values(model)[path] * mask for path, mask in masks.items()})
    done = compact(model)
    assert done.before == cost.count()
    assert done.after == cost.count_without_units(masks, graph)
    assert done.after.multiply_adds < done.before.multiply_adds


def test_statistics_and_slopes_go_with_their_units(K: Any) -> None:
    L = K.layers
    layers = [L.Conv2D(4, 2, name="a"), L.BatchNormalization(name="bn"), L.PReLU(shared_axes=[1, 2], name="prelu")]
    model = K.Sequential([K.Input((5, 5, 3)), *layers, L.GlobalAveragePooling2D(), L.Dense(2, name="head")])
    graph, cost = build_dependency_graph(model), CostModel(model)
    left = cost.count_without_units(graph.masks(np.isin(np.arange(6), [0, 3])), graph)
    # Of each filter: 12 weights, a bias, four numbers of BatchNorm, a slope, two rows of the head.
    assert cost.count().parameters - left.parameters == 2 * (12 + 1 + 4 + 1 + 2)
    assert left.multiply_adds == 16 * 12 * 2 + 2 * 2


def test_subclassed_models_are_run(K: Any) -> None:
    model = build("subclassed", "keras" if K is keras else "tf_keras")
    with pytest.raises(ModelError, match="pass example="):
        CostModel(model)
    cost = CostModel(model, data(1)[0])
    # 36 positions: two blocks, three projections to 2 heads of 3 and back; then the head.
    per_position = 2 * 16 + 16 * 16 + 3 * 16 * 6 + 6 * 16
    assert cost.count().multiply_adds == 36 * per_position + 16 * 3


def test_sizes_that_are_open_leave_multiply_adds_open(K: Any) -> None:
    model = NETWORKS["open_sizes"](K)
    assert CostModel(model).count() == ModelCost(model.count_params(), None)
    assert CostModel(model, np.zeros((1, 8, 8, 2), "float32")).count().multiply_adds > 0


def test_what_is_not_counted_is_named(K: Any) -> None:
    model, _ = made("left_whole", "keras" if K is keras else "tf_keras", 0, 0.4)
    cost = CostModel(model)
    assert list(cost.uncounted) == ["rnn/simple_rnn_cell/kernel", "rnn/simple_rnn_cell/recurrent_kernel"]
    assert "SimpleRNNCell is not a layer whose multiply-adds are known" in cost.uncounted["rnn/simple_rnn_cell/kernel"]
