"""Pruning by a threshold in each layer: what is small beside the layer's standard deviation goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from tfprune_init.checks import suggest
from tfprune_init.errors import OptionError, ScoreError
from tfprune_init.graph.variables import find_prunable_variables, is_named_by
from tfprune_init.masking.events import search_at_event
from tfprune_init.methods import resolve_method
from tfprune_init.methods.mask_selector import MaskSelector
from tfprune_init.selection import GRANULARITIES, Layout
from tfprune_init.selection.allocation import Allocation
from tfprune_init.selection.granularity import Pool, Share
from tfprune_init.selection.matrix_layout import Layouts
from tfprune_init.training.pruning import find_left, hold

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


class GivenCounts(Allocation):
    """Keep a given number of the weights of each variable.

    Args:
        counts: The numbers, by path.
    """

    name, summary = "given counts", "each layer keeps the number it is given"

    def __init__(self, counts: Mapping[str, int]):
        self.counts = dict(counts)

    def share_out(
        self, pools: Mapping[str, Pool], left: Mapping[str, int], density: Fraction, layouts: Layouts, final: Fraction
    ) -> list[Share]:
        """Return one share a pool."""
        return [Share((name,), self.counts[name], None) for name in pools]


def prune_by_threshold(
    run: ProcedureRun, quality: float | Mapping[str, float], *, exclude: Sequence[str] = (), prune_bias: bool = False
) -> None:
    """Prune what lies below each layer's threshold among what is left of a run's network, and attach the masks.

    Args:
        run: The run.
        quality: Threshold of a layer in units of its standard deviation: one number, or numbers by layer.
        exclude: What not to prune: names or glob patterns. It keeps the masks that it has.
        prune_bias: Whether biases are prunable too.

    Raises:
        OptionError: If nothing would stay of a layer, or a layer has no quality, or a quality no layer.
        ScoreError: If weights are NaN or infinite, or all of a layer are equal.
        NetworkCollapseError: If the pruned network would pass no signal.
    """
    variables = find_prunable_variables(run.model, exclude=exclude, prune_bias=prune_bias)
    targets = variables.prunable
    left = find_left(run, targets)
    qualities = match_qualities(quality, [target.path for target in targets])
    counts = {}
    for target in targets:
        weights = target.tensor.numpy()
        kept = weights if left is None else weights[left[target.path]]
        counts[target.path] = count_above_threshold(target.path, kept, qualities[target.path])
    resolved = resolve_method("magnitude", None, {"on_collapse": run.on_collapse})
    layouts = {target.path: Layout(target.shape, target.units) for target in targets}
    selector = MaskSelector(variables, layouts, GRANULARITIES["weights"], GivenCounts(counts), {}, None)
    # As many as lie above the threshold, and the largest: those that lie above it.
    density = Fraction(sum(counts.values()), variables.size)
    report = search_at_event(run.model, selector, resolved, run.data.train, density, left=left, prune_bias=prune_bias)
    hold(run, report)


def match_qualities(quality: float | Mapping[str, float], paths: Sequence[str]) -> dict[str, float]:
    """Return the quality of each variable.

    Args:
        quality: One number for all, or numbers by layer name, variable path or glob pattern; the first that matches
            counts.
        paths: The prunable variables.

    Raises:
        OptionError: If a variable has none, or a pattern names no variable.

    Example:
        >>> from tfprune_init.training.thresholds import match_qualities
        >>> match_qualities({"head": 0.5, "*": 1.5}, ["conv/kernel", "head/kernel"])
        {'conv/kernel': 1.5, 'head/kernel': 0.5}
    """
    if not isinstance(quality, Mapping):
        return dict.fromkeys(paths, float(quality))
    hits = {path: next((pattern for pattern in quality if is_named_by(path, pattern)), None) for path in paths}
    unused = [pattern for pattern in quality if not any(is_named_by(path, pattern) for path in paths)]
    if unused:
        names = sorted({part for path in paths for part in [path, *path.split("/")[:-1]]})
        raise OptionError(f"quality={unused[0]!r} matches no prunable variable. {suggest(unused[0], names)}")
    missing = [path for path, hit in hits.items() if hit is None]
    if missing:
        raise OptionError(
            f"quality= names no number for {', '.join(missing)}. Add one, or leave them alone with exclude=[...]. "
            f"Received: quality={dict(quality)!r}."
        )
    return {path: float(quality[hit]) for path, hit in hits.items() if hit is not None}


def count_above_threshold(path: str, weights: np.ndarray, quality: float) -> int:
    """Return how many weights have an absolute value of at least quality * std(weights), all in float64.

    Args:
        path: The variable, for messages.
        weights: What is left of its weights.
        quality: A positive number.

    Raises:
        OptionError: If there is none.
        ScoreError: If weights are NaN or infinite, or several and all equal.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.training.thresholds import count_above_threshold
        >>> count_above_threshold("head/kernel", np.array([0.1, -0.2, 0.3, -0.4, 0.5, 0.05, -0.6, 0.02]), quality=1.0)
        3
    """
    values = np.asarray(weights, np.float64).ravel()
    if not np.isfinite(values).all():
        raise ScoreError(
            f"Weights of {path} are NaN or infinite, so they have no standard deviation. Try a lower learning rate, or "
            "clipnorm=1.0 in the optimizer."
        )
    if values.size > 1 and (values == values[0]).all():
        raise ScoreError(
            f"All {values.size:,} weights of {path} are {values[0]:g}, so no threshold tells them apart. Train "
            "before, or leave it alone with exclude=[...]."
        )
    deviation = float(values.std())
    count = int(np.count_nonzero(np.abs(values) >= quality * deviation))
    if not count:
        most = float(np.abs(values).max()) / deviation
        raise OptionError(
            f"A quality of {quality:g} leaves nothing of {path}, whose largest weight is {most:.4g} standard "
            f'deviations. Use a lower one for it, as in quality={{"{path}": {0.5 * most:.2g}, "*": {quality:g}}}, or '
            "leave it alone with exclude=[...]."
        )
    return count
