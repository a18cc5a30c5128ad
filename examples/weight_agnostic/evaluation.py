"""What networks without weights compute, once each connection has one: many small ones at once, or a wide one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from weight_agnostic.genomes import ACTIVATIONS, Genome


def _gauss(z: np.ndarray) -> None:
    np.multiply(z, z, out=z)
    np.multiply(z, -0.5, out=z)
    np.exp(z, out=z)


def _sigmoid(z: np.ndarray) -> None:
    np.multiply(z, 0.5, out=z)
    np.tanh(z, out=z)
    np.multiply(z, 0.5, out=z)
    np.add(z, 0.5, out=z)


def _sin(z: np.ndarray) -> None:
    np.multiply(z, np.pi, out=z)
    np.sin(z, out=z)


def _cos(z: np.ndarray) -> None:
    np.multiply(z, np.pi, out=z)
    np.cos(z, out=z)


# Each works in place: this is where nearly all time goes.
_IN_PLACE: dict[str, Callable[[np.ndarray], object]] = {
    "linear": lambda z: None,
    "step": lambda z: np.heaviside(z, 0.0, out=z),
    "sin": _sin,
    "gauss": _gauss,
    "tanh": lambda z: np.tanh(z, out=z),
    "sigmoid": _sigmoid,
    "inverse": lambda z: np.negative(z, out=z),
    "abs": lambda z: np.abs(z, out=z),
    "relu": lambda z: np.maximum(z, 0.0, out=z),
    "cos": _cos,
}
_FUNCTIONS = [_IN_PLACE[name] for name in ACTIVATIONS]


class _Stage(NamedTuple):
    """Nodes that are computed together.

    Attributes:
        values: Their values, (nodes, lanes).
        edges: Which connections go to them, in the order of all connections.
        sources: Row that each of these comes from.
        starts: Place of the first connection of each node among these.
        gathered: What the connections carry, (connections, lanes).
        parts: Activations, and the values that each of them is for.
    """

    values: np.ndarray
    edges: slice
    sources: np.ndarray
    starts: np.ndarray
    gathered: np.ndarray
    parts: list[tuple[Callable[[np.ndarray], object], np.ndarray]]


class Networks:
    """Many networks that are computed together, layer by layer, each in several lanes: a weight, an episode.

    Nodes that lead to no output are left out. The values of all nodes are one array, nodes by lanes, in which the nodes
    of a layer with the same activation stand beside each other.

    Args:
        genomes: The networks; they have the same inputs and outputs.
        lanes: Number of lanes.
        output: Activation of the outputs.

    Attributes:
        inputs: For each input without the constant an array to write into, (networks, lanes).
        connections: Number of connections that are computed, of all networks.
    """

    def __init__(self, genomes: Sequence[Genome], lanes: int, output: str):
        first = genomes[0]
        count, fixed = len(genomes), first.inputs * len(genomes)
        owners = np.concatenate([np.full(int(g.useful[g.first_hidden :].sum()), i) for i, g in enumerate(genomes)])
        nodes = np.concatenate([np.flatnonzero(g.useful[g.first_hidden :]) + g.first_hidden for g in genomes])
        layers = np.concatenate([g.layers[g.first_hidden :][g.useful[g.first_hidden :]] for g in genomes])
        kinds = np.concatenate([g.activations[g.useful[g.first_hidden :]] for g in genomes])
        order = np.lexsort((kinds, layers))
        owners, nodes, layers, kinds = (part[order] for part in (owners, nodes, layers, kinds))
        rows = np.full((count, max(g.nodes for g in genomes)), -1)
        rows[:, : first.inputs] = np.arange(fixed).reshape(first.inputs, count).T
        rows[owners, nodes] = fixed + np.arange(len(nodes))
        ends = fixed + len(nodes)
        rows[:, first.inputs : first.first_hidden] = ends + np.arange(count * first.outputs).reshape(count, -1)
        zero = ends + count * first.outputs
        sources, targets = self._connect(genomes, rows, zero, range(fixed, zero))
        self._values = np.zeros((zero + 1, lanes))
        self._values[:count] = 1.0
        self.inputs = [self._values[k * count : (k + 1) * count] for k in range(1, first.inputs)]
        self._outputs = self._values[ends:zero].reshape(count, first.outputs, lanes)
        self.connections = len(sources)
        bounds = [fixed, *(fixed + np.flatnonzero(np.diff(layers)) + 1), *([ends] if len(nodes) else []), zero]
        kinds = np.append(kinds, np.full(zero - ends, ACTIVATIONS.index(output)))
        self._stages = [
            self._make_stage(start, stop, sources, targets, kinds[start - fixed : stop - fixed])
            for start, stop in pairwise(bounds)
        ]

    def run(self, weights: np.ndarray) -> np.ndarray:
        """Compute the outputs from what `inputs` hold.

        Args:
            weights: A weight for each lane that all connections share, (lanes,); or a weight for each connection and
                lane, (connections, lanes).

        Returns:
            An array (networks, outputs, lanes) that the next run overwrites.
        """
        for values, edges, sources, starts, gathered, parts in self._stages:
            np.take(self._values, sources, axis=0, out=gathered, mode="clip")
            if weights.ndim == 2:
                np.multiply(gathered, weights[edges], out=gathered)
            np.add.reduceat(gathered, starts, axis=0, out=values)
            if weights.ndim == 1:
                np.multiply(values, weights, out=values)
            for function, part in parts:
                function(part)
        return self._outputs

    @staticmethod
    def _connect(
        genomes: Sequence[Genome], rows: np.ndarray, zero: int, computed: range
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that connections come from and go to, in the order of the latter, at least one to each."""
        found = []
        for one, own in zip(genomes, rows, strict=True):
            chosen = one.enabled & one.useful[one.targets]
            found.append((own[one.sources[chosen]], own[one.targets[chosen]]))
        sources, targets = (np.concatenate(parts) for parts in zip(*found, strict=True))
        alone = np.setdiff1d(np.arange(computed.start, computed.stop), targets)
        sources, targets = np.append(sources, np.full(len(alone), zero)), np.append(targets, alone)
        order = np.argsort(targets, kind="stable")
        return sources[order], targets[order]

    def _make_stage(self, start: int, stop: int, sources: np.ndarray, targets: np.ndarray, kinds: np.ndarray) -> _Stage:
        """Return the nodes of some rows, which have activations of these kinds."""
        first, last = np.searchsorted(targets, (start, stop))
        values = self._values[start:stop]
        starts = np.searchsorted(targets[first:last], np.arange(start, stop))
        cuts = [0, *(np.flatnonzero(np.diff(kinds)) + 1), len(kinds)]
        parts = [(_FUNCTIONS[kinds[a]], values[a:b]) for a, b in pairwise(cuts)]
        gathered = np.empty((last - first, values.shape[1]))
        return _Stage(values, slice(first, last), sources[first:last].copy(), starts, gathered, parts)


def compute_outputs(genome: Genome, inputs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Compute what one network with linear outputs gives for many examples, at several values of its shared weight.

    What a node gets from the inputs does not depend on the weight, so it is one matrix product for all of them.

    Args:
        genome: The network.
        inputs: An array (inputs, examples), without the constant.
        values: Values of the shared weight.

    Returns:
        An array (values, outputs, examples).
    """
    examples = inputs.shape[1]
    matrix = np.zeros((genome.nodes, genome.nodes))
    matrix[genome.targets[genome.enabled], genome.sources[genome.enabled]] = 1.0
    direct = matrix[:, : genome.inputs] @ np.vstack([np.ones(examples), inputs])
    hidden = np.flatnonzero(genome.useful[genome.first_hidden :]) + genome.first_hidden
    hidden = hidden[np.argsort(genome.layers[hidden], kind="stable")]
    found = np.zeros((len(hidden), len(values), examples))
    places = {int(node): place for place, node in enumerate(hidden)}
    for node, place in places.items():
        z = found[place]
        z += direct[node]
        for source in np.flatnonzero(matrix[node, hidden]):
            z += found[source]
        z *= values[:, None]
        _FUNCTIONS[genome.activations[node - genome.first_hidden]](z)
    ends = slice(genome.inputs, genome.first_hidden)
    later = (matrix[ends][:, hidden] @ found.reshape(len(hidden), len(values) * examples)).reshape(
        -1, len(values), examples
    )
    return (direct[ends, None] + later).transpose(1, 0, 2) * values[:, None, None]
