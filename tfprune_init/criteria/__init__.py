"""Criteria: each turns a masked network into scores, higher = keep.

A criterion is a function of a `Probe`; it sees weights, derivatives and random numbers, never Keras.
A new one is such a function with the `criterion` decorator, in a file of its family imported below.
"""

from tfprune_init.criteria import ablation, curvature, sensitivity, synaptic_flow, units, weights
from tfprune_init.criteria.registry import CRITERIA, GRADIENT_OPTIONS, Criterion, criterion

__all__ = [
    "CRITERIA",
    "GRADIENT_OPTIONS",
    "Criterion",
    "ablation",
    "criterion",
    "curvature",
    "sensitivity",
    "synaptic_flow",
    "units",
    "weights",
]
