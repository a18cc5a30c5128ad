"""`discretize`: a plain model and masks in place of a model with gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.layer_copy import copy_state
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.trainer import compile_like
from tfprune_init.compaction.model_copy import ModelCopy
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.gates.channel_choice import choose_channels
from tfprune_init.gates.factor_folding import fold_factors
from tfprune_init.gates.places import GatePlace, find_places
from tfprune_init.graph.copies import check_copy
from tfprune_init.graph.dependency_graph import build_dependency_graph
from tfprune_init.graph.trace import is_graph, list_calls
from tfprune_init.layers.gates import GateLayer, hold_factors
from tfprune_init.masks import Masks
from tfprune_init.selection.budget import count_kept, parse_sparsity


@dataclass(frozen=True, eq=False)
class Discretization:
    """What became of a model with gates.

    Attributes:
        model: The model without gates: the layers that it had before, with their names.
        masks: What is kept of its weights. A closed channel is pruned with all that belongs to it: incoming weights,
            bias, BatchNorm scale and offset, and outgoing weights. `tpi.compact` removes it for real.
        channels: For each gate, by its name, whether each channel is kept.
        factors: For each gate what its factors were, float64.
        left_whole: Why there was no gate for the channels of each other kernel, by path.
    """

    model: Model
    masks: Masks
    channels: dict[str, np.ndarray]
    factors: dict[str, np.ndarray]
    left_whole: dict[str, str]

    def print(self, file: IO[str] | None = None) -> None:
        """Print the channels as a table; to standard output if no `file` is given."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title=f"{self.model.name}, without gates", title_justify="left")
        table.add_column("gate", overflow="fold")
        for name in ("channels", "stay"):
            table.add_column(name, justify="right")
        for name, kept in self.channels.items():
            table.add_row(name, f"{kept.size:,}", f"{np.count_nonzero(kept):,}")
        console = Console(file=file)
        console.print(table)
        for path, reason in self.left_whole.items():
            console.print(f"no gate for {path}: {reason}", highlight=False)


def discretize(
    model: Model, *, sparsity: float | None = None, fold: bool = True, example: Any = None
) -> Discretization:
    """Take the gates out of a model: closed ones become masks of whole channels, factors of open ones go into weights.

    The plain model under the masks is compared with the model with gates before it is returned. Of each gate at least
    the best channel stays, also if its factor is 0.

    Args:
        model: A model with gates, as `tpi.insert_gates` gives it, trained or not. It stays as it is.
        sparsity: Share of all channels with gates that goes, in [0, 1): floor(channels * (1 - sparsity)) stay, those
            of the largest factors, ties to the lower position. By default those go whose factor is 0.
        fold: Whether factors of channels that stay are multiplied into the weights before the gate: scale and offset of
            BatchNorm, or kernel and bias. Otherwise they become 1.
        example: A batch of inputs to compare the models on; made up by default.

    Returns:
        Discretization. Its model is compiled as the given one was, with a fresh optimizer, if that can be copied.

    Raises:
        ModelError: If the model has no gates, or one where channels cannot be removed, or that no weights before it
            can take the factors of.
        OptionError: If `fold` is no boolean, or the sparsity is out of range.
        ScoreError: If factors are NaN.
        DataError: If the model cannot run on the example.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> Dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((4,)), Dense(4, "relu", name="hidden"), Dense(2, name="head")])
        >>> gated = tpi.insert_gates(model)
        >>> gated.get_layer("hidden_gate").set_weights([np.array([0.1, 0.9, 0.5, 0.5])])
        >>> tpi.discretize(gated, sparsity=0.5).channels["hidden_gate"].tolist()
        [False, True, True, False]
    """
    compat.check_model(model)
    if not isinstance(fold, bool):
        raise OptionError(f"fold must be True or False. Received: fold={fold!r}.")
    gates = [layer for layer in compat.walk_layers(model) if isinstance(layer, GateLayer)]
    if not gates:
        raise ModelError(f"Model {model.name!r} has no gates. Call tpi.insert_gates(model) first.")
    factors = {gate.name: gate.read_factors() for gate in gates}
    kept = choose_channels(factors, _count(factors, sparsity))
    copy = _UngatedCopy(model)
    for layer, twin in copy.layers:
        if compat.is_layer(layer):
            copy_state(layer, twin)
    graph = build_dependency_graph(copy.model, example)
    every, left = find_places(copy.model, graph)
    places = _match(model, copy, gates, every, left)
    removed = np.zeros(graph.removable.size, bool)
    held = {}
    for gate in gates:
        stays = kept[gate.name]
        removed[places[gate.name].units[~stays]] = True
        values = np.where(stays, factors[gate.name] if fold else 1.0, 0.0)
        held[gate] = values
        fold_factors(places[gate.name], np.where(stays, values, 1.0))
    masks = Masks(graph.masks(removed))
    with hold_factors(held):
        check_copy(copy.model, model, [(twin, layer) for layer, twin in copy.layers], masks=masks, example=example)
    compile_like(copy.model, model)
    gated = {path for place in places.values() for path in place.kernels}
    others = {path: "no gate was inserted here" for place in every for path in place.kernels if path not in gated}
    return Discretization(copy.model, masks, kept, factors, {**left, **others})


class _UngatedCopy(ModelCopy):
    """A copy without gates."""

    def leaves_out(self, layer: Any) -> bool:
        """Return whether it is a gate."""
        return isinstance(layer, GateLayer)

    def find_twin(self, layer: Any) -> Any:
        """Return the copy of a layer; None if it has none."""
        return self._copies.get(id(layer), (None, None))[1]


def _count(factors: dict[str, np.ndarray], sparsity: float | None) -> int:
    """Return how many channels stay."""
    if sparsity is None:
        return sum(int(np.count_nonzero(values)) for values in factors.values())
    return count_kept(sum(values.size for values in factors.values()), 1 - parse_sparsity(sparsity))


def _match(
    model: Model, copy: _UngatedCopy, gates: list[GateLayer], places: list[GatePlace], left: dict[str, str]
) -> dict[str, GatePlace]:
    """Return the place of each gate in the copy, by the name of the gate.

    Raises:
        ModelError: If one stands where channels cannot be removed, or at some places of its channels alone.
    """
    before = _list_before(model)
    found = {}
    for gate in gates:
        twins = {id(copy.find_twin(layer)) for layer in before.get(id(gate), [])}
        fits = [place for place in places if twins and twins == {id(way[-1]) for way in place.behind}]
        if len(fits) != 1:
            names = ", ".join(layer.name for layer in before.get(id(gate), [])) or "no layer"
            reasons = "; ".join(f"{path}: {reason}" for path, reason in list(left.items())[:4])
            raise ModelError(
                f"Gate {gate.name!r} stands behind {names}, where its channels cannot be removed as they are, or not "
                f"at all of their places; tpi.insert_gates knows where. {reasons}"
            )
        found[gate.name] = fits[0]
    return found


def _list_before(model: Model) -> dict[int, list[Any]]:
    """Return the layers that each gate stands behind, by the gate's id."""
    found: dict[int, list[Any]] = {}
    calls = list_calls(model)
    makers = {id(tensor): call.layer for call in calls for tensor in call.outputs}
    for call in calls:
        if is_graph(call.layer):
            found |= _list_before(call.layer)
        elif isinstance(call.layer, GateLayer):
            found.setdefault(id(call.layer), []).extend(
                makers[id(tensor)] for tensor in call.inputs if id(tensor) in makers
            )
    return found
