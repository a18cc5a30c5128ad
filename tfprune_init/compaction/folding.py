"""Which channels go, and what those that are constant add to the biases behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfprune_init.backend.protocols import Layer
from tfprune_init.compaction.constants import compute_added, compute_added_by_each
from tfprune_init.compaction.network import Propagation, PropagationStep
from tfprune_init.graph.layer_rules.kernels import find_needed, has_unknown_borders
from tfprune_init.graph.signals import Signal

# How far what constants add may differ between places, beside what they add at most, and count as rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Decision:
    """What goes, and what that adds to biases.

    Attributes:
        gone: Whether each channel goes, by label; the last is for what is no channel.
        added: What constants that go add to the bias of each layer, float64, by the layer's id.
        reasons: Why a group of channels stays although it is dead, by its root.
        roots: The root of each channel.
    """

    gone: np.ndarray
    added: Mapping[int, np.ndarray]
    reasons: Mapping[int, str]
    roots: np.ndarray

    def kept(self, labels: np.ndarray) -> np.ndarray:
        """Return indices of the channels that stay."""
        return np.flatnonzero(~self.gone[labels])

    def needs_bias(self, layer: Layer) -> bool:
        """Return whether something is added to the bias of a layer that has none."""
        return id(layer) in self.added and bool(self.added[id(layer)].any()) and not layer.use_bias


def decide(network: Propagation) -> Decision:
    """Let go every channel that is dead together with all channels it is tied to, as far as its constants fold.

    A layer keeps at least one channel. Where constants that would go add different numbers to one bias, at different
    positions or in different calls, those that do stay; this can only grow, so it ends.
    """
    groups = network.record.groups
    roots = groups.find_roots()
    live = np.zeros(len(roots), bool)
    for signal in _signals(network):
        if signal.axis is not None:
            live[roots[signal.channels[~network.dead(signal)]]] = True
    mixers: dict[int, list[PropagationStep]] = {}
    for step in network.steps:
        if step.rule.mixes:
            mixers.setdefault(id(step.use.layer), []).append(step)
    makers = {id(step.use.layer): step for step in network.steps if step.rule.makes_units}
    while True:
        held = np.zeros(len(roots), bool)
        held[list(groups.find_reasons())] = True
        gone = ~(live | held)[roots]
        gone[-1] = False
        news = [_keep_one(network, step, gone) for step in makers.values()]
        if any(news):
            continue
        folded = {}
        for layer, steps in mixers.items():
            folded[layer], stuck = _fold(network, steps, gone, roots)
            news.append(stuck)
        if not any(news):
            return Decision(gone, folded, groups.find_reasons(), roots)


def _signals(network: Propagation) -> list[Signal]:
    found = ((*step.use.inputs, step.output, *step.use.inner.values()) for step in network.steps)
    return list({id(signal): signal for signals in found for signal in signals}.values())


def _keep_one(network: Propagation, step: PropagationStep, gone: np.ndarray) -> bool:
    """Let the first channel of a layer stay where all would go; return whether that is news."""
    units = network.record.find_units(step.use.layer)
    return (
        units is not None
        and bool(gone[units].all())
        and network.record.groups.pin(units[:1], f"is the last of {step.use.path}")
    )


def _fold(
    network: Propagation, steps: list[PropagationStep], gone: np.ndarray, roots: np.ndarray
) -> tuple[np.ndarray, bool]:
    """Return what constants that go add to each unit of a layer, and whether some have to stay after all."""
    calls = [_Call(step, gone, network) for step in steps]
    if not any(call.constants.any() for call in calls):
        return np.zeros(calls[0].units), False
    together = _Range(calls[0].units)
    for call in calls:
        together.meet(call, compute_added(call.step.use, call.constants[None])[0])
    largest = np.max([call.largest for call in calls], axis=0)
    off = together.width > _ROUNDING * largest
    if not off.any():
        return together.middle, False
    # At least one of them then differs by its share of what all together differ by.
    each = _each(calls, roots)
    limit = _ROUNDING * largest / len(each)
    stuck = [label for label, alone in each.items() if (alone.width > limit)[off].any()]
    why = f"is a constant that no bias of {steps[0].use.path} can take over"
    return together.middle, network.record.groups.pin(np.array(stuck), why)


class _Call:
    """One call of a layer with a bias: the constants that would go, and where the output has to stay what it is."""

    def __init__(self, step: PropagationStep, gone: np.ndarray, network: Propagation):
        x, output = step.use.first, step.output
        assert output.axis is not None
        self.step = step
        self.constants = np.where(gone[x.labels], x.value, 0.0)
        self.needed = find_needed(step.use, output) & ~gone[output.labels]
        self.units = len(output.channels)
        self.positions = tuple(i for i in range(output.varies.ndim) if i != output.axis)
        fixed = has_unknown_borders(step.use) and bool(self.constants.any())
        self.pinned = np.ones(self.units, bool) if fixed else network.pruned(step.use, "bias", self.units)

    @property
    def largest(self) -> np.ndarray:
        """The most that the constants could add to each unit if no two of them were of opposite sign."""
        added = compute_added(self.step.use, self.constants[None], absolute=True)[0]
        return np.asarray(added.max(axis=self.positions))


class _Range:
    """Lowest and highest of what is added to each unit, wherever that matters; 0 is among them where no bias can be."""

    def __init__(self, units: int):
        self._low, self._high = np.full(units, np.inf), np.full(units, -np.inf)
        self._pinned = np.zeros(units, bool)

    def meet(self, call: _Call, what: np.ndarray) -> None:
        """Take in what is added in one call."""
        zero = np.where(call.pinned, 0.0, np.nan)  # fmin and fmax pass over what is no number
        self._pinned |= call.pinned
        self._low = np.fmin(np.fmin(self._low, zero), np.where(call.needed, what, np.inf).min(axis=call.positions))
        self._high = np.fmax(np.fmax(self._high, zero), np.where(call.needed, what, -np.inf).max(axis=call.positions))

    @property
    def width(self) -> np.ndarray:
        """How far the highest is from the lowest."""
        return np.asarray(np.maximum(self._high - self._low, 0.0))

    @property
    def middle(self) -> np.ndarray:
        """One number for all; 0 where nothing matters, or can be added."""
        matters = (self._low <= self._high) & ~self._pinned
        return np.where(matters, (np.where(matters, self._low, 0.0) + np.where(matters, self._high, 0.0)) / 2, 0.0)


def _each(calls: list[_Call], roots: np.ndarray) -> dict[int, _Range]:
    """Return the same for each group of constant channels by itself; in calls they are not in they add nothing."""
    found: dict[int, _Range] = {}
    labels = [roots[call.step.use.first.labels] for call in calls]
    for call, one in zip(calls, labels, strict=True):
        found.update((label, _Range(calls[0].units)) for label in np.unique(one[call.constants != 0]).tolist())
    for call, one in zip(calls, labels, strict=True):
        absent = set(found)
        for label, what in compute_added_by_each(call.step.use, call.constants, one):
            found[label].meet(call, what)
            absent.remove(label)
        for label in absent:
            found[label].meet(call, np.zeros(()))
    return found
