"""Which channels stay: pure functions of the columns X, one a channel, that add up to what the next layer gives, y.

Row by row, X[i, c] is what channel c contributes to one output of the next layer, and y[i] is that output without its
bias. Columns that are equal get equal numbers, those of the first of them, so that ties go to the lower index.
"""

from __future__ import annotations

import warnings

import numpy as np

from tfprune_init.checks import check_integer
from tfprune_init.errors import MissingDependencyError, OptionError
from tfprune_init.selection import keep_top

# A column whose part beside the span of others is smaller than this share of it adds nothing to them.
_DEPENDENT = 1e-10
# Below this share of its largest value a factor of LASSO is zero.
_ROUNDING = 1e-12


def keep_largest_filters(kernel: np.ndarray, axis: int, keep: int) -> np.ndarray:
    """Return the filters with the largest sums of absolute weights.

    Args:
        kernel: Weights, of any shape.
        axis: The axis that runs over the filters.
        keep: How many stay.

    Returns:
        Their indices, ascending; ties go to the lower index.

    Raises:
        OptionError: If there are not as many.

    Example:
        >>> import numpy as np
        >>> keep_largest_filters(np.array([[1.0, -3.0, 0.5], [1.0, 0.0, -0.5]]), 1, 2)
        array([0, 1])

    Reference:
        Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017.
    """
    magnitudes = np.abs(np.moveaxis(kernel, axis, -1).reshape(-1, kernel.shape[axis]).astype(np.float64))
    _check_keep(keep, kernel.shape[axis])
    return np.flatnonzero(keep_top({"": magnitudes.sum(axis=0)}, keep)[""])


def remove_by_sum(X: np.ndarray, keep: int) -> np.ndarray:
    """Remove channels one by one, each time the one that leaves the sum of all removed columns smallest.

    Args:
        X: Columns, of shape [rows, channels].
        keep: How many channels stay.

    Returns:
        Indices of those that stay, ascending; ties go to the lower index, which is removed.

    Raises:
        OptionError: If there are not as many.

    Example:
        >>> import numpy as np
        >>> remove_by_sum(np.array([[1, -1, 3], [0, 0.1, 3]]), 1)
        array([2])

    Reference:
        Luo et al., ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression, ICCV 2017.
    """
    _check_keep(keep, X.shape[1])
    X = X.astype(np.float64)
    twins = _find_first_equals(X)
    gram = (X.T @ X)[np.ix_(twins, twins)]
    # |s + x|^2 = |s|^2 + 2 s'x + |x|^2, in which |s|^2 is the same for all.
    squares, products = np.diag(gram), np.zeros(X.shape[1])
    left = np.ones(X.shape[1], bool)
    for _ in range(X.shape[1] - keep):
        removed = int(np.argmin(np.where(left, squares + 2 * products, np.inf)))
        left[removed] = False
        products += gram[removed]
    return np.flatnonzero(left)


def add_by_residual(X: np.ndarray, y: np.ndarray, keep: int) -> np.ndarray:
    """Add channels one by one, each time the one that leaves least of what is not explained yet.

    A channel is judged by |r - b x|, with the best factor b, where r is what least squares on the channels that are
    chosen leaves of y.

    Args:
        X: Columns, of shape [rows, channels].
        y: What they add up to, of shape [rows].
        keep: How many channels are chosen.

    Returns:
        Their indices, ascending; ties go to the lower index.

    Raises:
        OptionError: If there are not as many.

    Example:
        >>> import numpy as np
        >>> add_by_residual(np.array([[1, -1, 3], [0, 0.1, 3]]), np.array([3, 3.1]), 1)
        array([2])

    Reference:
        Luo et al., ThiNet: Pruning CNN Filters for a Thinner Net, TPAMI 2019.
    """
    _check_keep(keep, X.shape[1])
    X, residual = X.astype(np.float64), y.astype(np.float64)
    twins = _find_first_equals(X)
    squares = np.einsum("rc,rc->c", X, X)[twins]
    left = np.ones(X.shape[1], bool)
    basis = np.zeros((keep, X.shape[0]))
    for step in range(keep):
        products = (residual @ X)[twins]
        gains = np.divide(products**2, squares, out=np.zeros_like(squares), where=squares > 0)
        added = int(np.argmax(np.where(left, gains, -1.0)))
        left[added] = False
        direction = X[:, added].copy()
        for _ in range(2):  # once more, for what rounding left along the others
            direction -= basis[:step].T @ (basis[:step] @ direction)
        length = np.linalg.norm(direction)
        if length > _DEPENDENT * np.sqrt(squares[added]):
            basis[step] = direction / length
            residual = residual - basis[step] * (basis[step] @ residual)
    return np.flatnonzero(~left)


def keep_by_lasso(X: np.ndarray, y: np.ndarray, keep: int) -> np.ndarray:
    """Return the channels to which LASSO gives a factor, at the first penalty under which there are no more than asked.

    Minimized is |y - a - X b|^2 / (2 rows) + alpha |b|_1, with an intercept a. The penalty alpha grows from 0 until at
    most `keep` factors are not zero. The factors are followed exactly, from one penalty at which their number changes
    to the next, so exactly `keep` are found; only where fewer columns than that are independent, the lowest indices
    among the others fill up.

    Args:
        X: Columns, of shape [rows, channels].
        y: What they add up to, of shape [rows].
        keep: How many channels stay.

    Returns:
        Indices of those that stay, ascending.

    Raises:
        OptionError: If there are not as many.
        MissingDependencyError: If scikit-learn is not installed.

    Example:
        >>> import numpy as np
        >>> Z = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]])
        >>> keep_by_lasso(Z, Z @ [2, 0.5], 1)
        array([0])

    Reference:
        He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import lars_path_gram
    except ImportError as error:
        raise MissingDependencyError("LASSO", "scikit-learn", "reconstruction") from error
    channels = X.shape[1]
    _check_keep(keep, channels)
    X, y = X - X.mean(axis=0), y - y.mean()
    gram, products = X.T @ X, X.T @ y
    with warnings.catch_warnings():
        # That columns depend on others, and are left out.
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, _, factors = lars_path_gram(
            products, gram, n_samples=len(y), method="lasso", max_iter=8 * channels, copy_X=False
        )
    # A factor that was dropped is zero but for rounding. Between two points of the path one is zero if it is at both.
    zero = np.abs(factors) <= _ROUNDING * np.abs(factors).max(axis=1, keepdims=True)
    active = ~(zero[:, :-1] & zero[:, 1:])
    chosen = np.zeros(channels, bool)
    for kept in active.T[::-1]:  # from no penalty on
        chosen = kept
        if np.count_nonzero(kept) <= keep:
            break
    filling = np.flatnonzero(~chosen)[: keep - np.count_nonzero(chosen)]
    chosen[filling] = True
    return np.flatnonzero(chosen)


def _find_first_equals(X: np.ndarray) -> np.ndarray:
    """Return for each column the first one that equals it: a sum of a product may differ in its last bit by place."""
    places: dict[bytes, int] = {}
    return np.array([places.setdefault((X[:, c] + 0.0).tobytes(), c) for c in range(X.shape[1])])


def _check_keep(keep: int, channels: int) -> None:
    if check_integer("keep", keep, 1) > channels:
        raise OptionError(f"No more channels can stay than there are. Received: keep={keep} of {channels}.")
