"""The laws of the design, for every procedure by what it declares, on kinds of models, under both Keras versions."""

from __future__ import annotations

import functools
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_kinds import CLASSES, KERAS, build, data
from training import fresh_process

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

MASKED = [name for name, recipe in RECIPES.items() if not recipe.cuts_channels and name != "network_slimming"]
"""Procedures that mask single weights; the others are tested in test_channel_procedures.py and test_slimming.py."""

KINDS = ("sequential", "functional", "subclassed", "nested")


def cases(*names: str) -> Any:
    """Every procedure on a stack of Dense layers, those named on every kind; the rest is `exhaustive`."""

    def usual(name: str, kind: str, package: str) -> bool:
        return package == "keras" and (kind == "sequential" or (name in names and kind == "functional"))

    rows = [
        pytest.param(*one, id="-".join(one), marks=() if usual(*one) else pytest.mark.exhaustive)
        for one in itertools.product(MASKED, KINDS, KERAS)
    ]
    return pytest.mark.parametrize(("name", "kind", "package"), rows, scope="module")


def run(name: str, kind: str, package: str, **more: Any) -> RunResult:
    recipe = RECIPES[name]
    options = {**SMALL.get(name, {}), **({"allocation": "global"} if "allocation" in recipe.options else {})}
    asked = {} if recipe.decides_sparsity else {"sparsity": 0.7}
    given = data(), data(12, seed=1)
    return tpi.run(
        name, lambda seed: build(kind, package, seed=seed), given, steps=STEPS, verbose=0, **asked, **options, **more
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
        for name in MASKED
        for kind in ("sequential", "functional")
    ],
)
def test_the_same_seed_gives_the_same_bits(name: str, kind: str, package: str) -> None:
    one, other = result(name, kind, package), run(name, kind, package)
    assert (one.masks is None) == (other.masks is None) == RECIPES[name].cuts_channels
    assert [m.tolist() for m in (one.masks or {}).values()] == [m.tolist() for m in (other.masks or {}).values()]
    assert [row["channels"] for row in one.compactions] == [row["channels"] for row in other.compactions]
    for here, there in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(here, there)
    assert one.history == other.history
    assert one.cost == other.cost


def build_normalized(kind: str, package: str, *, seed: int = 0) -> Any:
    """Units that BatchNorm scales, which none of the kinds of models has without other ties."""
    K = KERAS[package]
    K.utils.set_random_seed(seed)
    layers = [K.layers.Flatten(), K.layers.Dense(12), K.layers.BatchNormalization(), K.layers.ReLU()]
    model = K.Sequential([K.layers.Input((6, 6, 2)), *layers, K.layers.Dense(CLASSES)])
    model.compile("adam", K.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


KILLED = """
import hashlib, json, os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import test_procedure_laws as laws
from tfprune_init.training.procedures import ProcedureRun


def run(name, folder, last):
    calls = 0

    def killing(function):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)
        return call

    for kind in ("count", "write_model", "measure"):
        setattr(ProcedureRun, kind, killing(getattr(ProcedureRun, kind)))
    if name == "network_slimming":
        laws.build = laws.build_normalized
    found = laws.run(name, "sequential", "keras", folder=folder)
    bits = hashlib.sha256(b"".join(value.tobytes() for value in found.model.get_weights()))
    folder.with_suffix(".json").write_text(json.dumps([bits.hexdigest(), found.history, vars(found.cost)]))


def fork(*arguments):
    child = os.fork()
    if not child:
        run(*arguments)
        os._exit(0)
    return os.waitpid(child, 0)[1]


told = {}
for name in sys.argv[3:]:
    whole, parts = Path(sys.argv[2]) / f"{name}_whole", Path(sys.argv[2]) / f"{name}_parts"
    assert fork(name, whole, 0) == 0
    killed = 0
    while status := fork(name, parts, 2 * killed + 1):
        assert status == signal.SIGKILL, (name, status)
        killed += 1
    told[name] = [killed, *(json.loads(folder.with_suffix(".json").read_text()) for folder in (whole, parts))]
print(json.dumps(told))
"""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_killed_at_several_places_and_started_again_it_ends_with_the_same_bits(part: int, tmp_path: Path) -> None:
    """Each start is killed two pieces of work later than the one before, until one is not killed any more."""
    names = list(RECIPES)[part::3]
    told = fresh_process(KILLED, str(Path(__file__).parent), str(tmp_path), *names)
    assert list(told) == names
    for name, (killed, whole, parts) in told.items():
        assert killed >= 1, name
        assert whole == parts, name
