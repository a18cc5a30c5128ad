"""Experiments: methods x sparsities x seeds on one model and dataset, each run once, resumable; and the noise test."""

from tfprune_init.experiments.comparison import compare
from tfprune_init.experiments.noise import NoiseTest, run_noise_test
from tfprune_init.experiments.results import Results, Run, SummaryRow

__all__ = [
    "NoiseTest",
    "Results",
    "Run",
    "SummaryRow",
    "compare",
    "run_noise_test",
]
