"""The search: networks are ranked at several values of one shared weight, and the better ones have children."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from weight_agnostic.genomes import Genome, make_genome, mutate

VALUES = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])


class Task(Protocol):
    """What networks are ranked by.

    Attributes:
        inputs: Number of inputs.
        outputs: Number of outputs.
        activations: What hidden nodes may compute, places in ACTIVATIONS.
    """

    inputs: int
    outputs: int
    activations: Sequence[int]

    def reward(self, genomes: Sequence[Genome], values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the reward of each network at each value, (networks, values); all of them do the same."""


@dataclass(frozen=True)
class Settings:
    """How the search goes.

    Attributes:
        population: Number of networks.
        generations: How often they are ranked.
        elite: Share of those that may have children that goes on unchanged.
        tournament: Number of draws of which the best ranked one becomes the parent of a child.
        enabled: Share of the connections that are enabled in the first generation.
        cull: Share of the networks, the last ranked, that have no children.
        by_connections: How likely a generation is ranked by mean reward and number of connections; otherwise it is
            ranked by mean reward and reward at the best value.
    """

    population: int
    generations: int
    elite: float
    tournament: int
    enabled: float
    cull: float = 0.2
    by_connections: float = 0.8


@dataclass(frozen=True)
class Generation:
    """One generation.

    Attributes:
        number: Its number, from 1.
        ranked: Its networks, the best first.
        rewards: Their rewards, (networks, values).
    """

    number: int
    ranked: list[Genome]
    rewards: np.ndarray


def search(task: Task, settings: Settings, seed: int) -> Iterator[Generation]:
    """Search for networks, and give one generation after the other. Whoever takes no more of them ends the search.

    Args:
        task: What networks are ranked by.
        settings: How the search goes.
        seed: Decides all that is random.
    """
    rng = np.random.default_rng(seed)
    population = [make_genome(task.inputs, task.outputs, settings.enabled, rng) for _ in range(settings.population)]
    for number in range(1, settings.generations + 1):
        rewards = task.reward(population, VALUES, rng)
        second = rank_by_second(rewards, population, by_connections=rng.random() < settings.by_connections)
        order = rank(np.stack([rewards.mean(axis=1), second], axis=1))
        ranked = [population[place] for place in order]
        yield Generation(number, ranked, rewards[order])
        population = breed(ranked, settings, task.activations, rng)


def rank_by_second(rewards: np.ndarray, genomes: Sequence[Genome], by_connections: bool) -> np.ndarray:
    """Return what networks are ranked by beside their mean reward, larger is better: 1 / connections, or the maximum.

    A network without connections counts as one with a single one.
    """
    if by_connections:
        return np.array([1 / max(1, genome.connections) for genome in genomes])
    return rewards.max(axis=1)


def breed(ranked: list[Genome], settings: Settings, allowed: Sequence[int], rng: np.random.Generator) -> list[Genome]:
    """Return the next generation.

    Args:
        ranked: The networks, the best first.
        settings: Shares of those that go on and that have no children, and the size of tournaments.
        allowed: Activations that hidden nodes may get.
        rng: What is random.
    """
    parents = ranked[: len(ranked) - int(settings.cull * len(ranked))]
    elite = parents[: int(settings.elite * len(parents))]
    draws = rng.integers(len(parents), size=(len(ranked) - len(elite), settings.tournament))
    return elite + [mutate(parents[place], allowed, rng) for place in draws.min(axis=1)]


def rank(objectives: np.ndarray) -> np.ndarray:
    """Return the places of points from best to worst: front by front, in a front those with more room around first.

    Args:
        objectives: An array (points, objectives), larger is better.
    """
    order: list[int] = []
    for front in find_fronts(objectives):
        distance = measure_crowding(objectives[front])
        order += [int(place) for place in front[np.argsort(-distance, kind="stable")]]
    return np.array(order)


def find_fronts(objectives: np.ndarray) -> list[np.ndarray]:
    """Divide points into fronts: what nothing dominates, what only the first front dominates, and so on."""
    no_worse = (objectives[:, None] >= objectives[None]).all(axis=-1)
    dominates = no_worse & (objectives[:, None] > objectives[None]).any(axis=-1)
    left = np.ones(len(objectives), bool)
    fronts = []
    while left.any():
        front = np.flatnonzero(left & ~dominates[left].any(axis=0))
        fronts.append(front)
        left[front] = False
    return fronts


def measure_crowding(front: np.ndarray) -> np.ndarray:
    """Return the crowding distance of each point: the sides of the box to its neighbors, each as a share of the range.

    Points at an end have no box: infinity.
    """
    distance = np.zeros(len(front))
    for values in front.T:
        order = np.argsort(values, kind="stable")
        span = values[order[-1]] - values[order[0]]
        distance[order[[0, -1]]] = np.inf
        if span > 0:
            distance[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / span
    return distance
