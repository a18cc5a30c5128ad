"""The laws of the design, for every procedure by what it declares, on kinds of models, under both Keras versions."""

from __future__ import annotations

import functools
import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from model_kinds import KERAS, build, data

import tfprune_init as tpi
from tfprune_init.graph.variables import list_variables
from tfprune_init.training import RECIPES, RunResult
from tfprune_init.training.events import outline_run
from tfprune_init.training.recipe_registry import RunPlan

STEPS = 8
SMALL: dict[str, dict[str, Any]] = {
    "dynamic_pruning": {"every": 2},
    "gradual_pruning": {"every": 2},
    "layerwise_lottery_ticket": {"levels": 1},
    "lottery_ticket": {"rate": 0.5, "rewind_to": 2},
    "train_prune_fine_tune": {"rescale_dropout": False},
    "threshold_fine_tune": {"rescale_dropout": False, "quality": 0.6},
}
"""Options for so few steps, and for networks whose graph is not known."""

NAMES = [name for name in RECIPES if name != "network_slimming"]
"""That one counts channels, and needs BatchNorm behind them: tests/test_slimming.py has its laws."""

KINDS = ("sequential", "functional", "subclassed", "nested")


def cases(*names: str) -> Any:
    """Every procedure on a stack of Dense layers, those named on every kind; the rest is `exhaustive`."""

    def usual(name: str, kind: str, package: str) -> bool:
        return package == "keras" and (kind == "sequential" or (name in names and kind == "functional"))

    rows = [
        pytest.param(*one, id="-".join(one), marks=() if usual(*one) else pytest.mark.exhaustive)
        for one in itertools.product(NAMES, KINDS, KERAS)
    ]
    return pytest.mark.parametrize(("name", "kind", "package"), rows, scope="module")


def run(name: str, kind: str, package: str) -> RunResult:
    recipe = RECIPES[name]
    options = {**SMALL.get(name, {}), **({"allocation": "global"} if "allocation" in recipe.options else {})}
    asked = {} if recipe.decides_sparsity else {"sparsity": 0.7}
    given = data(), data(12, seed=1)
    return tpi.run(
        name, lambda seed: build(kind, package, seed=seed), given, steps=STEPS, verbose=0, **asked, **options
    )


@functools.lru_cache(maxsize=4)
def result(name: str, kind: str, package: str) -> RunResult:
    return run(name, kind, package)


@cases("lottery_ticket")
def test_counts_zeros_and_accounts(name: str, kind: str, package: str) -> None:
    recipe, found = RECIPES[name], result(name, kind, package)
    assert found.masks is not None
    assert found.report is not None
    # Law 1: exactly the share asked for; a procedure that finds it itself has removed something, and not all.
    if recipe.decides_sparsity:
        assert 0 < found.masks.kept < found.masks.size
    else:
        exact = found.masks.size * (1 - Fraction("0.7"))
        assert found.masks.kept == exact.numerator // exact.denominator
    # Law 4: exactly zero, and law 5: strip keeps it.
    plain = tpi.strip(found.model)
    values = {target.path: target.tensor.numpy() for target in list_variables(plain)}
    for path, mask in found.masks.items():
        assert not values[path][~mask].any()
    # Law 7: every variable is in the report, pruned or with its reason.
    told = [row.path for row in found.report.layers] + [row.path for row in found.report.skipped]
    assert sorted(told) == sorted(values)
    assert all(row.reason for row in found.report.skipped)
    assert {row.path: row.kept for row in found.report.layers} == {
        path: int(mask.sum()) for path, mask in found.masks.items()
    }
    # The cost is what was planned.
    density = Fraction(1) if recipe.decides_sparsity else 1 - Fraction("0.7")
    options = {**SMALL.get(name, {}), **({"allocation": "global"} if "allocation" in recipe.options else {})}
    planned = outline_run(recipe.make_events(RunPlan(density, STEPS, 1), options))
    assert found.cost.training_steps == planned.training_steps
    assert found.cost.training_steps + found.cost.scoring_steps >= STEPS
    assert np.isfinite(found.history[-1]["loss"])


@cases("lottery_ticket")
def test_weights_are_trained_if_it_says_so(name: str, kind: str, package: str) -> None:
    found = result(name, kind, package)
    assert found.masks is not None
    initial = {t.path: t.tensor.numpy() for t in list_variables(build(kind, package, seed=0))}
    drawn = dict(zip([t.path for t in list_variables(found.model)], initial.values(), strict=True))
    values = {target.path: target.tensor.numpy() for target in list_variables(found.model)}
    changed = sum(np.count_nonzero(values[p][mask] != drawn[p][mask]) for p, mask in found.masks.items())
    assert (changed > 0) == RECIPES[name].trains_weights


@pytest.mark.parametrize(
    ("name", "kind", "package"),
    [
        pytest.param(name, kind, "keras", marks=() if kind == "sequential" else pytest.mark.exhaustive)
        for name in NAMES
        for kind in ("sequential", "functional")
    ],
)
def test_the_same_seed_gives_the_same_bits(name: str, kind: str, package: str) -> None:
    one, other = result(name, kind, package), run(name, kind, package)
    assert one.masks is not None
    assert other.masks is not None
    assert [m.tolist() for m in one.masks.values()] == [m.tolist() for m in other.masks.values()]
    for here, there in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(here, there)
    assert one.history == other.history
    assert one.cost == other.cost
