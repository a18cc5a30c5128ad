"""Pruning during training: when it prunes, how much, and that nothing pruned comes back."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from model_kinds import KERAS, KINDS, build, data
from tiers import rows

import tfprune_init as tpi
from tfprune_init.errors import OptionError
from tfprune_init.graph.variables import find_prunable_variables, list_variables

both = pytest.mark.parametrize("package", KERAS)


@both
@pytest.mark.parametrize(
    "method", rows(["snip_it", "iter_snip", "magnitude", "snap_it", "synflow"], ["snip_it", "snap_it"])
)
@pytest.mark.parametrize("kind", rows(KINDS, ["sequential", "functional"]))
def test_prunes_at_its_events_and_holds_the_zeros(kind: str, package: str, method: str) -> None:
    model = build(kind, package)
    pruning = tpi.PruneDuringTraining(data(), sparsity=0.6, method=method, every=2, delay=1, events=2)
    zeros: list[int] = []
    leaks: list[int] = []

    def look(batch: int, logs: Any) -> None:
        if pruning.masks is not None:
            values = {t.path: t.tensor.numpy() for t in list_variables(model)}
            leaks.append(sum(int(np.count_nonzero(values[p][~mask])) for p, mask in pruning.masks.items()))
        zeros.append(sum(int((t.tensor.numpy() == 0).sum()) for t in find_prunable_variables(model).prunable))

    watch = KERAS[package].callbacks.LambdaCallback(on_train_batch_end=look)
    model.fit(*data(), epochs=6, batch_size=12, verbose=0, callbacks=[watch, pruning])
    assert [epoch for epoch, _ in pruning.history] == [3, 5]
    assert len(leaks) == 2 * 3
    assert sum(leaks) == 0
    assert max(zeros[:6]) == 0
    assert 0 < zeros[6] < zeros[-1]
    tpi.strip(model)


@both
def test_densities_are_those_of_the_schedule(package: str) -> None:
    model = build("sequential", package)
    pruning = tpi.PruneDuringTraining(data(), sparsity=0.75, every=1, delay=0, events=4)
    model.fit(*data(), epochs=5, batch_size=12, verbose=0, callbacks=[pruning])
    size = find_prunable_variables(model).size
    expected = [size // 2, size * 3 // 8, size * 5 // 16, size // 4]
    assert [(epoch, round(density * size)) for epoch, density in pruning.history] == list(
        zip([1, 2, 3, 4], expected, strict=True)
    )


def test_a_layer_with_its_own_sparsity_gets_there_as_the_others_do() -> None:
    model = build("sequential", "keras")
    named = find_prunable_variables(model).prunable[0]
    pruning = tpi.PruneDuringTraining(
        data(), sparsity=0.75, every=1, delay=0, events=4, allocation={named.path: 0.2}, method="magnitude"
    )
    kept: list[int] = []
    watch = KERAS["keras"].callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append(int(pruning.masks[named.path].sum()))
    )
    model.fit(*data(), epochs=4, batch_size=12, verbose=0, callbacks=[pruning, watch])
    # The network is at 1/2, 3/8, 5/16 and 1/4, so the layer has 1/3, 1/6, 1/12 and nothing of its 20% still to lose.
    shares = [Fraction(4, 5) + Fraction(1, 5) * left for left in (Fraction(1, 3), Fraction(1, 6), Fraction(1, 12), 0)]
    assert kept == [int(named.size * share) for share in shares]
    assert len(set(kept)) == 4


@both
def test_judges_the_trained_weights_of_the_event(package: str) -> None:
    """Magnitude at the end of an epoch: exactly the largest of the weights as they are then."""
    model = build("sequential", package)
    pruning = tpi.PruneDuringTraining(None, sparsity=0.5, method="magnitude", every=2, delay=0)
    held: dict[int, dict[str, np.ndarray]] = {}

    def look(epoch: int, logs: Any) -> None:
        held[epoch] = {t.path: t.tensor.numpy() for t in find_prunable_variables(model).prunable}

    watch = KERAS[package].callbacks.LambdaCallback(on_epoch_end=look)
    model.fit(*data(), epochs=2, batch_size=12, verbose=0, callbacks=[watch, pruning])
    flat = np.concatenate([np.abs(value).ravel() for value in held[1].values()])
    kept = np.concatenate([mask.ravel() for mask in pruning.masks.values()])
    assert kept.sum() == flat.size // 2
    assert flat[kept].min() >= flat[~kept].max()


@pytest.mark.parametrize("method", ["snip_it", "random"])
def test_goes_on_from_masks_that_are_there(method: str) -> None:
    """Also where what is pruned would score as high as what is left."""
    model = build("sequential", "keras")
    tpi.prune_at_init(model, data(), sparsity=0.3, method="random", verbose=0)
    before = {t.path: t.tensor.numpy() != 0 for t in find_prunable_variables(model).prunable}
    pruning = tpi.PruneDuringTraining(data(), sparsity=0.6, method=method, seed=1, every=1, delay=0, events=1)
    model.fit(*data(), epochs=1, batch_size=12, verbose=0, callbacks=[pruning])
    assert all(not (mask & ~before[path]).any() for path, mask in pruning.masks.items())
    assert pruning.masks.kept == kept_of(model, 0.4)


def kept_of(model: Any, density: float) -> int:
    return int(find_prunable_variables(model).size * density + 1e-9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "force"}, "lets pruned weights return"),
        ({"every": 0}, "every must be a positive integer"),
        ({"delay": -1}, "delay must be"),
        ({"events": 2.5}, "events must be"),
        ({"temperature": 3}, "does not use temperature=3"),
        ({"steps": 3}, "events"),
    ],
)
def test_refuses(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        tpi.PruneDuringTraining(data(), sparsity=0.5, **options)


def test_refuses_training_that_ends_before_the_last_event() -> None:
    model = build("sequential", "keras")
    pruning = tpi.PruneDuringTraining(data(), sparsity=0.5, every=2, delay=1, events=3)
    with pytest.raises(OptionError, match="after epoch 7"):
        model.fit(*data(), epochs=6, verbose=0, callbacks=[pruning])
