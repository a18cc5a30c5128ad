"""Topologies: nodes with activations, and connections without weights; and the mutations that change them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

ACTIVATIONS = ("linear", "step", "sin", "gauss", "tanh", "sigmoid", "inverse", "abs", "relu", "cos")

# How likely each mutation is. A child gets exactly one.
MUTATIONS = {"add_connection": 0.20, "insert_node": 0.25, "enable_connection": 0.05, "change_activation": 0.50}


@dataclass(frozen=True, eq=False)
class Genome:
    """A network without weights.

    Nodes are numbered: the constant 1 that stands for biases is 0, the inputs follow, then the outputs, then the hidden
    nodes in the order in which they came. There is no crossover, so connections need no innovation numbers.

    Attributes:
        inputs: Number of inputs, with the constant.
        outputs: Number of outputs.
        activations: Activation of each hidden node, a place in ACTIVATIONS.
        sources: Node that each connection comes from.
        targets: Node that each connection goes to.
        enabled: Whether each connection is there.
    """

    inputs: int
    outputs: int
    activations: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    enabled: np.ndarray

    @property
    def first_hidden(self) -> int:
        """Number of the first hidden node."""
        return self.inputs + self.outputs

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.first_hidden + len(self.activations)

    @property
    def connections(self) -> int:
        """Number of connections that are enabled."""
        return int(np.count_nonzero(self.enabled))

    @cached_property
    def layers(self) -> np.ndarray:
        """Layer of each node: inputs 0, hidden nodes by the longest way to them, outputs one above all of these.

        Only enabled connections count.

        Raises:
            ValueError: If there is a cycle.
        """
        inner = self.enabled & (self.sources >= self.first_hidden) & (self.targets >= self.first_hidden)
        sources, targets = self.sources[inner], self.targets[inner]
        layers = np.zeros(self.nodes, np.int64)
        layers[self.first_hidden :] = 1
        for _ in range(len(self.activations) + 1):
            before = layers.copy()
            np.maximum.at(layers, targets, before[sources] + 1)
            if (layers == before).all():
                layers[self.inputs : self.first_hidden] = layers.max() + 1
                return layers
        raise ValueError("The connections have a cycle, so the nodes have no order.")

    @cached_property
    def useful(self) -> np.ndarray:
        """Whether something leads from each node to an output, outputs themselves included."""
        useful = np.zeros(self.nodes, bool)
        useful[self.inputs : self.first_hidden] = True
        sources, targets = self.sources[self.enabled], self.targets[self.enabled]
        while True:
            before = int(useful.sum())
            useful[sources[useful[targets]]] = True
            if useful.sum() == before:
                return useful

    def to_json(self) -> dict[str, Any]:
        """Return it as plain lists."""
        names = [ACTIVATIONS[place] for place in self.activations]
        kept = {"sources": self.sources, "targets": self.targets, "enabled": self.enabled}
        lists = {name: array.tolist() for name, array in kept.items()}
        return {"inputs": self.inputs, "outputs": self.outputs, "activations": names, **lists}


def make_genome(inputs: int, outputs: int, share: float, rng: np.random.Generator) -> Genome:
    """Make a genome of the first generation: all inputs and the constant to all outputs, a share of it enabled."""
    sources = np.repeat(np.arange(inputs + 1), outputs)
    targets = np.tile(np.arange(inputs + 1, inputs + 1 + outputs), inputs + 1)
    return Genome(inputs + 1, outputs, np.zeros(0, np.int64), sources, targets, rng.random(len(sources)) < share)


def mutate(genome: Genome, allowed: Sequence[int], rng: np.random.Generator) -> Genome:
    """Return a child with one mutation; a copy where the mutation that was drawn has nothing to change.

    Args:
        genome: The parent.
        allowed: Activations that hidden nodes may get.
        rng: What is random.
    """
    kind = rng.choice(list(MUTATIONS), p=list(MUTATIONS.values()))
    if kind == "add_connection":
        return add_connection(genome, rng)
    if kind == "insert_node":
        return insert_node(genome, allowed, rng)
    return enable_connection(genome, rng) if kind == "enable_connection" else change_activation(genome, allowed, rng)


def add_connection(genome: Genome, rng: np.random.Generator) -> Genome:
    """Connect a random node to a random one of a later layer that it has no connection to, enabled or not.

    A disabled connection the other way is no obstacle: it can only come back while it makes no cycle.
    """
    senders = np.delete(np.arange(genome.nodes), np.s_[genome.inputs : genome.first_hidden])
    source = int(rng.choice(senders))
    later = genome.layers > genome.layers[source]
    later[genome.targets[genome.sources == source]] = False
    if not later.any():
        return genome
    return _extend(genome, [source], [int(rng.choice(np.flatnonzero(later)))])


def insert_node(genome: Genome, allowed: Sequence[int], rng: np.random.Generator) -> Genome:
    """Put a node with a random activation into a random connection, which is disabled."""
    if not genome.connections:
        return genome
    split = int(rng.choice(np.flatnonzero(genome.enabled)))
    enabled = genome.enabled.copy()
    enabled[split] = False
    activations = np.append(genome.activations, rng.choice(allowed))
    grown = replace(genome, activations=activations, enabled=enabled)
    ends = int(genome.sources[split]), int(genome.targets[split])
    return _extend(grown, [ends[0], genome.nodes], [genome.nodes, ends[1]])


def enable_connection(genome: Genome, rng: np.random.Generator) -> Genome:
    """Enable a random one of the disabled connections that make no cycle."""
    for place in rng.permutation(np.flatnonzero(~genome.enabled)):
        if not _leads(genome, int(genome.targets[place]), int(genome.sources[place])):
            enabled = genome.enabled.copy()
            enabled[place] = True
            return replace(genome, enabled=enabled)
    return genome


def change_activation(genome: Genome, allowed: Sequence[int], rng: np.random.Generator) -> Genome:
    """Give a random hidden node another activation."""
    if not len(genome.activations):
        return genome
    activations = genome.activations.copy()
    node = int(rng.integers(len(activations)))
    activations[node] = rng.choice([one for one in allowed if one != activations[node]])
    return replace(genome, activations=activations)


def _extend(genome: Genome, sources: list[int], targets: list[int]) -> Genome:
    """Return a genome with more connections, all enabled."""
    return replace(
        genome,
        sources=np.append(genome.sources, sources),
        targets=np.append(genome.targets, targets),
        enabled=np.append(genome.enabled, [True] * len(sources)),
    )


def _leads(genome: Genome, start: int, end: int) -> bool:
    """Whether enabled connections lead from one node to another."""
    sources, targets = genome.sources[genome.enabled], genome.targets[genome.enabled]
    reached = np.zeros(genome.nodes, bool)
    reached[start] = True
    while not reached[end]:
        before = int(reached.sum())
        reached[targets[reached[sources]]] = True
        if reached.sum() == before:
            return False
    return True
