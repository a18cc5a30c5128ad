"""Criteria: each turns a masked network into scores, higher = keep.

A criterion is a function of a `ScoringEngine`; it sees weights, derivatives and random numbers, never Keras.
A new one is such a function with the `register_criterion` decorator, in a module here.
"""

from tfprune_init.registry import import_modules
from tfprune_init.scoring.criteria.criterion_registry import CRITERIA, GRADIENT_OPTIONS, Criterion, register_criterion

__all__ = [
    "CRITERIA",
    "GRADIENT_OPTIONS",
    "Criterion",
    "register_criterion",
]

import_modules(__name__, __path__)
