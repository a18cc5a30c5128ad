"""Is the pruned network still one network: empty layers, dead units, and whether a signal gets through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfprune_init.errors import NetworkCollapseError
from tfprune_init.graph.kernel_axes import count_dead_units
from tfprune_init.graph.variables import ModelVariable
from tfprune_init.scoring import ScoringEngine


@dataclass(frozen=True)
class Connectivity:
    """What is left of a network under its masks.

    Attributes:
        empty: Paths of variables that keep no weight; the network may live on through a skip connection.
        dead_inputs: Number of input units without a kept weight, by path.
        dead_outputs: Number of output units without a kept weight, by path.
        signal: For each output of the model, how strongly it answers to the inputs; 0.0 means not at all.
            None if that could not be measured (no data and none to be made up, or nothing to differentiate by).
    """

    empty: tuple[str, ...]
    dead_inputs: dict[str, int]
    dead_outputs: dict[str, int]
    signal: dict[str, float] | None

    @property
    def connected(self) -> bool | None:
        """Whether every output still answers to the inputs; None if not measured."""
        return None if self.signal is None else all(strength > 0.0 for strength in self.signal.values())


def check_connectivity(
    engine: ScoringEngine, targets: tuple[ModelVariable, ...], masks: Mapping[str, np.ndarray], step: int
) -> Connectivity:
    """Look at the network under its final masks.

    Args:
        engine: An entered engine that looks at these masks.
        targets: The prunable variables.
        masks: The final masks.
        step: The step that chose them, for the message.

    Returns:
        Connectivity of the pruned network.

    Raises:
        NetworkCollapseError: If an output that answered to the inputs in the dense network no longer does.
    """
    signal = engine.signal()
    silent = [name for name, strength in (signal or {}).items() if strength == 0.0]
    if silent:
        engine.mask({path: np.ones_like(mask) for path, mask in masks.items()})
        dense = engine.signal() or {}
        engine.mask(masks)
        lost = [name for name in silent if dense.get(name, 0.0) > 0.0]
        if lost:
            raise make_collapse_error(masks, step, f"no signal from the inputs reaches {', '.join(lost)}")
    return Connectivity(
        empty=find_empty_variables(masks),
        dead_inputs={t.path: count_dead_units(masks[t.path], t.units.inputs) for t in targets},
        dead_outputs={t.path: count_dead_units(masks[t.path], t.units.outputs) for t in targets},
        signal=signal,
    )


def make_collapse_error(masks: Mapping[str, np.ndarray], step: int, what: str) -> NetworkCollapseError:
    """The error for a network that died at `step`, with the layers to look at and what to try."""
    empty = find_empty_variables(masks)
    thinnest = sorted(masks, key=lambda path: int(np.count_nonzero(masks[path])))[:3]
    layers = (
        f"Emptied: {', '.join(empty)}."
        if empty
        else "Thinnest: " + ", ".join(f"{path} ({int(np.count_nonzero(masks[path]))} kept)" for path in thinnest) + "."
    )
    return NetworkCollapseError(
        f"The network collapsed at step {step}: {what}. {layers} Try a lower sparsity, more steps "
        "(method='force', steps=100), allocation='uniform', more batches, or exclude=[...] for the thinnest layers."
    )


def find_empty_variables(masks: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Paths of the variables that keep no weight."""
    return tuple(path for path, mask in masks.items() if not mask.any())
