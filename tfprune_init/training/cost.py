"""What a run costs: steps of training, steps of scoring, multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfprune_init.graph.cost import CostModel


@dataclass
class TrainingCost:
    """What a run has cost so far.

    Attributes:
        training_steps: Gradient steps that changed weights.
        scoring_steps: Gradient steps that judged connections: one for each step of the search and each of its batches,
            and one for the objective of an iterative method. A criterion that differentiates twice counts as one.
        multiply_adds: Multiply-adds of both as a network would need that skips zeros: for each example what
            `count_multiply_adds` says. None where those of the model are not known.
    """

    training_steps: int = 0
    scoring_steps: int = 0
    multiply_adds: int | None = 0

    def add(self, *, training_steps: int = 0, scoring_steps: int = 0, multiply_adds: int | None = 0) -> None:
        """Add what an event has cost."""
        self.training_steps += training_steps
        self.scoring_steps += scoring_steps
        if self.multiply_adds is not None:
            self.multiply_adds = None if multiply_adds is None else self.multiply_adds + multiply_adds

    def describe(self) -> str:
        """Say it in a sentence.

        Example:
            >>> from tfprune_init.training import TrainingCost
            >>> TrainingCost(1200, 1, 3_400_000_000).describe()
            'It took 1,200 gradient steps of training and 1 of scoring: 3.4e+09 multiply-adds where zeros are skipped.'
        """
        steps = f"It took {self.training_steps:,} gradient steps of training and {self.scoring_steps:,} of scoring"
        if self.multiply_adds is None:
            return f"{steps}; the multiply-adds of the model are not known."
        return f"{steps}: {self.multiply_adds:.3g} multiply-adds where zeros are skipped."


def count_multiply_adds(
    costs: CostModel, masks: Mapping[str, np.ndarray] | None, *, dense_gradients: bool = False
) -> int | None:
    """Count the multiply-adds of a gradient step for one example.

    They are those of three passes: forward, gradients of activations, gradients of weights. All three skip what masks
    prune. Where all dense weights train though the network computes with few of them, the third is dense.

    Args:
        costs: What the network costs.
        masks: What it computes with; all weights for None.
        dense_gradients: Whether weights that the masks prune get a gradient.

    Returns:
        The number, or None where those of the model are not known.

    Example:
        >>> import keras, numpy as np
        >>> from tfprune_init.graph.cost import CostModel
        >>> from tfprune_init.training.cost import count_multiply_adds
        >>> costs = CostModel(keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, name="one")]))
        >>> masks = {"one/kernel": np.arange(20).reshape(4, 5) < 2}
        >>> count_multiply_adds(costs, masks), count_multiply_adds(costs, masks, dense_gradients=True)
        (6, 24)
    """
    sparse, dense = (costs.count_nonzero(one).multiply_adds for one in (dict(masks or {}), {}))
    if sparse is None or dense is None:
        return None
    return 2 * sparse + (dense if dense_gradients else sparse)
