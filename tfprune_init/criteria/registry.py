"""The register of criteria, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfprune_init.errors import OptionError
from tfprune_init.probe import Probe

ScoreFunction = Callable[[Probe], dict[str, np.ndarray]]

GRADIENT_OPTIONS = frozenset(["loss", "batches", "batchnorm", "seed", "jit_compile"])


@dataclass(frozen=True)
class Criterion:
    """A way to score connections.

    Attributes:
        name: What it is called.
        score: Function from a `Probe` to scores, {variable path: float array of the variable's shape}.
        uses_gradients: Whether it asks the probe for gradients, and so needs data and a loss.
        options: Names of the options of `find_masks` that change its scores.
    """

    name: str
    score: ScoreFunction
    uses_gradients: bool
    options: frozenset[str]


CRITERIA: dict[str, Criterion] = {}


def criterion(
    name: str, *, uses_gradients: bool = True, options: frozenset[str] | None = None
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Register a function of a `Probe` as a criterion.

    Args:
        name: What to call it.
        uses_gradients: Whether it calls `probe.gradients()`.
        options: Options of `find_masks` that change its scores; all that shape a gradient by default.

    Raises:
        OptionError: If the name is taken.

    Example:
        >>> from tfprune_init.criteria import criterion
        >>> @criterion("largest_gradient")
        ... def largest_gradient(probe):
        ...     return {path: abs(gradient) for path, gradient in probe.gradients().items()}
    """
    if options is None:
        options = GRADIENT_OPTIONS if uses_gradients else frozenset()

    def register(score: ScoreFunction) -> ScoreFunction:
        if name in CRITERIA:
            raise OptionError(f"There is a criterion of that name already. Received: {name!r}.")
        CRITERIA[name] = Criterion(name, score, uses_gradients, options)
        return score

    return register
