"""Image classification data for examples, tests and experiments; the default needs no network."""

from __future__ import annotations

from tfprune_init.datasets.dataset import Dataset
from tfprune_init.datasets.loading import DATASETS, load

__all__ = [
    "DATASETS",
    "Dataset",
    "load",
]
