"""The events that procedures are made of, a family a file."""

from tfprune_init.training.events.channels import Compact, FindChannels, StartOver, TrainAtCost
from tfprune_init.training.events.distill import Distill
from tfprune_init.training.events.dropout import RescaleDropout
from tfprune_init.training.events.event import Event, Repeat, RunOutline, flatten, outline_run
from tfprune_init.training.events.prune import Prune, PruneByThreshold, ShuffleMasks
from tfprune_init.training.events.reconstruction import ReconstructChannels
from tfprune_init.training.events.slimming import PruneScales, TrainScales
from tfprune_init.training.events.supermasks import LearnBernoulliMasks, LearnTopScores, PruneByTraining
from tfprune_init.training.events.train import Evaluate, Train
from tfprune_init.training.events.train_and_prune import TrainAndPrune, TrainDynamically
from tfprune_init.training.events.weights import Reinitialize, Rewind, Snapshot

__all__ = [
    "Compact",
    "Distill",
    "Evaluate",
    "Event",
    "FindChannels",
    "LearnBernoulliMasks",
    "LearnTopScores",
    "Prune",
    "PruneByThreshold",
    "PruneByTraining",
    "PruneScales",
    "ReconstructChannels",
    "Reinitialize",
    "Repeat",
    "RescaleDropout",
    "Rewind",
    "RunOutline",
    "ShuffleMasks",
    "Snapshot",
    "StartOver",
    "Train",
    "TrainAndPrune",
    "TrainAtCost",
    "TrainDynamically",
    "TrainScales",
    "flatten",
    "outline_run",
]
