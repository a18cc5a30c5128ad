"""Where gates stand: behind which layers a factor of 0 is the same as a channel that is removed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.checks import suggest
from tfprune_init.errors import OptionError
from tfprune_init.gates.model_calls import ModelCalls
from tfprune_init.graph import DependencyGraph
from tfprune_init.graph.channel_groups import NO_LABEL
from tfprune_init.graph.dependency_graph import build_dependency_graph
from tfprune_init.graph.variables import ModelVariable, is_named_by, list_variables


@dataclass(frozen=True, eq=False)
class GatePlace:
    """Where one gate stands: at one place, or at all places of channels that go together.

    Attributes:
        name: What its layer is called.
        kernels: Paths of the kernels that make the channels.
        behind: For each place, the layers from the one with the kernel to the one that the gate is behind.
        symbols: For each place, the symbolic tensor that the gate takes.
        units: For each channel its group in the dependency graph.
        axis: The axis of the channels.
    """

    name: str
    kernels: tuple[str, ...]
    behind: tuple[tuple[Any, ...], ...]
    symbols: tuple[Any, ...]
    units: np.ndarray
    axis: int

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the layers that make the channels."""
        return tuple(path.rpartition("/")[0] for path in self.kernels)


def find_places(model: Model, graph: DependencyGraph) -> tuple[list[GatePlace], dict[str, str]]:
    """Find all places for gates of a model.

    A gate stands behind the last layer that makes something else of zeros: a layer's bias, BatchNorm, an activation
    like sigmoid. From there on a channel that is 0 stays 0 until weights take it, as if it were not there.

    Args:
        model: A built Sequential or functional model.
        graph: Its dependency graph.

    Returns:
        The places in the order of the kernels, and why there is none for the channels of each other kernel, by path.
    """
    calls = ModelCalls(model)
    variables = {target.path: target for target in list_variables(model)}
    left = dict(graph.unlabelled)
    found: dict[str, list[tuple[tuple[Any, ...], Any]]] = {}
    for path, units in graph.units.items():
        places = _find_doubt(graph, variables[path], units) or calls.find_places(variables[path])
        if isinstance(places, str):
            left[path] = places
        else:
            found[path] = places
    chosen = []
    for paths in _list_together(graph):
        units = graph.units[paths[0]]
        without = [path for path in paths if path in left]
        alike = all(np.array_equal(graph.units[path], units) for path in paths)
        if without or not alike:
            other = f"{without[0]}, of which {left[without[0]]}" if without else "others, in another order"
            left |= {path: f"its channels go together with those of {other}" for path in paths if path not in left}
            continue
        behind, symbols = zip(*(place for path in paths for place in found[path]), strict=True)
        name = f"{variables[paths[0]].layer.name}_gate"
        axis = variables[paths[0]].channel_axis
        assert axis is not None  # else there is doubt
        chosen.append(GatePlace(name, tuple(paths), behind, symbols, units, axis))
    return chosen, {path: left[path] for path in variables if path in left}


@dataclass(frozen=True)
class GateOverview:
    """Where gates of a model can stand.

    Attributes:
        gates: For each gate, by the name that its layer would have, the paths of the layers that make its channels.
        left_whole: Why there is no gate for the channels of each other kernel, by path.
    """

    gates: dict[str, tuple[str, ...]]
    left_whole: dict[str, str]


def list_gate_places(model: Model, places: str | Iterable[str] = "all", *, example: Any = None) -> GateOverview:
    """List where `tpi.insert_gates` can insert gates, and why it cannot elsewhere.

    Args:
        model: A built Sequential or functional model, Keras 3 or tf_keras.
        places: As in `tpi.insert_gates`.
        example: A batch of inputs; made up by default.

    Raises:
        ModelError: If the model is not built, subclassed, or nothing of it is prunable.
        OptionError: If there is no such place.
        DataError: If the model cannot run on the example.

    Example:
        >>> import tfprune_init as tpi
        >>> found = tpi.list_gate_places(tpi.models.resnet20((8, 8, 1), seed=0))
        >>> len(found.gates), found.gates["stage3_block3_conv1_gate"], found.left_whole["head/kernel"]
        (12, ('stage3_block3_conv1',), 'it is an output of the model')
        >>> max(found.gates.values(), key=len)[:2]
        ('stem', 'stage1_block1_conv2')
    """
    chosen, left = choose_places(*find_places(model, build_dependency_graph(model, example)), places)
    return GateOverview({place.name: place.layers for place in chosen}, left)


def choose_places(
    places: list[GatePlace], left: dict[str, str], where: str | Iterable[str]
) -> tuple[list[GatePlace], dict[str, str]]:
    """Return those places that are asked for, and why there is none for each other kernel.

    Args:
        places: All places.
        left: Kernels without a place, with the reason.
        where: "all"; "inner" for channels of a single layer, which no sum ties to others; or layers, by name.

    Raises:
        OptionError: If a name is that of no layer whose channels can have a gate.
    """
    if isinstance(where, str) and where not in ("inner", "all"):
        raise OptionError(
            f'places= is "inner", "all", or a list of layers. Received: {where!r}; did you mean [{where!r}]?'
        )
    if where == "all":
        return places, left
    if where == "inner":
        chosen = [place for place in places if len(place.kernels) == 1]
        reason = "places='inner' leaves out channels that a sum ties to others"
    else:
        names = list(where)
        chosen = [place for place in places if any(_is_named(place, name) for name in names)]
        reason = "not among places="
        for name in names:
            if not any(_is_named(place, name) for place in places):
                raise OptionError(_explain_unmatched(name, places, left))
    others = {path: reason for place in places if place not in chosen for path in place.kernels}
    return chosen, {**left, **others}


def _find_doubt(graph: DependencyGraph, target: ModelVariable, units: np.ndarray) -> str | None:
    if target.channel_axis is None:
        return f"units of {type(target.layer).__name__} act on each other, or are no channels of what it gives"
    if NO_LABEL in units or len(np.unique(units)) < len(units):
        return "several of its channels are one unit"
    stuck = units[~graph.removable[units]]
    return f"it {graph.reasons.get(int(stuck[0]), 'has to stay')}" if stuck.size else None


def _list_together(graph: DependencyGraph) -> list[list[str]]:
    """Return the kernels of `graph.units` whose units are the same ones, in the order of the kernels."""
    found: list[tuple[list[str], set[int]]] = []
    for path, units in graph.units.items():
        own = set(units.tolist())
        together = [one for one in found if one[1] & own]
        for one in together:
            found.remove(one)
        merged = sorted([path, *(known for one in together for known in one[0])], key=list(graph.units).index)
        found.append((merged, own.union(*(one[1] for one in together))))
    return sorted((paths for paths, _ in found), key=lambda paths: list(graph.units).index(paths[0]))


def _is_named(place: GatePlace, name: str) -> bool:
    return any(is_named_by(path, name) for path in place.kernels)


def _explain_unmatched(name: str, places: list[GatePlace], left: dict[str, str]) -> str:
    for path, reason in left.items():
        if is_named_by(path, name):
            return f"There can be no gate for the channels of {path}: {reason}. Received: places= with {name!r}."
    known = sorted({layer for place in places for layer in place.layers})
    return f"places= names no layer with channels. {suggest(name, known, list_all=True)}"
