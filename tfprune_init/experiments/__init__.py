"""Experiments: methods x sparsities x seeds on one model and dataset; each run once, resumable, as a table."""

from tfprune_init.experiments.comparison import compare
from tfprune_init.experiments.results import Results, Run, SummaryRow

__all__ = [
    "Results",
    "Run",
    "SummaryRow",
    "compare",
]
