"""Channels to a budget: against brute force with `compact` as the count, importances by hand, and bad input."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from compaction_networks import NETWORKS, assert_same, drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kinds import KERAS, build, data, state

import tfprune_init as tpi
from tfprune_init.channels import IMPORTANCES, REDUCTIONS
from tfprune_init.channels.latency_search import MEASUREMENTS, fit_latency
from tfprune_init.channels.ranking import Ranking, make_ranking, order_globally, order_uniformly
from tfprune_init.errors import ModelError, OptionError, ScoreError
from tfprune_init.export.latency_ratio import LatencyRatio
from tfprune_init.graph import build_dependency_graph
from tfprune_init.graph.variables import list_variables


def summed_with_image(K: Any) -> Any:
    """Channels that meet the image itself, whose channels nothing may cut."""
    L, inputs = K.layers, K.Input((6, 6, 4))
    x = L.Conv2D(4, 3, padding="same", activation="tanh", name="a")(inputs)
    x = L.Conv2D(8, 3, activation="tanh", name="b")(L.Add()([x, inputs]))
    return K.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))


def summed_by_operator(K: Any) -> Any:
    """A sum that is no layer."""
    L, inputs = K.layers, K.Input((6, 6, 4))
    x = L.Conv2D(6, 3, padding="same", activation="tanh", name="a")(inputs)
    y = L.Conv2D(6, 3, padding="same", activation="tanh", name="b")(x)
    x = L.Conv2D(8, 3, activation="tanh", name="c")(x + y)
    return K.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))


def sequences(K: Any) -> Any:
    """Heads of attention, their width, and recurrent units."""
    L, inputs = K.layers, K.Input((5, 3))
    x = L.Dense(6, "tanh", name="a")(inputs)
    x = L.MultiHeadAttention(4, 3, name="attend")(x, x)
    x = L.LSTM(7, return_sequences=True, name="lstm")(x)
    x = L.GRU(5, name="gru")(x)
    return K.Model(inputs, L.Dense(3, name="head")(x))


ALL = {**NETWORKS, **{one.__name__: one for one in (summed_with_image, summed_by_operator, sequences)}}
WITHOUT_MULTIPLY_ADDS = {"open_sizes", "left_whole"}


def network(name: str, package: str = "keras", seed: int = 1) -> Any:
    return drawn(ALL[name](KERAS[package]), seed)


USUAL = ("grouped", "left_whole", "nested", "sequences", "squeeze_excite", "summed_with_image", "summed_by_operator")


@pytest.mark.parametrize(
    ("name", "package"),
    [
        pytest.param(*one, marks=() if one[0] in USUAL and one[1] == "keras" else pytest.mark.exhaustive)
        for one in itertools.product(ALL, KERAS)
    ],
)
def test_what_is_counted_is_what_compact_leaves(name: str, package: str) -> None:
    """On every network that compaction is tested on; halfway between the least and all."""
    model = network(name, package)
    every = tpi.find_channels(model, budget=tpi.Budget(parameters=1.0)).budget
    middle = (every.smallest + every.dense) // 2
    found = tpi.find_channels(model, budget=tpi.Budget(parameters=middle), normalize="mean", round_to=2)
    done = tpi.compact(model, found.masks)
    assert every.dense == every.got == done.before.parameters
    assert found.budget.got == done.after.parameters <= middle
    # A layer that is called twice, or nested, is in the account once; those of attention have other names.
    widths = {row.path.rpartition("/")[0]: row.after for row in found.layers}
    assert all(kept == widths[path].__index__() for path, kept in (
        (row.path, row.after) for row in done.layers if row.path in widths
    ))  # fmt: skip
    assert all(row.after >= min(row.before, 1) for row in found.layers)


CUT = [
    pytest.param(name, kind, some, marks=() if some and (name, kind) in {
        ("residual", "multiply_adds"), ("dense_blocks", "parameters"), ("depthwise", "multiply_adds"),
        ("squeeze_excite", "parameters"),
    } else pytest.mark.exhaustive)
    for name, kind, some in itertools.product(
        ("residual", "dense_blocks", "depthwise", "squeeze_excite", "grouped", "sequences"),
        ("parameters", "multiply_adds"),
        (True, False),
    )
]  # fmt: skip
"""Networks, budgets, and whether only some beginnings of the order are compacted."""


@pytest.mark.parametrize(("name", "kind", "some"), CUT)
def test_the_largest_beginning_of_the_order_is_kept(name: str, kind: str, some: bool) -> None:
    """Beginnings are compacted; the budget keeps the last that fits, and one group more would be too much."""
    model = network(name)
    whole = tpi.find_channels(model, budget=tpi.Budget(units=1.0)).budget
    least, most = int(whole.smallest), int(whole.dense)
    masks = [tpi.find_channels(model, budget=tpi.Budget(units=count)).masks for count in range(least, most + 1)]
    for less, more in itertools.pairwise(masks):
        assert all((more[path] | ~less[path]).all() for path in less)
    third = (most - least) // 3
    costs = {
        i: getattr(tpi.compact(model, masks[i]).after, kind)
        for i in ((0, third, third + 1) if some else range(len(masks)))
    }
    assert list(costs.values()) == sorted(costs.values())
    for i in costs:
        if i + 1 not in costs:
            continue
        for limit in {costs[i], (costs[i] + costs[i + 1]) // 2, costs[i + 1] - 1}:
            found = tpi.find_channels(model, budget=tpi.Budget(**{kind: limit}))
            assert found.budget.got == costs[i]
            assert {p: m.tolist() for p, m in found.masks.items()} == {p: m.tolist() for p, m in masks[i].items()}
            assert found.budget.evaluations <= 20
            assert ("met exactly" in found.budget.why) == (costs[i] == limit)
            assert costs[i] == limit or f"{costs[i + 1]:,}" in found.budget.why


@pytest.mark.parametrize("package", ["keras", pytest.param("tf_keras", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", ["residual", "depthwise", "dense_blocks", "sequences"])
def test_the_smaller_model_gives_the_outputs_of_the_masked_one(name: str, package: str) -> None:
    model = network(name, package)
    found = tpi.find_channels(model, budget=tpi.Budget(parameters=0.6))
    tpi.attach(model, found.masks)
    done = tpi.compact(model)
    assert done.after.parameters == found.budget.got <= 0.6 * done.before.parameters
    assert_same(model, done.model, 1e-5)


def test_groups_of_a_residual_network_by_hand() -> None:
    """stem, a2 and b2 meet in sums, so channel i of one goes with channel i of the others."""
    model = network("residual")
    weights = {t.path: t.tensor.numpy().astype(np.float64) for t in list_variables(model)}
    own = {p: np.abs(weights[f"{p}/kernel"]).sum(axis=(0, 1, 2)) for p in ("stem", "a1", "a2", "b1", "b2")}
    for reduction, reduce in {"mean": np.mean, "sum": np.sum, "max": np.max, "product": np.prod}.items():
        together = reduce([own["stem"], own["a2"], own["b2"]], axis=0)
        ranked = sorted(
            [(-score, 0, i) for i, score in enumerate(together)]
            + [(-score, 1, i) for i, score in enumerate(own["a1"])]
            + [(-score, 2, i) for i, score in enumerate(own["b1"])]
        )
        least = [next(one for one in ranked if one[1] == layer) for layer in range(3)]
        expected = [*least, *(one for one in ranked if one not in least)][:14]
        masks = tpi.find_channels(model, budget=tpi.Budget(units=14), reduction=reduction).masks
        for layer, paths in enumerate([("stem", "a2", "b2"), ("a1",), ("b1",)]):
            for path in paths:
                kept = masks[f"{path}/kernel"].any(axis=(0, 1, 2))
                assert np.flatnonzero(kept).tolist() == sorted(i for _, at, i in expected if at == layer)


def test_reductions_by_hand() -> None:
    numbers, groups = np.array([4.0, 1.0, 3.0, -2.0]), np.array([0, 2, 0, 2])
    found = {name: reduce(numbers, groups, 3)[[0, 2]].tolist() for name, reduce in REDUCTIONS.items()}
    assert found == {
        "mean": [3.5, -0.5], "sum": [7.0, -1.0], "max": [4.0, 1.0], "product": [12.0, -2.0], "first": [4.0, 1.0],
    }  # fmt: skip


def two_layers(K: Any = keras) -> Any:
    """4 -> 6 -> 5 -> 3, without activations inside of layers."""
    L = K.layers
    K.utils.set_random_seed(0)
    layers = [L.Dense(6, name="a"), L.ReLU(), L.Dense(5, name="b"), L.BatchNormalization(name="bn"), L.ReLU()]
    model = K.Sequential([K.Input((4,)), *layers, L.Dense(3, name="head")])
    model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def batch(examples: int = 12) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).normal(size=(examples, 4)).astype("float32"), np.arange(examples) % 3


def kept_units(found: tpi.FoundChannels, *paths: str) -> list[list[int]]:
    return [np.flatnonzero(found.masks[f"{path}/kernel"].any(axis=0)).tolist() for path in paths]


def expected_units(scores: dict[str, np.ndarray], count: int) -> list[list[int]]:
    """The best of each layer, and the best of the rest."""
    ranked = sorted((-score, at, i) for at, own in enumerate(scores.values()) for i, score in enumerate(own))
    least = [next(one for one in ranked if one[1] == layer) for layer in range(len(scores))]
    kept = [*least, *(one for one in ranked if one not in least)][:count]
    return [sorted(i for _, at, i in kept if at == layer) for layer in range(len(scores))]


def gradients(model: Any, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    variables = [t for t in list_variables(model) if t.variable.trainable]
    with tf.GradientTape() as tape:
        loss = model.loss(y, model(x, training=True))
    found = tape.gradient(loss, [t.tensor for t in variables])
    return {t.path: np.asarray(g, np.float64) for t, g in zip(variables, found, strict=True)}


@pytest.mark.parametrize("package", ["keras", pytest.param("tf_keras", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", [name for name in IMPORTANCES if name != "random"])
def test_importances_by_hand(name: str, package: str) -> None:
    model, (x, y) = two_layers(KERAS[package]), batch()
    gamma = np.array([0.3, -1.2, 0.7, 0.1, 0.9], "float32")
    values = {t.path: t for t in list_variables(model)}
    values["bn/gamma"].tensor.assign(gamma)
    weights = {p: np.asarray(t.tensor, np.float64) for p, t in values.items()}
    of_loss = gradients(model, x, y)
    kernels = {path: weights[f"{path}/kernel"] for path in "ab"}
    by_hand: dict[str, Any] = {
        "l1": lambda p, w: np.abs(w).sum(0),
        "l2": lambda p, w: np.sqrt((w**2).sum(0)),
        "geometric_median": lambda p, w: np.linalg.norm(w[:, :, None] - w[:, None, :], axis=0).sum(1),
        "taylor": lambda p, w: (w * of_loss[f"{p}/kernel"]).sum(0) ** 2,
        "gate_sensitivity": lambda p, w: np.abs(
            (w * of_loss[f"{p}/kernel"]).sum(0) + weights[f"{p}/bias"] * of_loss[f"{p}/bias"]
        ),
    }
    if name == "normalization_scale":
        found = tpi.find_channels(model, (x, y), budget=tpi.Budget(units=2), importance=name)
        assert kept_units(found, "a", "b") == [list(range(6)), [1, 4]]
        rows = {row.path: row for row in found.layers}
        assert rows["a/kernel"].stay == {"has no importance": 6}
        assert found.budget.dense == 5
        return
    scores = {path: by_hand[name](path, kernel) for path, kernel in kernels.items()}
    for count in (3, 6, 9):
        found = tpi.find_channels(model, (x, y), budget=tpi.Budget(units=count), importance=name)
        assert kept_units(found, "a", "b") == expected_units(scores, count)


def test_the_random_order_is_that_of_the_seed() -> None:
    model = two_layers()
    seeds = [
        kept_units(tpi.find_channels(model, budget=tpi.Budget(units=6), importance="random", seed=seed), "a", "b")
        for seed in (0, 0, 1, 2)
    ]
    assert seeds[0] == seeds[1]
    assert len({str(one) for one in seeds}) == 3


def test_numbers_of_ones_own_decide() -> None:
    model = two_layers()
    gates = {"a": np.array([1, 0.5, 0, 0.3, 0.2, 0.9]), "b/kernel": np.array([0, 0, 0.6, 0, 0.4])}
    found = tpi.find_channels(model, budget=tpi.Budget(units=5), importance=gates)
    assert kept_units(found, "a", "b") == [[0, 1, 5], [2, 4]]
    only = tpi.find_channels(model, budget=tpi.Budget(units=2), importance={"a": gates["a"]})
    assert kept_units(only, "a", "b") == [[0, 5], [0, 1, 2, 3, 4]]


def test_ties_go_to_the_lower_position() -> None:
    model = two_layers()
    ones = {"a": np.ones(6), "b": np.ones(5)}
    for allocation, expected in {"global": [[0, 1, 2, 3, 4], [0]], "uniform": [[0, 1, 2], [0, 1, 2]]}.items():
        found = tpi.find_channels(model, budget=tpi.Budget(units=6), importance=ones, allocation=allocation)
        assert kept_units(found, "a", "b") == expected


@pytest.mark.parametrize(("normalize", "expected"), [(None, [[0, 1, 2, 3, 4], [4]]), ("mean", [[2, 3, 4], [2, 3, 4]])])
def test_normalization_lets_layers_of_other_scales_compete(normalize: str | None, expected: list[list[int]]) -> None:
    numbers = {"a": np.array([100, 200, 300, 400, 500, 0.0]), "b": np.arange(5) + 0.5}
    found = tpi.find_channels(two_layers(), budget=tpi.Budget(units=6), importance=numbers, normalize=normalize)
    assert kept_units(found, "a", "b") == expected


def test_uniform_keeps_the_same_share_of_each_layer() -> None:
    model = network("lenet")  # 8, 10 and 12 units
    for share in (0.25, 0.5, 0.75):
        found = tpi.find_channels(model, budget=tpi.Budget(units=share), allocation="uniform")
        asked = [share * row.before for row in found.layers[:-1]]
        assert all(abs(row.after - own) <= 1 for row, own in zip(found.layers, asked, strict=False))
        assert sum(row.after for row in found.layers[:-1]) == int(30 * share)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(1, 6),
    st.randoms(),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_widths_are_rounded_and_never_too_narrow(
    sizes: list[int], round_to: int, least: int, random: Any, uniform: bool
) -> None:
    """On layers of single groups and one whose groups have two channels each, every beginning of the ranking."""
    starts = np.cumsum([0, *sizes])
    channels = {
        str(i): np.arange(start, start + size) for i, (start, size) in enumerate(zip(starts, sizes, strict=False))
    }
    channels["twice"] = np.tile(channels["0"], 2)
    count = int(starts[-1])
    numbers = np.array([random.choice([0.0, 1.0, random.random()]) for _ in range(count)])
    pools = [channels[str(i)] for i in range(len(sizes))]
    order = (order_uniformly if uniform else order_globally)(numbers, pools)
    assert sorted(order.tolist()) == list(range(count))
    ranking = make_ranking(order, channels, count, round_to, least)
    assert sorted(np.concatenate(ranking.bundles).tolist()) == list(range(count))
    place = {int(group): i for i, group in enumerate(order)}
    for kept in range(ranking.least, len(ranking.bundles) + 1):
        stays = ~ranking.remove_after(kept)
        for own in channels.values():
            width = int(stays[own].sum())
            assert width >= min(least, own.size)
            assert width % round_to == 0 or width == own.size
        # Of a layer the best stay.
        for pool in pools:
            worst = max((place[g] for g in pool.tolist() if stays[g]), default=-1)
            assert all(place[g] > worst for g in pool.tolist() if not stays[g])


def test_rounding_is_told_in_the_account() -> None:
    model = network("residual")
    found = tpi.find_channels(model, budget=tpi.Budget(multiply_adds=0.7), round_to=4)
    assert all(row.after % 4 == 0 or row.after == row.before for row in found.layers)
    assert found.budget.why.startswith("Rounding: the next 4 channel groups")
    assert found.budget.got <= found.budget.limit


def test_the_least_of_a_layer_stays_though_it_ranks_below() -> None:
    numbers = {"a": np.arange(6) + 10, "b": np.arange(5)}
    found = tpi.find_channels(two_layers(), budget=tpi.Budget(units=7), importance=numbers, min_channels=3)
    assert kept_units(found, "a", "b") == [[2, 3, 4, 5], [2, 3, 4]]
    assert found.kept_below == 3
    assert "3 channel groups stay as the least of a layer" in found.describe()


def test_everything_that_stays_has_its_reason() -> None:
    model = network("residual")
    found = tpi.find_channels(model, budget=tpi.Budget(parameters=0.7), exclude="a1")
    rows = {row.path: row for row in found.layers}
    assert rows["head/kernel"].stay == {"is an output of the model": 3}
    assert rows["a1/kernel"].stay == {"is of a1/kernel: excluded": 8}
    assert rows["a1/kernel"].after == 8
    told = {*found.masks, *(one.path for one in found.skipped)}
    assert told == {target.path for target in list_variables(model)}
    assert all(one.reason for one in found.skipped)
    table = found.to_dict()
    assert table["budget"]["got"] == found.budget.got
    assert table["layers"][0] == {"path": "stem/kernel", "before": 10, "after": rows["stem/kernel"].after,
                                  "stay": rows["stem/kernel"].stay}  # fmt: skip


def test_the_account_is_printed_and_written(tmp_path: Any) -> None:
    found = tpi.find_channels(two_layers(), budget=tpi.Budget(multiply_adds=0.5))
    with (tmp_path / "out").open("w") as file:
        found.print(file)
    text = (tmp_path / "out").read_text()
    assert "a/kernel" in text
    assert "Asked for 0.5: at most 34 of 69 multiply-adds." in text
    found.save(tmp_path / "found.json")
    assert '"multiply_adds"' in (tmp_path / "found.json").read_text()


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        ("functional", "keras"),
        ("sequential", "tf_keras"),
        pytest.param("nested", "keras", marks=pytest.mark.exhaustive),
        pytest.param("functional", "tf_keras", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("importance", ["l1", "taylor", "gate_sensitivity"])
def test_no_trace_and_the_same_again(kind: str, package: str, importance: str) -> None:
    model = build(kind, package)
    before = state(model)
    one, other = (
        tpi.find_channels(model, data(), budget=tpi.Budget(units=0.5), importance=importance) for _ in range(2)
    )
    assert state(model) == before
    assert {p: m.tolist() for p, m in one.masks.items()} == {p: m.tolist() for p, m in other.masks.items()}
    assert one.to_dict() == other.to_dict()


def test_subclassed_models_are_run_on_the_data() -> None:
    model = build("subclassed", "keras")
    found = tpi.find_channels(model, data(), budget=tpi.Budget(units=0.5))
    assert found.budget.got == found.budget.limit
    with pytest.raises(ModelError, match="found by running it"):
        tpi.find_channels(model, budget=tpi.Budget(units=0.5))


def test_channels_of_groups_are_cut_at_the_same_place() -> None:
    graph = build_dependency_graph(network("grouped"), strict=True)
    assert graph.units["b/kernel"].tolist() == [6, 7, 8, 9] * 2
    assert graph.units["a/kernel"].tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert not graph.cells


def test_what_only_compact_would_leave_whole_stays() -> None:
    """A sum by an operator is no layer; next to the image nothing can be cut out of a sum."""
    for package in KERAS:
        rows = {row.path: row for row in tpi.find_channels(
            network("summed_by_operator", package), budget=tpi.Budget(units=0.5)).layers}  # fmt: skip
        assert [rows[f"{path}/kernel"].after for path in "abc"] == [6, 6, 4]
        assert all("of which it is not known what it does" in reason for reason in rows["a/kernel"].stay)
        rows = {row.path: row for row in tpi.find_channels(
            network("summed_with_image", package), budget=tpi.Budget(units=0.5)).layers}  # fmt: skip
        assert [rows[f"{path}/kernel"].after for path in "ab"] == [4, 4]
    # For masks alone such channels may be pruned.
    assert build_dependency_graph(network("summed_by_operator")).removable[:6].all()


HALF = tpi.Budget(units=0.5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"budget": 0.5}, OptionError, "budget= is a tpi.Budget"),
        ({"budget": tpi.Budget(weights=0.5)}, OptionError, "multiply_adds, parameters, units or latency"),
        ({"budget": tpi.Budget(units=12)}, OptionError, "has no effect: the dense network has 11 units"),
        ({"budget": tpi.Budget(multiply_adds=7)}, OptionError, r"can be met is tpi.Budget\(multiply_adds=8\)"),
        ({"budget": tpi.Budget(units=0.1)}, OptionError, r"tpi.Budget\(units=2\), a share of 0.1819"),
        ({"budget": tpi.Budget(units=5), "min_channels": 3}, OptionError, r"tpi.Budget\(units=6\)"),
        ({"importance": "l3"}, OptionError, "There is no importance 'l3'. Did you mean"),
        ({"importance": "taylor"}, OptionError, "judges channels by data. Received: data=None"),
        ({"importance": "l1", "seed": 1}, OptionError, "has no option 'seed'"),
        ({"reduction": "median"}, OptionError, "There is no reduction 'median'"),
        ({"allocation": "erk"}, OptionError, "There is no allocation of channels 'erk'"),
        ({"normalize": "min"}, OptionError, "There is no normalization"),
        ({"normalize": "mean", "allocation": "uniform"}, OptionError, "leave it out"),
        ({"round_to": 0}, OptionError, "round_to must be a positive integer"),
        ({"min_channels": True}, OptionError, "min_channels must be"),
        ({"exclude": "c"}, OptionError, "matches no prunable variable"),
        ({"exclude": ["a", "b"]}, OptionError, "No channel of this network may be removed: .*of a/kernel: excluded"),
        ({"importance": {"c": np.ones(3)}}, OptionError, "names no kernel with channels by 'c'"),
        ({"importance": {"a": np.ones(5)}}, OptionError, "one number for each of the 6 channels of a/kernel"),
        ({"importance": {"a": np.ones(6), "a/kernel": np.ones(6)}}, OptionError, "names a/kernel twice"),
        ({"importance": {}}, OptionError, "at least one kernel"),
        ({"importance": {"a": np.ones(6)}, "seed": 1}, OptionError, "take no options"),
        ({"importance": {"a": np.array([1, np.nan, 1, 1, 1, 1])}}, ScoreError, "channels of a/kernel"),
    ],
)
def test_bad_input_is_refused_by_name(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tpi.find_channels(two_layers(), **{"budget": HALF, **options})


def test_open_sizes_have_no_multiply_adds() -> None:
    with pytest.raises(ModelError, match="depends on a size that is open"):
        tpi.find_channels(network("open_sizes"), budget=tpi.Budget(multiply_adds=0.5))


@pytest.mark.parametrize("kind", ["units", "latency"])
def test_budgets_of_channels_are_not_for_masks_of_weights(kind: str) -> None:
    with pytest.raises(OptionError, match=f"A budget of {kind} is for tpi.find_channels"):
        tpi.find_masks(two_layers(), None, method="magnitude", budget=tpi.Budget(**{kind: 0.5}))
    with pytest.raises(OptionError, match=r"a float in \(0, 1\], as it depends on the machine"):
        tpi.Budget(latency=3)


def test_the_smaller_model_trains_in_tf_keras() -> None:
    model = two_layers(tf_keras)
    found = tpi.find_channels(model, batch(), budget=tpi.Budget(multiply_adds=0.6), importance="taylor")
    done = tpi.compact(model, found.masks)
    history = done.model.fit(*batch(), epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])


class Machine:
    """Latencies without a clock: so much for each bundle that is kept, and for nothing at all."""

    def __init__(self, ranking: Ranking, base: float, power: float):
        self.every = len(ranking.bundles)
        self.ranking, self.base, self.power, self.calls = ranking, base, power, 0

    def __call__(self, removed: np.ndarray) -> LatencyRatio:
        self.calls += 1
        kept = int(np.count_nonzero(~removed)) / self.every
        ratio = self.base + (1 - self.base) * kept**self.power
        return LatencyRatio(ratio, ratio * 0.9, ratio * 1.1, ratio, 1.0)


@pytest.mark.parametrize(("base", "power"), [(0.05, 1.0), (0.2, 2.0), (0.1, 0.5)])
def test_the_search_for_latency_takes_few_measurements(base: float, power: float) -> None:
    order = np.arange(200)
    ranking = make_ranking(order, {"a": order}, 200, 1, 4)
    for limit in (0.5, 0.7, 0.9):
        machine = Machine(ranking, base, power)
        kept, account = fit_latency(ranking, tpi.Budget(latency=limit), lambda gone: int((~gone).sum()), machine)
        assert machine(ranking.remove_after(kept)).ratio == account.got <= limit
        assert limit - account.got < 0.02
        assert account.evaluations == len(account.measured) <= MEASUREMENTS
        assert [one.ratio for one in account.measured] == sorted(one.ratio for one in account.measured)
        assert "took" in account.why
    with pytest.raises(OptionError, match=r"Ask for more, such as tpi.Budget\(latency="):
        fit_latency(ranking, tpi.Budget(latency=0.01), lambda gone: int((~gone).sum()), Machine(ranking, base, power))
    kept, account = fit_latency(ranking, tpi.Budget(latency=1.0), lambda gone: 0, Machine(ranking, base, power))
    assert (kept, account.got) == (200, 1.0)


@pytest.mark.slow
@pytest.mark.process
def test_a_latency_budget_is_measured_here() -> None:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(64, 3, activation="relu", name=name) for name in "abc"]
    model = keras.Sequential([keras.Input((40, 40, 3)), *layers, keras.layers.GlobalAveragePooling2D()])
    model = keras.Sequential([model, keras.layers.Dense(3, name="head")])
    found = tpi.find_channels(model, budget=tpi.Budget(latency=0.6))
    assert 0 < found.budget.smallest <= found.budget.got <= 0.6
    assert 2 <= len(found.budget.measured) <= MEASUREMENTS
    assert all(one.low <= one.ratio <= one.high for one in found.budget.measured)
    assert "latency" in found.describe()
    smaller = tpi.compact(model, found.masks)
    assert smaller.after.multiply_adds < 0.8 * smaller.before.multiply_adds
