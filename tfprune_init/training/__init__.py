"""Methods that train: procedures of events, run one after the other and resumed where they stopped."""

from tfprune_init.registry import import_modules
from tfprune_init.training import recipes
from tfprune_init.training.cost import TrainingCost
from tfprune_init.training.events import (
    Distill,
    Evaluate,
    Event,
    LearnBernoulliMasks,
    LearnTopScores,
    Prune,
    PruneByThreshold,
    PruneByTraining,
    PruneScales,
    ReconstructChannels,
    Reinitialize,
    Repeat,
    RescaleDropout,
    Rewind,
    ShuffleMasks,
    Snapshot,
    Train,
    TrainAndPrune,
    TrainDynamically,
    TrainScales,
)
from tfprune_init.training.kept_checkpoints import KeepCheckpoints
from tfprune_init.training.procedures import run
from tfprune_init.training.recipe_registry import RECIPES, Recipe, RunPlan, register_recipe
from tfprune_init.training.run_result import RunResult

__all__ = [
    "RECIPES",
    "Distill",
    "Evaluate",
    "Event",
    "KeepCheckpoints",
    "LearnBernoulliMasks",
    "LearnTopScores",
    "Prune",
    "PruneByThreshold",
    "PruneByTraining",
    "PruneScales",
    "Recipe",
    "ReconstructChannels",
    "Reinitialize",
    "Repeat",
    "RescaleDropout",
    "Rewind",
    "RunPlan",
    "RunResult",
    "ShuffleMasks",
    "Snapshot",
    "Train",
    "TrainAndPrune",
    "TrainDynamically",
    "TrainScales",
    "TrainingCost",
    "recipes",
    "register_recipe",
    "run",
]

import_modules(recipes.__name__, recipes.__path__)
