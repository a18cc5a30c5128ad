"""Scopes of single weights: over the whole network, or within each variable."""

from __future__ import annotations

import numpy as np

from tfprune_init.scopes.layout import Layouts
from tfprune_init.scopes.registry import scope
from tfprune_init.scopes.selection import Arrays, keep_top, kept_count


@scope("global", summary="all weights of the network compete", compares_layers=True)
def everywhere(scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts) -> dict[str, np.ndarray]:
    """All weights of the network compete: floor(N * density) of them are kept."""
    return keep_top(scores, kept_count(sum(s.size for s in scores.values()), density), alive)


@scope("layerwise", summary="each variable keeps the same share of its weights", compares_layers=False)
def layerwise(scores: Arrays, density: float, alive: Arrays | None, layouts: Layouts) -> dict[str, np.ndarray]:
    """Weights compete within their variable: each variable of n weights keeps floor(n * density)."""
    masks: dict[str, np.ndarray] = {}
    for path, score in scores.items():
        masks |= keep_top({path: score}, kept_count(score.size, density), alive)
    return masks
