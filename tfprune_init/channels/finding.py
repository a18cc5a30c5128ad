"""`find_channels`: the call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model
from tfprune_init.channels.account import FoundChannels, LayerWidth
from tfprune_init.channels.budget_search import fit_ranking
from tfprune_init.channels.judging import judge_groups
from tfprune_init.channels.latency_search import fit_latency
from tfprune_init.channels.ranking import ALLOCATIONS, Ranking, make_ranking, normalize_pools
from tfprune_init.checks import check_integer
from tfprune_init.compaction import compact
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.export.latency_ratio import LatencyMeter
from tfprune_init.export.warm_exporter import open_runner
from tfprune_init.graph.cost import CostModel
from tfprune_init.graph.variables import Exclusion, find_prunable_variables, list_variables
from tfprune_init.masks import Masks
from tfprune_init.methods import resolve_method
from tfprune_init.methods.mask_selector import MaskSelector, make_selector, take_example
from tfprune_init.selection import Budget, UnitLayouts

_LEAST = "is of the least that a layer keeps"


def find_channels(
    model: Model,
    data: Any = None,
    *,
    budget: Budget,
    importance: str | Mapping[str, np.ndarray] = "l1",
    reduction: str = "mean",
    allocation: str = "global",
    normalize: str | None = None,
    round_to: int = 1,
    min_channels: int = 1,
    exclude: Exclusion | Iterable[Exclusion] | None = None,
    **options: Any,
) -> FoundChannels:
    """Find which channels of a network stay, so that it costs at most a budget once the others are cut out.

    A channel is a filter of a convolution, a unit of Dense, a recurrent unit, or a head of attention. Channels that can
    only go together, as those that meet in a residual sum, are one group, with all that belongs to them: the
    dependency graph of `granularity="units"`. Groups are put in order, and the longest beginning of the order is kept
    whose cost fits: no more than the budget, and the next group in order would be too much.

    Args:
        model: A built model, Keras 3 or tf_keras. It stays as it is. Subclassed models need data.
        data: As in `tpi.find_masks`. For importances that look at gradients; else one example of it is run to see
            which channels belong together.
        budget: `tpi.Budget(multiply_adds=0.5)`, `tpi.Budget(parameters=...)` or `tpi.Budget(units=...)`, of what
            `tpi.compact` leaves. Units are counted among those that may be removed. `tpi.Budget(latency=0.5)` measures
            a few smaller networks as TFLite files on this machine, so another call may give others.
        importance: What makes a channel worth keeping: "l1", "l2", "geometric_median" (of kernel weights),
            "normalization_scale" (gamma), "taylor", "gate_sensitivity" (of the loss), "random", or what else is
            registered. Or numbers of your own, such as learned gates: a dict from path of a kernel, or its layer, to an
            array with one number for each channel, higher = keep; channels that it does not name stay.
        reduction: How the numbers of the channels of a group become one: "mean", "sum", "max", "product", "first".
        allocation: "global" lets all groups compete; "uniform" lets all layers shrink alike.
        normalize: What the numbers of a layer are divided by before layers compete: "mean", "max", "l2" or None.
        round_to: Number that widths are a multiple of, unless a layer keeps its whole width. Groups are kept or
            removed by so many at once, so rounding never breaks the budget.
        min_channels: Channels that each layer keeps at least.
        exclude: Layers whose channels all stay, as in `tpi.find_masks`.
        **options: Options of the importance; loss, batches, training, seed and jit_compile for those that look at
            gradients.

    Returns:
        FoundChannels: masks, and the account. `tpi.compact(model, found.masks)` makes the smaller model.

    Raises:
        OptionError: If an option is out of range, unknown or has no effect, the budget cannot be met, or no channel
            may be removed; it says why, and the smallest budget that can be met.
        ModelError: If the model has no channels, or its multiply-adds are not known and are limited.
        PruningError: As `tpi.score`, for importances that look at gradients; as `tpi.export_tflite`, for latency.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> layers = [keras.layers.Dense(16, "relu", name="hidden"), keras.layers.Dense(2, name="head")]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> found = tpi.find_channels(model, budget=tpi.Budget(multiply_adds=0.6))
        >>> found.budget.limit, found.budget.got, [layer.after for layer in found.layers]
        (57, 54, [9, 2])
        >>> tpi.compact(model, found.masks).after.multiply_adds
        54
    """
    _check_budget(budget, model)
    round_to = check_integer("round_to", round_to, 1)
    min_channels = check_integer("min_channels", min_channels, 1)
    put_in_order = ALLOCATIONS.find(allocation)
    if normalize is not None and allocation != "global":
        raise OptionError(
            "normalize= makes layers comparable that compete, and with this allocation none do; leave it out. "
            f"Received: normalize={normalize!r}, allocation={allocation!r}."
        )
    selector = _select_units(model, data, exclude)
    layouts = selector.layouts
    assert isinstance(layouts, UnitLayouts)
    reasons = _find_reasons(layouts, selector)
    numbers, judged = judge_groups(model, layouts, importance, reduction, data, options)
    for group in np.flatnonzero(~judged).tolist():
        reasons.setdefault(group, "has no importance")
    pools = _pool(layouts, reasons)
    if not pools:
        raise OptionError(
            f"No channel of this network may be removed: each {'; '.join(dict.fromkeys(reasons.values()))}. "
            f"Received: importance={_name(importance)!r}, exclude={exclude!r}."
        )
    if normalize is not None:
        numbers = normalize_pools(numbers, pools, normalize)
    order = put_in_order(numbers, pools)
    channels = _list_channels(model, layouts)
    ranking = make_ranking(order, channels, layouts.removable.size, round_to, min_channels)
    count_cost = _make_cost(model, data, budget, layouts, order.size)
    if budget.kind == "latency":
        with open_runner() as run:
            meter = LatencyMeter(model, run)
            kept, account = fit_latency(
                ranking, budget, count_cost, lambda gone: meter.measure(compact(model, _mask(selector, gone)).model)
            )
    else:
        kept, account = fit_ranking(ranking, budget, count_cost, lambda bundle: _describe_groups(bundle, layouts))
    removed = ranking.remove_after(kept)
    for bundle in ranking.bundles[: ranking.least]:
        reasons.update(dict.fromkeys(bundle.tolist(), _LEAST))
    return FoundChannels(
        masks=_mask(selector, removed),
        budget=account,
        layers=tuple(_measure_width(path, labels, removed, reasons) for path, labels in channels.items()),
        skipped=selector.variables.skipped,
        options={
            "importance": _name(importance), "reduction": reduction, "allocation": allocation, "normalize": normalize,
            "round_to": round_to, "min_channels": min_channels,
            **{name: value for name, value in options.items() if name != "loss"},
        },
        kept_below=_count_below(order, ranking, removed),
    )  # fmt: skip


def _check_budget(budget: Any, model: Model) -> None:
    if not isinstance(budget, Budget):
        raise OptionError(f"budget= is a tpi.Budget, such as tpi.Budget(multiply_adds=0.5). Received: {budget!r}.")
    if budget.kind == "weights":
        raise OptionError(
            "Channels take a budget of multiply_adds, parameters, units or latency; parameters count all that compact "
            f"leaves. Received: {budget!r}."
        )
    if budget.kind == "latency" and not compat.is_symbolic(model):
        raise ModelError(
            "A latency budget measures compacted models, and compact takes Sequential and functional ones. Received: "
            f"{type(model).__name__}, a subclassed model; limit its multiply_adds."
        )


def _select_units(model: Model, data: Any, exclude: Any) -> MaskSelector:
    variables = find_prunable_variables(model, exclude=exclude)
    units = resolve_method("magnitude", None, {"granularity": "units"})
    return make_selector(model, variables, units, data, prune_bias=False, strict=True)


def _mask(selector: MaskSelector, removed: np.ndarray) -> Masks:
    assert isinstance(selector.layouts, UnitLayouts)
    masks = selector.layouts.graph.masks(removed)
    return Masks({one.path: masks[one.path] for one in selector.variables.prunable})


def _find_reasons(layouts: UnitLayouts, selector: MaskSelector) -> dict[int, str]:
    """Return why each group that may not be removed has to stay."""
    reasons = dict(layouts.graph.reasons)
    left = {one.path: one.reason for one in selector.variables.skipped}
    for path, labels in layouts.graph.units.items():
        if path not in layouts:
            for group in np.unique(labels).tolist():
                reasons.setdefault(group, f"is of {path}: {left.get(path, 'not prunable')}")
    return reasons


def _pool(layouts: UnitLayouts, reasons: Mapping[int, str]) -> list[np.ndarray]:
    """Return the groups that may go, by sets of layers that share some."""
    stay = np.zeros(layouts.removable.size, bool)
    stay[list(reasons)] = True
    pools = [units[~stay[units]] for _, units in layouts.layers.values()]
    return [pool for pool in pools if pool.size]


def _list_channels(model: Model, layouts: UnitLayouts) -> dict[str, np.ndarray]:
    """Return the group of each channel of each kernel; a recurrent unit or a head is one, however many its columns."""
    variables = {target.path: target for target in list_variables(model)}
    return {
        path: np.unique(labels) if variables[path].channel_axis is None else labels
        for path, labels in layouts.graph.units.items()
    }


def _make_cost(
    model: Model, data: Any, budget: Budget, layouts: UnitLayouts, candidates: int
) -> Callable[[np.ndarray], int]:
    if budget.kind == "units":
        return lambda removed: candidates - int(np.count_nonzero(removed))
    costs = CostModel(model, take_example(model, data))
    if budget.kind == "parameters":
        return lambda removed: costs.count_without_groups(removed, layouts.graph).parameters
    unknown = [f"{path} ({why})" for path, why in costs.uncounted.items() if path in layouts]
    unknown += [f"{path} (depends on a size that is open)" for path, uses in costs.uses.items() if uses is None]
    if unknown:
        raise ModelError(
            f"The multiply-adds of this network are not known: {'; '.join(unknown[:4])}. Limit parameters or units, or "
            f"build the model for a fixed size. Received: {budget!r}."
        )
    return lambda removed: int(costs.count_without_groups(removed, layouts.graph).multiply_adds or 0)


def _describe_groups(bundle: np.ndarray, layouts: UnitLayouts) -> str:
    group = int(bundle[0])
    places = [
        f"{path}[{int(np.argmax(labels == group))}]" for path, labels in layouts.kernels.items() if group in labels
    ]
    return " with ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")


def _measure_width(path: str, labels: np.ndarray, removed: np.ndarray, reasons: Mapping[int, str]) -> LayerWidth:
    stay = Counter(reasons[group] for group in labels.tolist() if group in reasons)
    return LayerWidth(path, labels.size, int(np.count_nonzero(~removed[labels])), dict(sorted(stay.items())))


def _count_below(order: np.ndarray, ranking: Ranking, removed: np.ndarray) -> int:
    """Return how many groups stay as the least of a layer that rank below the best one that goes."""
    gone = np.flatnonzero(removed[order])
    if not gone.size:
        return 0
    below = order[gone[0] :]
    return int(np.count_nonzero(ranking.place[below] < ranking.least))


def _name(importance: str | Mapping[str, np.ndarray]) -> str:
    return importance if isinstance(importance, str) else "numbers of the caller"
