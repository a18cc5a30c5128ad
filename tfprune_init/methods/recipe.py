"""A method with the caller's options in it; options without effect are refused."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tfprune_init.criteria import CRITERIA
from tfprune_init.errors import OptionError
from tfprune_init.methods.registry import Method, method_named
from tfprune_init.scopes import SCOPES, Scope, scope_named

# Options of the probe with their defaults; None leaves the choice to the method.
_PROBING: dict[str, Any] = {"loss": None, "batches": None, "batchnorm": None, "seed": 0, "jit_compile": False}
_PROBING_DEFAULTS = {"batches": 1, "batchnorm": "batch"}
_SEARCHING: dict[str, Any] = {"steps": None, "schedule": None, "scope": None, "normalize": None, "shuffle": False}
_NORMALIZATIONS = ("l2", "sum")
_ONLY_SCORES = "sample"


@dataclass(frozen=True)
class Recipe:
    """Everything a search needs to know.

    Attributes:
        method: The method, with the caller's steps, schedule and scope.
        probing: All options of the probe.
        scoring: Options of the criterion.
        choosing: Options of the scope.
        normalize: "l2" or "sum", what each variable's scores are divided by before they compete, or None.
        shuffle: Whether what is kept is moved to random places of each variable at the end.
    """

    method: Method
    probing: Mapping[str, Any]
    scoring: Mapping[str, Any]
    choosing: Mapping[str, Any]
    normalize: str | None
    shuffle: bool

    @property
    def scope(self) -> Scope:
        """The scope itself."""
        return scope_named(self.method.scope)

    def described(self) -> dict[str, Any]:
        """What the method ran with, for reports."""
        method = self.method
        schedule = method.schedule if isinstance(method.schedule, str) else method.schedule.__name__
        probing = {k: v for k, v in self.probing.items() if k != "loss" and k in method.scorer.options}
        searching = {"steps": method.steps, "schedule": schedule, "scope": method.scope, "regrow": method.regrow}
        extras = {"normalize": self.normalize, "shuffle": self.shuffle or None}
        return {**searching, **{k: v for k, v in extras.items() if v}, **probing, **self.scoring, **self.choosing}


def recipe_for(name: str, data: Any, options: Mapping[str, Any], *, for_masks: bool = True) -> Recipe:
    """Sort the caller's options into those of the search, the probe, the criterion and the scope.

    Args:
        name: Name of the method.
        data: The caller's data, or None.
        options: What the caller gave; None, or the default, is not given.
        for_masks: Whether masks will be chosen, and not scores alone.

    Raises:
        OptionError: If the method or an option is unknown, the method needs data and has none, or an option
            has no effect on it.
    """
    searching = [key for key in options if key in _SEARCHING]
    if searching and not for_masks:
        raise OptionError(f"score takes no {', '.join(searching)}: it scores once and chooses nothing.")
    method = method_named(name)
    given = {k: v for k, v in options.items() if not _is_default(v, {**_SEARCHING, **_PROBING}.get(k))}
    _refuse_unknown(given)
    if method.needs_data and data is None:
        raise OptionError(f"Method {name!r} judges connections by data. Received: data=None.")
    method = replace(method, **{k: v for k, v in given.items() if k in ("steps", "schedule", "scope")})
    scope = _scope_for(method)
    used = method.options | ({"seed"} if given.get("shuffle") else set())
    useless = [f"{key}={value!r}" for key, value in given.items() if key not in used]
    if useless:
        raise OptionError(
            f"Method {name!r} does not use {', '.join(useless)} in scope {method.scope!r}; leave it out. "
            f"It uses: {', '.join(sorted(used))}."
        )
    _check_values(given, for_masks)
    settings = {**_PROBING, **_PROBING_DEFAULTS, **method.defaults, **given}
    return Recipe(
        method=method,
        probing={k: settings[k] for k in _PROBING},
        scoring={k: settings.get(k, v) for k, v in method.scorer.own_options.items()},
        choosing={k: settings.get(k, v) for k, v in scope.options.items()},
        normalize=given.get("normalize"),
        shuffle=given.get("shuffle", False),
    )


def _scope_for(method: Method) -> Scope:
    scope = scope_named(method.scope)
    if method.scorer.of_units and not scope.of_units:
        whole = ", ".join(repr(name) for name, one in SCOPES.items() if one.of_units)
        raise OptionError(
            f"Method {method.name!r} scores whole units, so its scope is one of {whole}. "
            f"Received: scope={scope.name!r}."
        )
    return scope


def _check_values(given: Mapping[str, Any], for_masks: bool) -> None:
    if given.get("normalize", "l2") not in _NORMALIZATIONS:
        raise OptionError(f"normalize must be one of {_NORMALIZATIONS}, or None. Received: {given['normalize']!r}.")
    if not isinstance(given.get("shuffle", False), bool):
        raise OptionError(f"shuffle must be True or False. Received: shuffle={given['shuffle']!r}.")
    if for_masks and given.get(_ONLY_SCORES) is not None:
        raise OptionError(
            f"{_ONLY_SCORES} leaves weights without a score, and masks need one for each; it is for tpi.score. "
            f"Received: {_ONLY_SCORES}={given[_ONLY_SCORES]!r}."
        )


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    known = set(_SEARCHING) | set(_PROBING)
    known |= {option for criterion in CRITERIA.values() for option in criterion.own_options}
    known |= {option for scope in SCOPES.values() for option in scope.options}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(f"There is no option {key!r}.{hint} Options: {', '.join(sorted(known))}.")


def _is_default(value: Any, default: Any) -> bool:
    return value is None or value is default or (type(value) is type(default) and bool(value == default))
