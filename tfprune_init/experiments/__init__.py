"""Experiments: methods x sparsities x seeds on one model and dataset, resumable; tests of trained networks."""

from tfprune_init.experiments.comparison import compare
from tfprune_init.experiments.noise import NoiseTest, run_noise_test
from tfprune_init.experiments.results import Results, Run, SummaryRow
from tfprune_init.experiments.robustness import LayerRobustness, RobustnessRow, measure_layer_robustness

__all__ = [
    "LayerRobustness",
    "NoiseTest",
    "Results",
    "RobustnessRow",
    "Run",
    "SummaryRow",
    "compare",
    "measure_layer_robustness",
    "run_noise_test",
]
