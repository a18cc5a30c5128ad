"""Weights frozen at values that need not be zero: held as zeros are, and never taken for zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from export_fixtures import SharedExporter
from model_kinds import KERAS, build
from model_kinds import data as images
from tiers import rows
from training import Policy, Training, data, dense, loss, random_masks, weights

import tfprune_init as tpi
from tfprune_init.errors import EnforcementError, MaskMismatchError, OptionError
from tfprune_init.export.warm_exporter import Exporter
from tfprune_init.masking.attachment import get_attached_masks

EVERYTHING = {"weight_decay": 0.05, "use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 4, "clipnorm": 0.1}

# Zhou et al.'s six weights, before and after training, and a mask of three.
W0 = np.array([0.5, -0.3, 0.2, -0.1, 0.4, -0.6], "float32").reshape(6, 1)
W = np.array([0.4, 0.2, 0.5, -0.15, -0.1, -0.9], "float32").reshape(6, 1)
THREE = np.array([True, False, True, False, False, True]).reshape(6, 1)


def small(package: str = "keras") -> tuple[Any, str]:
    K = KERAS[package]
    model = K.Sequential([K.Input((6,)), K.layers.Dense(1, name="head", use_bias=False)])
    model.layers[0].kernel.assign(W)
    return model, "head/kernel"


@pytest.mark.parametrize("package", KERAS)
@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (None, [0.5, -0.3, 0.2, -0.1, 0.4, -0.6]),
        ("frozen", [0.5, 0.0, 0.2, -0.1, 0.0, -0.6]),  # of those that are frozen, 1 and 4 have shrunken
        ("all", [0.0, 0.0, 0.2, -0.1, 0.0, -0.6]),  # 0 trains, and begins at 0
    ],
)
def test_weights_begin_where_the_variant_says(variant: str | None, expected: list[float], package: str) -> None:
    for given in ((), ({"head/kernel": W},)) if variant else ((),):
        model, path = small(package)
        tpi.freeze(model, tpi.Masks({path: THREE}), {path: W0}, *given, zero_shrunken=variant)
        np.testing.assert_array_equal(np.array(model.layers[0].kernel).ravel(), np.float32(expected))


@pytest.mark.parametrize("package", KERAS)
def test_controls_hold_other_weights_at_zero(package: str) -> None:
    def start(control: str, seed: int | None = None) -> np.ndarray:
        model, path = small(package)
        masks = tpi.Masks({path: THREE})
        tpi.freeze(model, masks, {path: W0}, zero_shrunken="frozen", control=control, seed=seed)
        return np.array(model.layers[0].kernel).ravel()

    # Of the frozen 1, 3 and 4 the third has grown, and two have shrunken.
    np.testing.assert_array_equal(start("reversed"), np.float32([0.5, -0.3, 0.2, 0.0, 0.4, -0.6]))
    zeros = {seed: frozenset(np.flatnonzero(start("shuffled", seed) == 0)) for seed in range(8)}
    assert set(zeros.values()) == {frozenset(pair) for pair in ([1, 3], [1, 4], [3, 4])}
    for seed, places in zeros.items():
        np.testing.assert_array_equal(
            start("shuffled", seed), np.where(np.isin(np.arange(6), list(places)), 0, W0.ravel())
        )
    np.testing.assert_array_equal(start("shuffled"), start("shuffled", 0))


def test_a_kernel_that_did_not_move_has_neither_shrunken_nor_grown() -> None:
    for control in (None, "reversed", "shuffled"):
        model, path = small()
        tpi.freeze(model, tpi.Masks({path: THREE}), {path: W0}, {path: W0}, zero_shrunken="frozen", control=control)
        np.testing.assert_array_equal(np.array(model.layers[0].kernel), W0)


def fit_frozen(model: Any, masks: tpi.Masks, x: Any, y: Any, K: Any, callbacks: Any = ()) -> None:
    """Fit; fails if a frozen weight is ever another, or if the others did not move."""
    start = weights(model, masks)

    class Watch(K.callbacks.Callback):
        looks = 0

        def look(self) -> None:
            self.looks += 1
            for path, now in weights(model, masks).items():
                assert now[~masks[path]].tobytes() == start[path][~masks[path]].tobytes(), path

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.look()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.look()

    watch = Watch()
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[watch, *callbacks])
    assert watch.looks > 2
    watch.look()
    for path, now in weights(model, masks).items():
        assert np.isfinite(now).all()
        assert (now != start[path])[masks[path]].any(), path


TRAININGS = {
    "adamw": Training(lambda o: o.AdamW(0.01, weight_decay=0.1)),
    "sgd, nesterov, decay": Training(lambda o: o.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1)),
    "muon": Training(lambda o: o.Muon(0.01)),
    "adafactor": Training(lambda o: o.Adafactor(0.1)),
    "accumulation, ema, clipnorm": Training(lambda o: o.Adam(0.01, gradient_accumulation_steps=2, **EVERYTHING)),
    "SwapEMAWeights": Training(
        lambda o: o.SGD(0.1, use_ema=True, ema_momentum=0.9),
        callbacks=lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
    ),
    "EarlyStopping": Training(
        lambda o: o.Adam(0.05),
        callbacks=lambda: [keras.callbacks.EarlyStopping("loss", patience=1, mode="max", restore_best_weights=True)],
    ),
    "mixed_float16": Training(lambda o: o.Adam(0.01, clipnorm=0.1), policy="mixed_float16"),
    "bfloat16": Training(lambda o: o.SGD(0.1), policy="bfloat16"),
    "jit_compile": Training(lambda o: o.Adam(0.01, **EVERYTHING), {"jit_compile": True}),
    "run_eagerly": Training(lambda o: o.Adam(0.01, **EVERYTHING), {"run_eagerly": True}),
}


# What tells freezing from holding zeros: decay, shared statistics, averages, restored weights, casts.
USUAL = ["adamw", "muon", "accumulation, ema, clipnorm", "EarlyStopping", "mixed_float16"]


@pytest.mark.parametrize("name", rows(TRAININGS, USUAL))
def test_frozen_weights_have_their_bits_after_every_batch(name: str) -> None:
    training = TRAININGS[name]
    with Policy(training.policy):
        model = dense()
    masks, initial = random_masks(model), tpi.copy_weights(model)
    model.compile(training.optimizer(keras.optimizers), loss(), **{"jit_compile": False, **training.compile})
    tpi.freeze(model, masks, initial)
    for path, now in weights(model, masks).items():
        assert now.tobytes() == initial[path].tobytes()
    fit_frozen(model, masks, *data(), keras, training.callbacks())
    tpi.unfreeze(model)


@pytest.mark.parametrize("package", KERAS)
@pytest.mark.parametrize("kind", rows(["functional", "sequential", "subclassed", "nested"], ["functional"]))
def test_every_kind_of_model(kind: str, package: str) -> None:
    model, K = build(kind, package), KERAS[package]
    initial, masks = tpi.copy_weights(model), random_masks(model, 0.6)
    final = {path: 0.9 * one + 0.02 for path, one in initial.items()}
    model.compile(K.optimizers.Adam(0.01, **EVERYTHING), loss(K))
    tpi.freeze(model, masks, initial, final, zero_shrunken="frozen")
    fit_frozen(model, masks, *images(), K)
    for path, mask in masks.items():
        expected = np.where(np.abs(initial[path]) > np.abs(final[path]), np.float32(0), initial[path])
        assert weights(model, masks)[path][~mask].tobytes() == expected[~mask].tobytes()


@pytest.mark.parametrize("package", KERAS)
def test_nothing_claims_sparsity(package: str) -> None:
    model = dense(KERAS[package])
    masks = random_masks(model, 0.8)
    tpi.freeze(model, masks, tpi.copy_weights(model))
    assert get_attached_masks(model) is None
    assert tpi.Masks.from_zeros(model).sparsity == 0
    with pytest.raises(EnforcementError, match="carries no masks"):
        tpi.strip(model)
    with pytest.raises(EnforcementError, match="carries no masks; pass them"):
        tpi.attach(model)


def test_an_exported_file_has_the_frozen_values(export: SharedExporter, tmp_path: Path) -> None:
    model = dense()
    tpi.freeze(model, random_masks(model, 0.8), tpi.copy_weights(model))
    # The fixture's own conversion keeps files by the configs of models, which frozen ones refuse.
    report = Exporter(export.run)(model, tmp_path / "model.tflite")
    assert report.largest_difference < 1e-5
    assert report.sparsity == 0


@pytest.mark.parametrize("package", KERAS)
def test_assigned_and_loaded_weights_leave_frozen_ones(package: str, tmp_path: Path) -> None:
    model, other = dense(KERAS[package]), dense(KERAS[package], seed=1)
    masks, initial, theirs = random_masks(model), tpi.copy_weights(model), tpi.copy_weights(other)
    tpi.freeze(model, masks, initial)
    other.save_weights(tmp_path / "other.weights.h5")
    model.load_weights(tmp_path / "other.weights.h5")
    for path, now in weights(model, masks).items():
        np.testing.assert_array_equal(now, np.where(masks[path], theirs[path], initial[path]))
    model.set_weights([np.full(one.shape, np.nan) for one in model.get_weights()])
    for path, now in weights(model, masks).items():
        assert now[~masks[path]].tobytes() == initial[path][~masks[path]].tobytes()
    tpi.reinitialize(model, "random")
    for path, now in weights(model, masks).items():
        assert now[~masks[path]].tobytes() == initial[path][~masks[path]].tobytes()
        assert np.isfinite(now).all()
        assert not (now == theirs[path])[masks[path]].any()


@pytest.mark.parametrize("package", KERAS)
def test_saving_whole_and_copying_are_refused_until_unfrozen(package: str, tmp_path: Path) -> None:
    K = KERAS[package]
    model = dense(K)
    masks = random_masks(model)
    tpi.freeze(model, masks, tpi.copy_weights(model))
    path = tmp_path / "model.keras"
    for copy in (lambda: model.save(path), lambda: K.models.clone_model(model)):
        with pytest.raises(EnforcementError, match=r"'a' \(Dense\) has frozen weights.*save_weights.*unfreeze"):
            copy()
    wrap = tpi.wrap if package == "keras" else tpi.tfmot.wrap
    for other in (lambda: tpi.attach(model, masks), lambda: wrap(model, masks), lambda: tpi.compact(model)):
        with pytest.raises(EnforcementError, match=r"a/kernel, b/kernel, c/kernel are frozen.*tpi\.unfreeze"):
            other()
    if package == "keras":
        for refused in (lambda: model.quantize("int8"), lambda: model.layers[0].enable_lora(2)):
            with pytest.raises(EnforcementError, match=r"has frozen weights, and quantize and enable_lora"):
                refused()
    tpi.unfreeze(model)
    model.save(path)
    tpi.attach(model, masks)
    tpi.strip(model)


@pytest.mark.parametrize("package", KERAS)
def test_unfrozen_weights_train_and_keep_their_own_constraint(package: str) -> None:
    K = KERAS[package]
    model = dense(K, kernel_constraint=K.constraints.MaxNorm(0.5))
    masks, initial = random_masks(model), tpi.copy_weights(model)
    tpi.freeze(model, masks, initial)
    model.compile(K.optimizers.SGD(0.5), loss(K))
    fit_frozen(model, masks, *data(), K)
    tpi.unfreeze(model)
    model.fit(*data(), verbose=0)
    for path, now in weights(model, masks).items():
        assert (now != initial[path])[~masks[path]].any()
        assert (np.linalg.norm(now, axis=0) < 0.5 + 1e-5).all()
    with pytest.raises(EnforcementError, match="nothing to let go"):
        tpi.unfreeze(model)


@pytest.mark.parametrize("package", KERAS)
def test_weights_that_were_written_past_assign_are_found(package: str) -> None:
    model, path = small(package)
    tpi.freeze(model, tpi.Masks({path: THREE}), {path: W0})
    holder = weights_holder(model)
    holder.assign_add(np.array([1, 1, 1, 0, 0, 0], "float32").reshape(6, 1))
    with pytest.raises(EnforcementError, match=r"Frozen weights moved: 1 of head/kernel\."):
        tpi.unfreeze(model)
    holder.assign(holder)
    tpi.unfreeze(model)
    np.testing.assert_array_equal(np.array(holder).ravel(), np.float32([1.5, -0.3, 1.2, -0.1, 0.4, -0.6]))


def weights_holder(model: Any) -> Any:
    """The tf.Variable of the only kernel."""
    return getattr(model.layers[0].kernel, "value", None) if isinstance(model, keras.Model) else model.layers[0].kernel


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero_shrunken": "pruned"}, r"'frozen' or 'all', or None.*zero_shrunken='pruned'"),
        ({"final": {"head/kernel": W}}, r"final= .*no effect without zero_shrunken="),
        ({"initial": {}}, r"initial= does not fit.*Without weights: head/kernel"),
        ({"initial": {"head/kernel": W0 * np.float64(1e39)}}, r"too large for head/kernel.*6e\+38 for float32"),
        ({"final": {"head/kernel": W[:3]}, "zero_shrunken": "all"}, r"final= with an array of \(3, 1\)"),
        ({"zero_shrunken": "frozen", "control": "shufled"}, r"'shuffled' or 'reversed', or None.*control='shufled'"),
        (
            {"zero_shrunken": "all", "control": "reversed"},
            r"control= .*'frozen'.*control='reversed', zero_shrunken='all'",
        ),
        ({"zero_shrunken": "frozen", "control": "reversed", "seed": 1}, r"seed= has no effect.*seed=1"),
        ({"zero_shrunken": "frozen", "control": "shuffled", "seed": -1}, r"seed must be .*Received: seed=-1"),
        ({"masks": tpi.Masks({"head/kernel": np.ones((6, 1))})}, r"keep every weight, so freeze has no effect"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    model, path = small()
    given = {"masks": tpi.Masks({path: THREE}), "initial": {path: W0}, **options}
    with pytest.raises(OptionError, match=message):
        tpi.freeze(model, **given)
    np.testing.assert_array_equal(np.array(model.layers[0].kernel), W)


def test_models_whose_weights_are_held_already_are_refused() -> None:
    model, path = small()
    masks = tpi.Masks({path: THREE})
    with pytest.raises(MaskMismatchError, match=r"Not in the model: b/kernel"):
        tpi.freeze(model, tpi.Masks({"b/kernel": THREE}), {path: W0})
    tpi.attach(model, masks)
    with pytest.raises(EnforcementError, match=r"carries masks.*tpi\.strip"):
        tpi.freeze(model, masks, {path: W0})
    tpi.strip(model)
    tpi.freeze(model, masks, {path: W0})
    with pytest.raises(EnforcementError, match=r"frozen already.*tpi\.unfreeze"):
        tpi.freeze(model, masks, {path: W0})
    tpi.unfreeze(model)
    model.layers[0].enable_lora(1)
    with pytest.raises(EnforcementError, match=r"head/kernel would not hold: Dense computes with others"):
        tpi.freeze(model, masks, {path: W0})
