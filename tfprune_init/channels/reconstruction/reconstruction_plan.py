"""What a reconstruction is to do, checked before the network is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.batches import Batch, Batches
from tfprune_init.backend.model_inputs import make_example_input, take_examples
from tfprune_init.backend.protocols import Model
from tfprune_init.channels.reconstruction.keep_counts import count_kept_channels
from tfprune_init.channels.reconstruction.reconstruction_methods import RECONSTRUCTIONS, REFITS, ReconstructionMethod
from tfprune_init.channels.reconstruction.sampling import LayerSampler
from tfprune_init.channels.reconstruction.unit_pairs import UnitPair, find_unit_pairs
from tfprune_init.checks import check_integer
from tfprune_init.errors import EnforcementError, ModelError, OptionError
from tfprune_init.graph import DependencyGraph, build_dependency_graph
from tfprune_init.masking.attachment import check_unfrozen, get_attached_masks

_BATCHES = 8
_PLACES = 10


@dataclass(frozen=True, eq=False)
class ReconstructionPlan:
    """What is to be done to a network, checked.

    Attributes:
        method: The method.
        refit: Name of the refit.
        graph: The dependency graph.
        pairs: The kernels that lose units, each with the one that takes them, in order.
        counts: How many units of each stay.
        skipped: Why each other prunable kernel keeps all.
        sampler: Draws what layers get.
        seed: Seed of everything random.
    """

    method: ReconstructionMethod
    refit: str
    graph: DependencyGraph
    pairs: list[UnitPair]
    counts: dict[str, int]
    skipped: dict[str, str]
    sampler: LayerSampler
    seed: int


def plan_reconstruction(
    model: Model,
    data: Any,
    method: str,
    keep: Any,
    refit: str | None,
    batches: int | None,
    places: int | None,
    seed: int | None,
) -> ReconstructionPlan:
    """Check all that can be checked before the network is looked at, and find which layers lose how many channels.

    Args:
        model: As in `reconstruct_channels`, like all others.
        data: As there.
        method: As there.
        keep: As there.
        refit: As there.
        batches: As there.
        places: As there.
        seed: As there.

    Raises:
        OptionError: As there.
        ModelError: As there.
        DataError: As there.
        EnforcementError: As there.
    """
    compat.check_model(model)
    chosen = RECONSTRUCTIONS.find(method)
    refit = chosen.refit if refit is None else refit
    REFITS.find(refit)
    needs_data = chosen.choose is not None or refit != "none"
    _check_options(method, refit, data, needs_data, {"batches": batches, "places": places, "seed": seed})
    _check_carries_nothing(model)
    number = check_integer("batches", _BATCHES if batches is None else batches, 1)
    rows = check_integer("places", _PLACES if places is None else places, 1)
    seed = check_integer("seed", 0 if seed is None else seed, 0)
    examples = [] if data is None else _take(data, number)
    example = _make_example(model, examples)
    graph = build_dependency_graph(model, example)
    pairs, skipped = find_unit_pairs(model, graph, example)
    if needs_data:
        skipped |= {pair.maker.path: pair.obstacle for pair in pairs if pair.obstacle is not None}
        pairs = [pair for pair in pairs if pair.obstacle is None]
    counts, skipped = count_kept_channels(keep, pairs, skipped)
    pairs = [pair for pair in pairs if pair.maker.path in counts]
    sampler = LayerSampler(model, examples, rows, seed)
    return ReconstructionPlan(chosen, refit, graph, pairs, counts, skipped, sampler, seed)


def _check_options(method: str, refit: str, data: Any, needs_data: bool, given: Mapping[str, Any]) -> None:
    if data is not None:
        return
    if needs_data:
        raise OptionError(f"method={method!r} with refit={refit!r} looks at data; pass some. Received: data=None.")
    useless = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    if useless:
        raise OptionError(f"Without data {useless[0]} has no effect; leave it out, or pass data. Received: data=None.")


def _check_carries_nothing(model: Model) -> None:
    check_unfrozen(model)
    carried = get_attached_masks(model)
    if carried is not None:
        raise EnforcementError(
            f"Weights that are fitted anew would not be those that masks hold. Received: model {model.name!r} with "
            f"{carried!r}. Call tpi.strip(model) first, or tpi.compact(model) for a smaller model."
        )


def _take(data: Any, count: int) -> list[Batch]:
    """Return the first batches, each once."""
    walk = Batches.of(data)
    taken = walk.take(1)
    while len(taken) < count and walk.peek().number > taken[-1].number:
        taken += walk.take(1)
    return taken


def _make_example(model: Model, examples: Sequence[Batch]) -> Any:
    if examples:
        return take_examples(model, examples[0].x, 2)
    made = make_example_input(model, np.random.default_rng(0)) if compat.is_symbolic(model) else None
    if made is None:
        raise ModelError(
            "The layers of a subclassed model, or one that takes strings, are found by running it. Received: "
            f"{type(model).__name__} and data=None; pass data, of which two examples are used."
        )
    return made
