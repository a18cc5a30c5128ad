"""Procedures: events in turn, lottery tickets against hand-made masks, runs that go on with the same bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfprune_init as tpi
from tfprune_init.errors import NetworkCollapseError, OptionError
from tfprune_init.training import Event, Prune, Reinitialize, Repeat, Rewind, RunResult, Snapshot, Train
from tfprune_init.training.feed import Feed
from tfprune_init.training.inputs import ExperimentData
from tfprune_init.training.procedures import ProcedureRun
from tfprune_init.training.recipe_registry import RECIPES, RunPlan

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 6)).astype("float32")
Y = (X[:, :3].argmax(1) + (X[:, 3] > 1)) % 3
DATA = ((X[:260], Y[:260]), (X[260:], Y[260:]))
SIZE = 6 * 16 + 16 * 3


def build(seed: int, K: Any = keras) -> Any:
    K.utils.set_random_seed(seed)
    model = K.Sequential(
        [
            K.Input((6,)),
            K.layers.Dense(16, "relu", name="hidden"),
            K.layers.BatchNormalization(),
            K.layers.Dropout(0.2),
            K.layers.Dense(3, name="head"),
        ]
    )
    loss = K.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(K.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def run(procedure: Any, **options: Any) -> RunResult:
    return tpi.run(procedure, build, DATA, **{"steps": 6, "verbose": 0, **options})


class Look(Event):
    """Keeps what it sees."""

    def __init__(self) -> None:
        self.seen: list[list[np.ndarray]] = []
        self.optimizer: list[list[np.ndarray]] = []

    def __repr__(self) -> str:
        return "Look()"

    def apply(self, run: Any) -> None:
        self.seen.append(run.read_model())
        self.optimizer.append([np.array(variable) for variable in run.model.optimizer.variables])


def same(one: RunResult, other: RunResult) -> bool:
    weights = zip(one.model.get_weights(), other.model.get_weights(), strict=True)
    alike = all(np.array_equal(a, b) for a, b in weights) and one.masks == other.masks
    return alike and one.history == other.history and one.cost == other.cost


# The worked example of iterative magnitude pruning: the same ten weights at every level.
TEN = np.array([0.5, -0.1, 0.3, -0.05, 0.8, 0.2, -0.4, 0.15, 0.9, -0.7], "float32")


@pytest.mark.parametrize(
    ("levels", "kept"), [(1, [0, 2, 4, 5, 6, 7, 8, 9]), (2, [0, 2, 4, 6, 8, 9]), (3, [0, 4, 6, 8, 9])]
)
def test_levels_keep_the_largest_of_what_is_left(levels: int, kept: list[int]) -> None:
    def ten(seed: int) -> Any:
        model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(1, use_bias=False)])
        model.compile("sgd", "mse", metrics=["accuracy"])
        model.set_weights([TEN[:, None]])
        return model

    data = (np.ones((4, 10), "float32"), np.zeros((4, 1)))
    events = [Prune("magnitude", Fraction(4, 5) ** level) for level in range(1, levels + 1)]
    (mask,) = tpi.run(events, ten, (data, data), steps=1, verbose=0).masks.values()
    assert np.flatnonzero(mask).tolist() == kept


def test_the_levels_of_a_ticket() -> None:
    events = RECIPES["lottery_ticket"].make(RunPlan(Fraction(1, 2), 100, 10), rewind_to=7)
    assert events[:2] == [Train(7), Snapshot("start")]
    assert [e.density for e in events if isinstance(e, Prune)] == [
        *(Fraction(4, 5) ** level for level in (1, 2, 3)), Fraction(1, 2)
    ]  # fmt: skip
    assert sum(isinstance(e, Train) for e in events) == 6
    # Kept of LeNet-300-100 at level 9 with rates of 20%, of the hidden layers: the published axis says 13.5%.
    assert [int(n * Fraction(4, 5) ** 9) for n in (235_200, 30_000)] == [31_568, 4_026]


@pytest.mark.parametrize("K", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_ticket_starts_from_the_weights_of_its_step(K: Any) -> None:
    look = Look()
    events = [Train(2), look, Snapshot("start"), Train(6), Prune("magnitude", Fraction(1, 4)), Rewind("start"), look]
    found = tpi.run(events, lambda seed: build(seed, K), DATA, steps=6, verbose=0)
    assert found.masks.kept == SIZE // 4
    before, after = look.seen
    masks = {mask.shape: mask for mask in found.masks.values()}
    assert {mask.shape for mask in masks.values()} == {(6, 16), (16, 3)}
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(other, one * masks.get(one.shape, 1))


def test_the_optimizer_starts_fresh_at_the_step_of_the_run() -> None:
    look, again = Look(), Look()
    events = [Train(2), Snapshot("k"), Train(6), look, Rewind("k", weights=False), Train(3), again]
    found = run(events)
    iterations = [int(optimizer[0]) for optimizer in (*look.optimizer, *again.optimizer)]
    assert iterations == [6, 3]
    assert found.cost.training_steps == 2 + 4 + 1
    # One step of Adam from moments of zero: the first moment is a tenth of the gradient, the second a thousandth of
    # its square, so their ratio is (0.1 g)^2 / (0.001 g^2) = 10 wherever the gradient is not tiny.
    first, second = again.optimizer[0][2], again.optimizer[0][3]
    large = np.abs(first) > 1e-3
    assert large.sum() > 20
    np.testing.assert_allclose(first[large] ** 2 / second[large], 10, rtol=1e-3)


def test_what_a_ticket_costs() -> None:
    found = run("lottery_ticket", sparsity=0.36)
    assert found.masks.kept == int(SIZE * Fraction(16, 25))
    assert found.cost.training_steps == 3 * 6
    assert found.cost.scoring_steps == 0
    # Batches of 128: steps 0 and 3 have 128 examples, as 1 and 4; 2 and 5 have 4.
    examples = 4 * 128 + 2 * 4
    left = [SIZE, int(SIZE * Fraction(4, 5)), int(SIZE * Fraction(16, 25))]
    assert found.cost.multiply_adds == sum(3 * examples * weights for weights in left)
    assert found.history[-1]["density"] == found.masks.density


def test_methods_before_training_are_procedures_too() -> None:
    found = run("snip", sparsity=0.5, epochs=1, steps=None)
    model = build(0)
    report = tpi.prune_at_init(model, DATA[0], sparsity=0.5, method="snip", verbose=0)
    assert found.masks == report.masks
    assert (found.cost.training_steps, found.cost.scoring_steps) == (3, 1)
    for path, mask in found.masks.items():
        assert not found.model.get_layer(path.split("/")[0]).kernel.numpy()[~mask].any()
    with_budget = run("magnitude", budget=tpi.Budget(weights=50))
    assert with_budget.masks.kept == 50


@pytest.mark.parametrize(
    "options",
    [
        {"rewind": "learning_rate"},
        {"rewind": "none", "rewind_to": 2},
        {"control": "reinitialized"},
        {"control": "shuffled"},
        {"one_shot": True, "allocation": "uniform"},
    ],
    ids=str,
)
def test_variants_of_tickets(options: dict[str, Any]) -> None:
    found = run("lottery_ticket", sparsity=0.36, **options)
    plain = run("lottery_ticket", sparsity=0.36)
    counts = {path: int(mask.sum()) for path, mask in found.masks.items()}
    if "control" in options:
        assert counts == {path: int(mask.sum()) for path, mask in plain.masks.items()}
    if options.get("control") == "shuffled":
        assert found.masks != plain.masks
    if options.get("control") == "reinitialized":
        assert found.masks == plain.masks
        assert not same(found, plain)
    if "allocation" in options:
        assert list(counts.values()) == [int(96 * Fraction(16, 25)), int(48 * Fraction(16, 25))]
    usual = [6] * (3 - ("one_shot" in options))
    steps = {"none": [2, 4, 4, 4], "learning_rate": [6, 6, 6]}.get(options.get("rewind", ""), usual)
    assert found.cost.training_steps == sum(steps)


def test_an_interrupted_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """Stopped in the middle of events, again and again: the folder holds what a killed run leaves."""
    whole = run("lottery_ticket", sparsity=0.36, rewind_to=2, folder=tmp_path / "whole")
    count = len(RECIPES["lottery_ticket"].make(RunPlan(Fraction(16, 25), 6, 3), rewind_to=2))
    for _ in range(count):
        try:
            with interrupting(4):
                parts = run("lottery_ticket", sparsity=0.36, rewind_to=2, folder=tmp_path / "parts")
        except KeyboardInterrupt:
            continue
        break
    assert same(parts, whole)
    again = run("lottery_ticket", sparsity=0.36, rewind_to=2, folder=tmp_path / "parts")
    assert [one["event"] for one in again.history] == ["end"]
    assert same(again, whole)


@contextmanager
def interrupting(call: int) -> Iterator[None]:
    """Interrupt a run at the end of a stretch of training, of a search or of a rewind: at so many-th of these."""
    calls = itertools.count(1)

    def interrupt(function: Any) -> Any:
        def around(*arguments: Any) -> None:
            function(*arguments)
            if next(calls) == call:
                raise KeyboardInterrupt

        return around

    with pytest.MonkeyPatch.context() as patch:
        for name in ("count", "write_model"):
            patch.setattr(ProcedureRun, name, interrupt(getattr(ProcedureRun, name)))
        yield


def test_batches_of_a_step_are_the_same_at_every_visit() -> None:
    def numbers(feed: Feed, start: int, stop: int) -> list[list[int]]:
        return [batch[1].numpy().tolist() for batch in feed.batches(start, stop)]

    labels = np.arange(300)
    arrays = Feed(ExperimentData((X, labels), (X, labels)), seed=3)
    fixed = tf.data.Dataset.from_tensor_slices((X, labels)).batch(128)
    dataset = Feed(ExperimentData(fixed, fixed), seed=3)
    for feed in (arrays, dataset):
        assert feed.steps_per_epoch == 3
        whole = numbers(feed, 0, 7)
        assert [len(batch) for batch in whole] == [128, 128, 44, 128, 128, 44, 128]
        assert sorted(itertools.chain(*whole[:3])) == sorted(itertools.chain(*whole[3:6])) == labels.tolist()
        assert numbers(feed, 2, 5) == whole[2:5]
        assert feed.count_examples(2, 5) == 44 + 256
    assert numbers(dataset, 3, 6) == numbers(dataset, 0, 3)
    assert numbers(arrays, 3, 6) != numbers(arrays, 0, 3)
    assert numbers(Feed(ExperimentData((X, labels), (X, labels)), seed=4), 0, 1) != numbers(arrays, 0, 1)
    named = Feed(ExperimentData(({"a": X, "b": labels}, labels), (X, labels)), seed=3)
    for inputs, wanted in named.batches(0, 2):
        assert inputs["a"].shape[1:] == (6,)
        np.testing.assert_array_equal(inputs["b"], wanted)
    assert numbers(named, 1, 4) == numbers(arrays, 1, 4)


def test_watched_training_says_where_the_loss_was_smallest() -> None:
    found = run([Train(6, watch=2)])
    assert [(one["event"], one["step"]) for one in found.history] == [
        ("watch", 2),
        ("watch", 4),
        ("watch", 6),
        ("end", 6),
    ]
    assert found.history[2]["loss"] == found.history[3]["loss"]
    # To look changes nothing.
    assert all(map(np.array_equal, found.model.get_weights(), run([Train(6)]).model.get_weights()))


@pytest.mark.parametrize(
    ("procedure", "options", "words"),
    [
        ("lottery_ticket", {"sparsity": 0.5, "rewind_to": 6}, "rewind_to must be before the end of training"),
        ("lottery_ticket", {"sparsity": 0.5, "rewnd_to": 1}, "Did you mean 'rewind_to'"),
        ("lottery_ticket", {"sparsity": 0.5, "rate": 1.0}, "rate is the share"),
        ("lottery_ticket", {}, "prunes to a sparsity"),
        ("lottery_ticket", {"sparsity": 0.5, "control": "shuffled", "rewind": "none"}, "use rewind='weights'"),
        ("lottery_tickets", {"sparsity": 0.5}, "Did you mean 'lottery_ticket'"),
        ("snip", {}, "How much may stay"),
        ("snip", {"sparsity": 0.5, "budget": tpi.Budget(weights=5)}, "not both"),
        ([Rewind("start")], {}, "There is no snapshot 'start'"),
        ([Train(4), Train(3)], {}, "at step 4 already"),
        ([Prune("magnitude", Fraction(1, 4)), Prune("magnitude", Fraction(1, 2))], {}, "earlier pruning left no more"),
        (["train"], {}, "A procedure is a list of events"),
        ([Reinitialize("shufled")], {}, "Did you mean 'shuffled'"),
        ([Repeat(0, (Train(1),))], {}, "times must be a positive integer"),
        ([Train(1)], {"epochs": 1}, "Give steps= or epochs="),
        ([Train(1)], {"rate": 0.5}, "takes no options"),
    ],
    ids=str,
)
def test_refused(procedure: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        run(procedure, **options)
    assert words in str(caught.value)


def test_a_rate_that_empties_the_network_is_an_error_that_names_the_layers(tmp_path: Path) -> None:
    with pytest.raises(NetworkCollapseError, match=r"head|hidden"):
        run([Prune("magnitude", Fraction(1, SIZE))], folder=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_layers_that_keras_numbers_anew_are_the_same_run(tmp_path: Path) -> None:
    def unnamed(seed: int) -> Any:
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(3)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        return model

    events = [Train(2), Prune("magnitude", Fraction(1, 2)), Train(4)]
    found = [tpi.run(events, unnamed, DATA, steps=4, folder=tmp_path / "run", verbose=0) for _ in range(2)]
    assert found[0].masks != found[1].masks
    assert found[0].masks.carried_to(found[1].model) == found[1].masks
    assert found[0].history == found[1].history


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run([Train(2)], folder=tmp_path / "run")
    with pytest.raises(OptionError, match="holds another run"):
        run([Train(3)], folder=tmp_path / "run")
    with pytest.raises(OptionError, match="holds another run"):
        run([Train(2)], seed=1, folder=tmp_path / "run")
    (tmp_path / "run" / "arrays.npz").write_bytes(b"PK")
    with pytest.raises(OptionError, match="is damaged"):
        run([Train(2)], folder=tmp_path / "run")
