"""Which channels stay, and refits: the examples worked by hand, and brute force on small problems."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tfprune_init.channels.reconstruction.channel_selection import (
    add_by_residual,
    keep_by_lasso,
    keep_largest_filters,
    remove_by_sum,
)
from tfprune_init.channels.reconstruction.refits import fit_scales, fit_weights
from tfprune_init.errors import OptionError

# Worked by hand: removed are 0 (norm 1.000 against 1.005), then 1 (norm of the sum 0.1, against 5.0).
COLUMNS = np.array([[1.0, -1.0, 3.0], [0.0, 0.1, 3.0]])
# Worked by hand: at alpha 0.6 the factors are (1.4, 0).
ORTHOGONAL = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])


def drawn(seed: int, rows: int = 40, channels: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, channels)) @ rng.normal(size=(channels, channels)) + rng.normal(size=channels)
    return X, X.sum(axis=1)


def test_the_worked_example_of_removal_by_the_sum() -> None:
    assert remove_by_sum(COLUMNS, 2).tolist() == [1, 2]
    assert remove_by_sum(COLUMNS, 1).tolist() == [2]
    assert remove_by_sum(COLUMNS, 3).tolist() == [0, 1, 2]
    (scale,) = fit_scales(COLUMNS[:, [2]], COLUMNS.sum(axis=1))
    assert scale == pytest.approx(1.0166666666666666, rel=1e-14)


def test_removal_by_the_sum_is_not_removal_of_the_smallest() -> None:
    """Columns 0 and 1 cancel each other, though each is larger than column 2."""
    X = np.array([[5.0, -5.0, 1.0], [5.0, -5.0, 2.0]])
    # 2 goes first, as the smallest; then only a pair that is removed together would be better.
    assert remove_by_sum(X, 2).tolist() == [0, 1]
    assert remove_by_sum(np.array([[2.0, -2.0, 2.5], [0.0, 0.0, 0.0]]), 1).tolist() == [2]


@pytest.mark.parametrize("seed", range(5))
def test_each_removal_is_the_best_of_all(seed: int) -> None:
    X, _ = drawn(seed)
    removed: list[int] = []
    for keep in range(5, 0, -1):
        left = [c for c in range(6) if c not in removed]
        removed.append(min(left, key=lambda c: np.linalg.norm(X[:, [*removed, c]].sum(axis=1))))
        assert remove_by_sum(X, keep).tolist() == [c for c in range(6) if c not in removed]


@pytest.mark.parametrize("seed", range(5))
def test_each_addition_is_the_best_of_all(seed: int) -> None:
    X, y = drawn(seed)
    chosen: list[int] = []
    residual = y
    for keep in range(1, 7):

        def left_over(c: int, residual: np.ndarray = residual) -> Any:
            factor = np.linalg.lstsq(X[:, [c]], residual, rcond=None)[0]
            return np.linalg.norm(residual - X[:, [c]] @ factor)

        chosen.append(min((c for c in range(6) if c not in chosen), key=left_over))
        residual = y - X[:, chosen] @ np.linalg.lstsq(X[:, chosen], y, rcond=None)[0]
        assert add_by_residual(X, y, keep).tolist() == sorted(chosen)


@pytest.mark.parametrize("select", [lambda X, k: remove_by_sum(X, k), lambda X, k: add_by_residual(X, X.sum(1), k)])
def test_of_equal_columns_the_lower_index_is_taken_first(select: Any) -> None:
    rng = np.random.default_rng(0)
    twin = rng.normal(size=(1001, 1))
    other = 3 * rng.normal(size=(1001, 1))
    kept = select(np.concatenate([twin, other, twin, twin], axis=1), 2).tolist()
    # The first one is removed first, and chosen first.
    assert kept in ([1, 3], [0, 1])
    assert select(np.concatenate([twin, twin], axis=1), 1).tolist() == [kept[0] != 0]


def test_channels_that_are_dead_go_first_and_are_added_last() -> None:
    X, y = drawn(0)
    X[:, 2] = 0
    y = X.sum(axis=1)
    assert remove_by_sum(X, 5).tolist() == [0, 1, 3, 4, 5]
    assert add_by_residual(X, y, 5).tolist() == [0, 1, 3, 4, 5]
    assert keep_by_lasso(X, y, 5).tolist() == [0, 1, 3, 4, 5]
    for select in (add_by_residual, keep_by_lasso):
        assert select(X, y, 6).tolist() == list(range(6))
    assert fit_scales(X, y) == pytest.approx(np.ones(6))


def minimize_lasso(X: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    """Return the factors by trying every support and all signs, with what the minimum has to fulfil."""
    X, y = X - X.mean(axis=0), y - y.mean()
    rows, channels = X.shape
    for size in range(channels + 1):
        for support in itertools.combinations(range(channels), size):
            for signs in itertools.product((-1, 1), repeat=size):
                factors = np.zeros(channels)
                part = X[:, support]
                factors[list(support)] = np.linalg.solve(part.T @ part, part.T @ y - rows * alpha * np.array(signs))
                slope = X.T @ (y - X @ factors) / rows
                if (factors[list(support)] * signs > 0).all() and (np.abs(slope) <= alpha * (1 + 1e-9)).all():
                    return factors
    raise AssertionError(alpha)


def test_the_worked_example_of_lasso() -> None:
    y = ORTHOGONAL @ [2, 0.5]
    assert minimize_lasso(ORTHOGONAL, y, 0.6) == pytest.approx([1.4, 0])
    assert keep_by_lasso(ORTHOGONAL, y, 1).tolist() == [0]
    assert keep_by_lasso(ORTHOGONAL, y, 2).tolist() == [0, 1]
    weights, offsets = fit_weights(ORTHOGONAL[:, [0]], y[:, None], intercept=True)
    assert (weights.tolist(), offsets.tolist()) == ([[2.0]], [0.0])


@pytest.mark.parametrize("seed", range(4))
def test_lasso_keeps_what_the_first_penalty_that_leaves_so_few_keeps(seed: int) -> None:
    X, _ = drawn(seed, channels=4)
    y = X @ np.random.default_rng(seed + 100).normal(size=4)
    largest = np.abs((X - X.mean(axis=0)).T @ (y - y.mean())).max() / len(y)
    supports = [np.flatnonzero(minimize_lasso(X, y, alpha)) for alpha in largest * np.geomspace(1e-6, 0.999, 300)]
    for keep in range(1, 4):
        first = next(support for support in supports if len(support) <= keep)
        assert len(first) == keep  # the grid is fine enough
        assert keep_by_lasso(X, y, keep).tolist() == first.tolist()


def test_lasso_keeps_as_many_as_asked_where_columns_depend_on_each_other() -> None:
    X, _ = drawn(0)
    X = np.concatenate([X, X[:, :3]], axis=1)
    for keep in range(1, 10):
        assert len(keep_by_lasso(X, X.sum(axis=1), keep)) == keep


def test_an_intercept_is_found() -> None:
    rng = np.random.default_rng(0)
    inputs, weights, offsets = rng.normal(size=(30, 3)) + 1, rng.normal(size=(3, 2)), rng.normal(size=2)
    found = fit_weights(inputs, inputs @ weights + offsets, intercept=True)
    assert found[0] == pytest.approx(weights)
    assert found[1] == pytest.approx(offsets)
    without, nothing = fit_weights(inputs, inputs @ weights, intercept=False)
    assert without == pytest.approx(weights)
    assert not nothing.any()


def test_filters_are_kept_by_their_sums_of_absolute_weights() -> None:
    kernel = np.zeros((2, 1, 2, 5))
    kernel[0, 0, 0] = [1, -4, 2, 0, 2]
    kernel[1, 0, 1] = [1, 0, 0, -2, 0]
    assert keep_largest_filters(kernel, 3, 1).tolist() == [1]
    assert keep_largest_filters(kernel, 3, 3).tolist() == [0, 1, 2]  # four have 2; ties go to the lower index
    assert keep_largest_filters(np.moveaxis(kernel, 3, 2), 2, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("keep", [0, 4, 1.5, True])
def test_a_count_that_cannot_be_is_refused(keep: Any) -> None:
    for select in (
        lambda: remove_by_sum(COLUMNS, keep),
        lambda: add_by_residual(COLUMNS, COLUMNS.sum(axis=1), keep),
        lambda: keep_by_lasso(COLUMNS, COLUMNS.sum(axis=1), keep),
        lambda: keep_largest_filters(COLUMNS, 1, keep),
    ):
        with pytest.raises(OptionError, match=f"keep={keep}"):
            select()
