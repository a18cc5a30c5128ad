"""From scores to masks for one model: a scope, with what it must know about the model's variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune_init.batches import Batches
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.methods import Recipe
from tfprune_init.scopes import Layout, Scope, UnitLayouts
from tfprune_init.scopes.layout import Layouts
from tfprune_init.strategies import replicas_of
from tfprune_init.targets import LEFT_ALONE, Skipped, Targets, all_variables
from tfprune_init.wiring import Wiring, find_wiring

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Selector:
    """A scope at work on one model.

    Attributes:
        targets: The variables that get masks, and the others with their reasons.
        layouts: How the weights of each lie.
        scope: How scores compete.
        options: Options of the scope.
        normalize: What each variable's scores are divided by first: "l2", "sum" or None.
    """

    targets: Targets
    layouts: Layouts
    scope: Scope
    options: Mapping[str, Any]
    normalize: str | None

    @property
    def count(self) -> int:
        """Number of things that density is a share of."""
        return self.scope.count(self.layouts, **self.options)

    def check(self, density: float) -> None:
        """Refuse a density that the scope cannot do."""
        self.scope.check(density, self.layouts, **self.options)

    def choose(self, scores: Arrays, density: float, alive: Arrays | None) -> dict[str, np.ndarray]:
        """Masks that keep the best of the candidates."""
        if self.normalize:
            scores = {path: _normalized(score, self.normalize) for path, score in scores.items()}
        masks = self.scope.choose(scores, density, alive, self.layouts, **self.options)
        return {path: masks[path] for path in scores}


def selector_for(model: Any, targets: Targets, recipe: Recipe, data: Any, prune_bias: bool) -> Selector:
    """Put a recipe's scope to work on a model.

    Args:
        model: The model.
        targets: Its prunable variables.
        recipe: The recipe.
        data: The caller's data, or None; one example of it shows how units are wired.
        prune_bias: Whether the caller asked for biases.

    Raises:
        OptionError: If `prune_bias` has no effect with this scope.
        ModelError: If the scope removes units and no layer of the model has any.
    """
    layouts: Layouts
    if recipe.scope.of_units:
        if prune_bias:
            raise OptionError(
                "prune_bias has no effect with scope='units': the bias of a unit goes with it. Leave it out."
            )
        wiring = find_wiring(model, None if data is None else Batches.of(data, replicas_of(model)).take(1)[0].x)
        targets = _with_units(model, targets, wiring)
        layouts = UnitLayouts(_layouts(targets), wiring)
    else:
        layouts = _layouts(targets)
    return Selector(targets, layouts, recipe.scope, recipe.choosing, recipe.normalize)


def _layouts(targets: Targets) -> dict[str, Layout]:
    return {target.path: Layout(target.shape, target.units) for target in targets.prunable}


def _with_units(model: Any, targets: Targets, wiring: Wiring) -> Targets:
    """Targets that are whole units: kernels of layers with units, and what belongs to these units."""
    kernels = {target.path for target in targets.prunable}
    reasons = {skipped.path: skipped.reason for skipped in targets.skipped}
    left_alone = {path for path, reason in reasons.items() if reason == LEFT_ALONE}
    prunable, skipped = [], []
    for target in all_variables(model):
        if target.path in wiring.entries and target.path not in left_alone:
            prunable.append(target)
        else:
            left = wiring.unlabelled.get(target.path, "has no units of its own")
            skipped.append(Skipped(target.path, target.shape, left if target.path in kernels else reasons[target.path]))
    if not prunable:
        raise ModelError(f"Model {model.name!r} has no layer with units. Use scope='global'. Received: scope='units'.")
    return Targets(tuple(prunable), tuple(skipped))


def _normalized(score: np.ndarray, by: str) -> np.ndarray:
    norm = np.linalg.norm(score.ravel()) if by == "l2" else np.abs(score).sum(dtype=np.float64)
    return score / norm.astype(score.dtype) if norm > 0 else score
