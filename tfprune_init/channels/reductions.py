"""Reductions: one number for channels that stand or fall together, from the number of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tfprune_init.registry import Registry

REDUCTIONS: Registry[Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = Registry("reduction")
"""Functions from the numbers of channels, the group of each, and the number of groups, to one number for each group."""


def reduce_groups(
    judged: Mapping[str, tuple[np.ndarray, np.ndarray]], count: int, reduction: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return one number for each group, and which groups have any.

    Args:
        judged: For each variable the group of each of its channels (-1: none) and the number of each.
        count: Number of groups.
        reduction: Name of the reduction.

    Returns:
        Numbers, float64, 0 for groups without; and a boolean array.

    Raises:
        OptionError: If there is no such reduction.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.channels.reductions import reduce_groups
        >>> judged = {"a": (np.array([0, 1]), np.array([1.0, 2.0])), "b": (np.array([1, -1]), np.array([4.0, 9.0]))}
        >>> reduce_groups(judged, 3, "mean")
        (array([1., 3., 0.]), array([ True,  True, False]))
    """
    reduce = REDUCTIONS.find(reduction)
    groups = np.concatenate([np.zeros(0, np.int64), *(own for own, _ in judged.values())])
    numbers = np.concatenate([np.zeros(0), *(np.asarray(own, np.float64) for _, own in judged.values())])
    groups, numbers = groups[groups >= 0], numbers[groups >= 0]
    has_any = np.bincount(groups, minlength=count) > 0
    return np.where(has_any, reduce(numbers, groups, count), 0.0), has_any


def _add_up(numbers: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(groups, numbers, count)


def _average(numbers: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    return _add_up(numbers, groups, count) / np.maximum(np.bincount(groups, minlength=count), 1)


def _find_largest(numbers: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    largest = np.full(count, -np.inf)
    np.maximum.at(largest, groups, numbers)
    return largest


def _multiply(numbers: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    product = np.ones(count)
    np.multiply.at(product, groups, numbers)
    return product


def _take_first(numbers: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    first = np.zeros(count)
    first[groups[::-1]] = numbers[::-1]
    return first


REDUCTIONS.register("mean", _average)
REDUCTIONS.register("sum", _add_up)
REDUCTIONS.register("max", _find_largest)
REDUCTIONS.register("product", _multiply)
REDUCTIONS.register("first", _take_first)
