"""Criteria: each turns a masked network into scores, higher = keep.

A criterion is a function of a `Probe`; it sees weights, gradients and random numbers, never Keras.
A new one is such a function with the `criterion` decorator, in a file of its family imported below.
"""

from tfprune_init.criteria.registry import CRITERIA, GRADIENT_OPTIONS, Criterion, criterion
from tfprune_init.criteria.sensitivity import sensitivity
from tfprune_init.criteria.weights import chance, magnitude

__all__ = ["CRITERIA", "GRADIENT_OPTIONS", "Criterion", "chance", "criterion", "magnitude", "sensitivity"]
