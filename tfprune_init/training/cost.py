"""What a run costs: steps of training, steps of scoring, multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TrainingCost:
    """What a run has cost so far.

    Attributes:
        training_steps: Gradient steps that changed weights.
        scoring_steps: Gradient steps that judged connections: one for each step of the search and each of its batches,
            and one for the objective of an iterative method. A criterion that differentiates twice counts as one.
        multiply_adds: Multiply-adds of both as a network would need that skips zeros: three times those of one example,
            for forward and backward pass, for each example. None where those of the model are not known.
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
