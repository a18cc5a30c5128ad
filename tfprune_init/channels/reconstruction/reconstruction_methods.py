"""The methods of reconstruction by name: how channels are chosen, and what becomes of the next layer's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tfprune_init.channels.reconstruction.channel_selection import add_by_residual, keep_by_lasso, remove_by_sum
from tfprune_init.channels.reconstruction.refits import fit_scales, fit_weights
from tfprune_init.channels.reconstruction.sampling import Sample
from tfprune_init.errors import DataError
from tfprune_init.registry import Registry

# LASSO judges all filters at so many places, as in the code of He et al., and at most so many rows.
_PLACES_OF_LASSO = 400
_ROWS_OF_LASSO = 100_000


@dataclass(frozen=True, eq=False)
class NextLayer:
    """What the layer behind some units gets of them, sampled.

    Attributes:
        path: Its kernel.
        kernel: The weights, of shape [size of the window, rows, filters].
        unit_at_row: The unit that each row takes; -1 where it takes something else.
        units: Number of units.
        sample: Its inputs, as the network stands.
        target: What the units should add up to at each place, of shape [places, filters].
        has_bias: Whether it has a bias.
        seed: Seed of places that are drawn of the sample.
    """

    path: str
    kernel: np.ndarray
    unit_at_row: np.ndarray
    units: int
    sample: Sample
    target: np.ndarray
    has_bias: bool
    seed: int

    @cached_property
    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Columns X, of shape [rows, units], and y, at the places and filters that were drawn."""
        X = self.sample.compute_columns(self.kernel, self.unit_at_row, self.units)
        drawn = self.sample.filters
        return X, (self.target if drawn is None else np.take_along_axis(self.target, drawn, axis=1)).ravel()

    @cached_property
    def columns_of_all_filters(self) -> tuple[np.ndarray, np.ndarray]:
        """The same for all filters, at fewer places."""
        count = min(_PLACES_OF_LASSO, max(1, _ROWS_OF_LASSO // self.target.shape[1]))
        fewer, places = self.sample.thin_out(count, np.random.default_rng(self.seed))
        return fewer.compute_columns(self.kernel, self.unit_at_row, self.units), self.target[places].ravel()

    def find_rows(self, kept: np.ndarray) -> np.ndarray:
        """Return the rows that take some of the units."""
        return np.flatnonzero(np.isin(self.unit_at_row, kept))

    def measure_error(self, kernel: np.ndarray, offsets: np.ndarray, kept: np.ndarray) -> float:
        """Return |target - what is given|^2 as a share of |target|^2."""
        given = self.sample.compute_outputs(kernel, self.find_rows(kept)) + offsets
        return float(np.sum((self.target - given) ** 2) / np.sum(self.target**2))


Chooser = Callable[[NextLayer, int], np.ndarray]
# The units that stay, to a new kernel and what is added to the bias.
Refit = Callable[[NextLayer, np.ndarray], tuple[np.ndarray, np.ndarray]]


def keep_weights(layer: NextLayer, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave the rows of the units that stay as they are."""
    return _zero_but(layer, kept), np.zeros(layer.kernel.shape[-1])


def scale_rows(layer: NextLayer, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Multiply the rows of each unit that stays by one factor, found by least squares."""
    X, y = layer.columns
    _check_rows(layer.path, len(X), len(kept))
    factors = np.ones(layer.units)
    factors[kept] = fit_scales(X[:, kept], y)
    rows = layer.find_rows(kept)
    kernel = _zero_but(layer, kept)
    kernel[:, rows] *= factors[layer.unit_at_row[rows], None]
    return kernel, np.zeros(layer.kernel.shape[-1])


def fit_rows(layer: NextLayer, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find all weights on the units that stay by least squares, with an offset for each filter if there is a bias."""
    rows = layer.find_rows(kept)
    inputs = layer.sample.get_inputs(rows)
    _check_rows(layer.path, len(inputs), inputs.shape[1] + layer.has_bias)
    weights, offsets = fit_weights(inputs, layer.target, layer.has_bias)
    kernel = _zero_but(layer, kept)
    kernel[:, rows] = weights.reshape(len(kernel), len(rows), -1)
    return kernel, offsets


def _zero_but(layer: NextLayer, kept: np.ndarray) -> np.ndarray:
    stays = (layer.unit_at_row < 0) | np.isin(layer.unit_at_row, kept)
    return layer.kernel.astype(np.float64) * stays[:, None]


def _check_rows(path: str, rows: int, unknown: int) -> None:
    if rows < unknown:
        raise DataError(
            f"Least squares for {path} has {unknown:,} unknowns a filter and {rows:,} samples, so it would fit them "
            "alone. Raise batches= or places=, keep fewer channels, or use refit='scale', which has one unknown a "
            f"channel. Received: {rows:,} samples."
        )


@dataclass(frozen=True)
class ReconstructionMethod:
    """A way to choose channels, with what its paper does to the next layer.

    Attributes:
        choose: Chooses units by what the next layer gets of them; None for choosing by the filters' weights alone.
        refit: Name of the refit that the paper has.
        from_original: Whether the next layer is to give what it gave in the network before any pruning, rather than
            what it gives once the layers before are pruned.
    """

    choose: Chooser | None
    refit: str
    from_original: bool = False


REFITS: Registry[Refit] = Registry("refit")
REFITS.register("none", keep_weights)
REFITS.register("scale", scale_rows)
REFITS.register("least_squares", fit_rows)

RECONSTRUCTIONS: Registry[ReconstructionMethod] = Registry("method of reconstruction")
RECONSTRUCTIONS.register("l1", ReconstructionMethod(None, "none"))
RECONSTRUCTIONS.register(
    "thinet", ReconstructionMethod(lambda layer, keep: remove_by_sum(layer.columns[0], keep), "scale")
)
RECONSTRUCTIONS.register(
    "thinet_forward", ReconstructionMethod(lambda layer, keep: add_by_residual(*layer.columns, keep), "scale")
)
RECONSTRUCTIONS.register(
    "lasso",
    ReconstructionMethod(
        lambda layer, keep: keep_by_lasso(*layer.columns_of_all_filters, keep), "least_squares", from_original=True
    ),
)
