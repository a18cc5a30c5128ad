"""Masks from weights before and after training: every criterion of Zhou et al., exact counts, what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
from model_kinds import KERAS, build, state
from tiers import rows
from training import data, dense, fit_watched, loss, random_masks

import tfprune_init as tpi
from tfprune_init.errors import MaskMismatchError, ModelError, OptionError, ScoreError
from tfprune_init.scoring.training_criteria import TRAINING_CRITERIA

W0 = np.array([0.5, -0.3, 0.2, -0.1, 0.4, -0.6])
W = np.array([0.4, 0.2, 0.5, -0.15, -0.1, -0.9])

# What is kept of these six weights, three where a sparsity is asked for.
KEPT = {
    "large_final": {0, 2, 5},
    "small_final": {1, 3, 4},
    "large_init": {0, 4, 5},
    "small_init": {1, 2, 3},
    "large_init_large_final": {0, 1, 5},  # ranks 4 2 1 0 3 5 and 3 2 4 1 0 5
    "small_init_small_final": {1, 3, 4},  # ranks 1 3 4 5 2 0 and 2 3 1 4 5 0
    "magnitude_increase": {2, 3, 5},
    "movement": {1, 4, 5},
    "large_final_same_sign": {0, 2, 5},
    "large_final_diff_sign": {0, 1, 4},  # 0 by its position: all others score 0
    "magnitude_increase_same_sign": {2, 3, 5},
    "magnitude_increase_diff_sign": {0, 2, 3},  # -.1 and -.3 for 1 and 4, 0 for the others
    "large_final_same_sign_single": {0, 2, 3, 5},
    "large_final_diff_sign_single": {1, 4},
}


def small(package: str = "keras", weights: Any = W0) -> Any:
    K = KERAS[package]
    model = K.Sequential([K.Input((len(weights),)), K.layers.Dense(1, name="head", use_bias=False)])
    model.layers[0].kernel.assign(np.reshape(weights, (-1, 1)))
    return model


def find(model: Any, initial: Any, final: Any, **options: Any) -> set[int]:
    """Positions that are kept of one kernel."""
    column = {name: {"head/kernel": np.reshape(one, (-1, 1))} for name, one in (("i", initial), ("f", final))}
    masks = tpi.find_masks_from_training(model, column["i"], column["f"], **options)
    return set(np.flatnonzero(masks["head/kernel"]).tolist())


@pytest.mark.parametrize("package", KERAS)
def test_every_criterion_keeps_what_the_example_says(package: str) -> None:
    model = small(package)
    for criterion, kept in KEPT.items():
        options = {} if criterion.endswith("_single") else {"sparsity": 0.5}
        assert find(model, W0, W, criterion=criterion, **options) == kept, criterion
    assert KEPT.keys() | {"random"} == TRAINING_CRITERIA.keys()


def test_zero_has_a_sign_of_its_own() -> None:
    model = small()
    before, after = [0, 0, 0, 1, 1, -1], [1, -1, 0, 0, 2, 3]
    assert find(model, before, after, criterion="large_final_same_sign_single") == {2, 4}
    assert find(model, before, after, criterion="large_final_diff_sign_single") == {0, 1, 3, 5}


def test_ties_go_to_the_lower_position() -> None:
    assert find(small(), W0, [3, 2, 2, 2, 2, 1], sparsity=0.5) == {0, 1, 2}
    before, after = [1, 1, 2, 2, 3, 3], [2, 2, 2, 1, 1, 1]  # ranks 0 0 2 2 4 4 and 3 3 3 0 0 0
    assert find(small(), before, after, sparsity=0.5, criterion="large_init_large_final") == {0, 1, 2}


@pytest.mark.parametrize("criterion", ["large_init_large_final", "small_init_small_final"])
def test_ranks_keep_what_is_among_the_best_in_both(criterion: str) -> None:
    """Between the two intersections of equally many best ones that have fewer weights, and more."""
    rng = np.random.default_rng(0)
    sign = 1 if criterion.startswith("large") else -1
    for size, keep in ((40, 9), (41, 30), (64, 1), (50, 25)):
        before, after = rng.normal(size=(2, size))
        kept = find(small(weights=before), before, after, criterion=criterion, sparsity=1 - keep / size)
        assert len(kept) == keep
        orders = [sorted(range(size), key=lambda i, one=one: -sign * abs(one[i])) for one in (before, after)]
        both = [set(orders[0][:best]) & set(orders[1][:best]) for best in range(size + 1)]
        assert any(less <= kept <= more for less, more in itertools.pairwise(both))


def trained(package: str, kind: str = "functional") -> tuple[Any, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A model, its weights, and the weights after a training that moves each by chance."""
    model, rng = build(kind, package), np.random.default_rng(1)
    initial = tpi.copy_weights(model)
    final = {path: (one + 0.5 * rng.normal(size=one.shape)).astype(one.dtype) for path, one in initial.items()}
    return model, initial, final


@pytest.mark.parametrize("package", KERAS)
@pytest.mark.parametrize("kind", rows(["functional", "sequential", "subclassed", "nested"], ["functional"]))
def test_counts_are_exact_and_the_model_is_untouched(kind: str, package: str) -> None:
    model, initial, final = trained(package, kind)
    before = state(model)
    for criterion in TRAINING_CRITERIA:
        if TRAINING_CRITERIA[criterion].decides:
            continue
        uniform, everywhere, erk = (
            tpi.find_masks_from_training(model, initial, final, criterion=criterion, sparsity=0.7, allocation=way)
            for way in (None, "global", "erk")
        )
        assert {path: int(mask.sum()) for path, mask in uniform.items()} == {
            path: one.size * 3 // 10 for path, one in initial.items()
        }
        assert everywhere.kept == erk.kept == everywhere.size * 3 // 10
        assert list(uniform) == list(initial) == list(everywhere)
    assert state(model) == before


def test_all_kernels_compete_where_asked() -> None:
    model, initial, final = trained("keras")
    masks = tpi.find_masks_from_training(model, initial, final, criterion="movement", sparsity=0.8, allocation="global")
    moved = np.concatenate([np.abs(final[p].astype(float) - initial[p]).ravel() for p in initial])
    kept = np.concatenate([mask.ravel() for mask in masks.values()])
    assert kept.sum() == moved.size // 5
    assert moved[kept].min() > moved[~kept].max()
    ranks = tpi.find_masks_from_training(
        model, initial, final, criterion="large_init_large_final", sparsity=0.8, allocation="global"
    )
    both = [np.concatenate([np.abs(one[p]).ravel() for p in initial]) for one in (initial, final)]
    score = np.min([np.argsort(np.argsort(one, kind="stable")) for one in both], axis=0)
    kept = np.concatenate([mask.ravel() for mask in ranks.values()])
    assert score[kept].min() >= score[~kept].max()


def test_sparsities_by_layer() -> None:
    model = dense()
    initial = tpi.copy_weights(model)
    final = {path: 2 * one for path, one in initial.items()}
    masks = tpi.find_masks_from_training(model, initial, final, allocation={"a": 0.5, "b": 0.75, "c": 0.25})
    assert [int(mask.sum()) for mask in masks.values()] == [48, 48, 27]


def test_levels_prune_among_what_is_left() -> None:
    """Iterative magnitude pruning of the same ten weights, a fifth each time."""
    w = [0.5, -0.1, 0.3, -0.05, 0.8, 0.2, -0.4, 0.15, 0.9, -0.7]
    model, masks, found = small(weights=w), None, []
    column = {"head/kernel": np.reshape(w, (-1, 1))}
    for level in (1, 2, 3):
        masks = tpi.find_masks_from_training(model, column, sparsity=1 - 0.8**level, masks=masks)
        found.append(np.flatnonzero(masks["head/kernel"]).tolist())
    assert found == [[0, 2, 4, 5, 6, 7, 8, 9], [0, 2, 4, 6, 8, 9], [0, 4, 6, 8, 9]]
    with pytest.raises(OptionError, match=r"leaves 5 weights of head/kernel, fewer than the 8.*higher sparsity"):
        tpi.find_masks_from_training(model, column, sparsity=0.2, masks=masks)
    # The smallest among those that are left, by ranks among them.
    six = tpi.Masks({"head/kernel": np.isin(np.arange(10), found[1]).reshape(-1, 1)})
    for criterion in ("small_final", "small_init_small_final"):
        masks = tpi.find_masks_from_training(model, column, sparsity=0.7, masks=six, criterion=criterion)
        assert np.flatnonzero(masks["head/kernel"]).tolist() == [0, 2, 6]


@pytest.mark.parametrize("package", KERAS)
def test_what_a_model_carries_is_what_may_stay(package: str) -> None:
    model = dense(KERAS[package])
    initial, first = tpi.copy_weights(model), random_masks(model, 0.5, allocation="uniform")
    tpi.attach(model, first)
    for criterion in ("small_final", "random", "large_final_same_sign_single"):
        options = {} if criterion.endswith("single") else {"sparsity": 0.75}
        second = tpi.find_masks_from_training(model, initial, criterion=criterion, **options)
        assert all((first[path] | ~mask).all() for path, mask in second.items()), criterion
        assert second.kept == (first if criterion.endswith("single") else random_masks(model, 0.75)).kept


def test_chance_depends_on_the_seed_alone() -> None:
    model, initial, final = trained("keras")
    one, same, other = (
        tpi.find_masks_from_training(model, initial, final, criterion="random", sparsity=0.5, seed=seed)
        for seed in (None, 0, 1)
    )
    assert one == same != other


@pytest.mark.parametrize("package", KERAS)
def test_a_ticket_trains_from_its_initial_weights(package: str) -> None:
    K = KERAS[package]
    model, (x, y) = dense(K), data()
    model.compile("adam", loss(K))
    initial = tpi.copy_weights(model)
    model.fit(x, y, epochs=2, verbose=0)
    masks = tpi.find_masks_from_training(model, initial, criterion="magnitude_increase", sparsity=0.6)
    grown = np.abs(np.array(model.layers[1].kernel), dtype=float) - np.abs(initial["b/kernel"])
    np.testing.assert_array_equal(masks["b/kernel"], grown >= np.sort(grown, axis=None)[-76])
    tpi.attach(model, masks)
    tpi.reinitialize(model, "unchanged", weights=initial)
    now = np.array(model.layers[1].kernel)
    np.testing.assert_array_equal(now, np.where(masks["b/kernel"], initial["b/kernel"], 0))
    fit_watched(model, masks, x, y, epochs=1, K=K)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "large_finl", "sparsity": 0.5}, r"'large_finl'\. Did you mean 'large_final'"),
        ({}, r"sparsity= or budget= says how much"),
        ({"sparsity": 1.0}, r"in \[0, 1\)\. Received: 1\.0"),
        ({"sparsity": 0.5, "seed": 0}, r"seed= has no effect on criterion 'large_final'"),
        ({"sparsity": 0.5, "criterion": "random", "seed": -1}, r"Received: seed=-1"),
        ({"sparsity": 0.5, "criterion": "large_final_same_sign_single"}, r"sparsity= has no effect.*sparsity=0\.5"),
        ({"allocation": "global", "criterion": "large_final_diff_sign_single"}, r"allocation= has no effect"),
        ({"sparsity": 0.5, "allocation": "globl"}, r"'globl'\. Did you mean 'global'"),
        ({"sparsity": 0.5, "exclude": "haed"}, r"'haed' matches no prunable variable"),
        ({"sparsity": 0.98}, r"No weight would stay of c/kernel.*exclude.*sparsity=0\.98"),
        ({"sparsity": 0.5, "initial": {}}, r"initial= does not fit.*Without weights: a/kernel, b/kernel"),
        ({"sparsity": 0.5, "final": {"a": 1}}, r"final= does not fit.*Not in the model: a\. "),
        ({"sparsity": 0.5, "initial": None}, r"initial= is a mapping.*Received: builtins\.NoneType"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    model = dense()
    initial = options.pop("initial", tpi.copy_weights(model))
    with pytest.raises(OptionError, match=message):
        tpi.find_masks_from_training(model, initial, **options)


def test_weights_that_did_not_move_are_refused_where_only_positions_would_decide() -> None:
    model = dense()
    initial = tpi.copy_weights(model)
    for criterion in ("movement", "magnitude_increase", "large_final_diff_sign"):
        with pytest.raises(ScoreError, match=rf"weights of a/kernel score 0 under '{criterion}'.*before training"):
            tpi.find_masks_from_training(model, initial, criterion=criterion, sparsity=0.5)
    with pytest.raises(OptionError, match=r"No weight would stay of a/kernel, b/kernel, c/kernel"):
        tpi.find_masks_from_training(model, initial, criterion="large_final_diff_sign_single")
    assert tpi.find_masks_from_training(model, initial, sparsity=0).sparsity == 0


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = dense()
    initial = tpi.copy_weights(model)
    model.layers[1].kernel.assign(np.full((16, 12), np.nan))
    with pytest.raises(OptionError, match=r"final= must hold finite numbers.*b/kernel.*NaN or Inf"):
        tpi.find_masks_from_training(model, initial, sparsity=0.5)


def test_masks_and_models_that_do_not_fit_are_refused() -> None:
    model = dense()
    initial = tpi.copy_weights(model)
    with pytest.raises(MaskMismatchError, match=r"Without a mask: a/kernel, c/kernel"):
        tpi.find_masks_from_training(
            model, initial, sparsity=0.5, masks=tpi.Masks({"b/kernel": np.ones((16, 12), bool)})
        )
    with pytest.raises(ModelError, match=r"Received: builtins\.dict"):
        tpi.find_masks_from_training({}, initial, sparsity=0.5)


def test_copies_are_apart_from_the_model_and_of_its_dtype() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head", dtype="bfloat16")])
    copied = tpi.copy_weights(model, prune_bias=True)
    assert {path: str(one.dtype) for path, one in copied.items()} == {
        "head/kernel": "bfloat16",
        "head/bias": "bfloat16",
    }
    before = copied["head/kernel"].copy()
    model.layers[0].kernel.assign(np.arange(8).reshape(4, 2))
    np.testing.assert_array_equal(copied["head/kernel"], before)
    del copied["head/bias"]
    masks = tpi.find_masks_from_training(model, copied, sparsity=0.5)
    np.testing.assert_array_equal(masks["head/kernel"], np.arange(8).reshape(4, 2) >= 4)
    assert list(tpi.copy_weights(dense(), exclude="b")) == ["a/kernel", "c/kernel"]


def test_a_criterion_of_ones_own() -> None:
    tpi.register_training_criterion("upwards", "the largest w - w0")(lambda initial, final: final - initial)
    try:
        assert find(small(), W0, W, criterion="upwards", sparsity=0.5) == {1, 2, 3}
    finally:
        TRAINING_CRITERIA.pop("upwards")
