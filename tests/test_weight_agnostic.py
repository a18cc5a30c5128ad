"""The search for weight agnostic networks in `examples/`: dynamics, evaluation, mutations and ranking, each by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))

from weight_agnostic.evaluation import Networks, compute_outputs
from weight_agnostic.genomes import (
    ACTIVATIONS,
    Genome,
    add_connection,
    change_activation,
    enable_connection,
    insert_node,
    make_genome,
    mutate,
)
from weight_agnostic.search import (
    VALUES,
    Settings,
    breed,
    find_fronts,
    measure_crowding,
    rank,
    rank_by_second,
    search,
)
from weight_agnostic.tasks import Digits, SwingUp, cross_entropy, draw_starts, swing

FUNCTIONS: dict[str, Callable[[float], float]] = {
    "linear": lambda z: z,
    "step": lambda z: float(z > 0),
    "sin": lambda z: math.sin(math.pi * z),
    "gauss": lambda z: math.exp(-z * z / 2),
    "tanh": math.tanh,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "inverse": lambda z: -z,
    "abs": abs,
    "relu": lambda z: max(z, 0.0),
    "cos": lambda z: math.cos(math.pi * z),
}
ALL = range(len(ACTIVATIONS))


def genome(inputs: int, outputs: int, hidden: list[str], connections: list[tuple[int, int]], off: Any = ()) -> Genome:
    sources, targets = np.array(connections).reshape(-1, 2).T
    enabled = np.array([one not in off for one in connections], bool)
    kinds = np.array([ACTIVATIONS.index(name) for name in hidden], int)
    return Genome(inputs + 1, outputs, kinds, sources, targets, enabled)


def recurse(one: Genome, node: int, inputs: list[float], weights: list[float], output: str) -> float:
    """The value of a node by its definition; endless where there is a cycle."""
    if node < one.inputs:
        return [1.0, *inputs][node]
    total = sum(
        weights[i] * recurse(one, int(one.sources[i]), inputs, weights, output)
        for i in range(len(one.sources))
        if one.enabled[i] and one.targets[i] == node
    )
    hidden = node - one.first_hidden
    return FUNCTIONS[ACTIVATIONS[one.activations[hidden]] if hidden >= 0 else output](total)


def grown(seed: int, mutations: int, inputs: int = 5, outputs: int = 2, share: float = 0.5) -> Genome:
    rng = np.random.default_rng(seed)
    one = make_genome(inputs, outputs, share, rng)
    for _ in range(mutations):
        one = mutate(one, ALL, rng)
    return one


def run(networks: Networks, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    for array, value in zip(networks.inputs, inputs, strict=True):
        array[:] = value
    return networks.run(weights).copy()


def test_activations_are_what_they_are_called() -> None:
    z = np.array([-2.5, -1.0, -0.25, 0.0, 0.4, 1.0, 3.0])
    for name in ACTIVATIONS:
        one = genome(1, 1, [name], [(1, 3), (3, 2)])
        expected = [FUNCTIONS[name](number) for number in z]
        np.testing.assert_allclose(run(Networks([one], 7, "linear"), z[None], np.ones(7))[0, 0], expected, atol=1e-12)
        np.testing.assert_allclose(compute_outputs(one, z[None], np.ones(1))[0, 0], expected, atol=1e-12)


def test_the_network_of_two_inputs_worked_out_by_hand() -> None:
    one = genome(2, 1, ["gauss"], [(0, 4), (1, 4), (4, 3), (2, 3)])
    networks = Networks([one], 6, "tanh")
    outputs = run(networks, np.array([[0.5], [-1.0]]), VALUES)[0, 0]
    np.testing.assert_allclose(outputs, [0.962424, 0.588486, 0.12197, -0.12197, -0.588486, -0.962424], atol=5e-7)
    hidden = run(Networks([genome(2, 1, ["gauss"], [(0, 4), (1, 4)])], 6, "tanh"), np.zeros((2, 1)), VALUES)
    assert (hidden == 0).all()  # nothing leads to the output, which is tanh(0)
    linear = compute_outputs(one, np.array([[0.5], [-1.0]]), np.array([-2.0]))[0, 0, 0]
    assert linear == pytest.approx(-2 * (0.011109 - 1), abs=2e-6)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_networks_compute_what_recursion_gives(share: float) -> None:
    many = [grown(seed, mutations, share=share) for seed, mutations in enumerate((0, 5, 30, 60, 90))]
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(5, 6))
    networks = Networks(many, 6, "tanh")
    found = run(networks, inputs[:, None], VALUES)
    for place, one in enumerate(many):
        wide = compute_outputs(one, inputs, VALUES)
        for output in range(2):
            for lane, value in enumerate(VALUES):
                node, weights = one.inputs + output, [value] * len(one.sources)
                expected = recurse(one, node, list(inputs[:, lane]), weights, "tanh")
                assert found[place, output, lane] == pytest.approx(expected, abs=1e-9)
                linear = recurse(one, node, list(inputs[:, lane]), weights, "linear")
                assert wide[lane, output, lane] == pytest.approx(linear, rel=1e-9, abs=1e-9)


def test_each_connection_can_have_a_weight_of_its_own() -> None:
    one = genome(1, 1, ["tanh"], [(0, 3), (1, 3), (3, 2)])
    networks = Networks([one], 2, "linear")
    assert networks.connections == 3
    weights = np.array([[0.5, 1.0], [2.0, -1.0], [3.0, 4.0]])
    found = run(networks, np.array([[0.3]]), weights)[0, 0]
    np.testing.assert_allclose(found, [3 * math.tanh(0.5 + 0.6), 4 * math.tanh(1 - 0.3)])


def test_layers_are_the_longest_ways_and_ignore_what_is_disabled() -> None:
    connections = [(1, 3), (3, 4), (1, 4), (4, 2), (4, 5), (5, 2), (5, 3)]
    one = genome(1, 1, ["tanh"] * 3, connections, off=[(5, 3)])
    assert one.layers.tolist() == [0, 0, 4, 1, 2, 3]
    with pytest.raises(ValueError, match="cycle"):
        _ = genome(1, 1, ["tanh"] * 3, connections).layers


def test_only_what_leads_to_an_output_is_useful() -> None:
    one = genome(2, 1, ["tanh"] * 3, [(1, 4), (4, 3), (2, 5), (5, 6)])
    assert one.useful.tolist() == [False, True, False, True, True, False, False]


def test_a_split_connection_is_disabled_and_its_node_takes_its_place() -> None:
    one = genome(2, 1, [], [(0, 3), (1, 3), (2, 3)], off=[(0, 3), (2, 3)])
    child = insert_node(one, [ACTIVATIONS.index("cos")], np.random.default_rng(0))
    assert (child.sources.tolist(), child.targets.tolist()) == ([0, 1, 2, 1, 4], [3, 3, 3, 4, 3])
    assert child.enabled.tolist() == [False, False, False, True, True]
    assert [ACTIVATIONS[kind] for kind in child.activations] == ["cos"]
    assert insert_node(genome(1, 1, [], [(1, 2)], off=[(1, 2)]), ALL, np.random.default_rng(0)).nodes == 3


def test_a_connection_is_added_only_forward_and_only_where_there_is_none() -> None:
    one = genome(1, 1, ["tanh"] * 2, [(0, 2), (1, 3), (3, 4), (4, 2)], off=[(0, 2)])
    added = set()
    for seed in range(200):
        child = add_connection(one, np.random.default_rng(seed))
        added |= set(zip(child.sources[4:].tolist(), child.targets[4:].tolist(), strict=True))
    assert added == {(0, 3), (0, 4), (1, 4), (1, 2), (3, 2)}


def test_a_disabled_connection_comes_back_only_if_it_makes_no_cycle() -> None:
    """The way round that was added while it was disabled would be a cycle."""
    connections = [(1, 3), (3, 4), (4, 2), (4, 3), (0, 3)]
    one = genome(1, 1, ["tanh"] * 2, connections, off=[(4, 3), (0, 3)])
    for seed in range(20):
        assert enable_connection(one, np.random.default_rng(seed)).enabled.tolist() == [True, True, True, False, True]
    only = genome(1, 1, ["tanh"] * 2, connections[:4], off=[(4, 3)])
    assert enable_connection(only, np.random.default_rng(0)) is only


def test_an_activation_changes_to_another_one() -> None:
    one = genome(1, 1, ["tanh", "relu"], [(1, 3), (3, 4), (4, 2)])
    for seed in range(30):
        child = change_activation(one, ALL, np.random.default_rng(seed))
        assert (child.activations != one.activations).sum() == 1
    assert change_activation(genome(1, 1, [], [(1, 2)]), ALL, np.random.default_rng(0)).nodes == 3


def test_no_mutation_ever_makes_a_cycle_or_a_second_connection() -> None:
    allowed = Digits.activations
    kinds = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        one = make_genome(3, 2, 0.5, rng)
        for _ in range(150):
            before = one
            one = mutate(one, allowed, rng)
            layers = one.layers  # raises where there is a cycle
            on = one.enabled
            assert (layers[one.sources[on]] < layers[one.targets[on]]).all()
            pairs = list(zip(one.sources, one.targets, strict=True))
            assert len(set(pairs)) == len(pairs)
            assert (one.targets >= one.inputs).all()
            assert not np.isin(one.sources, range(one.inputs, one.first_hidden)).any()
            assert set(one.activations) <= set(allowed)
            more = (
                len(one.sources) - len(before.sources),
                one.nodes - before.nodes,
                one.connections - before.connections,
            )
            kinds.append(more)
    assert set(kinds) == {(0, 0, 0), (1, 0, 1), (2, 1, 1), (0, 0, 1)}


def integrate(one: Genome, value: float, start: np.ndarray) -> float:
    """An episode in plain Python: the equations of the paper's cart and pole, step by step."""
    x, v, angle, w = map(float, start)
    total = 0.0
    for _ in range(1000):
        seen = [x, v, math.cos(angle), math.sin(angle), w]
        action = recurse(one, one.inputs, seen, [value] * len(one.sources), "tanh")
        force = 10 * min(max(action, -1), 1)
        c, s = math.cos(angle), math.sin(angle)
        m, mass, length, g, b = 0.5, 1.0, 0.6, 9.82, 0.1
        a = (-2 * m * length * w**2 * s + 3 * m * g * s * c + 4 * force - 4 * b * v) / (4 * mass - 3 * m * c**2)
        turn = (-3 * m * length * w**2 * s * c + 6 * mass * g * s + 6 * (force - b * v) * c) / (
            4 * length * mass - 3 * m * length * c**2
        )
        x, angle, v, w = x + 0.01 * v, angle + 0.01 * w, v + 0.01 * a, w + 0.01 * turn
        total += (math.cos(angle) + 1) / 2 * math.cos(math.pi * x / 4.8)
        if abs(x) > 2.4:
            break
    return total


def test_episodes_are_what_plain_integration_gives() -> None:
    # A pole that nothing pushes, one that is pushed against the edge, and one that is steered.
    still = genome(5, 1, [], [(0, 6)], off=[(0, 6)])
    pushed = genome(5, 1, [], [(0, 6)])
    steered = genome(5, 1, ["sin"], [(1, 6), (5, 6), (4, 7), (2, 7), (7, 6)])
    starts = draw_starts(2, np.random.default_rng(4))
    found = swing(Networks([still, pushed, steered], 4, "tanh"), np.repeat([-1.0, 0.5], 2), np.tile(starts, 2))
    for place, one in enumerate((still, pushed, steered)):
        for lane, (value, start) in enumerate([(-1.0, 0), (-1.0, 1), (0.5, 0), (0.5, 1)]):
            assert found[place, lane] == pytest.approx(integrate(one, value, starts[:, start]), rel=1e-6)
    assert found[1].max() < 30  # over after a hundred steps
    rewards = SwingUp(2).reward([still, pushed, steered], np.array([-1.0, 0.5]), np.random.default_rng(4))
    np.testing.assert_allclose(rewards, found.reshape(3, 2, 2).mean(axis=2))


def test_fronts_and_crowding_worked_out_by_hand() -> None:
    points = np.array([(1, 0.5), (2, 0.2), (1.5, 0.4), (0.5, 0.1), (1.8, 0.35), (1, 0.4)])
    fronts = find_fronts(points)
    assert [front.tolist() for front in fronts] == [[0, 1, 2, 4], [5], [3]]
    np.testing.assert_allclose(measure_crowding(points[fronts[0]]), [np.inf, np.inf, 1.3, 0.5 + 2 / 3], rtol=1e-12)
    assert rank(points).tolist() == [0, 1, 2, 4, 5, 3]
    assert measure_crowding(np.ones((3, 2))).tolist() == [np.inf, 0.0, np.inf]


def test_the_second_objective_is_connections_or_the_maximum() -> None:
    three = [genome(1, 1, [], [(0, 2), (1, 2)], off=off) for off in ([], [(0, 2)], [(0, 2), (1, 2)])]
    rewards = np.array([[1.0, 4.0], [3.0, 2.0], [0.0, 1.0]])
    assert rank_by_second(rewards, three, by_connections=True).tolist() == [0.5, 1.0, 1.0]
    assert rank_by_second(rewards, three, by_connections=False).tolist() == [4.0, 3.0, 1.0]


def test_the_best_go_on_and_the_last_have_no_children() -> None:
    ranked = [grown(seed, 0, share=1.0) for seed in range(10)]

    def find_parents(tournament: int) -> set[int]:
        """The places of the parents of children that are copies, as there is nothing to add or change."""
        found = set()
        settings = Settings(population=10, generations=1, elite=0.3, tournament=tournament, enabled=0.5)
        for seed in range(60):
            children = breed(ranked, settings, ALL, np.random.default_rng(seed))
            assert len(children) == 10
            assert all(child is parent for child, parent in zip(children[:2], ranked, strict=False))
            found |= {place for child in children[2:] for place, one in enumerate(ranked) if child is one}
        return found

    assert find_parents(1) == set(range(8))  # the last two of ten are left out
    assert find_parents(500) == {0}


def test_cross_entropy_of_large_logits() -> None:
    logits = np.array([[[1e4, 0.0], [0.0, 2.0], [0.0, -1.0]]])
    exact = (0.0 + math.log(math.exp(0) + math.exp(2) + math.exp(-1)) - 2.0) / 2
    assert cross_entropy(logits, np.array([0, 1]))[0] == pytest.approx(exact, rel=1e-12)


def test_a_search_gets_better_and_its_seed_decides_it() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 300)
    images = np.clip(rng.normal(size=(10, 64)), 0, 1)[labels] + 0.1 * rng.random((300, 64))
    settings = Settings(population=16, generations=20, elite=0.2, tournament=4, enabled=0.2)

    def best(seed: int) -> tuple[list[float], list[dict[str, Any]]]:
        seen = list(search(Digits(images, labels, 2, 30), settings, seed))
        assert [one.number for one in seen] == list(range(1, 21))
        return [one.rewards.mean(axis=1).max() for one in seen], [one.to_json() for one in seen[-1].ranked]

    first, networks = best(1)
    assert len(first) == 20
    assert len(networks) == 16
    assert first[-1] > first[0] + 0.2
    assert best(1) == (first, networks)
    assert best(2)[0] != first
