"""Events between the steps of a training: where they are, and gradual magnitude pruning by the cubic schedule."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from model_kinds import KERAS, build, data

import tfprune_init as tpi
from tfprune_init.errors import OptionError
from tfprune_init.graph.variables import find_prunable_variables

both = pytest.mark.parametrize("package", KERAS)
GRADUAL = {"method": "magnitude", "schedule": "cubic", "unit": "steps", "every": 2, "delay": 1}


def values(model: Any) -> dict[str, np.ndarray]:
    return {t.path: t.tensor.numpy() for t in find_prunable_variables(model).prunable}


@both
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_gradual_magnitude_pruning_keeps_the_largest_at_each_event(package: str, allocation: str) -> None:
    """Steps of 3 batches an epoch; events after 3, 5, 7 and 9 of 12 steps, at 37/64, 56/64, 63/64 and all of 0.8."""
    model = build("sequential", package)
    pruning = tpi.PruneDuringTraining(None, sparsity=0.8, until=10, allocation=allocation, **GRADUAL)
    before: dict[int, dict[str, np.ndarray]] = {}
    after: dict[int, dict[str, np.ndarray]] = {}
    steps = {"done": 0}

    def count(batch: int, logs: Any) -> None:
        steps["done"] += 1
        before[steps["done"]] = values(model)

    def look(batch: int, logs: Any) -> None:
        after[steps["done"]] = values(model)

    make = KERAS[package].callbacks.LambdaCallback
    watches = [make(on_train_batch_end=count), pruning, make(on_train_batch_end=look)]
    model.fit(*data(), batch_size=8, epochs=4, verbose=0, callbacks=watches)
    sparsities = {3: Fraction(37, 64), 5: Fraction(56, 64), 7: Fraction(63, 64), 9: Fraction(1)}
    assert [place for place, _ in pruning.history] == list(sparsities)
    kept = {path: np.ones(value.shape, bool) for path, value in before[1].items()}
    for step in range(1, 13):
        if step in sparsities:
            density = 1 - Fraction(4, 5) * sparsities[step]
            groups = [[path] for path in kept] if allocation == "uniform" else [list(kept)]
            for paths in groups:
                flat = np.concatenate([np.abs(before[step][path]).ravel() for path in paths])
                count_kept = math.floor(flat.size * density)
                largest = np.sort(flat)[-count_kept]
                for path in paths:
                    kept[path] = np.abs(before[step][path]) >= largest
                assert sum(int(kept[path].sum()) for path in paths) == count_kept
        assert all(np.array_equal(after[step][path] != 0, mask) for path, mask in kept.items())
    assert pruning.masks == tpi.Masks(kept)
    tpi.strip(model)


def test_a_training_that_goes_on_goes_on_with_its_events() -> None:
    model = build("sequential", "keras")
    options = {"sparsity": 0.8, "until": 9, **GRADUAL}
    first, second = (tpi.PruneDuringTraining(None, **options) for _ in range(2))

    class Stop(KERAS["keras"].callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = epoch == 1

    model.fit(*data(), batch_size=8, epochs=4, verbose=0, callbacks=[first, Stop()])
    model.fit(*data(), batch_size=8, epochs=4, initial_epoch=2, verbose=0, callbacks=[second])
    assert [place for place, _ in first.history + second.history] == [3, 5, 7, 9]
    assert second.masks.kept == math.floor(find_prunable_variables(model).size * Fraction(1, 5))


def unknown_length() -> Any:
    x, y = data()
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8).filter(lambda x, y: True)


@both
def test_data_of_unknown_length_is_counted_as_it_comes(package: str) -> None:
    model = build("sequential", package)
    pruning = tpi.PruneDuringTraining(None, sparsity=0.8, until=9, **GRADUAL)
    model.fit(unknown_length(), shuffle=False, epochs=3, verbose=0, callbacks=[pruning])
    assert [place for place, _ in pruning.history] == [3, 5, 7, 9]


@both
def test_data_that_ends_before_the_last_event_is_an_error(package: str) -> None:
    model = build("sequential", package)
    pruning = tpi.PruneDuringTraining(None, sparsity=0.8, until=9, **GRADUAL)
    with pytest.raises(OptionError, match="after 2 of 4 events, the last of which comes after step 9"):
        model.fit(unknown_length(), shuffle=False, epochs=2, verbose=0, callbacks=[pruning])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unit": "batches", "until": 9}, "unit must be one of"),
        ({"unit": "steps", "until": 9, "events": 4}, "Either events= or until="),
        ({"unit": "steps", "until": 2, "delay": 1, "every": 2}, "the first one is after 3 steps"),
        ({"unit": "steps", "until": 0}, "until must be a positive integer"),
    ],
)
def test_refuses(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        tpi.PruneDuringTraining(None, sparsity=0.5, method="magnitude", **options)


def test_refuses_a_training_of_fewer_steps() -> None:
    pruning = tpi.PruneDuringTraining(None, sparsity=0.8, until=9, **GRADUAL)
    with pytest.raises(OptionError, match=r"after step 9.*a training of 6 steps"):
        build("sequential", "keras").fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=[pruning])


def test_refuses_to_go_on_where_nobody_knows_which_step_it_is() -> None:
    pruning = tpi.PruneDuringTraining(None, sparsity=0.8, until=9, **GRADUAL)
    with pytest.raises(OptionError, match="initial_epoch=1, and data of unknown length"):
        build("sequential", "keras").fit(
            unknown_length(), shuffle=False, epochs=4, initial_epoch=1, verbose=0, callbacks=[pruning]
        )


@both
def test_refuses_several_steps_at_once(package: str) -> None:
    model = build("sequential", package)
    model.compile("sgd", model.loss, steps_per_execution=3)
    pruning = tpi.PruneDuringTraining(None, sparsity=0.8, until=9, **GRADUAL)
    with pytest.raises(OptionError, match="3 steps at once"):
        model.fit(*data(), batch_size=8, epochs=4, verbose=0, callbacks=[pruning])
