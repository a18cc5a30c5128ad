"""Procedures that prune between the steps of a training: by hand, beside the callbacks, what they cost, killed runs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from test_training import DATA, SIZE, build, interrupting, run, same

import tfprune_init as tpi
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.errors import OptionError
from tfprune_init.training import RECIPES, Event, Prune, RunPlan, RunResult, Train, TrainAndPrune, TrainDynamically
from tfprune_init.training.feed import Feed
from tfprune_init.training.inputs import ExperimentData
from tfprune_init.training.watching import find_smallest_losses

SHORT = {"sparsity": 0.75, "steps": 20, "every": 4}
# Prunings after steps 4, 8 and 12 of 20, the last of which are not after step 15: sparsity s (1 - (1 - t / 3)^3).
KEPT = {0: SIZE, 4: SIZE * 17 // 36, 8: SIZE * 5 // 18, 12: SIZE // 4}
NAMES = ("dynamic_pruning", "gradual_pruning")


def line(K: Any) -> Any:
    """y = v.x from w = (1, 0.9, 0.1), without bias."""
    model = K.Sequential([K.Input((3,)), K.layers.Dense(1, use_bias=False, name="one")])
    model.compile(K.optimizers.SGD(0.1), "mse")
    model.layers[-1].kernel.assign([[1.0], [0.9], [0.1]])
    return model


def train_by_hand(steps: int, last: int, dynamic: bool) -> tuple[np.ndarray, list[list[bool]]]:
    """What the two methods make of `line` at x = (1, 2, 1), y = 3: one weight is kept after each step until `last`."""
    w, x, mask = np.array([1.0, 0.9, 0.1]), np.array([1.0, 2.0, 1.0]), np.ones(3, bool)
    masks = []
    for step in range(1, steps + 1):
        gradient = 2 * ((mask * w) @ x - 3) * x
        w = w - 0.1 * (gradient if dynamic and step <= last else gradient * mask)
        if step <= last:
            score = np.abs(w) if dynamic else np.abs(w) * mask
            mask = np.arange(3) == score.argmax()
            masks.append(mask.tolist())
        if not dynamic or step >= last:
            w = w * mask
    return w, masks


@pytest.mark.parametrize("K", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("event", [TrainDynamically, TrainAndPrune])
def test_a_pruned_weight_returns_in_dynamic_pruning_alone(event: Any, K: Any) -> None:
    x, y = np.array([[1.0, 2.0, 1.0]], "float32"), np.array([[3.0]], "float32")
    kept, by_hand = [], []
    for last in (1, 2):
        events = [event(until=4, every=1, end=last, schedule="one_shot", density=Fraction(1, 3))]
        found = tpi.run(events, lambda: line(K), ((x, y), (x, y)), steps=4, verbose=0)
        weights, masks = train_by_hand(4, last, event is TrainDynamically)
        np.testing.assert_allclose(found.model.layers[-1].kernel.numpy()[:, 0], weights, rtol=1e-5)
        kept.append(found.masks["one/kernel"][:, 0].tolist())
        by_hand.append(masks[-1])
    assert kept == by_hand
    # After one step the first is the largest, after two it is the second, where that still trains.
    assert (kept[0] != kept[1]) == (event is TrainDynamically)


@pytest.fixture(scope="module")
def found() -> dict[str, RunResult]:
    return {name: run(name, watch=4, **SHORT) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_does_what_its_callback_does_in_one_fit(found: dict[str, RunResult], name: str) -> None:
    """Though it trains epoch by epoch of 3 steps, and evaluates every 4: the same bits."""
    model = build(0)
    times = {"every": 4, "delay": 0, "until": 15, "schedule": "cubic"}
    if name == "dynamic_pruning":
        pruning = tpi.DynamicPruning(sparsity=0.75, **times)
    else:
        pruning = tpi.PruneDuringTraining(None, sparsity=0.75, method="magnitude", unit="steps", **times)
    with deterministic_reductions():
        batches = Feed(ExperimentData(*DATA), 0).batches(0, 20)
        model.fit(batches, shuffle=False, verbose=0, callbacks=[pruning])
    assert [place for place, _ in pruning.history] == [4, 8, 12]
    assert pruning.masks.carried_to(found[name].model) == found[name].masks
    for own, other in zip(model.get_weights(), found[name].model.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("name", NAMES)
def test_the_kept_are_exact_at_every_step_that_is_watched(found: dict[str, RunResult], name: str) -> None:
    """Evaluated after the pruning of the same step, and once more at the end."""
    kept = [KEPT[4], KEPT[8], KEPT[12], KEPT[12], KEPT[12], KEPT[12]]
    assert [round(one["density"] * SIZE) for one in found[name].history] == kept
    assert found[name].masks.kept == SIZE // 4
    for path, mask in found[name].masks.items():
        assert not found[name].model.get_layer(path.split("/")[0]).kernel.numpy()[~mask].any()


def test_what_they_cost(found: dict[str, RunResult]) -> None:
    """Examples of a step: 128, 128 and 4. The gradient of dense weights is a dense pass, until the last pruning."""
    examples = [(128, 128, 4)[step % 3] for step in range(20)]
    left = [KEPT[max(at for at in KEPT if at <= step)] for step in range(20)]
    sparse = sum(number * 3 * kept for number, kept in zip(examples, left, strict=True))
    dense = sum(
        number * (2 * kept + (SIZE if step < 12 else kept))
        for step, (number, kept) in enumerate(zip(examples, left, strict=True))
    )
    assert found["gradual_pruning"].cost.multiply_adds == sparse
    assert found["dynamic_pruning"].cost.multiply_adds == dense
    for one in found.values():
        assert (one.cost.training_steps, one.cost.scoring_steps) == (20, 0)


def test_gradients_that_judge_are_counted() -> None:
    event = TrainAndPrune(until=5, every=2, end=4, method="snip_it", density=0.25, options={"batches": 2})
    judged = run([event], steps=5)
    assert (judged.cost.training_steps, judged.cost.scoring_steps) == (5, 2 * 2)
    assert judged.masks.kept == SIZE // 4


def test_prunings_are_counted_from_the_step_that_the_run_is_at() -> None:
    """From step 3 until 75% of the way to 12, which is 9: after steps 6 and 9."""
    events = [Train(3), TrainAndPrune(until=12, every=3, density=0.5, schedule="linear", exclude="head", watch=1)]
    watched = run(events, steps=12)
    density = [1.0] * 2 + [0.75] * 3 + [0.5] * 4
    assert [one["density"] for one in watched.history[:-1]] == density
    assert [one["step"] for one in watched.history[:-1]] == list(range(4, 13))
    assert {path: mask.shape for path, mask in watched.masks.items()} == {"hidden/kernel": (6, 16)}


def test_gradual_pruning_goes_on_from_what_is_left() -> None:
    events = [
        Prune("magnitude", Fraction(1, 2)),
        TrainAndPrune(until=4, every=1, end=2, density=0.25, schedule="one_shot"),
    ]
    after = run(events)
    assert after.masks.kept == SIZE // 4


def test_layers_keep_their_share_with_a_uniform_allocation() -> None:
    uniform = run("dynamic_pruning", sparsity=0.75, steps=4, every=3, allocation="uniform")
    assert [int(mask.sum()) for mask in uniform.masks.values()] == [96 // 4, 48 // 4]


# Both are begun anew by the same code.
@pytest.mark.parametrize("event", [TrainDynamically, pytest.param(TrainAndPrune, marks=pytest.mark.exhaustive)])
def test_an_interrupted_event_starts_anew_with_the_same_bits(event: Any, tmp_path: Path) -> None:
    events = [Train(2), event(until=9, every=2, end=6, density=0.25, watch=4)]
    whole = run(events)
    folder = tmp_path / "of_several" / "parts"
    with interrupting(4), pytest.raises(KeyboardInterrupt):
        run(events, folder=folder)
    assert same(run(events, folder=folder), whole)


@pytest.mark.parametrize(
    ("procedure", "options", "words"),
    [
        ("dynamic_pruning", {"sparsity": 0.5}, "No pruning fits in: the first one is after step 16, and none is after"),
        ("gradual_pruning", {"sparsity": 0.5, "every": 2, "end": 7}, "The training ends before end=."),
        ("gradual_pruning", {"sparsity": 0.5, "every": 2, "begin": 4}, "none is after step 5"),
        ("gradual_pruning", {"sparsity": 0.5, "every": 0}, "every must be a positive integer"),
        ("gradual_pruning", {"sparsity": 0.5, "every": 1, "schedule": "cubc"}, "Did you mean 'cubic'"),
        ("gradual_pruning", {"sparsity": 0.5, "every": 1, "schedule": [0.5]}, "is the name of a schedule"),
        ("dynamic_pruning", {"sparsity": 0.5, "every": 1, "exclude": "heat"}, "Did you mean 'head'"),
        ("dynamic_pruning", {"sparsity": 0.5, "every": 1, "exclude": ["head"]}, "a tuple of names"),
        ("dynamic_pruning", {"sparsity": 0.5, "every": 1, "allocation": "globl"}, "Did you mean 'global'"),
        ("dynamic_pruning", {"sparsity": 0.5, "evry": 1}, "Did you mean 'every'"),
        ("gradual_pruning", {"every": 1}, "prunes to a sparsity"),
        ([TrainAndPrune(until=4, every=1)], {}, "How much may stay? Give TrainAndPrune a density="),
        ([TrainAndPrune(until=4, every=1)], {"budget": tpi.Budget(weights=9)}, "budget=Budget(weights=9)"),
        ([Train(4), TrainAndPrune(until=4, every=1, density=0.5)], {}, "at step 4 already"),
        ([Train(4), TrainAndPrune(until=6, every=1, begin=3, density=0.5)], {}, "at step 4 already"),
        ([Train(2), TrainAndPrune(until=4, every=1, method="force", density=0.5)], {}, "lets pruned weights return"),
        ([Prune("magnitude", Fraction(1, 2)), TrainDynamically(until=4, every=1, density=0.25)], {}, "dense network"),
    ],
    ids=str,
)
def test_refused(procedure: Any, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        run(procedure, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"density": 0}, "density must be the share that stays"),
        ({"density": "0.5"}, "density must be the share that stays"),
        ({"density": 0.5, "watch": 0}, "watch must be a positive integer"),
        ({"density": 0.5, "options": {"delay": 3}}, "delay cannot be among options="),
    ],
    ids=str,
)
def test_events_refuse(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        TrainAndPrune(until=400, **options)


def test_options_of_a_later_event_are_refused_before_any_is_done(tmp_path: Path) -> None:
    events = [Train(2), TrainAndPrune(until=6, every=1, density=0.5, options={"granularty": "weights"})]
    with pytest.raises(OptionError, match="Did you mean 'granularity'"):
        run(events, folder=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_smallest_loss_of_each_training() -> None:
    found = run("lottery_ticket", sparsity=0.36, steps=4, watch=1)
    best = found.find_best_steps()
    trainings = [[one for one in found.history if one["density"] == kept / SIZE] for kept in (SIZE, 115, 92)]
    assert [len(training) for training in trainings] == [4, 4, 5]
    assert best == [min(training[:4], key=lambda one: one["loss"]) for training in trainings]
    assert [one["place"] for one in best] == [1, 4, 7]
    nan, small, other = ({"event": "watch", "place": 0, "loss": loss} for loss in (float("nan"), 0.5, 0.5))
    assert find_smallest_losses([nan, small, other])[0] is small
    with pytest.raises(OptionError, match="No training was watched"):
        find_smallest_losses(found.history[-1:])


def test_rates_of_layers_give_the_counts_of_the_paper() -> None:
    """20% a level, and 10% of the output: the axes of the paper, floor by layer."""

    class Note(Event):
        def __repr__(self) -> str:
            return "Note()"

        def apply(self, run: Any) -> None:
            kept.append({path: int(mask.sum()) for path, mask in run.state.masks.items()})

    kept: list[dict[str, int]] = []
    plan = RunPlan(Fraction(1), 2, 1)
    events = RECIPES["layerwise_lottery_ticket"].make_events(plan, {"rates": {"head": 0.1, "*": 0.2}, "levels": 19})
    prunings = [event for event in events if isinstance(event, Prune)]
    data = (np.zeros((4, 28, 28, 1), "float32"), np.zeros(4))
    with_notes = [event for pruning in prunings for event in (pruning, Note())]
    tpi.run(with_notes, lambda: tpi.models.lenet_300_100((28, 28, 1), 10, seed=0), (data, data), steps=2, verbose=0)
    assert len(kept) == 19
    totals = {level: sum(kept[level - 1].values()) for level in (3, 7, 9, 12, 15, 19)}
    assert totals == {3: 136_511, 7: 56_094, 9: 35_981, 12: 18_505, 15: 9_535, 19: 3_956}
    for level, counts in enumerate(kept, 1):
        assert list(counts.values()) == [
            235_200 * 4**level // 5**level,
            30_000 * 4**level // 5**level,
            1_000 * 9**level // 10**level,
        ]


def test_a_ticket_by_layer() -> None:
    found = run("layerwise_lottery_ticket", rates={"hidden": 0.5}, levels=2, steps=3, rewind_to=1, watch=1)
    assert {path: int(mask.sum()) for path, mask in found.masks.items()} == {
        "hidden/kernel": 96 // 4,
        "head/kernel": 48,
    }
    assert found.cost.training_steps == 1 + 3 * 2
    assert [one["density"] for one in found.find_best_steps()] == [1.0, (48 + 48) / SIZE, (24 + 48) / SIZE]


@pytest.mark.parametrize(
    ("procedure", "options", "words"),
    [
        ("lottery_ticket", {"sparsity": 0.5, "watch": 7}, "none lies in the training from step 0 to step 6"),
        ("lottery_ticket", {"sparsity": 0.5, "watch": 5, "rewind": "none", "rewind_to": 2}, "from step 10 to step 14"),
        ("gradual_pruning", {"sparsity": 0.5, "every": 2, "watch": 7}, "none lies in the training from step 0"),
        ("layerwise_lottery_ticket", {"rates": {"hiden": 0.5}}, "names layers that are not pruned"),
        ("layerwise_lottery_ticket", {"rates": {"hidden": 1}}, "rates['hidden'] must be a number in (0, 1)"),
        ("layerwise_lottery_ticket", {"rates": 0.2}, "is a dict from layers to rates"),
        ("layerwise_lottery_ticket", {"levels": 0}, "levels must be a positive integer"),
        ("layerwise_lottery_ticket", {"sparsity": 0.5}, "finds itself how many weights stay"),
    ],
    ids=str,
)
def test_tickets_refuse(procedure: str, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        run(procedure, folder=tmp_path / "run", **options)
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []
