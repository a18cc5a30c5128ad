"""Comparisons: the same start for all methods, rows for whatever happens, and nothing lost or reused wrongly."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfprune_init as tpi
from tfprune_init.errors import DataError, ModelError, OptionError, PruningError
from tfprune_init.experiments import Results, Run
from tfprune_init.experiments.guessing import is_above_guessing
from tfprune_init.training import RECIPES, Event, Prune, RunPlan, Train, register_recipe
from tfprune_init.training.inputs import ExperimentData, model_fingerprint

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 8)).astype("float32")
Y = (X @ RNG.normal(size=(8, 3))).argmax(-1)
TRAIN, TEST = (X[:192], Y[:192]), (X[192:], Y[192:])
GUESS = np.bincount(TEST[1]).max() / 64


def build() -> Any:
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])


def build_legacy() -> Any:
    layers = tf_keras.layers
    return tf_keras.Sequential([layers.InputLayer((8,)), layers.Dense(16, "relu"), layers.Dense(3)])


def adam() -> Any:
    return keras.optimizers.Adam(0.01)


def arrays() -> Any:
    return TRAIN, TEST


def compared(out: Path, **changes: Any) -> Results:
    asked = {"methods": ["random", "snip"], "sparsities": [0.5, 0.8], "seeds": 2, "epochs": 2} | changes
    model, data = asked.pop("build_model", build), asked.pop("data", (TRAIN, TEST))
    return tpi.compare(model, data, **({"optimizer": adam} if "build_model" not in changes else {}) | asked, out=out)


WANTED = {
    "few": {"methods": ["snip"], "sparsities": [0.8]},
    "many": {"methods": ["random", "snip"], "sparsities": [0.5, 0.8]},
}


@pytest.fixture(scope="module", params=["few", pytest.param("many", marks=pytest.mark.slow)])
def wanted(request: pytest.FixtureRequest) -> dict[str, Any]:
    return WANTED[request.param]


@pytest.fixture(scope="module")
def results(wanted: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compared(tmp_path_factory.mktemp("comparison"), **wanted)


# --- what a run is -----------------------------------------------------------------------------------------------


def test_all_that_was_asked_for(results: Results, wanted: dict[str, Any]) -> None:
    asked = [("dense", 0.0), *itertools.product(wanted["methods"], wanted["sparsities"])]
    assert [(r.label, r.sparsity, r.seed, r.kept, r.size) for r in results] == [
        (label, sparsity, seed, 176 if label == "dense" else {0.5: 88, 0.8: 35}[sparsity], 176)
        for seed in (0, 1)
        for label, sparsity in asked
    ]
    for run in results:
        assert run.status == "trained"
        assert run.guess == GUESS
        assert run.destroyed == (run.accuracy < GUESS + 5 * (GUESS * (1 - GUESS) / 64) ** 0.5)
        assert len(run.history) == run.epochs == 2
        assert set(run.history[0]) == {"loss", "accuracy"}
        assert sum(layer["kept"] for layer in run.layers) == (0 if run.label == "dense" else run.kept)


@pytest.mark.parametrize("method", ["dense", "snip"])
def test_a_run_is_what_one_would_do_by_hand(method: str, results: Results) -> None:
    keras.utils.set_random_seed(1)
    model = build()
    model.compile(adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    run = next(r for r in results if r.label == method and r.seed == 1 and r.sparsity in (0.0, 0.8))
    if method != "dense":
        report = tpi.prune_at_init(model, TRAIN, sparsity=0.8, method=method, seed=1)
        assert report.masks == results.masks(run).carried_to(model)
        assert list(results.masks(run)) == ["dense/kernel", "dense_1/kernel"]
    losses = []
    for epoch in range(2):
        order = np.random.default_rng([1, epoch]).permutation(192)
        fitted = model.fit(TRAIN[0][order], TRAIN[1][order], batch_size=128, verbose=0, shuffle=False)
        losses += fitted.history["loss"]
    logits = model.predict(TEST[0], verbose=0).astype("float64")
    assert run.accuracy == pytest.approx(np.mean(logits.argmax(-1) == TEST[1]), abs=1e-6)
    likelihoods = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert run.loss == pytest.approx(-likelihoods[np.arange(64), TEST[1]].mean(), rel=1e-4)
    assert [epoch["loss"] for epoch in run.history] == pytest.approx(losses, rel=1e-5)


def test_steps_and_their_objective(tmp_path: Path) -> None:
    force = {"method": "force", "steps": 3, "label": "FORCE"}
    (run,) = compared(tmp_path, methods=[force], sparsities=[0.75], seeds=[5], dense=False)
    assert (run.label, run.method, run.options, run.seed) == ("FORCE", "force", {"steps": 3}, 5)
    assert [step["kept"] for step in run.steps] == [int(176 * 0.25 ** (t / 3)) for t in (1, 2, 3)]
    assert all(step["objective"] > 0 for step in run.steps)


# --- procedures that train several times --------------------------------------------------------------------------


class Fuse(Event):
    """Fails as long as there is a file; lists the runs that reached it."""

    file: Path
    reached: ClassVar[list[int]] = []

    def __repr__(self) -> str:
        return "Fuse()"

    def apply(self, run: Any) -> None:
        Fuse.reached.append(run.state.step)
        if self.file.exists():
            raise ZeroDivisionError("boom")


@pytest.fixture
def recipes() -> Iterator[None]:
    def twice(plan: RunPlan, *, first: int = 1) -> list[Event]:
        """Make a procedure that decides itself."""
        return [Train(first), Prune("magnitude", Fraction(1, 4)), Fuse(), Train(plan.steps)]

    register_recipe("twice", decides_sparsity=True)(twice)
    yield
    del RECIPES["twice"]


def test_procedures_are_compared_with_methods_and_their_cost_is_told(tmp_path: Path) -> None:
    ticket = {"method": "lottery_ticket", "rate": 0.5, "rewind_to": 1, "label": "LT"}
    rows = compared(tmp_path, methods=["force", ticket], sparsities=[0.5, 0.75], seeds=[1])
    dense, *force, half, quarter = rows
    # 192 examples are 2 steps an epoch, so 4 steps a training; a multiply-add a weight, three passes an example.
    assert (dense.training_steps, dense.scoring_steps, dense.multiply_adds) == (4, 0, 3 * 2 * 192 * 176)
    assert [(run.training_steps, run.scoring_steps, run.kept) for run in force] == [(4, 61, 88), (4, 61, 44)]
    assert [(run.training_steps, run.scoring_steps, run.kept) for run in (half, quarter)] == [(7, 0, 88), (10, 0, 44)]
    # Step 0 has 128 examples and the others alternate: 1 + 3 dense steps, then 3 steps at each density.
    assert quarter.multiply_adds == 3 * ((192 * 2) * 176 + (192 * 2 - 128) * (88 + 44))
    alone = tpi.run(
        *("lottery_ticket", lambda: prepared(build()), (TRAIN, TEST)),
        **{"sparsity": 0.75, "epochs": 2, "seed": 1, "rate": 0.5, "rewind_to": 1, "verbose": 0},
    )
    assert alone.masks is not None
    assert rows.masks(quarter).carried_to(alone.model) == alone.masks
    assert quarter.accuracy == alone.history[-1]["accuracy"]
    assert quarter.loss == alone.history[-1]["loss"]
    assert [epoch["loss"] for epoch in quarter.history] == [epoch["loss"] for epoch in alone.epochs]
    assert not (tmp_path / "states").exists()
    text = io.StringIO()
    rows.print(text)
    (line,) = [line for line in text.getvalue().splitlines() if "LT" in line]
    assert line.rstrip().endswith("7 to 10")


def prepared(model: Any) -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(adam(), loss, metrics=["accuracy"])
    return model


def test_a_procedure_that_failed_goes_on_where_it_was(recipes: None, tmp_path: Path) -> None:
    Fuse.file = tmp_path / "fuse"
    Fuse.file.touch()
    Fuse.reached.clear()
    asked = {"methods": [{"method": "twice", "first": 3}], "sparsities": [0.5, 0.9], "seeds": [0], "dense": False}
    (broken,) = compared(tmp_path / "out", **asked)
    assert broken.status == "failed"
    assert "boom" in broken.error
    state = tmp_path / "out" / "states" / broken.id
    assert json.loads((state / "state.json").read_text())["done"] == 2
    Fuse.file.unlink()
    (mended,) = compared(tmp_path / "out", **asked)
    assert (mended.status, mended.sparsity, mended.kept, mended.training_steps) == ("trained", None, 44, 4)
    assert Fuse.reached == [3, 3]
    assert not state.parent.exists()
    (whole,) = compared(tmp_path / "whole", **asked)
    assert replace(whole, prune_seconds=0, train_seconds=0) == replace(mended, prune_seconds=0, train_seconds=0)
    assert Results([whole], tmp_path).summary()[0].density == 0.25
    text = io.StringIO()
    Results([whole], tmp_path).print(text)
    assert "at 75.00%" in text.getvalue()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"method": "lottery_tiket"}, "There is no method 'lottery_tiket'. Did you mean 'lottery_ticket'"),
        ({"method": "lottery_ticket", "rat": 0.5}, "has no option 'rat'. Did you mean 'rate'"),
        ({"method": "lottery_ticket", "rewind_to": 4}, "rewind_to must be before the end of training"),
        ({"method": "lottery_ticket", "seed": 4}, "The comparison sets seed itself"),
        ({"method": "lottery_ticket", "on_collapse": "no"}, "on_collapse"),
    ],
)
def test_procedures_are_refused_before_anything_runs(method: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        compared(tmp_path / "out", methods=["snip", method])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_method_runs_at_every_seed(tmp_path: Path) -> None:
    small = ("exact", "erk", "snap_it", "skeletonization")
    asked = [m for m in tpi.list_methods() if m not in small]
    shuffled = {"method": "magnitude", "shuffle": True}
    rows = compared(tmp_path, methods=[*asked, shuffled], sparsities=[0.5], seeds=[3], epochs=1, dense=False)
    assert {(run.label, run.error) for run in rows if run.status == "failed"} == set()
    assert {run.kept for run in rows} == {88}
    again = compared(tmp_path, methods=[shuffled], sparsities=[0.5], seeds=[4], epochs=1, dense=False)
    assert not np.array_equal(again.masks(again[0])["dense/kernel"], rows.masks(rows[-1])["dense/kernel"])


def test_tf_keras(tmp_path: Path) -> None:
    asked = {"build_model": build_legacy, "methods": ["snip"], "sparsities": [0.8], "epochs": 1}
    made = compared(tmp_path, **asked, seeds=2, dense=False)
    again = compared(tmp_path / "again", **asked, seeds=1)
    assert [run.status for run in (*made, *again)] == ["trained"] * 4
    one, same = (asdict(run) | {"train_seconds": 0, "prune_seconds": 0} for run in (made[0], again[1]))
    assert one == same
    assert made[0].accuracy != made[1].accuracy or made[0].loss != made[1].loss
    versions = json.loads((tmp_path / "runs" / made[0].id / "setting.json").read_text())["versions"]
    assert versions["tf_keras"] == tf_keras.__version__


# --- whatever happens is a row -----------------------------------------------------------------------------------


class Explosive(keras.layers.Layer):
    """Passes its input on, until there is a file."""

    file: Path

    def call(self, inputs: Any) -> Any:
        if self.file.exists():
            raise ZeroDivisionError("boom")
        return inputs


def test_collapses_and_failures_are_rows(tmp_path: Path) -> None:
    Explosive.file = tmp_path / "fuse"

    def explosive() -> Any:
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), Explosive(), keras.layers.Dense(3)])

    def lit() -> Any:
        model = explosive()
        Explosive.file.touch()
        return model

    asked = {"methods": ["magnitude"], "sparsities": [0.8, 0.994], "seeds": 1, "epochs": 1}
    first = tpi.compare(lit, (TRAIN, TEST), **asked, out=tmp_path / "out")
    assert [run.status for run in first] == ["failed"] * 3
    assert all("boom" in run.error and run.destroyed is None and run.accuracy is None for run in first)
    assert "ZeroDivisionError" in (tmp_path / "out" / "runs" / first[0].id / "error.txt").read_text()
    assert [(row.runs, row.mean, row.failed) for row in first.summary()] == [(0, None, 1)] * 3

    Explosive.file.unlink()
    again = tpi.compare(explosive, (TRAIN, TEST), **asked, out=tmp_path / "out")
    assert [run.id for run in again] == [run.id for run in first]
    assert [run.status for run in again] == ["trained", "trained", "collapsed"]
    lost = again[-1]
    assert (lost.accuracy, lost.destroyed, lost.kept) == (None, True, 1)
    assert "The network collapsed" in lost.error
    row = again.summary()[-1]
    assert (row.mean, row.destroyed, row.collapsed, row.failed) == (GUESS, 1, 1, 0)
    assert again.masks(lost).kept == 1
    with pytest.raises(OptionError, match="has no masks"):
        again.masks(again[0])


def test_a_network_that_learns_nothing_is_destroyed(tmp_path: Path) -> None:
    asked = {"methods": ["snip"], "sparsities": [0.8], "seeds": 1, "epochs": 1}
    still = compared(tmp_path, optimizer=lambda: keras.optimizers.SGD(0.0), **asked)
    assert all(
        run.status == "trained" and run.destroyed == (run.accuracy < is_above_guessing(GUESS, 64)) for run in still
    )
    assert any(run.destroyed for run in still)


def test_not_finite_is_none(tmp_path: Path) -> None:
    asked = {"methods": ["snip"], "sparsities": [0.8], "seeds": 1}
    wild = compared(tmp_path, optimizer=lambda: keras.optimizers.SGD(1e30), **asked)
    assert {run.loss for run in wild} == {None}
    assert wild[0].history[-1]["loss"] is None
    json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)


# --- resumed, never reused wrongly -------------------------------------------------------------------------------


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}


def test_a_second_call_runs_nothing(results: Results, wanted: dict[str, Any]) -> None:
    before = stamps(results.out)
    again = compared(results.out, **wanted)
    assert list(again) == list(results)
    assert stamps(results.out) == before
    methods = [*wanted["methods"][:-1], {"method": "snip", "label": "SNIP"}]
    renamed = compared(results.out, **wanted | {"methods": methods})
    assert [run.label for run in renamed if run.method == "snip"] == ["SNIP"] * 2 * len(wanted["sparsities"])
    assert stamps(results.out) == before


def build_wider() -> Any:
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(17, "relu"), keras.layers.Dense(3)])


def build_other_activation() -> Any:
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(3)])


OTHER_LABEL = (TRAIN[0], np.where(np.arange(192) == 100, (TRAIN[1] + 1) % 3, TRAIN[1]))


USUAL: dict[str, Any] = {"methods": ["snip"], "sparsities": [0.8], "seeds": 1, "epochs": 1}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs."""
    out = tmp_path_factory.mktemp("usual")
    compared(out, **USUAL)
    return out


@pytest.mark.parametrize(
    ("changes", "anew"),
    [
        ({"epochs": 2}, 2),
        ({"seeds": [2]}, 2),
        ({"build_model": build_wider, "optimizer": adam}, 2),
        pytest.param({"build_model": build_other_activation, "optimizer": adam}, 2, marks=pytest.mark.exhaustive),
        pytest.param({"optimizer": lambda: keras.optimizers.Adam(0.02)}, 2, marks=pytest.mark.exhaustive),
        ({"optimizer": lambda: keras.optimizers.Adam(0.01, use_ema=True)}, 2),
        ({"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=7)}, 2),
        ({"data": (OTHER_LABEL, TEST)}, 2),
        pytest.param({"data": (TRAIN, (TEST[0] + 1e-6, TEST[1]))}, 2, marks=pytest.mark.exhaustive),
        ({"methods": [{"method": "snip", "batches": 2}]}, 1),
        pytest.param({"methods": [{"method": "snip", "prune_bias": True}]}, 1, marks=pytest.mark.exhaustive),
        ({"sparsities": [0.81]}, 1),
        ({}, 0),
    ],
)
def test_a_changed_setting_never_reuses_a_run(changes: dict[str, Any], anew: int, usual: Path, tmp_path: Path) -> None:
    out = shutil.copytree(usual, tmp_path / "out")
    before = set(stamps(out))
    assert len(before) == 2
    changed = compared(out, **USUAL | changes)
    assert len(set(stamps(out)) - before) == anew
    assert sorted(run.status for run in changed) == ["trained"] * 2


def test_names_of_layers_are_not_part_of_a_model() -> None:
    keras.utils.set_random_seed(0)
    one, other = build(), build()
    other.set_weights(one.get_weights())
    assert one.layers[0].name != other.layers[0].name
    assert model_fingerprint(one) == model_fingerprint(other)
    other.layers[0].kernel.assign_add(np.eye(8, 16) * 1e-7)
    assert model_fingerprint(one) != model_fingerprint(other)


def test_fingerprint_of_data_knows_order_and_split() -> None:
    usual = ExperimentData(TRAIN, TEST).fingerprint()
    assert usual == ExperimentData(tf.data.Dataset.from_tensor_slices(TRAIN).batch(128), TEST).fingerprint()
    turned = tuple(part[::-1] for part in TRAIN)
    others = [
        ExperimentData(TEST, TRAIN),
        ExperimentData(turned, TEST),
        ExperimentData(TRAIN, (TEST[0], TEST[1].astype("int32"))),
    ]
    assert len({usual, *(data.fingerprint() for data in others)}) == 4


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_experiments as t
if __name__ == "__main__":
    t.compared({out!r}, seeds=2, epochs=5, verbose=1)
"""


@pytest.mark.process
@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = SCRIPT.format(tests=str(Path(__file__).parent), out=str(out))
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and len(list(out.glob("runs/*/run.json"))) < 2:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    before = stamps(out)
    done = {name for name in before if not name.startswith(".")}
    assert 2 <= len(done) < 10
    left = Results.load(out)
    assert {run.id for run in left} <= done
    assert len(left) >= len(done) - 1
    resumed = compared(out, seeds=2, epochs=5)
    after = stamps(out)
    assert set(after) == {run.id for run in resumed}
    assert len(resumed) == 10
    assert {name: after[name] for name in done} == {name: before[name] for name in done}
    assert list(Results.load(out)) == list(resumed)
    alone = compared(tmp_path / "alone", seeds=2, epochs=5)
    assert [run.accuracy for run in alone] == pytest.approx([run.accuracy for run in resumed])


@pytest.mark.process
@pytest.mark.slow
def test_processes_find_the_same(results: Results, wanted: dict[str, Any], tmp_path: Path) -> None:
    spread = compared(tmp_path, data=arrays, **wanted, processes=2)
    for one, other in zip(spread, results, strict=True):
        assert replace(one, loss=None, history=[], prune_seconds=0, train_seconds=0) == replace(
            other, loss=None, history=[], prune_seconds=0, train_seconds=0
        )
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
    with pytest.raises(OptionError, match=r"processes=2.*at the top of a module"):
        compared(tmp_path / "no", build_model=lambda: build(), processes=2)


# --- results -----------------------------------------------------------------------------------------------------


def made(label: str, sparsity: float, seed: int, accuracy: float | None, status: str = "trained") -> Run:
    destroyed = None if status == "failed" else accuracy is None or accuracy < 0.2
    return Run(
        *(f"{label}{sparsity}{seed}", label, label, {"a": 1}, sparsity, seed, 1, status, None, 100, 10, accuracy, 0.5),
        *(0.1, destroyed, [], [], [], 1.0, 2.0),
    )


def test_summary(tmp_path: Path) -> None:
    rows = [made("dense", 0.0, seed, 0.9 + seed / 100) for seed in (0, 1, 2)]
    rows += [made("snip", 0.9, 0, 0.8), made("snip", 0.9, 1, None, "collapsed"), made("snip", 0.9, 2, 0.15)]
    rows += [made("snip", 0.99, 0, None, "failed"), made("snip", 0.99, 1, 0.7)]
    results = Results(rows, tmp_path)
    dense, nine, last = results.summary()
    assert (dense.mean, dense.std) == pytest.approx((0.91, statistics.stdev([0.9, 0.91, 0.92])))
    assert (nine.mean, nine.low, nine.high) == pytest.approx(((0.8 + 0.1 + 0.15) / 3, 0.1, 0.8))
    assert (nine.runs, nine.destroyed, nine.collapsed, nine.failed) == (3, 2, 1, 0)
    assert (last.runs, last.mean, last.std, last.destroyed, last.failed) == (1, 0.7, None, 0, 1)
    assert results.labels == ["dense", "snip"]
    assert results.sparsities == [0.9, 0.99]


def test_saved_and_read_again(results: Results) -> None:
    loaded = Results.load(results.out)
    assert [run.id for run in loaded] == [run.id for run in results]
    with (results.out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [run.accuracy for run in results]
    assert [json.loads(row["options"]) for row in rows] == [{}] * len(results)
    assert not [path for path in results.out.rglob("*") if "unfinished" in path.name]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [lines[0], lines[1][:-30]], "line 2: "),
        (lambda lines: [lines[0], lines[1].replace('"seed": ', '"sed": ')], "line 2: it has no 'seed'"),
        (lambda lines: [lines[0].replace('"label": "dense"', '"label": 7')], r"line 1: \['label'\] is no str"),
        (lambda lines: [lines[1].replace('"kept": ', '"keep": ')], "line 1: it has no 'kept'"),
        (lambda lines: ["[" * 100_000], "line 1: maximum recursion"),
    ],
)
def test_damaged_results_are_refused_by_line(results: Results, damage: Any, message: str, tmp_path: Path) -> None:
    lines = (results.out / "results.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["label"] == "dense"
    (tmp_path / "results.jsonl").write_text("\n".join(damage(lines)))
    with pytest.raises(OptionError, match=rf"results.jsonl is damaged: {message}"):
        Results.load(tmp_path)


@pytest.mark.parametrize("change", [{"accuracy": None}, {"history": []}])
def test_a_trained_run_has_reached_something(results: Results, change: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="the run: it is trained, and has no accuracy or no history"):
        Run.from_dict({**asdict(results[1]), **change})
    assert Run.from_dict({**asdict(results[1]), **change, "status": "failed"}).status == "failed"


@pytest.mark.parametrize(
    ("name", "value"),
    [("sparsity", 1.0), ("sparsity", -0.5), ("sparsity", float("nan")), ("accuracy", 90.0), ("guess", float("inf"))],
)
def test_shares_are_shares(results: Results, name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"the run: {name} is no share. Received: {value}"):
        Run.from_dict({**asdict(results[1]), name: value})


def test_printed(results: Results, capsys: pytest.CaptureFixture) -> None:
    results.print()
    shown = capsys.readouterr().out
    row = next(row for row in results.summary() if (row.label, row.sparsity) == ("snip", 0.8))
    assert f"{100 * row.mean:.1f}±{100 * row.std:.1f}" in shown
    assert f"{len(results)} runs" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_table_of_the_field_fits_eighty_columns(tmp_path: Path) -> None:
    """Five sparsities and the baseline, all spreads of two digits."""
    sparsities = (0.0, 0.9, 0.95, 0.98, 0.99, 0.995)
    rows = [made("magnitude", sparsity, seed, 0.3 + seed / 2) for sparsity in sparsities for seed in (0, 1)]
    shown = io.StringIO()
    Results(rows, tmp_path).print(shown)
    (line,) = [line for line in shown.getvalue().splitlines() if "magnitude" in line]
    assert line.split() == ["magnitude", *["55.0±35.4"] * 6]


def test_progress_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    compared(tmp_path, seeds=1, epochs=1, methods=["snip"], sparsities=[0.5], verbose=1)
    first, second = capsys.readouterr().err.strip().splitlines()
    assert first.startswith("1/2 dense, seed 0: ")
    assert "; about " in first
    assert second.startswith("2/2 snip, 50%, seed 0: ")
    compared(tmp_path, seeds=1, epochs=1, methods=["snip"], sparsities=[0.5], verbose=1)
    assert capsys.readouterr().err == "2 of 2 runs were finished before\n"
    compared(tmp_path, seeds=1, epochs=1, methods=["snip"], sparsities=[0.5])
    assert capsys.readouterr() == ("", "")


# --- refused before anything runs --------------------------------------------------------------------------------


def compiled() -> Any:
    model = build()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"methods": []}, OptionError, "methods is empty"),
        ({"methods": "snip"}, OptionError, "methods must be a list"),
        ({"methods": ["snipp"]}, OptionError, "snip"),
        ({"methods": ["snip", "snip"]}, OptionError, "one label: snip"),
        ({"methods": [{"method": "snip", "steps": 5}]}, OptionError, "does not use steps=5"),
        ({"methods": [{"method": "snip", "seed": 5}]}, OptionError, "sets seed itself"),
        ({"methods": [{"steps": 5}]}, OptionError, "A method must be a name"),
        ({"methods": [{"method": "dense", "steps": 5}]}, OptionError, "takes no options"),
        ({"sparsities": [0.5, 1.0]}, OptionError, r"\(0, 1\)"),
        ({"sparsities": [0.0]}, OptionError, "dense=False"),
        ({"sparsities": [0.5, 0.5]}, OptionError, "named once"),
        ({"sparsities": 0.5}, OptionError, "must be a list"),
        ({"sparsities": []}, OptionError, "Received: \\[\\]"),
        ({"seeds": 0}, OptionError, "seeds=0"),
        ({"seeds": [1, 1]}, OptionError, "different integers"),
        ({"epochs": 0}, OptionError, "epochs=0"),
        ({"processes": 0}, OptionError, "processes=0"),
        ({"verbose": 3}, OptionError, "verbose"),
        ({"optimizer": keras.optimizers.SGD(0.1)}, OptionError, "cannot train two models"),
        ({"build_model": build()}, OptionError, "a function that returns a new untrained model"),
        ({"build_model": lambda: None}, ModelError, "NoneType"),
        ({"build_model": compiled, "optimizer": "adam"}, OptionError, "returns a compiled model"),
        ({"data": TRAIN}, DataError, "must be a batched tf.data.Dataset"),
        ({"data": (TRAIN, (X, X))}, DataError, "correct classes"),
        ({"data": 5}, DataError, "pair"),
    ],
)
def test_refused(changes: dict[str, Any], error: type[PruningError], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(error, match=message):
        compared(out, **changes)
    assert not out.exists()


def test_no_comparison_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"No comparison.*results\.jsonl"):
        Results.load(tmp_path)


def test_another_model_at_the_same_seed_is_a_failure(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)

    def restless() -> Any:
        model = build()
        model.layers[0].kernel.assign(drawn.normal(size=(8, 16)))
        return model

    rows = compared(tmp_path, build_model=restless, seeds=1, sparsities=[0.5])
    assert {run.status for run in rows} == {"failed"}
    assert "returned another model at seed 0" in rows[0].error


def test_a_model_without_accuracy_is_a_failure_before_it_is_trained(tmp_path: Path) -> None:
    rows = compared(tmp_path, build_model=compiled, seeds=1, sparsities=[0.5])
    assert {run.status for run in rows} == {"failed"}
    assert "no accuracy among its metrics" in rows[0].error
    assert {run.train_seconds for run in rows} == {0.0}


def test_chance() -> None:
    assert is_above_guessing(0.5, 100) == 0.75
    assert is_above_guessing(0.1135, 10_000) == pytest.approx(0.1135 + 5 * 0.0031720, rel=1e-4)
