"""Dynamic pruning with feedback: the worked example, masks and zeros at each step, saving, going on, refusals."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from model_kinds import KERAS, KINDS, build, data
from tiers import rows
from training import TWO_REPLICAS, dense, fresh_process, loss, random_masks

import tfprune_init as tpi
from tfprune_init.errors import EnforcementError, MaskMismatchError, NetworkCollapseError, OptionError, ScoreError
from tfprune_init.graph.variables import find_prunable_variables

both = pytest.mark.parametrize("package", KERAS)


def values(model: Any) -> dict[str, np.ndarray]:
    return {t.path: t.tensor.numpy() for t in find_prunable_variables(model).prunable}


def watch(package: str, **functions: Any) -> Any:
    return KERAS[package].callbacks.LambdaCallback(**functions)


@both
def test_a_pruned_weight_returns_as_in_the_worked_example(package: str) -> None:
    """y = v.x, loss (y - 3)^2 / 2 at x = (1, 2), from w = (1, 0.5) with the second one pruned; 3 steps of 0.1."""
    K = KERAS[package]
    model = K.Sequential([K.Input((2,)), K.layers.Dense(1, use_bias=False, name="one")])
    model.layers[-1].kernel.assign([[1.0], [0.5]])
    model.compile(K.optimizers.SGD(0.1), lambda y, p: tf.reduce_sum((p - y) ** 2) / 2)
    first = tpi.Masks({"one/kernel": [[True], [False]]})
    pruning = tpi.DynamicPruning(sparsity=0.5, every=3, until=6, schedule="one_shot", masks=first)
    weights, masks = [], []

    def look(batch: int, logs: Any) -> None:
        weights.append(model.layers[-1].kernel.numpy()[:, 0])
        masks.append(pruning.masks["one/kernel"][:, 0].tolist())

    model.fit(
        np.array([[1.0, 2.0]]), np.array([[3.0]]), epochs=6, verbose=0,
        callbacks=[pruning, watch(package, on_train_batch_end=look)],
    )  # fmt: skip
    np.testing.assert_allclose(weights[:3], [(1.2, 0.9), (1.38, 1.26), (1.542, 1.584)], rtol=1e-6)
    assert masks == [[True, False], [True, False], [False, True], [False, True], [False, True], [False, True]]
    # From (0, 1.584) on: y = 3.168, g = (0.168, 0.336), and so on; then what is pruned is set to zero.
    np.testing.assert_allclose(weights[3:5], [(1.5252, 1.5504), (1.51512, 1.53024)], rtol=1e-6)
    np.testing.assert_allclose(weights[5], (0.0, 1.518144), rtol=1e-6)
    assert weights[5][0] == 0.0
    assert pruning.history == [(3, 0.5), (6, 0.5)]


@both
@pytest.mark.parametrize("kind", rows([kind for kind in KINDS if kind != "self_writing"], ["functional", "nested"]))
def test_the_network_computes_with_exact_zeros_at_every_batch(kind: str, package: str) -> None:
    """Beside a copy that has m * w in its variables, m being the largest dense weights of the event before."""
    model, copy, (x, y) = build(kind, package), build(kind, package), data()
    pruning = tpi.DynamicPruning(sparsity=0.6, every=2, until=8)
    size = find_prunable_variables(model).size
    kept = {2: Fraction(37, 64), 4: Fraction(56, 64), 6: Fraction(63, 64), 8: Fraction(1)}
    seen: list[int] = []

    def compute_expected() -> np.ndarray:
        for own, target in zip(copy.variables, model.variables, strict=True):
            own.assign(target)
        for target in find_prunable_variables(copy).prunable:
            target.tensor.assign(target.tensor * pruning.masks[target.path])
        return copy.predict_on_batch(x)

    def look(batch: int, logs: Any) -> None:
        seen.append(len(seen) + 1)
        step = seen[-1]
        passed = max((at for at in kept if at <= step), default=0)
        density = 1 - Fraction(3, 5) * kept.get(passed, 0)
        assert pruning.masks.kept == math.floor(size * density)
        assert np.asarray(model.predict_on_batch(x)).tobytes() == compute_expected().tobytes()
        now = values(model)
        flat = np.concatenate([np.abs(now[path]).ravel() for path in pruning.masks])
        mask = np.concatenate([pruning.masks[path].ravel() for path in pruning.masks])
        if step == passed and step < 8:
            assert flat[mask].min() >= flat[~mask].max()
        # Dense weights until the last event, m * w from there on.
        assert np.count_nonzero(flat) == (size if step < 8 else pruning.masks.kept)

    watched = watch(package, on_train_batch_end=look)
    history = model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[pruning, watched], validation_data=(x, y))
    assert seen == list(range(1, 13))
    assert [place for place, _ in pruning.history] == list(kept)
    compute_expected()
    assert history.history["val_loss"][-1] == pytest.approx(copy.evaluate(x, y, verbose=0)[0], rel=1e-5)
    tpi.strip(model)


@both
def test_layers_that_write_to_their_kernel_are_refused_by_name(package: str) -> None:
    model = build("self_writing", package)
    with pytest.raises(Exception, match=r"writes to its kernel when it is called") as caught:
        model.fit(*data(), batch_size=8, verbose=0, callbacks=[tpi.DynamicPruning(sparsity=0.6, every=1)])
    assert "Normed" in str(caught.value)
    excluding = tpi.DynamicPruning(sparsity=0.6, every=1, until=2, exclude="normed")
    build("self_writing", package).fit(*data(), batch_size=8, verbose=0, callbacks=[excluding])


@both
def test_validation_sees_the_sparse_network(package: str) -> None:
    """Validation before the only event is that of a copy with m * w in its variables, not that of the dense weights."""
    K, (x, y) = KERAS[package], (np.random.default_rng(0).normal(size=(24, 6)).astype("float32"), np.arange(24) % 3)
    model, copy = dense(K), dense(K)
    for one in (model, copy):
        one.compile(K.optimizers.SGD(0.1), loss(K))
    masks = random_masks(model, 0.9)
    copied: list[float] = []

    def look(epoch: int, logs: Any) -> None:
        if epoch == 2:
            return
        copy.set_weights(model.get_weights())
        unmasked = copy.evaluate(x, y, verbose=0)
        for target in find_prunable_variables(copy).prunable:
            target.tensor.assign(target.tensor * masks[target.path])
        copied.append(copy.evaluate(x, y, verbose=0))
        assert abs(copied[-1] - unmasked) > 1e-3

    pruning = tpi.DynamicPruning(sparsity=0.9, every=12, until=12, masks=masks, schedule="one_shot")
    callbacks = [pruning, watch(package, on_epoch_end=look)]
    history = model.fit(x, y, batch_size=6, epochs=3, verbose=0, validation_data=(x, y), callbacks=callbacks)
    assert history.history["val_loss"][:2] == pytest.approx(copied, rel=1e-5)


def test_layers_each_keep_their_share_with_a_uniform_allocation() -> None:
    model = build("sequential", "keras")
    pruning = tpi.DynamicPruning(sparsity=0.8, every=3, allocation="uniform", exclude="head")
    model.fit(*data(), batch_size=8, epochs=4, verbose=0, callbacks=[pruning])
    assert {path: int(mask.sum()) for path, mask in pruning.masks.items()} == {
        "hidden/kernel": 72 * 12 // 5,
        "narrow/kernel": 12 * 8 // 5,
    }
    assert [place for place, _ in pruning.history] == [3, 6, 9]


def trained(package: str, epochs: tuple[int, int], pruning: Any, model: Any) -> Any:
    """Train from one epoch to another, on the same batches whoever begins where."""
    x, y = data()
    model.fit(
        x, y, batch_size=8, initial_epoch=epochs[0], epochs=epochs[1], shuffle=False, verbose=0, callbacks=[pruning]
    )
    return model


def stop_after(package: str, epoch: int) -> Any:
    """A callback that stops a training at the end of an epoch."""

    def stop(at: int, logs: Any) -> None:
        callback.model.stop_training = at == epoch

    callback = watch(package, on_epoch_end=stop)
    return callback


@both
def test_a_run_goes_on_in_another_model_from_saved_dense_weights(package: str, tmp_path: Path) -> None:
    """Stopped after step 6 of 12, between the events after steps 5 and 10: the same bits as without a stop."""
    options = {"sparsity": 0.8, "every": 5, "until": 10}
    whole, first, second = (build("sequential", package, optimizer="sgd") for _ in range(3))
    one = tpi.DynamicPruning(**options)
    trained(package, (0, 4), one, whole)
    half = tpi.DynamicPruning(**options)
    x, y = data()
    first.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=[half, stop_after(package, 1)])
    assert half.history == one.history[:1]
    first.save_weights(tmp_path / "dense.weights.h5")
    half.masks.save(tmp_path / "masks.npz")
    saved = values(first)
    assert all((weight != 0).all() for weight in saved.values())
    second.load_weights(tmp_path / "dense.weights.h5")
    assert all(np.array_equal(weight, saved[path]) for path, weight in values(second).items())
    other = tpi.DynamicPruning(**options, masks=tpi.Masks.load(tmp_path / "masks.npz"))
    trained(package, (2, 4), other, second)
    assert other.history == one.history[1:]
    assert other.masks == one.masks
    assert all(np.array_equal(weight, values(whole)[path]) for path, weight in values(second).items())


@both
def test_a_stopped_run_goes_on_with_the_same_callback(package: str) -> None:
    options = {"sparsity": 0.8, "every": 5, "until": 10}
    whole, parts = (build("sequential", package) for _ in range(2))
    one, two = (tpi.DynamicPruning(**options) for _ in range(2))
    trained(package, (0, 4), one, whole)
    x, y = data()
    parts.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=[two, stop_after(package, 1)])
    trained(package, (2, 4), two, parts)
    assert two.history == one.history
    assert two.masks == one.masks
    assert all(np.array_equal(weight, values(whole)[path]) for path, weight in values(parts).items())


@both
def test_finish_ends_a_stopped_run_with_the_masks_it_has(package: str) -> None:
    model, (x, y) = build("sequential", package), data()
    pruning = tpi.DynamicPruning(sparsity=0.8, every=5, until=10)
    model.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=[pruning, stop_after(package, 1)])
    before = model.predict(x, verbose=0)
    pruning.finish()
    assert model.predict(x, verbose=0).tobytes() == before.tobytes()
    assert all(np.array_equal(weight != 0, pruning.masks[path]) for path, weight in values(model).items())
    model.fit(x, y, epochs=1, verbose=0)
    tpi.strip(model)
    with pytest.raises(OptionError, match="attached already"):
        pruning.finish()


def test_without_its_masks_a_run_goes_on_with_those_of_its_dense_weights() -> None:
    model = build("sequential", "keras")
    pruning = tpi.DynamicPruning(sparsity=0.8, every=5, until=10)
    flat = np.concatenate([np.abs(weight).ravel() for weight in values(model).values()])
    trained("keras", (2, 4), pruning, model)
    # Half of the way by the cubic schedule: 7/8 of 0.8.
    kept = math.floor(flat.size * (1 - Fraction(4, 5) * Fraction(7, 8)))
    assert pruning.history[0] == (6, kept / flat.size)
    assert pruning.history[1][0] == 10


def test_refuses_a_network_that_passes_no_signal_and_stays_as_it_was() -> None:
    model = build("sequential", "keras")
    pruning = tpi.DynamicPruning(sparsity=1 - 2 / find_prunable_variables(model).size, every=3, until=6)
    with pytest.raises(NetworkCollapseError):
        model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=[pruning])
    assert len(pruning.history) == 1
    assert all((weight != 0).all() for weight in values(model).values())
    before = model.predict(data()[0], verbose=0)
    pruning.finish()
    assert model.predict(data()[0], verbose=0).tobytes() == before.tobytes()


def test_refuses_weights_that_are_nan() -> None:
    model = build("sequential", "keras")
    pruning = tpi.DynamicPruning(sparsity=0.5, every=2)
    model.layers[1].kernel.assign(np.full((72, 12), np.nan))
    with pytest.raises(ScoreError, match=r"Weights of hidden/kernel.* are NaN"):
        model.fit(*data(), batch_size=8, epochs=3, verbose=0, callbacks=[pruning])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every must be a positive integer"),
        ({"until": 8}, "No event comes before until: the first one is after 16 steps"),
        ({"granularity": "units"}, "whole units have biases"),
        ({"steps": 3}, "does not use steps"),
        ({"shuffle": True}, "does not use shuffle"),
        ({"temperature": 3}, "does not use temperature=3"),
        ({"alocation": "uniform"}, "Did you mean 'allocation'"),
    ],
)
def test_refuses(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        tpi.DynamicPruning(sparsity=0.5, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, OptionError, "the first one is after 16 steps"),  # 75% of 12 steps
        ({"every": 5, "until": 15}, OptionError, "after step 15"),
        ({"every": 2, "masks": tpi.Masks({"x": [True]})}, MaskMismatchError, "Not in the model: x"),
        ({"every": 2, "sparsity": 1.0}, OptionError, "sparsity"),
    ],
)
def test_refuses_at_the_beginning(options: dict[str, Any], error: type, words: str) -> None:
    model = build("sequential", "keras")
    before = model.predict(data()[0], verbose=0)
    with pytest.raises(error, match=words):
        model.fit(
            *data(), batch_size=8, epochs=4, verbose=0, callbacks=[tpi.DynamicPruning(**{"sparsity": 0.5, **options})]
        )
    assert model.predict(data()[0], verbose=0).tobytes() == before.tobytes()


def test_refuses_masked_models_and_data_of_unknown_length() -> None:
    model, (x, y) = build("sequential", "keras"), data()
    endless = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).filter(lambda x, y: True)
    with pytest.raises(OptionError, match=r"75% of the steps.*until=None"):
        model.fit(endless, shuffle=False, verbose=0, callbacks=[tpi.DynamicPruning(sparsity=0.5)])
    tpi.attach(model, random_masks(model))
    with pytest.raises(EnforcementError, match=r"tpi\.strip"):
        model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[tpi.DynamicPruning(sparsity=0.5, every=2)])


REPLICAS = """
import tfprune_init as tpi
from tfprune_init.graph.variables import find_prunable_variables
import importlib, sys
K = importlib.import_module(sys.argv[1])
from training import dense, loss
outcomes = []
for scope in (strategy.scope(), None):
    if scope is None:
        model = dense(K)
        model.compile(K.optimizers.SGD(0.1, momentum=0.9), loss(K))
    else:
        with scope:
            model = dense(K)
            model.compile(K.optimizers.SGD(0.1, momentum=0.9), loss(K))
    pruning = tpi.DynamicPruning(sparsity=0.8, every=3, until=9)
    model.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=[pruning])
    targets = find_prunable_variables(model).prunable
    outcomes.append((pruning, [np.asarray(t.tensor) for t in targets]))
result["kept"] = [pruning.masks.kept for pruning, _ in outcomes]
result["same masks"] = outcomes[0][0].masks == outcomes[1][0].masks
result["distance"] = float(max(np.abs(a - b).max() for a, b in zip(outcomes[0][1], outcomes[1][1])))
result["nonzero"] = [int(sum(np.count_nonzero(w) for w in ws)) for _, ws in outcomes]
print(json.dumps(result))
"""


@pytest.mark.process
@both
def test_two_replicas_find_what_one_device_finds(package: str) -> None:
    result = fresh_process(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{TWO_REPLICAS}{REPLICAS}", package
    )
    assert result["replicas"] == 2
    assert result["kept"] == result["nonzero"] == [math.floor(324 * Fraction(1, 5))] * 2
    assert result["same masks"]
    assert result["distance"] < 1e-5
