"""The register of criteria, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from tfprune_init.registry import Registry

ScoreFunction = Callable[..., dict[str, np.ndarray]]

GRADIENT_OPTIONS = frozenset(["loss", "batches", "training", "seed", "jit_compile"])


@dataclass(frozen=True)
class Criterion:
    """A way to score connections.

    Attributes:
        name: Its name.
        score: Function from a `ScoringEngine`, and its own options, to scores: {variable path: float array of the
            variable's shape}.
        uses_gradients: Whether it asks the engine for derivatives of the loss, and so needs data.
        options: Names of the options of the engine that change its scores.
        own_options: Options of its own, with their defaults: the keyword-only parameters of `score`.
        of_units: Whether it scores whole units, so that only a granularity of whole units makes sense.
        needs_float64: Whether it computes in float64 whatever the model computes in, which TPUs do not.
    """

    name: str
    score: ScoreFunction
    uses_gradients: bool
    options: frozenset[str]
    own_options: Mapping[str, Any]
    of_units: bool
    needs_float64: bool

    def section(self, title: str) -> str:
        """Get one section of the docstring ("Formula", "Cost", "Follows", "References") as one line."""
        lines = (inspect.getdoc(self.score) or "").splitlines()
        if f"{title}:" not in lines:
            return ""
        rest = lines[lines.index(f"{title}:") + 1 :]
        end = next((i for i, line in enumerate(rest) if line and not line.startswith(" ")), len(rest))
        return " ".join(line.strip() for line in rest[:end]).strip()


CRITERIA: Registry[Criterion] = Registry("criterion")


def register_criterion(
    name: str,
    *,
    uses_gradients: bool = True,
    options: frozenset[str] | None = None,
    of_units: bool = False,
    needs_float64: bool = False,
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Register a function of a `ScoringEngine` as a criterion.

    Keyword-only parameters of the function become options of `find_masks` and `score`.

    Args:
        name: Name of the criterion.
        uses_gradients: Whether it asks the engine for derivatives of the loss.
        options: Options of the engine that change its scores; all that shape a gradient by default.
        of_units: Whether it scores whole units, each weight with an equal part of its unit's score.
        needs_float64: Whether it computes in float64 whatever the model computes in.

    Raises:
        OptionError: If the name is taken.

    Example:
        >>> from tfprune_init.scoring.criteria import register_criterion
        >>> @register_criterion("gradient_to_the")
        ... def gradient_to_the(engine, *, power=1.0):
        ...     return {path: abs(gradient) ** power for path, gradient in engine.gradients().items()}
    """
    if options is None:
        options = GRADIENT_OPTIONS if uses_gradients else frozenset()

    def register(score: ScoreFunction) -> ScoreFunction:
        parameters = inspect.signature(score).parameters.values()
        own = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        criterion = Criterion(name, score, uses_gradients, options, MappingProxyType(own), of_units, needs_float64)
        CRITERIA.register(name, criterion)
        return score

    return register
