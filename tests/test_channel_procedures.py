"""Procedures that cut channels: against the same done by hand, exact budgets, and runs that go on after a crash."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from command import call

import tfprune_init as tpi
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.variables import list_variables
from tfprune_init.training import RECIPES, RunPlan
from tfprune_init.training.events import (
    Compact,
    Event,
    FindChannels,
    Prune,
    RescaleDropout,
    Rewind,
    Snapshot,
    StartOver,
    Train,
    TrainAtCost,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = X[:, :3].argmax(1)
DATA = ((X[:64], Y[:64]), (X[64:], Y[64:]))
BUDGET = tpi.Budget(multiply_adds=0.5)


def build(seed: int, K: Any = keras) -> Any:
    """6 -> 10 -> 8 -> 3, with states of all sorts: 6 * 10 + 10 * 8 + 8 * 3 = 164 multiply-adds."""
    K.utils.set_random_seed(seed)
    L = K.layers
    layers = [L.Dense(10, use_bias=False, name="a"), L.BatchNormalization(name="bn"), L.ReLU(), L.Dropout(0.2)]
    layers += [L.Dense(8, "relu", name="b"), L.Dense(3, name="head")]
    model = K.Sequential([K.Input((6,)), *layers])
    loss = K.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(K.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def run(procedure: Any, build_model: Any = build, **options: Any) -> Any:
    return tpi.run(procedure, build_model, DATA, **{"steps": 4, "verbose": 0, **options})


class Look(Event):
    """Keeps what it sees."""

    def __init__(self) -> None:
        self.models: list[dict[str, np.ndarray]] = []
        self.steps: list[int] = []
        self.masks: list[Any] = []

    def __repr__(self) -> str:
        return "Look()"

    def apply(self, run: Any) -> None:
        self.models.append({t.path: t.tensor.numpy() for t in list_variables(run.model)})
        self.steps.append(run.state.step)
        self.masks.append(run.state.masks)


@pytest.mark.parametrize("K", [keras, pytest.param(tf_keras, marks=pytest.mark.exhaustive)], ids=["keras", "tf_keras"])
def test_channels_are_cut_as_by_hand(K: Any) -> None:
    look = Look()
    found = run([Train(3), look, FindChannels(BUDGET), look, Compact(), look], lambda seed: build(seed, K))
    trained, masked, small = look.models
    model = build(0, K)
    for target in list_variables(model):
        if target.path in trained and tuple(target.shape) == trained[target.path].shape:
            target.tensor.assign(trained[target.path])
    channels = tpi.find_channels(model, budget=BUDGET)
    assert look.masks[1] == channels.masks
    for path, mask in channels.masks.items():
        assert not masked[path][~mask].any()
    hidden = [np.flatnonzero(channels.masks[f"{path}/kernel"].any(axis=0)) for path in "ab"]
    np.testing.assert_array_equal(small["a/kernel"], trained["a/kernel"][:, hidden[0]])
    np.testing.assert_array_equal(small["bn/moving_mean"], trained["bn/moving_mean"][hidden[0]])
    np.testing.assert_array_equal(small["b/kernel"], trained["b/kernel"][np.ix_(*hidden)])
    np.testing.assert_array_equal(small["head/kernel"], trained["head/kernel"][hidden[1]])
    assert (look.masks[2], found.masks, found.report) == (None, None, None)
    (account,) = found.compactions
    assert account["before"]["multiply_adds"] == 164
    assert account["after"]["multiply_adds"] == channels.budget.got <= 82
    # The density that the history tells is that of the masks before.
    assert found.history[-1]["density"] == pytest.approx(channels.masks.density)


def test_fine_tuning_goes_on_from_the_weights_at_the_step_of_the_run() -> None:
    found = run("channels_fine_tune", budget=BUDGET, fine_tuning_steps=3)
    assert found.model.count_params() < build(0).count_params()
    assert found.cost.training_steps == 7
    after = found.compactions[0]["after"]["multiply_adds"]
    assert found.cost.multiply_adds == 3 * (64 * 4 * 164 + 64 * 3 * after)
    assert np.isfinite(found.history[-1]["loss"])
    assert json.loads(json.dumps(found.to_dict()))["compactions"][0]["after"]["multiply_adds"] == after


def test_a_sparsity_is_a_share_of_the_channel_groups() -> None:
    halved = run([FindChannels(), Compact()], sparsity=0.5)
    widths = {row["path"]: row["after"] for row in halved.compactions[0]["layers"]}
    assert widths["a"] + widths["b"] == 9


@pytest.mark.parametrize("K", [keras, pytest.param(tf_keras, marks=pytest.mark.exhaustive)], ids=["keras", "tf_keras"])
def test_from_scratch_every_variable_is_as_built(K: Any) -> None:
    look = Look()
    found = run(
        [Train(3), FindChannels(BUDGET), Compact(), look, StartOver(), look, Train(2)], lambda seed: build(seed, K)
    )
    trained, fresh = look.models
    assert look.steps == [3, 0]
    assert found.cost.training_steps == 5
    np.testing.assert_array_equal(fresh["bn/gamma"], np.ones_like(fresh["bn/gamma"]))
    np.testing.assert_array_equal(fresh["bn/moving_variance"], np.ones_like(fresh["bn/gamma"]))
    for path in ("bn/beta", "bn/moving_mean", "b/bias", "head/bias"):
        assert not fresh[path].any()
        assert trained[path].any()
    for path in ("a/kernel", "b/kernel", "head/kernel"):
        # Glorot's limit is that of the smaller layer.
        limit = np.sqrt(6 / sum(fresh[path].shape))
        assert 0.4 * limit < np.abs(fresh[path]).max() <= limit
        assert not np.isclose(fresh[path], trained[path]).any()


@pytest.mark.parametrize("train_first", [pytest.param(True, marks=pytest.mark.exhaustive), False])
def test_scratch_b_costs_what_the_first_network_costs(train_first: bool) -> None:
    found = run("channels_scratch", budget=BUDGET, length="B", train_first=train_first)
    after = found.compactions[0]["after"]["multiply_adds"]
    assert found.cost.training_steps == (4 if train_first else 0) + 4 * 164 // after


def test_scratch_e_trains_as_many_steps() -> None:
    plan = RunPlan(Fraction(1, 2), 40, 10)
    first, *_, last = RECIPES["channels_scratch"].make_events(plan, {})
    assert (first, last) == (Train(40), Train(40))
    find, *_, last = RECIPES["channels_scratch"].make_events(plan, {"train_first": False, "length": "B"})
    assert isinstance(find, FindChannels)
    assert last == TrainAtCost(40)


def test_masks_that_could_not_be_cut_out_stay() -> None:
    look = Look()
    events = [Prune("magnitude", Fraction(1, 2)), Compact(), look, Train(2), FindChannels(BUDGET), Compact(), Train(4)]
    found = run(events)
    assert look.masks[0].density < 1
    assert len(found.compactions) == 2
    for path, mask in (found.masks or {}).items():
        values = {t.path: t.tensor.numpy() for t in list_variables(tpi.strip(found.model))}
        assert not values[path][~mask].any()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """Stopped in the middle of events, again and again."""

    class Stop(Exception):  # noqa: N818 - no error
        pass

    class Interrupt(Event):
        def __repr__(self) -> str:
            return "Interrupt()"

        def apply(self, run: Any) -> None:
            run.renew_optimizer()
            run.train(run.state.step + 1, None)
            marks = tmp_path / "marks"
            done = int(marks.read_text()) if marks.exists() else 0
            if run.state.done >= done and stopping:
                marks.write_text(str(run.state.done + 1))
                raise Stop

    events = [Train(2), FindChannels(tpi.Budget(units=0.7)), Interrupt(), Compact(), Interrupt(), Train(6)]
    events += [
        FindChannels(tpi.Budget(units=0.7)),
        Compact(),
        Snapshot("small"),
        Interrupt(),
        Rewind("small"),
        Train(9),
    ]
    stopping = False
    straight = run(events)
    stopping = True
    for _ in range(3):
        with pytest.raises(Stop):
            run(events, folder=tmp_path / "run")
    resumed = run(events, folder=tmp_path / "run")
    assert [v.tolist() for v in resumed.model.get_weights()] == [v.tolist() for v in straight.model.get_weights()]
    assert resumed.history == straight.history
    assert resumed.cost == straight.cost
    for one, other in zip(resumed.compactions, straight.compactions, strict=True):
        assert {**one, "model": ""} == {**other, "model": ""}  # Keras numbers the models that it names


@pytest.mark.parametrize(
    ("events", "error", "words"),
    [
        ([Compact()], OptionError, "There are no masks to compact by"),
        ([FindChannels(BUDGET), FindChannels(BUDGET)], OptionError, "Put a Compact before it"),
        ([TrainAtCost(3)], OptionError, "Put a Compact before it"),
        ([Snapshot("a"), FindChannels(BUDGET), Compact(), Rewind("a")], OptionError, "There is no snapshot 'a'"),
        ([RescaleDropout(), FindChannels(BUDGET), Compact()], OptionError, "Rates of Dropout cannot follow"),
        ([Train(2), FindChannels(tpi.Budget(multiply_adds=3))], OptionError, "smallest that can be met"),
        ([Train(2), FindChannels(BUDGET, options={"round": 8})], OptionError, "has no option 'round'"),
        ([Train(2), FindChannels(BUDGET, exclude="c")], OptionError, "matches no prunable variable"),
    ],
)
def test_refused_before_anything_runs(events: list[Event], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        run([*events, Train(steps=3)])


def test_subclassed_models_are_refused_before_they_are_trained() -> None:
    class Small(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = keras.layers.Dense(5, "relu"), keras.layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.head(self.first(x))

    def make(seed: int) -> Any:
        model = Small()
        model(X[:1])
        return model

    with pytest.raises(ModelError, match="Compact takes Sequential and functional models"):
        run("channels_fine_tune", make, sparsity=0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": BUDGET, "length": "C"}, 'length must be "E" or "B"'),
        ({"budget": BUDGET, "train_first": 1}, "train_first must be True or False"),
        ({"budget": BUDGET, "importance": "l9"}, "There is no importance 'l9'"),
        ({}, "prunes to a sparsity"),
    ],
)
def test_options_of_recipes_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        run("channels_scratch", **options)


def test_in_a_comparison_the_smaller_network_is_measured(tmp_path: Path) -> None:
    method = {"method": "channels_fine_tune", "allocation": "uniform"}
    results = tpi.compare(
        build, DATA, methods=[method], sparsities=[0.5], seeds=1, epochs=1, dense=False, out=tmp_path / "out", verbose=0
    )
    row = next(row for row in results if row.method == "channels_fine_tune")
    assert row.size == 164
    assert row.kept == 6 * 5 + 5 * 4 + 4 * 3
    alone = tpi.run("channels_fine_tune", build, DATA, sparsity=0.5, epochs=1, allocation="uniform", verbose=0)
    assert row.accuracy == pytest.approx(alone.history[-1]["accuracy"])
    assert row.loss == pytest.approx(alone.history[-1]["loss"])


def test_the_command_line_says_that_it_writes_masks(tmp_path: Path) -> None:
    done = call("run", "channels_scratch", "lenet_300_100", "--data", "digits", "-o", "run", cwd=tmp_path)
    assert done.code != 0
    assert "Use tpi.run or tpi.compare in Python" in done.err
    assert not (tmp_path / "run").exists()


def test_the_recipes_say_that_they_cut() -> None:
    assert {name for name, recipe in RECIPES.items() if recipe.cuts_channels} == {
        "channels_fine_tune",
        "channels_scratch",
    }
