"""Pruning from Scratch: widths of a network from gates over random weights, to a budget."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.trainer import compile_like
from tfprune_init.checks import check_integer, check_number
from tfprune_init.compaction import compact
from tfprune_init.errors import ModelError, OptionError, ScoreError
from tfprune_init.gates.insertion import insert_gates
from tfprune_init.gates.places import choose_places, find_places
from tfprune_init.gates.width_search import find_widths
from tfprune_init.graph.cost import CostModel, ModelCost
from tfprune_init.graph.dependency_graph import build_dependency_graph
from tfprune_init.layers.gates import PlainGate
from tfprune_init.masking.reinitialization import reinitialize
from tfprune_init.masks import Masks
from tfprune_init.selection import Budget
from tfprune_init.training.feed import Feed
from tfprune_init.training.gate_learning import GateEpoch, choose_epoch, hold_out, learn_gates
from tfprune_init.training.inputs import ExperimentData, check_callable, compile_model, make_model, prepare_data
from tfprune_init.training.run_progress import RunProgress


@dataclass(frozen=True, eq=False)
class ScratchNetwork:
    """A network whose widths were found before it was trained.

    Attributes:
        model: The network, untrained, compiled as `build_model` compiles it.
        widths: For each gate, by its name, how many channels stay.
        gates: Factors of each gate, float64, by which channels were ranked.
        closed_kept: Number of channels that stay although their factor is 0: the lower positions among ties.
        cost: What the network costs.
        limit: What the budget allows.
        next_cost: What the network would cost with one channel more, which is above the limit.
        plain_cost: What `build_model(1.0)` costs, which a budget is a share of.
        expanded_cost: What the expanded network costs.
        epochs: What was measured after each epoch of learning gates.
        chosen_epoch: The epoch whose gates were taken, from 0.
        reached: Whether some epoch had as few open gates as asked for; else the last one was taken.
        steps: Gradient steps of learning gates.
        left_whole: Why channels of each other kernel have no gate, by path.
    """

    model: Model
    widths: dict[str, int]
    gates: dict[str, np.ndarray]
    closed_kept: int
    cost: ModelCost
    limit: int
    next_cost: ModelCost
    plain_cost: ModelCost
    expanded_cost: ModelCost
    epochs: tuple[GateEpoch, ...]
    chosen_epoch: int
    reached: bool
    steps: int
    left_whole: dict[str, str]

    def build(self, seed: int = 0) -> Any:
        """Build the network once more, with weights drawn anew, to be trained by `tpi.run` or by yourself.

        Args:
            seed: Seed of the weights.

        Raises:
            OptionError: If the seed is no non-negative integer.
            ModelError: If a layer does not say what its weights are initialized with.
        """
        return _draw_anew(self.model, seed)


def prune_from_scratch(
    build_model: Callable[..., Any],
    data: Any,
    *,
    budget: Budget,
    expansion: float = 1.25,
    epochs: int = 10,
    strength: float = 0.5,
    open_share: float = 0.2,
    learning_rate: float = 0.01,
    places: str | Iterable[str] = "inner",
    validation: float | Any = 0.1,
    seed: int = 0,
    verbose: str | int | bool = "auto",
) -> ScratchNetwork:
    """Find the widths of a network before any weight is trained: Pruning from Scratch.

    The network is built wider by `expansion`. Gates on its channels learn for some epochs, over random weights that
    stay, to minimize the loss + strength * (mean(abs(gates)) - open_share) ** 2. Of the epochs in which at most
    `open_share` of the gates are not 0, that of the best validation accuracy counts; without one, the last. Channels
    come in the order of their gates, of all layers together, each layer keeping its best; as many stay as fit into the
    budget, exactly. The network of these widths is drawn anew and is to be trained from scratch.

    Args:
        build_model: Called as `build_model(width)`, or `build_model(width, seed=...)` if it has that parameter: returns
            a new untrained model of classification whose numbers of channels are multiplied by `width`. The gates of an
            uncompiled model learn by sparse categorical cross-entropy of logits.
        data: Training data as arrays or a batched tf.data.Dataset, alone or as pair (train, test) as for `tpi.run`;
            test data are not looked at.
        budget: What the network may cost, in multiply-adds or parameters: `tpi.Budget(multiply_adds=0.5)`. A share is
            one of the network that is not expanded.
        expansion: How many times as wide the network with gates is, at least 1; 1.25 in the paper.
        epochs: Walks through the data to learn gates.
        strength: Weight of the penalty: 0.5 in the paper for CIFAR-10, 0.05 for ImageNet.
        open_share: What the mean of the gates is drawn to, in (0, 1): 0.2 for CIFAR-10, 0.5 for ImageNet.
        learning_rate: Rate of Adam.
        places: Where gates stand, as in `tpi.insert_gates`. In the paper nothing that enters a sum has one.
        validation: Share of the training data to validate on, the last ones; or other data of that form.
        seed: Seed of weights, gates' batches and everything random.
        verbose: As in `tpi.run`.

    Returns:
        ScratchNetwork.

    Raises:
        OptionError: If an option is out of range, the expansion has no effect, or the budget has none or cannot be met.
        ModelError: If `build_model` returns no model that can have gates, or its channels cannot be removed.
        DataError: If the data are of another form, or not enough to hold some out.
        ScoreError: If the loss is not finite, or all gates end alike.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> digits = tpi.datasets.load("digits")
        >>> def build(width, seed):
        ...     L = keras.layers
        ...     x = inputs = keras.Input(digits.input_shape)
        ...     for filters in (8, 16):
        ...         x = L.Conv2D(round(filters * width), 3, use_bias=False)(x)
        ...         x = L.ReLU()(L.BatchNormalization()(x))
        ...     return keras.Model(inputs, L.Dense(10)(L.Flatten()(x)))
        >>> found = tpi.prune_from_scratch(build, digits, budget=tpi.Budget(multiply_adds=0.5), epochs=1, verbose=0)
        >>> found.cost.multiply_adds <= found.limit < found.next_cost.multiply_adds
        True

    Reference:
        Wang et al., "Pruning from Scratch", AAAI 2020, https://arxiv.org/abs/1909.12579. Its code stops its search
        after ten steps, near the budget or not, and draws lots among gates at 0, so that layers can lose all channels.
    """
    check_callable(build_model)
    _check_takes_width(build_model)
    if not isinstance(budget, Budget):
        raise OptionError(f"budget= is a tpi.Budget, such as tpi.Budget(multiply_adds=0.5). Received: {budget!r}.")
    expansion = check_number("expansion", expansion, "a number of at least 1", lambda given: given >= 1)
    epochs, seed = check_integer("epochs", epochs, 1), check_integer("seed", seed, 0)
    check_number("strength", strength, "a number above 0", lambda given: given > 0)
    check_number("open_share", open_share, "a number in (0, 1)", lambda given: 0 < given < 1)
    check_number("learning_rate", learning_rate, "a number above 0", lambda given: given > 0)
    divided = _divide(data, validation)
    plain_cost = CostModel(_build(build_model, 1.0, seed)).count()
    expanded = _build(build_model, float(expansion), seed)
    costs = CostModel(expanded)
    if expansion > 1 and costs.count() == plain_cost:
        raise OptionError(
            f"The expansion has no effect: build_model({expansion:g}) is as large as build_model(1.0), "
            f"{plain_cost.parameters:,} parameters. Multiply the widths by its first argument."
        )
    graph = build_dependency_graph(expanded)
    chosen, left = choose_places(*find_places(expanded, graph), places)
    gated = insert_gates(expanded, places=places)
    compile_model(gated)
    gates = [layer for layer in compat.walk_layers(gated) if isinstance(layer, PlainGate)]
    # With all gates open: what is refused of a budget needs no training.
    find = partial(find_widths, costs, graph, chosen, budget=budget, plain=plain_cost)
    find({gate.name: gate.read_factors() for gate in gates})
    progress = RunProgress()
    steps = 0

    def advance(count: int) -> None:
        nonlocal steps
        steps += count
        progress.advance(count)

    with progress.show(epochs * _count_batches(divided, seed), 0, verbose):
        learned = learn_gates(
            gated,
            gates,
            divided,
            epochs=epochs,
            learning_rate=learning_rate,
            strength=strength,
            target=open_share,
            seed=seed,
            advance=advance,
        )
    best = choose_epoch(learned, open_share)
    factors = dict(learned[best].factors)
    _check_told(factors, best)
    found = find(factors)
    small = compact(expanded, Masks(found.masks)).model
    if CostModel(small).count() != found.cost:
        raise ModelError(
            f"The network of these widths costs {CostModel(small).count()}, not {found.cost}: some channels cannot be "
            "removed for real. tpi.compact says why; leave their layers out of places=."
        )
    return ScratchNetwork(
        model=_draw_anew(small, seed),
        widths={name: int(kept.sum()) for name, kept in found.kept.items()},
        gates=factors,
        closed_kept=sum(int(np.count_nonzero(factors[name][kept] == 0)) for name, kept in found.kept.items()),
        cost=found.cost,
        limit=found.limit,
        next_cost=found.next_cost,
        plain_cost=plain_cost,
        expanded_cost=costs.count(),
        epochs=tuple(learned),
        chosen_epoch=best,
        reached=learned[best].open_share <= open_share,
        steps=steps,
        left_whole=left,
    )


def _build(build_model: Callable[..., Any], width: float, seed: int) -> Any:
    """Build the network at a width, at a seed."""
    return make_model(partial(build_model, width), seed)


def _check_takes_width(build_model: Callable[..., Any]) -> None:
    try:
        inspect.signature(build_model).bind_partial(1.0)
    except TypeError as error:
        raise OptionError(
            "build_model takes the width first, by which it multiplies its numbers of channels: def build(width, seed)."
            f" Received: {build_model!r}."
        ) from error


def _check_told(factors: dict[str, np.ndarray], epoch: int) -> None:
    """Refuse gates that are all alike, by which no channel is better than another."""
    every = np.concatenate(list(factors.values()))
    if (every == every[0]).all():
        raise ScoreError(
            f"All gates are {every[0]:g} after epoch {epoch + 1}, the one that counts, so they do not tell channels "
            "apart. Try a lower learning_rate or strength where they are 0, and more epochs where they are 1."
        )


def _divide(data: Any, validation: Any) -> ExperimentData:
    """Return the data to learn from, and those to validate on."""
    paired = callable(data) or hasattr(data, "train")
    train = prepare_data(data).train if paired or _is_pair_of_data(data) else data
    if isinstance(validation, (int, float)):
        check_number("validation", validation, "a number in (0, 1), or data", lambda share: 0 < share < 1)
        return hold_out(train, validation)
    return prepare_data((train, validation))


def _is_pair_of_data(data: Any) -> bool:
    """Return whether this is (train, test), not (inputs, labels)."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and not any(hasattr(part, "shape") for part in data)


def _count_batches(data: ExperimentData, seed: int) -> int:
    return Feed(data, seed).steps_per_epoch


def _draw_anew(model: Model, seed: int) -> Any:
    """Return a copy of a model with other weights, compiled like it."""
    compat.set_random_seed(check_integer("seed", seed, 0))
    copy = compat.get_keras(model).models.clone_model(model)
    # Initializers with a seed of their own would draw the same weights for all seeds.
    reinitialize(copy, "random", seed=seed)
    compile_like(copy, model)
    return copy
