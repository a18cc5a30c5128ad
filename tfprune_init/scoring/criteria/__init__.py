"""Criteria: each turns a masked network into scores, higher = keep.

A criterion is a function of a `ScoringEngine`; it sees weights, derivatives and random numbers, never Keras.
A new one is such a function with the `criterion` decorator, in a file of its family imported below.
"""

from tfprune_init.scoring.criteria import exact, first_order, hessian, synflow, unit_gates, weights_only
from tfprune_init.scoring.criteria.criterion_registry import CRITERIA, GRADIENT_OPTIONS, Criterion, register_criterion

__all__ = [
    "CRITERIA",
    "GRADIENT_OPTIONS",
    "Criterion",
    "exact",
    "first_order",
    "hessian",
    "register_criterion",
    "synflow",
    "unit_gates",
    "weights_only",
]
