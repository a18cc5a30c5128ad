"""Granularities and allocations against plain loops: which weights stay, how many, and what is refused."""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfprune_init.errors import OptionError
from tfprune_init.graph.kernel_axes import KernelAxes, find_kernel_axes
from tfprune_init.selection import (
    ALLOCATIONS,
    GRANULARITIES,
    Layout,
    choose_masks,
    count_kept,
    find_allocation,
    layer_densities,
    register_allocation,
    register_granularity,
)
from tfprune_init.selection.apportionment import apportion
from tfprune_init.selection.budget import to_fraction

DENSE = KernelAxes((0,), (1,))
KINDS = ["erk", "er", "balanced"]
# Everything that counts in something and keeps floor(count * density) of it.
COUNTED = ["global", *KINDS, "block", "channel"]
# Everything that needs to know no more of a network than its layouts.
LOCAL = [*COUNTED, "uniform", "n_m", "per_unit"]


def choose(
    name: str, scores: Any, density: float, alive: Any, layouts: dict[str, Layout], **options: Any
) -> dict[str, np.ndarray]:
    """Masks of an allocation of weights, or of a granularity with its usual allocation."""
    axis = "allocation" if name in ALLOCATIONS else "granularity"
    return choose_masks(scores, density, layouts, alive=alive, **{axis: name}, **options)


def count_of(name: str, layouts: dict[str, Layout], **options: Any) -> int:
    granularity = GRANULARITIES.find(name if name in GRANULARITIES else "weights")
    return sum(pool.size for pool in granularity.pools(layouts, **options).values())


def layout(shape: tuple[int, ...], layer: str = "Dense", name: str = "kernel", equation: str | None = None) -> Layout:
    return Layout(shape, find_kernel_axes(frozenset([layer]), name, len(shape), equation))


def place(where: Layout, index: tuple[int, ...]) -> tuple[int, int]:
    """Row and column of a weight in the matrix view, counted out."""
    row = column = 0
    for axis, (i, n) in enumerate(zip(index, where.shape, strict=True)):
        if axis not in where.axes.outputs:
            row = row * n + i
    for axis in where.axes.outputs:
        column = column * where.shape[axis] + index[axis]
    return row, column


side = st.integers(1, 5)
layout_strategy = st.one_of(
    st.tuples(side).map(lambda s: layout(s, name="bias")),
    st.tuples(side, side).map(layout),
    st.tuples(side, side).map(lambda s: layout(s, "EinsumDense", equation="ab,cb->ac")),
    st.tuples(side, side, side).map(lambda s: layout(s, "EinsumDense", equation="abc,cde->abde")),
    st.tuples(side, side, side).map(lambda s: layout(s, "EinsumDense", equation="abc,dbc->ad")),
    st.tuples(side, side, side, side).map(lambda s: layout(s, "Conv2D")),
    st.tuples(side, side, side, side).map(lambda s: layout(s, "Conv2DTranspose")),
    st.tuples(side, side, side, side).map(lambda s: layout(s, "DepthwiseConv2D", "depthwise_kernel")),
)
# Small whole numbers: ties are the rule, and sums have no rounding.
values = st.integers(-3, 3).map(float)


@st.composite
def networks(draw: Any) -> tuple[dict[str, Layout], dict[str, np.ndarray]]:
    layouts = {f"v{i}": lay for i, lay in enumerate(draw(st.lists(layout_strategy, min_size=1, max_size=4)))}
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return layouts, {path: draw(hnp.arrays(dtype, lay.shape, elements=values)) for path, lay in layouts.items()}


def drawn_alive(data: Any, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    return data.draw(st.none() | st.fixed_dictionaries({p: hnp.arrays(bool, s.shape) for p, s in scores.items()}))


def kept(masks: dict[str, np.ndarray]) -> set[tuple[str, tuple[int, ...]]]:
    return {(path, index) for path, mask in masks.items() for index in np.ndindex(mask.shape) if mask[index]}


def by_looping_over_blocks(
    layouts: dict[str, Layout],
    scores: dict[str, np.ndarray],
    alive: dict[str, np.ndarray] | None,
    sides: dict[str, tuple[int, int]],
    keep: int,
) -> set[tuple[str, tuple[int, ...]]]:
    blocks = defaultdict(list)
    for number, (path, lay) in enumerate(layouts.items()):
        for index in np.ndindex(lay.shape):
            if alive is None or alive[path][index]:
                row, column = place(lay, index)
                blocks[number, row // sides[path][0], column // sides[path][1]].append((path, index))
    order = sorted(blocks, key=lambda b: (-sum(float(scores[p][i]) for p, i in blocks[b]), b))
    return {weight for b in order[:keep] for weight in blocks[b]}


@pytest.mark.parametrize(
    ("lay", "rows", "columns", "at"),
    [
        (layout((5, 7)), 5, 7, lambda r, c: (r, c)),
        (layout((3, 2, 5, 7), "Conv2D"), 30, 7, lambda r, c: (r // 10, r // 5 % 2, r % 5, c)),
        (layout((3, 2, 7, 5), "Conv2DTranspose"), 30, 7, lambda r, c: (r // 10, r // 5 % 2, c, r % 5)),
        (layout((3, 2, 5, 4), "DepthwiseConv2D"), 6, 20, lambda r, c: (r // 2, r % 2, c // 4, c % 4)),
        (layout((6, 2, 4), "EinsumDense", equation="abc,cde->abde"), 6, 8, lambda r, c: (r, c // 4, c % 4)),
        (layout((7, 5), "EinsumDense", equation="ab,cb->ac"), 5, 7, lambda r, c: (c, r)),
        (layout((7, 2, 5), "EinsumDense", equation="abc,dbc->ad"), 10, 7, lambda r, c: (c, r // 5, r % 5)),
        (layout((9,), name="bias"), 1, 9, lambda r, c: (c,)),
        (layout((2, 4), name="bias"), 1, 8, lambda r, c: (c // 4, c % 4)),
        (layout((), name="bias"), 1, 1, lambda r, c: ()),
    ],
)
def test_matrix_views(lay: Layout, rows: int, columns: int, at: Any) -> None:
    array = np.arange(math.prod(lay.shape)).reshape(lay.shape)
    matrix = lay.to_matrix(array)
    assert (lay.rows, lay.columns, lay.size) == (rows, columns, array.size)
    assert matrix.tolist() == [[array[at(r, c)] for c in range(columns)] for r in range(rows)]
    back = lay.from_matrix(matrix)
    np.testing.assert_array_equal(back, array)
    assert back.flags.c_contiguous


@given(networks(), st.sampled_from(COUNTED), st.floats(0.01, 1.0))
def test_exactly_the_share_that_was_asked_for(network: Any, name: str, density: float) -> None:
    layouts, scores = network
    before = {path: score.copy() for path, score in scores.items()}
    masks = choose(name, scores, density, None, layouts)
    counts = {
        "block": sum(lay.rows * math.ceil(lay.columns / 4) for lay in layouts.values()),
        "channel": sum(math.prod(lay.shape[a] for a in lay.axes.outputs) for lay in layouts.values()),
    }
    count = counts.get(name, sum(score.size for score in scores.values()))
    assert count_of(name, layouts) == count
    assert {path: (mask.shape, mask.dtype) for path, mask in masks.items()} == {
        path: (score.shape, np.dtype(bool)) for path, score in scores.items()
    }
    things = {
        "block": lambda path, index: (path, place(layouts[path], index)[0], place(layouts[path], index)[1] // 4),
        "channel": lambda path, index: (path, place(layouts[path], index)[1]),
    }.get(name, lambda path, index: (path, index))
    assert len({things(*weight) for weight in kept(masks)}) == count_kept(count, density)
    for path, score in scores.items():
        np.testing.assert_array_equal(score, before[path])


@given(networks(), st.sampled_from(LOCAL), st.lists(st.floats(0.001, 1.0), min_size=2, max_size=5), st.data())
def test_on_a_falling_schedule_what_is_pruned_stays_pruned(
    network: Any, name: str, plan: list[float], data: Any
) -> None:
    layouts, scores = network
    masks = None
    for density in sorted(plan, reverse=True):
        fresh = {path: data.draw(hnp.arrays(s.dtype, s.shape, elements=values)) for path, s in scores.items()}
        smaller = choose(name, fresh, density, masks, layouts)
        assert masks is None or kept(smaller) <= kept(masks)
        masks = smaller
        if name in ("global", *KINDS):
            assert len(kept(masks)) == count_kept(sum(s.size for s in scores.values()), density)
        if name == "uniform":
            assert [m.sum() for m in masks.values()] == [count_kept(s.size, density) for s in scores.values()]


@given(networks(), side, side, st.integers(0, 100), st.data())
def test_blocks_equal_looping_over_them(network: Any, height: int, width: int, percent: int, data: Any) -> None:
    layouts, scores = network
    alive = drawn_alive(data, scores)
    options = {"block_size": (height, width)}
    count = count_of("block", layouts, **options)
    sides = dict.fromkeys(layouts, (height, width))
    candidates = by_looping_over_blocks(layouts, scores, alive, sides, count)
    there = len({(p, *np.floor_divide(place(layouts[p], i), (height, width)).tolist()) for p, i in candidates})
    keep = there * percent // 100
    masks = choose("block", scores, keep / count, alive, layouts, **options)
    assert kept(masks) == by_looping_over_blocks(layouts, scores, alive, sides, keep)


@given(networks(), st.integers(0, 100), st.data())
def test_channels_equal_looping_over_them(network: Any, percent: int, data: Any) -> None:
    layouts, scores = network
    alive = drawn_alive(data, scores)
    count = count_of("channel", layouts)
    sides = dict.fromkeys(layouts, (10**6, 1))
    candidates = by_looping_over_blocks(layouts, scores, alive, sides, count)
    keep = len({(p, place(layouts[p], i)[1]) for p, i in candidates}) * percent // 100
    masks = choose("channel", scores, keep / count, alive, layouts)
    assert kept(masks) == by_looping_over_blocks(layouts, scores, alive, sides, keep)


@given(networks(), st.integers(1, 6), st.floats(0.01, 1.0), st.booleans(), st.data())
def test_n_of_m_equals_looping_over_the_groups(network: Any, m: int, density: float, final: bool, data: Any) -> None:
    layouts, scores = network
    alive = drawn_alive(data, scores)
    n = math.ceil(density * m - 1e-9)
    if final:
        density = n / m
        GRANULARITIES["n_m"].check(to_fraction(density), layouts, m=m)
    groups = defaultdict(list)
    for path, lay in layouts.items():
        for index in np.ndindex(lay.shape):
            row, column = place(lay, index)
            if alive is None or alive[path][index]:
                groups[path, column, row // m].append((-float(scores[path][index]), row, index))
    expected = {(g[0], index) for g, members in groups.items() for _, _, index in sorted(members)[:n]}
    masks = choose("n_m", scores, density, alive, layouts, m=m)
    assert kept(masks) == expected
    if alive is None:
        sizes = defaultdict(int)
        for path, index in kept(masks):
            row, column = place(layouts[path], index)
            sizes[path, column, row // m] += 1
        assert sizes == {g: min(n, len(members)) for g, members in groups.items()}


@given(networks(), st.integers(1, 99), st.data())
def test_per_unit_equals_sorting_the_inputs_of_each_unit(network: Any, percent: int, data: Any) -> None:
    layouts, scores = network
    alive = drawn_alive(data, scores)
    units = defaultdict(list)
    for path, lay in layouts.items():
        for index in np.ndindex(lay.shape):
            row, column = place(lay, index)
            if alive is None or alive[path][index]:
                units[path, column].append((-float(scores[path][index]), row, index))
    expected = {
        (unit[0], index)
        for unit, inputs in units.items()
        for _, _, index in sorted(inputs)[: max(1, layouts[unit[0]].rows * percent // 100)]
    }
    assert kept(choose("per_unit", scores, percent / 100, alive, layouts)) == expected


def test_per_unit_has_numbers_of_its_own_for_each_layer() -> None:
    # By erk, 26,620 weights in proportion to 1084 : 400 : 110; the last layer, of 1,000, is kept whole.
    masks = choose_masks(random_scores(LENET), 0.1, LENET, granularity="per_unit", allocation="erk")
    assert inputs_of_units(masks) == {
        "a": {25_620 * 1084 // 1484 // 300},
        "b": {25_620 * 400 // 1484 // 100},
        "c": {100},
    }
    given = choose_masks(random_scores(LENET), 0.5, LENET, granularity="per_unit", allocation={"a": 0.7, "c": 0.0})
    assert inputs_of_units(given) == {"a": {235}, "b": {150}, "c": {100}}
    few = choose_masks(random_scores(LENET), 0.003, LENET, granularity="per_unit")
    assert inputs_of_units(few) == {"a": {2}, "b": {1}, "c": {1}}


def inputs_of_units(masks: dict[str, np.ndarray]) -> dict[str, set[int]]:
    return {path: set(mask.sum(axis=0).tolist()) for path, mask in masks.items()}


def test_two_of_four_along_the_inputs_with_a_shorter_last_group() -> None:
    scores = {"k": np.array([[1, 4, 2, 3, 7, 5, 6], [9, 9, 9, 9, 1, 1, 1]], np.float32).T}
    masks = choose("n_m", scores, 0.5, None, {"k": layout((7, 2))})
    assert masks["k"].T.astype(int).tolist() == [[0, 1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 1, 1, 0]]


def test_uneven_edges_are_smaller_blocks() -> None:
    score = np.zeros((3, 6))
    score[2, 5] = score[2, 4] = 3.0  # a block of 1 x 2 at the corner
    score[:2, :4] = 0.7  # a whole block: 5.6
    layouts = {"k": layout((3, 6))}
    assert count_of("block", layouts, block_size=(2, 4)) == 4
    first = choose("block", {"k": score}, 0.25, None, layouts, block_size=[2, 4])
    assert first["k"].astype(int).tolist() == [[0] * 6, [0] * 6, [0, 0, 0, 0, 1, 1]]
    second = choose("block", {"k": score}, 0.5, None, layouts, block_size=(2, 4))
    assert second["k"].astype(int).tolist() == [[1, 1, 1, 1, 0, 0]] * 2 + [[0, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize(("name", "shape"), [("block", (1, 8)), ("channel", (4, 2))])
def test_sums_do_not_lose_small_scores(name: str, shape: tuple[int, int]) -> None:
    """In float32, 2^24 + 1 is 2^24, and the first of two equal sums would win."""
    lay = layout(shape)
    score = np.zeros((2, 4), np.float32)
    score[0, 0], score[1, 0], score[1, 1] = 2**24, 2**24, 1
    score = score.reshape(1, 8) if name == "block" else np.ascontiguousarray(score.T)
    mask = choose(name, {"k": score}, 0.5, None, {"k": lay})["k"]
    assert mask[score == 1].all()
    assert mask.sum() == 4


def by_bisection(raw: list[float], limits: list[int], total: float) -> list[float]:
    """min(limit, level * raw), with the level found by halving."""
    low, high = 0.0, max(limit / r for limit, r in zip(limits, raw, strict=True))
    for _ in range(200):
        level = (low + high) / 2
        if sum(min(limit, level * r) for limit, r in zip(limits, raw, strict=True)) < total:
            low = level
        else:
            high = level
    return [min(limit, high * r) for limit, r in zip(limits, raw, strict=True)]


def raw_weight(kind: str, lay: Layout) -> float:
    """Number kept at level 1, by the papers' formulas for the density."""
    inputs = math.prod(lay.shape[a] for a in lay.axes.inputs)
    outputs = math.prod(lay.shape[a] for a in lay.axes.outputs)
    size = math.prod(lay.shape)
    density = {
        "erk": sum(lay.shape) / size,
        "er": (inputs + outputs) / (inputs * outputs),
        "balanced": 1 / size,
    }[kind]
    return density * size


LENET = {"a": layout((784, 300)), "b": layout((300, 100)), "c": layout((100, 10))}
CONVNET = {
    "stem": layout((3, 3, 3, 16), "Conv2D"),
    "depthwise": layout((5, 5, 16, 2), "DepthwiseConv2D", "depthwise_kernel"),
    "pointwise": layout((1, 1, 32, 64), "Conv2D"),
    "up": layout((4, 4, 24, 64), "Conv2DTranspose"),
    "head": layout((24, 10)),
    "bias": layout((10,), name="bias"),
}


def test_erdos_renyi_of_lenet_300_100_as_by_hand() -> None:
    # d N = 26,620; at eps = 26,620 / 1,594 the last layer would keep 1,837 of 1,000; then eps = 25,620 / 1,484.
    eps = 25_620 / 1_484
    expected = {"a": eps * 1_084 / 235_200, "b": eps * 400 / 30_000, "c": 1.0}
    assert layer_densities("erk", LENET, 0.1) == pytest.approx(expected, rel=1e-12)
    assert layer_densities("er", LENET, 0.1) == pytest.approx(expected, rel=1e-12)
    # At d = 0.5 the second layer follows: (133,100 - 1,000) / 1,484 * 400 = 35,606 of 30,000.
    assert layer_densities("erk", LENET, 0.5) == pytest.approx({"a": 102_100 / 235_200, "b": 1, "c": 1}, rel=1e-12)
    scores = {path: np.random.default_rng(0).normal(size=lay.shape) for path, lay in LENET.items()}
    # 18,714.6 and 6,905.7 and 1,000
    masks = choose("erk", scores, 0.1, None, LENET)
    assert {path: int(mask.sum()) for path, mask in masks.items()} == {"a": 18_714, "b": 6_906, "c": 1_000}
    threshold = np.sort(scores["a"], axis=None)[-18_714]
    np.testing.assert_array_equal(masks["a"], scores["a"] >= threshold)


@pytest.mark.parametrize("density", [0.002, 0.02, 0.1, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layouts", [LENET, CONVNET], ids=["lenet", "convnet"])
def test_layer_densities_solve_their_equation(kind: str, density: float, layouts: dict[str, Layout]) -> None:
    sizes = [math.prod(lay.shape) for lay in layouts.values()]
    shares = by_bisection([raw_weight(kind, lay) for lay in layouts.values()], sizes, density * sum(sizes))
    found = layer_densities(kind, layouts, density)
    assert list(found) == list(layouts)
    assert list(found.values()) == pytest.approx([a / n for a, n in zip(shares, sizes, strict=True)], rel=1e-9)


def test_balanced_of_lenet_as_by_hand() -> None:
    # 26,620 / 3 = 8,873.3, of which the last layer has 1,000; the others keep 12,810 each.
    assert layer_densities("balanced", LENET, 0.1) == pytest.approx({"a": 12_810 / 235_200, "b": 0.427, "c": 1.0})
    scores = {path: np.ones(lay.shape, np.float32) for path, lay in LENET.items()}
    masks = choose("balanced", scores, 0.1, None, LENET)
    assert [int(mask.sum()) for mask in masks.values()] == [12_810, 12_810, 1_000]
    assert masks["b"].ravel()[:12_810].all()


@pytest.mark.parametrize(
    ("weights", "limits", "total", "expected"),
    [
        ([1, 1, 1], [10, 10, 10], 8, [3, 3, 2]),  # 2.67 each, ties to the earlier
        ([1, 1, 1], [10, 10, 10], 7, [3, 2, 2]),
        ([5, 3, 1], [10, 10, 10], 7, [4, 2, 1]),  # 3.89, 2.33, 0.78
        ([5, 3, 1], [3, 10, 10], 7, [3, 3, 1]),
        ([1, 1], [0, 5], 5, [0, 5]),
        ([1, 2], [5, 5], 0, [0, 0]),
        ([100, 10, 1], [5, 8, 9], 20, [5, 8, 7]),  # limits bind one after the other
        ([Fraction(1, 3), Fraction(1, 6), Fraction(1, 2)], [9, 9, 9], 3, [1, 1, 1]),  # 1, 0.5, 1.5
    ],
)
def test_apportion_by_hand(weights: list[Any], limits: list[int], total: int, expected: list[int]) -> None:
    assert apportion(weights, limits, total) == expected


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 50)), min_size=1, max_size=6), st.data())
def test_apportioned_counts_are_the_nearest_below_or_above_the_shares(rows: list[tuple[int, int]], data: Any) -> None:
    weights, limits = [w for w, _ in rows], [n for _, n in rows]
    total = data.draw(st.integers(0, sum(limits)))
    counts = apportion([Fraction(w) for w in weights], limits, total)
    assert sum(counts) == total
    assert all(0 <= count <= limit for count, limit in zip(counts, limits, strict=True))
    shares = by_bisection([float(w) for w in weights], limits, total)
    over = [count - share for count, share in zip(counts, shares, strict=True)]
    assert max(map(abs, over)) < 1 + 1e-6
    # Rounded up are those with the largest remainders.
    up = [share % 1 for share, o in zip(shares, over, strict=True) if o > 1e-6]
    down = [share % 1 for share, o in zip(shares, over, strict=True) if o < -1e-6]
    assert not up or not down or min(up) >= max(down) - 1e-6


def test_apportion_refuses_more_than_there_is() -> None:
    with pytest.raises(ValueError, match="Cannot keep 8 of 7"):
        apportion([1, 1], [3, 4], 8)


@given(networks(), st.sampled_from(KINDS), st.integers(0, 100), st.data())
def test_layers_take_what_others_have_not_alive(network: Any, kind: str, percent: int, data: Any) -> None:
    layouts, scores = network
    alive = {path: data.draw(hnp.arrays(bool, score.shape)) for path, score in scores.items()}
    limits = [int(a.sum()) for a in alive.values()]
    total = sum(limits) * percent // 100
    masks = choose(kind, scores, total / sum(s.size for s in scores.values()), alive, layouts)
    counts = [int(mask.sum()) for mask in masks.values()]
    assert sum(counts) == total
    assert kept(masks) <= kept(alive)
    if any(limits):
        pairs = [(raw_weight(kind, lay), n) for lay, n in zip(layouts.values(), limits, strict=True)]
        shares = by_bisection([w for w, _ in pairs], limits, total)
        assert max(abs(c - s) for c, s in zip(counts, shares, strict=True)) < 1 + 1e-6
    for path, mask in masks.items():
        order = sorted(np.flatnonzero(alive[path]), key=lambda i: (-scores[path].ravel()[i], i))
        assert np.flatnonzero(mask).tolist() == sorted(order[: mask.sum()])


def test_what_each_says_of_itself() -> None:
    assert {name for name, one in ALLOCATIONS.items() if one.compares_layers} == {"global"}
    assert {name: dict(one.options) for name, one in GRANULARITIES.items() if one.options} == {
        "block": {"block_size": (1, 4)},
        "n_m": {"m": 4},
    }
    assert {name: one.counts_in for name, one in GRANULARITIES.items()} == {
        "block": "blocks", "channel": "channels", "tflite": "weights", "n_m": "weights", "weights": "weights",
        "units": "units", "per_unit": "weights",
    }  # fmt: skip
    for registry in (GRANULARITIES, ALLOCATIONS):
        assert all(one.name == name and one.summary for name, one in registry.items())
    assert count_of("n_m", LENET, m=8) == count_of("global", LENET) == 266_200
    assert count_of("channel", LENET) == 410
    with pytest.raises(TypeError):
        GRANULARITIES["n_m"].options["m"] = 8  # type: ignore[index]


@pytest.mark.parametrize("bad", [(0, 4), (1, -4), (1,), (1, 2, 3), 4, "14", (1.0, 4), (True, 4), None])
def test_bad_block_sizes_are_refused(bad: Any) -> None:
    scores = {path: np.ones(lay.shape) for path, lay in LENET.items()}
    for call in (
        lambda: choose("block", scores, 0.5, None, LENET, block_size=bad),
        lambda: count_of("block", LENET, block_size=bad),
        lambda: GRANULARITIES["block"].check(Fraction(1, 2), LENET, block_size=bad),
    ):
        with pytest.raises(OptionError, match=r"like \(1, 4\)\. Received: ") as caught:
            call()
        assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("bad", [0, -4, 2.0, True, "4", None])
def test_bad_groups_are_refused(bad: Any) -> None:
    scores = {path: np.ones(lay.shape) for path, lay in LENET.items()}
    with pytest.raises(OptionError, match="m must be a positive integer"):
        GRANULARITIES["n_m"].check(Fraction(1, 2), LENET, m=bad)
    with pytest.raises(OptionError, match="m must be a positive integer"):
        choose("n_m", scores, 0.5, None, LENET, m=bad)


@pytest.mark.parametrize(
    ("density", "m", "words"),
    [
        (1 - 0.9, 4, r"Received: sparsity=0\.9\. Try sparsity=0\.75, or another m"),
        (0.6, 4, r"Received: sparsity=0\.4\. Try sparsity=0\.25 or 0\.5, or another m"),
        (0.5, 5, r"Try sparsity=0\.4 or 0\.6, or"),
        (0.5, 1, r"Try sparsity=0, or"),
        (1e-12, 4, r"Try sparsity=0\.75, or"),
    ],
)
def test_n_of_m_names_the_nearest_sparsities(density: float, m: int, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        GRANULARITIES["n_m"].check(to_fraction(density), LENET, m=m)


def test_densities_that_n_of_m_can_do_despite_float_error() -> None:
    for m in range(1, 65):
        for n in range(1, m + 1):
            density = 1.0 - (1.0 - n / m)
            GRANULARITIES["n_m"].check(to_fraction(density), LENET, m=m)
            masks = choose("n_m", {"k": np.ones((m, 1))}, density, None, {"k": layout((m, 1))}, m=m)
            assert masks["k"].sum() == n


def test_n_of_m_takes_groups_of_four_by_default() -> None:
    GRANULARITIES["n_m"].check(to_fraction(0.25), LENET)
    with pytest.raises(OptionError, match="every m=4 weights"):
        GRANULARITIES["n_m"].check(to_fraction(0.2), LENET)


def test_names() -> None:
    assert find_allocation("erk") is ALLOCATIONS["erk"]
    with pytest.raises(OptionError, match="Did you mean 'balanced'"):
        find_allocation("balance")
    with pytest.raises(OptionError, match="Received: 'global'"):
        register_allocation(type(ALLOCATIONS["global"]))
    with pytest.raises(OptionError, match="Received: 'weights'"):
        register_granularity(type(GRANULARITIES["weights"]))
    with pytest.raises(OptionError, match="allocation must be one of"):
        layer_densities("global", LENET, 0.5)


def random_scores(layouts: dict[str, Layout]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {path: rng.random(lay.shape) for path, lay in layouts.items()}


def test_erdos_renyi_kernel_with_two_of_four_as_by_hand() -> None:
    # Half of 266,200 is 133,100. ERK keeps the last two layers whole (m of m), 31,000 weights; the first has the rest,
    # 102,100 of 235,200: 1.74 of 4, so 1 of 4 = 58,800, and 2 of 4 = 117,600 would not fit.
    masks = choose_masks(random_scores(LENET), 0.5, LENET, granularity="n_m", allocation="erk")
    assert [int(mask.sum()) for mask in masks.values()] == [58_800, 30_000, 1_000]
    # At density 0.6 the first has 128,720, 2.19 of 4: 2 of 4 fit, 3 do not.
    masks = choose_masks(random_scores(LENET), 0.6, LENET, granularity="n_m", allocation="erk")
    assert [int(mask.sum()) for mask in masks.values()] == [117_600, 30_000, 1_000]
    assert (masks["a"].reshape(-1, 4, 300).sum(axis=1) == 2).all()


def test_what_n_of_m_leaves_goes_to_the_largest_remainder_that_fits() -> None:
    layouts = {"a": layout((8, 10)), "b": layout((8, 5))}
    # Balanced: 60 of 120 are 30 each: 1.5 of 4 for a, 3 of 4 for b. 1 and 3 are 50; a's next needs 20.
    masks = choose_masks(random_scores(layouts), 0.5, layouts, granularity="n_m", allocation="balanced")
    assert [int(mask.sum()) for mask in masks.values()] == [20, 30]
    # 1 of 4 of each layer stays, whatever the density.
    masks = choose_masks(random_scores(layouts), 0.1, layouts, granularity="n_m", allocation="balanced")
    assert [int(mask.sum()) for mask in masks.values()] == [20, 10]


def test_a_dict_gives_layers_their_own_sparsity() -> None:
    scores = random_scores(LENET)
    masks = choose_masks(scores, 0.1, LENET, allocation={"b": 0.5, "c": 0.2})
    assert {path: int(mask.sum()) for path, mask in masks.items()} == {"a": 23_520, "b": 15_000, "c": 800}
    np.testing.assert_array_equal(masks["b"], scores["b"] >= np.sort(scores["b"], axis=None)[-15_000])
    blocks = choose_masks(scores, 0.25, LENET, granularity="block", allocation={"a": 0.9}, block_size=(4, 1))
    # 58,800 blocks of 4 in a, of which a tenth stays; 2,500 + 250... of the 7,750 others a quarter.
    assert int(blocks["a"].sum()) == 4 * 5_880
    assert int(blocks["b"].sum() + blocks["c"].sum()) == 4 * (7_750 // 4)
    n_m = choose_masks(scores, 0.5, LENET, granularity="n_m", allocation={"a": 0.75, "b": 0.5, "c": 0.25})
    assert {path: int(mask.sum()) for path, mask in n_m.items()} == {"a": 58_800, "b": 15_000, "c": 750}


def test_on_the_way_a_dict_moves_all_layers_alike() -> None:
    # Half of the way from 1 to 0.2 is 0.6; half of the way from 1 to 0.5 is 0.75.
    masks = choose_masks(random_scores(LENET), 0.6, LENET, allocation={"b": 0.5}, final=0.2)
    assert int(masks["b"].sum()) == 22_500
    assert int(masks["a"].sum() + masks["c"].sum()) == 236_200 * 6 // 10


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(OptionError, match="different layers do not compete"):
        choose_masks(random_scores(LENET), 0.5, LENET, granularity="n_m", allocation="global")
