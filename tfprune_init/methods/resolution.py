"""A method with the caller's options in it; options without effect are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tfprune_init.backend.losses import takes_training
from tfprune_init.checks import suggest
from tfprune_init.errors import OptionError
from tfprune_init.methods.method import Method, find_method
from tfprune_init.options import OPTIONS, get_defaults
from tfprune_init.scoring.criteria import CRITERIA
from tfprune_init.selection import GRANULARITIES, Allocation, Granularity, check_combination

_ENGINE_DEFAULTS = {"batches": 1, "training": True}
# The options that change the method itself.
_OF_METHOD = ("steps", "schedule", "granularity", "allocation", "avoid_layer_collapse")
_AVOIDANCE = frozenset(["avoid_layer_collapse"])
# The option of a criterion that leaves weights without a score.
_SAMPLE = "sample"


@dataclass(frozen=True)
class ResolvedMethod:
    """Everything a search needs to know.

    Attributes:
        method: The method, with the caller's steps, schedule, granularity and allocation.
        engine_options: All options of the scoring engine.
        criterion_options: Options of the criterion.
        granularity_options: Options of the granularity.
        normalize: "l2" or "sum", what each variable's scores are divided by before they compete, or None.
        shuffle: Whether what is kept is moved to random places of each variable at the end.
        on_collapse: "raise" or "warn": what a network that collapses is.
    """

    method: Method
    engine_options: Mapping[str, Any]
    criterion_options: Mapping[str, Any]
    granularity_options: Mapping[str, Any]
    normalize: str | None
    shuffle: bool
    on_collapse: str

    @property
    def granularity(self) -> Granularity:
        """What is kept or pruned as one."""
        return self.method.groups

    @property
    def allocation(self) -> Allocation:
        """How the budget is shared out among layers."""
        return self.method.shares

    @property
    def samples(self) -> bool:
        """Whether the criterion scores only some weights, and gives NaN for the others."""
        return self.criterion_options.get(_SAMPLE) is not None

    def describe(self) -> dict[str, Any]:
        """Return what the method ran with, for reports, in types that JSON knows."""
        method = self.method
        schedule = method.schedule if isinstance(method.schedule, str) else method.schedule.__name__
        engine = {k: v for k, v in self.engine_options.items() if k != "loss" and k in method.scorer.options}
        allocation: Any = self.allocation.name
        if isinstance(method.allocation, Mapping):  # exact shares, where a procedure computes them
            allocation = {layer: float(share) for layer, share in method.allocation.items()}
        search = {
            "steps": method.steps, "schedule": schedule, "granularity": method.granularity, "allocation": allocation,
            "regrow": method.regrow,
        }  # fmt: skip
        if "avoid_layer_collapse" in find_method(method.name).options:
            search["avoid_layer_collapse"] = method.avoid_layer_collapse
        extras = {"normalize": self.normalize, "shuffle": self.shuffle or None}
        given = {k: v for k, v in extras.items() if v}
        return {**search, **given, **engine, **self.criterion_options, **self.granularity_options}


def resolve_method(name: str, data: Any, options: Mapping[str, Any], *, for_masks: bool = True) -> ResolvedMethod:
    """Sort the caller's options into those of the search, the engine, the criterion and the granularity.

    Args:
        name: Name of the method.
        data: The caller's data, or None.
        options: What the caller gave; None, or the default, is not given.
        for_masks: Whether masks will be selected, and not scores alone.

    Raises:
        OptionError: If the method or an option is unknown, the method needs data and has none, or an option
            has no effect on it.
    """
    engine_defaults, search_defaults = get_defaults("engine"), get_defaults("search")
    defaults = {**engine_defaults, **search_defaults}
    search = [key for key in options if key in search_defaults]
    if search and not for_masks:
        raise OptionError(
            f"score() does not take {', '.join(search)}: it computes scores once and selects no masks. Leave it out."
        )
    registered = method = find_method(name)
    given = {k: v for k, v in options.items() if not _is_default(v, defaults.get(k))}
    _refuse_unknown(given)
    if method.needs_data and data is None:
        raise OptionError(f"Method {name!r} judges connections by data. Received: data=None.")
    changed = {k: v for k, v in given.items() if k in _OF_METHOD}
    if "granularity" in changed and "allocation" not in changed:
        changed["allocation"] = None
    method = replace(method, **changed)
    _check_granularity(method)
    # Whether there is something to avoid is said by the row of the catalogue, not by the caller.
    used = (method.options - _AVOIDANCE) | (registered.options & _AVOIDANCE)
    used |= {"seed"} if given.get("shuffle") else set()
    useless = [f"{key}={value!r}" for key, value in given.items() if key not in used]
    if useless:
        raise OptionError(
            f"Method {name!r} does not use {', '.join(useless)} with granularity {method.granularity!r} and allocation "
            f"{method.shares.name!r}; leave it out. It uses: {', '.join(sorted(used))}."
        )
    _check_values(given, for_masks)
    if "training" in given and not takes_training(given.get("loss")):
        raise OptionError(
            "loss=, a function (model, batch), calls the model itself: set training there, or let it take a third "
            f"parameter, training, that is handed over. Received: training={given['training']!r}."
        )
    settings = {**engine_defaults, **_ENGINE_DEFAULTS, **method.defaults, **given}
    return ResolvedMethod(
        method=method,
        engine_options={k: settings[k] for k in engine_defaults},
        criterion_options={k: settings.get(k, v) for k, v in method.scorer.own_options.items()},
        granularity_options={k: settings.get(k, v) for k, v in method.groups.options.items()},
        normalize=given.get("normalize"),
        shuffle=given.get("shuffle", False),
        on_collapse=given.get("on_collapse", search_defaults["on_collapse"]),
    )


def _check_granularity(method: Method) -> None:
    check_combination(method.groups, method.shares)
    if method.scorer.of_units and not method.groups.of_units:
        whole = ", ".join(repr(name) for name, one in GRANULARITIES.items() if one.of_units)
        raise OptionError(
            f"Method {method.name!r} scores whole units, so its granularity is {whole}. "
            f"Received: granularity={method.granularity!r}."
        )


def _check_values(given: Mapping[str, Any], for_masks: bool) -> None:
    for name, value in given.items():
        if name in OPTIONS:
            OPTIONS[name].check(value)
    if for_masks and given.get(_SAMPLE) is not None:
        raise OptionError(
            f"{_SAMPLE} leaves weights without a score, and masks need one for each; it is for tpi.score. "
            f"Received: {_SAMPLE}={given[_SAMPLE]!r}."
        )


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    known = {name for name, option in OPTIONS.items() if option.applies_to != "call"}
    known |= {option for criterion in CRITERIA.values() for option in criterion.own_options}
    known |= {option for granularity in GRANULARITIES.values() for option in granularity.options}
    for key in given:
        if key not in known:
            raise OptionError(f"There is no option {key!r}. {suggest(key, sorted(known), list_all=True)}")


def _is_default(value: Any, default: Any) -> bool:
    return value is None or value is default or (type(value) is type(default) and bool(value == default))
