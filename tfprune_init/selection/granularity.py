"""Granularity: what is kept or pruned as one. Scores of weights become scores of groups, chosen groups become masks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np

from tfprune_init.registry import Registry
from tfprune_init.selection.matrix_layout import Layouts
from tfprune_init.selection.top_k import Arrays, keep_top


@dataclass(frozen=True)
class Pool:
    """Groups of weights that an allocation treats as one layer.

    Attributes:
        size: Number of groups.
        paths: The variables that these groups belong to.
        kind: Only groups of one kind compete with each other.
    """

    size: int
    paths: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class Groups:
    """Scores of groups, pool by pool.

    Attributes:
        scores: A float array for each pool, in a fixed order.
        left: Which groups are candidates; None for all.
        least: Number of groups that each pool keeps whatever the budget: those of score +inf. 0 where not given.
    """

    scores: dict[str, np.ndarray]
    left: dict[str, np.ndarray] | None
    least: dict[str, int] = field(default_factory=dict)

    def count_left(self) -> dict[str, int]:
        """Return the number of candidates of each pool."""
        if self.left is None:
            return {pool: score.size for pool, score in self.scores.items()}
        return {pool: int(np.count_nonzero(left)) for pool, left in self.left.items()}


@dataclass(frozen=True)
class Share:
    """How many groups some pools keep together; inside, the scores decide.

    Attributes:
        pools: The pools that compete.
        keep: Number of groups they keep.
        density: The share asked for, where it is the same for all of the pools; None where counts were shared out.
    """

    pools: tuple[str, ...]
    keep: int
    density: Fraction | None


class Granularity:
    """What is kept or pruned as one.

    A granularity says how weights make groups (`pools`, `group`) and which weights belong to chosen groups (`spread`).
    Its options are the keyword-only parameters of `pools`, which every method gets.

    Attributes:
        name: What `granularity=` calls it.
        summary: One line for tables.
        counts_in: What sparsity counts, for messages: "weights", "blocks".
        usual_allocation: The allocation where none is asked for.
        of_units: Whether whole units compete, so that criteria which score units make sense.
        layers_compete: Whether groups of different layers can compete; not where each group keeps the same number.
    """

    name: str
    summary: str
    counts_in: str = "weights"
    usual_allocation: str = "global"
    of_units: bool = False
    layers_compete: bool = True

    @property
    def options(self) -> Mapping[str, Any]:
        """Names of its options, with their defaults."""
        parameters = inspect.signature(self.pools).parameters.values()
        return MappingProxyType({p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY})

    def pools(self, layouts: Layouts, **options: Any) -> dict[str, Pool]:
        """Return the pools of a network, in a fixed order.

        Args:
            layouts: How the weights of each variable lie, by path.
            **options: Options of this granularity.
        """
        raise NotImplementedError

    def check(self, density: Fraction, layouts: Layouts, **options: Any) -> None:
        """Raise OptionError for a density or a network that this granularity cannot do."""

    def count_least(self, layouts: Layouts, **options: Any) -> int:
        """Return the number of groups that allocations with a number for each layer keep at least; 0 by default."""
        return 0

    def group(self, scores: Arrays, alive: Arrays | None, layouts: Layouts, **options: Any) -> Groups:
        """Score the groups.

        Args:
            scores: Finite scores of the weights, by path.
            alive: Where given, only True positions are candidates.
            layouts: How the weights of each variable lie.
            **options: Options of this granularity.
        """
        raise NotImplementedError

    def spread(
        self, chosen: dict[str, np.ndarray], alive: Arrays | None, layouts: Layouts, **options: Any
    ) -> dict[str, np.ndarray]:
        """Return masks of the weights that belong to chosen groups, by path."""
        raise NotImplementedError

    def choose(
        self, groups: Groups, shares: Sequence[Share], layouts: Layouts, **options: Any
    ) -> dict[str, np.ndarray]:
        """Keep the best groups of each share; ties go to the lower position."""
        chosen: dict[str, np.ndarray] = {}
        for share in shares:
            least = sum(groups.least.get(pool, 0) for pool in share.pools)
            scores = {pool: groups.scores[pool] for pool in share.pools}
            chosen |= keep_top(scores, max(share.keep, least), groups.left)
        return chosen


GRANULARITIES: Registry[Granularity] = Registry("granularity")


def register_granularity(granularity: type[Granularity]) -> type[Granularity]:
    """Register a class of granularity under its name. A decorator.

    Raises:
        OptionError: If the name is taken.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.selection.granularity import GRANULARITIES, Granularity, Groups, Pool
        >>> from tfprune_init.selection.granularity import register_granularity
        >>> @register_granularity
        ... class Rows(Granularity):
        ...     name, summary, counts_in = "rows", "whole rows of each matrix", "rows"
        ...
        ...     def pools(self, layouts):
        ...         return {path: Pool(layout.rows, (path,)) for path, layout in layouts.items()}
        ...
        ...     def group(self, scores, alive, layouts):
        ...         return Groups({p: layouts[p].to_matrix(s).sum(axis=1) for p, s in scores.items()}, None)
        ...
        ...     def spread(self, chosen, alive, layouts):
        ...         return {
        ...             p: layouts[p].from_matrix(np.repeat(rows[:, None], layouts[p].columns, 1))
        ...             for p, rows in chosen.items()
        ...         }
        >>> GRANULARITIES.pop("rows").counts_in
        'rows'
    """
    GRANULARITIES.register(granularity.name, granularity())
    return granularity


@register_granularity
class SingleWeights(Granularity):
    """Keep or prune every weight by itself."""

    name = "weights"
    summary = "every weight by itself"

    def pools(self, layouts: Layouts, **options: Any) -> dict[str, Pool]:
        """Return one pool a variable."""
        return {path: Pool(layout.size, (path,)) for path, layout in layouts.items()}

    def group(self, scores: Arrays, alive: Arrays | None, layouts: Layouts, **options: Any) -> Groups:
        """Take the scores as they are."""
        return Groups(dict(scores), None if alive is None else dict(alive))

    def spread(
        self, chosen: dict[str, np.ndarray], alive: Arrays | None, layouts: Layouts, **options: Any
    ) -> dict[str, np.ndarray]:
        """Take what is chosen as it is."""
        return chosen
