from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from model_kinds import CLASSES, KERAS, KINDS, build
from model_kinds import data as images
from tiers import rows
from training import Policy, dense, fit_watched, leaks, random_masks, weights

import tfprune_init as tpi
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.variables import find_prunable_variables, list_variables
from tfprune_init.masking.reinitialization import reinitialize

WEIGHTS = ["random", "random_same_sign", "constant", "constant_same_sign", "shuffled", "shuffled_same_sign"]
Values = dict[str, np.ndarray]


def values(model: Any) -> Values:
    """Every variable's value, by path."""
    return {target.path: np.array(target.tensor) for target in list_variables(model)}


def kernels(model: Any) -> list[str]:
    return [target.path for target in find_prunable_variables(model).prunable]


def again(model: Any, start: Values, *arguments: Any, **options: Any) -> Values:
    """The values after `reinitialize` from `start`, an earlier state of the same model."""
    for target in list_variables(model):
        target.tensor.assign(start[target.path])
    assert reinitialize(model, *arguments, **options) is None
    return values(model)


def same(one: Values, other: Values) -> bool:
    return one.keys() == other.keys() and all(one[p].tobytes() == other[p].tobytes() for p in one)


def check_kinds(model: Any, masks: tpi.Masks) -> None:
    """What each kind promises, on a model that carries the masks."""
    start = values(model)
    after = {kind: again(model, start, kind, seed=5) for kind in WEIGHTS}
    for kind, now in after.items():
        assert same(again(model, start, kind, seed=5), now), kind
        moved = [path for path in start if not np.array_equal(start[path], now[path])]
        assert moved == list(masks), kind
        for path in start:
            assert now[path].dtype == start[path].dtype
            if path in masks:
                # Positive zeros only, and a new value wherever the mask keeps one.
                assert not now[path][~masks[path]].tobytes().strip(b"\0"), (kind, path)
                assert np.count_nonzero(now[path]) == masks[path].sum(), (kind, path)
            else:
                assert now[path].tobytes() == start[path].tobytes(), (kind, path)
    for path, mask in masks.items():
        old = start[path][mask]
        new = {kind: now[path][mask] for kind, now in after.items()}
        assert not (new["random"] == old).any()
        np.testing.assert_array_equal(np.abs(new["random_same_sign"]), np.abs(new["random"]))
        for kind in ("random_same_sign", "constant_same_sign", "shuffled_same_sign"):
            np.testing.assert_array_equal(np.sign(new[kind]), np.sign(old))
        assert len(np.unique(np.abs([new["constant"], new["constant_same_sign"]]))) == 1
        assert 0.3 < (new["constant"] > 0).mean() < 0.7 or len(old) < 25
        np.testing.assert_array_equal(np.sort(new["shuffled"]), np.sort(old))
        np.testing.assert_array_equal(np.abs(new["shuffled_same_sign"]), np.abs(new["shuffled"]))
    for kind in ("random", "random_same_sign", "constant", "shuffled"):
        other = again(model, start, kind, seed=6)
        assert not any(np.array_equal(other[path], after[kind][path]) for path in masks), kind


@pytest.mark.parametrize("package", KERAS)
@pytest.mark.parametrize("kind", rows(KINDS, ["sequential"]))
def test_kinds_under_attached_masks(kind: str, package: str) -> None:
    model = build(kind, package)
    masks = random_masks(model, 0.4)
    tpi.attach(model, masks)
    check_kinds(model, masks)
    reinitialize(model, seed=1)
    fit_watched(model, masks, *images(), epochs=1, K=KERAS[package])


@pytest.mark.parametrize("package", KERAS)
def test_kinds_on_a_plain_model(package: str) -> None:
    model = build("functional", package)
    check_kinds(model, tpi.Masks({path: np.ones_like(values(model)[path], bool) for path in kernels(model)}))


def test_a_wrapped_model_gets_the_weights_of_the_attached_one() -> None:
    model = build("functional", "keras")
    masks = random_masks(model, 0.4)
    wrapped = tpi.wrap(model, masks)
    tpi.attach(model, masks)
    check_kinds(wrapped, masks)
    for one in (model, wrapped):
        reinitialize(one, seed=9)
    expected, found = weights(model, masks), weights(wrapped, masks)
    assert same(expected, found)


def test_a_loaded_model_keeps_its_zeros_before_its_first_step(tmp_path: Path) -> None:
    model = dense()
    masks = random_masks(model)
    tpi.attach(model, masks)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    reinitialize(loaded, seed=2)
    assert not leaks(loaded, masks)
    assert all(weights(loaded, masks)[path][mask].all() for path, mask in masks.items())


def test_only_what_carries_a_mask_keeps_zeros() -> None:
    model = dense()
    masks = random_masks(model, exclude="a")
    tpi.attach(model, masks)
    model.layers[0].kernel.assign(np.eye(6, 16))
    reinitialize(model, "random_same_sign")
    np.testing.assert_array_equal(model.layers[0].kernel.numpy() != 0, np.eye(6, 16, dtype=bool))
    reinitialize(model, "random")
    assert model.layers[0].kernel.numpy().all()
    assert not leaks(model, masks)


def wide(K: Any) -> Any:
    """Every layer whose initializer has another name or another idea of its inputs, large enough to measure."""
    normal = K.initializers.RandomNormal
    inputs = K.Input((6, 6, 24))
    x = K.layers.Conv2D(32, 3, padding="same", name="conv", kernel_initializer="he_normal")(inputs)
    x = K.layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise", depthwise_initializer=normal(stddev=3.0))(x)
    x = K.layers.SeparableConv2D(
        48, 3, depth_multiplier=2, padding="same", name="separable", depthwise_initializer=normal(stddev=5.0)
    )(x)
    x = K.layers.Conv2DTranspose(40, 2, name="transpose", kernel_initializer="lecun_uniform")(x)
    x = K.layers.Reshape((25, 40), name="rows")(x)
    x = K.layers.MultiHeadAttention(6, 8, name="attention")(x, x)
    x = K.layers.Bidirectional(K.layers.GRU(24, name="gru"), name="both")(x)
    x = K.layers.Dense(64, name="dense", kernel_initializer=K.initializers.VarianceScaling(2.0, "fan_out"))(x)
    return K.Model(inputs, x)


@pytest.mark.parametrize("package", KERAS)
def test_the_new_weights_spread_as_those_keras_drew(package: str) -> None:
    K = KERAS[package]
    K.utils.set_random_seed(3)
    model = wide(K)
    built = values(model)
    drawn, constant = (again(model, built, kind, seed=1) for kind in ("random", "constant"))
    assert len(kernels(model)) == 14
    for path in kernels(model):
        assert np.std(drawn[path]) == pytest.approx(np.std(built[path]), rel=0.12), path
        assert abs(np.mean(drawn[path])) < 5 * np.std(built[path]) / drawn[path].size ** 0.5, path
        assert np.abs(constant[path].flat[0]) == pytest.approx(np.std(built[path]), rel=0.12), path
    # An orthogonal matrix has this standard deviation, whatever the seed.
    np.testing.assert_allclose(np.abs(constant["both/forward_gru/gru_cell/recurrent_kernel"]), 72**-0.5, rtol=0.02)


@pytest.mark.parametrize("package", KERAS)
def test_the_constant_is_that_of_the_distribution_however_small_the_variable(package: str) -> None:
    K = KERAS[package]
    model = K.Sequential([K.Input((1,)), K.layers.Dense(1, kernel_initializer=K.initializers.RandomNormal(stddev=2.0))])
    reinitialize(model, "constant")
    assert abs(float(values(model)[kernels(model)[0]].item())) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("package", KERAS)
def test_initializers_with_a_seed_of_their_own_draw_anew(package: str) -> None:
    K = KERAS[package]
    layers = [K.layers.Dense(6, name=name, kernel_initializer=K.initializers.HeNormal(seed=7)) for name in "ab"]
    model = K.Sequential([K.Input((6,)), *layers])
    before = values(model)
    np.testing.assert_array_equal(before["a/kernel"], before["b/kernel"])
    reinitialize(model)
    after = values(model)
    assert not (after["a/kernel"] == before["a/kernel"]).any()
    assert not (after["a/kernel"] == after["b/kernel"]).any()
    assert layers[0].kernel_initializer.seed == 7


def test_a_seed_generator_is_left_where_it_is() -> None:
    generator = keras.random.SeedGenerator(3)
    model = dense(kernel_initializer=keras.initializers.RandomUniform(-1, 1, seed=generator))
    state, before = np.array(generator.state.value), values(model)
    first = again(model, before)
    assert same(again(model, before), first)
    assert not (first["a/kernel"] == before["a/kernel"]).any()
    np.testing.assert_array_equal(np.array(generator.state.value), state)


@pytest.mark.parametrize("package", KERAS)
def test_global_generators_neither_decide_nor_move(package: str) -> None:
    K = KERAS[package]
    model = dense(K)
    before = values(model)
    results, states = [], []
    for seed in (1, 2):
        K.utils.set_random_seed(seed)
        results.append(again(model, before))
        states.append((np.random.random(), float(tf.random.normal(()))))
        K.utils.set_random_seed(seed)
        assert states[-1] == (np.random.random(), float(tf.random.normal(())))
    assert same(*results)


@pytest.mark.parametrize("package", KERAS)
def test_initializers_without_a_seed_give_what_they_give(package: str) -> None:
    K = KERAS[package]
    model = dense(K, kernel_initializer=lambda shape, dtype=None: np.linspace(-1, 1, np.prod(shape)).reshape(shape))
    given = values(model)
    reinitialize(model, "shuffled")
    assert not same(values(model), given)
    reinitialize(model, "random")
    assert same(values(model), given)
    identity = K.Sequential([K.Input((4,)), K.layers.Dense(4, name="a", kernel_initializer="identity")])
    reinitialize(identity)
    np.testing.assert_array_equal(values(identity)["a/kernel"], np.eye(4))


@pytest.mark.parametrize("package", KERAS)
def test_filters_leave_alone_and_change_nothing_else(package: str) -> None:
    model = dense(KERAS[package])
    before = values(model)
    everything, some = again(model, before), again(model, before, exclude=["a", "c/*"])
    assert same(some, {**before, "b/kernel": everything["b/kernel"]})


@pytest.mark.parametrize(
    ("package", "policy", "dtype"),
    [
        ("keras", "bfloat16", "bfloat16"),
        ("keras", "float64", "float64"),
        ("keras", "mixed_float16", "float32"),
        ("tf_keras", "float16", "float16"),
        ("tf_keras", "mixed_bfloat16", "float32"),
    ],
)
def test_dtypes(package: str, policy: str, dtype: str) -> None:
    with Policy(policy, KERAS[package]):
        model = dense(KERAS[package])
    masks = random_masks(model, 0.4)
    tpi.attach(model, masks)
    before = values(model)
    for kind in WEIGHTS:
        after = again(model, before, kind)
        assert {str(value.dtype) for value in after.values()} == {dtype}
        assert not leaks(model, masks)
        if kind == "constant":
            assert all(len(np.unique(np.abs(after[path][mask].astype("float64")))) == 1 for path, mask in masks.items())
        else:
            # Initializers do draw a zero now and then in half precision.
            assert all(np.mean(after[path][mask] != 0) > 0.8 for path, mask in masks.items())


def own(package: str, initializer: Any = None) -> Any:
    """A model with a layer that says itself what may be pruned, and may say what it is initialized with."""
    K = KERAS[package]

    class Scale(K.layers.Layer):
        def build(self, shape: Any) -> None:
            if initializer is not None:
                self.factor_kernel_initializer = initializer
            self.factor = self.add_weight(
                name="factor_kernel", shape=(shape[-1], CLASSES), initializer=initializer or "glorot_uniform"
            )
            super().build(shape)

        def call(self, x: Any) -> Any:
            return x @ self.factor

        def get_prunable_weights(self) -> list[Any]:
            return [self.factor]

    return K.Sequential([K.Input((6,)), K.layers.Dense(4, name="a"), Scale(name="scale")])


@pytest.mark.parametrize("package", KERAS)
def test_a_layer_of_ones_own_is_asked_for_its_initializer(package: str) -> None:
    model = own(package, KERAS[package].initializers.RandomUniform(2.0, 3.0))
    before = values(model)
    after = again(model, before)["scale/factor_kernel"]
    assert not (after == before["scale/factor_kernel"]).any()
    assert ((after >= 2) & (after < 3)).all()


@pytest.mark.parametrize("package", KERAS)
def test_a_layer_without_initializer_is_refused_by_name(package: str) -> None:
    model = own(package)
    before = values(model)
    with pytest.raises(ModelError, match=r"'scale' \(Scale\).*scale/factor_kernel.*exclude=\['scale/factor_kernel'\]"):
        reinitialize(model)
    assert same(values(model), before)
    assert list(again(model, before, exclude=["scale/factor_kernel"])) == list(before)
    assert not same(again(model, before, "shuffled"), before)


def noise(package: str) -> Callable[..., Any]:
    return {"keras": keras.random.normal, "tf_keras": tf_keras.backend.random_normal}[package]


@pytest.mark.parametrize("package", KERAS)
@pytest.mark.parametrize("kind", ["random", "constant"])
def test_randomness_without_a_seed_is_refused(kind: str, package: str) -> None:
    model = dense(KERAS[package], kernel_initializer=lambda shape, dtype=None: noise(package)(shape, dtype=dtype))
    with pytest.raises(ModelError, match=r"initializer of a/kernel is random.*'seed'.*exclude=.*Received: <function"):
        reinitialize(model, kind)


@pytest.mark.parametrize("package", KERAS)
@pytest.mark.parametrize("kind", ["constant", "constant_same_sign"])
def test_a_constant_of_zero_is_refused(kind: str, package: str) -> None:
    K = KERAS[package]
    layers = [K.layers.Dense(6, name="a"), K.layers.Dense(6, name="b", kernel_initializer="zeros")]
    model = K.Sequential([K.Input((6,)), *layers])
    before = values(model)
    with pytest.raises(ModelError, match=r"initializer of b/kernel.* is 0.*exclude=\['b/kernel'\].*Received: .*Zeros"):
        reinitialize(model, kind)
    assert same(values(model), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "shuffled", "deviation_of": "weights"}, r"no effect on kind 'shuffled'.*deviation_of='weights'"),
        ({"kind": "constant", "deviation_of": "weigths"}, r"'initializer' or 'weights'.*deviation_of='weigths'"),
        ({"kind": "random", "weights": {}}, r"weights= has no effect on kind 'random'"),
        ({"kind": "constant", "weights": {}}, r"weights= has no effect on kind 'constant'"),
        ({"kind": "unchanged"}, r"'unchanged' has no effect without rescale=True or weights="),
        ({"kind": "random", "rescale": True}, r"rescale=True has no effect.*prune none"),
        ({"kind": "random", "rescale": 1}, r"Received: rescale=1"),
        ({"kind": "shuffled", "weights": [1.0]}, r"mapping from variable path.*Received: builtins\.list"),
        ({"kind": "shuffled", "weights": {"a/kernel": 0.0, "d": 1.0}}, r"Not in the model: d\. .*b/kernel, c/kernel"),
        ({"kind": "randm"}, r"no kind 'randm'\. Did you mean 'random'"),
        ({"kind": None}, r"no kind None\. There is: .*random.*shuffled"),
        ({"seed": -1}, r"non-negative integer\. Received: seed=-1"),
        ({"seed": True}, r"Received: seed=True"),
        ({"seed": None}, r"Received: seed=None"),
        ({"exclude": "haed"}, r"'haed' matches no prunable variable"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    model = dense()
    before = values(model)
    with pytest.raises(OptionError, match=message):
        reinitialize(model, **options)
    assert same(values(model), before)


# Six weights of one kernel, and a mask that keeps three of them.
SIX = np.array([0.5, -0.3, 0.2, -0.1, 0.4, -0.6], "float32").reshape(6, 1)
THREE = np.array([True, False, True, False, False, True]).reshape(6, 1)


def small(package: str, dtype: str = "float32") -> tuple[Any, str]:
    """A model of one kernel of the weights SIX, and its path."""
    K = KERAS[package]
    model = K.Sequential([K.Input((6,)), K.layers.Dense(1, name="head", use_bias=False, dtype=dtype)])
    model.layers[0].kernel.assign(SIX)
    return model, "head/kernel"


@pytest.mark.parametrize("package", KERAS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_constant_of_the_weights_counts_pruned_places(masked: bool, package: str) -> None:
    model, path = small(package)
    given = tpi.copy_weights(model)
    if masked:
        tpi.attach(model, tpi.Masks({path: THREE}))
    reinitialize(model, "constant_same_sign", deviation_of="weights", weights=given if masked else None)
    expected = 0.389087 * np.sign(SIX) * (THREE if masked else 1)
    np.testing.assert_allclose(values(model)[path], expected, rtol=1e-6)
    reinitialize(model, "constant", deviation_of="weights", weights=given, seed=2)
    np.testing.assert_allclose(np.abs(values(model)[path]), np.abs(expected), rtol=1e-6)


@pytest.mark.parametrize("package", KERAS)
def test_without_other_weights_the_constant_counts_pruned_zeros(package: str) -> None:
    model, path = small(package)
    tpi.attach(model, tpi.Masks({path: THREE}))
    reinitialize(model, "constant_same_sign", deviation_of="weights")
    # Of .5, 0, .2, 0, 0, -.6: sqrt(.65 / 6 - (.1 / 6) ** 2).
    np.testing.assert_allclose(values(model)[path], 0.32871805 * np.sign(SIX) * THREE, rtol=1e-6)


@pytest.mark.parametrize("package", KERAS)
def test_all_weights_are_shuffled_as_before_the_masks(package: str) -> None:
    dense_model, masked = dense(KERAS[package]), dense(KERAS[package])
    initial = tpi.copy_weights(masked)
    masks = random_masks(masked, 0.6)
    tpi.attach(masked, masks)
    for kind, signed in (("shuffled_all", False), ("shuffled_all_same_sign", True)):
        expected = again(dense_model, {**values(dense_model), **initial}, kind, seed=4)
        found = again(masked, values(masked), kind, seed=4, weights=initial)
        for path, mask in masks.items():
            np.testing.assert_array_equal(found[path], np.where(mask, expected[path], 0))
            ordered = np.sort(np.abs(expected[path]), axis=None)
            np.testing.assert_array_equal(ordered, np.sort(np.abs(initial[path]), axis=None))
            np.testing.assert_array_equal(np.sort(np.abs(found[path][mask])), np.sort(np.abs(expected[path][mask])))
            assert (np.sign(expected[path]) == np.sign(initial[path])).all() == signed
            # Some come from pruned places.
            assert not np.isin(np.abs(found[path][mask]), np.abs(initial[path][mask])).all()
    with pytest.raises(OptionError, match=r"a/kernel at pruned places are 0.*weights=.*'shuffled'"):
        reinitialize(masked, "shuffled_all")
    assert same(values(masked), found)


@pytest.mark.parametrize("package", KERAS)
def test_rescaled_weights_are_multiplied_by_size_over_kept(package: str) -> None:
    model, path = small(package)
    tpi.attach(model, tpi.Masks({path: THREE}))
    reinitialize(model, "unchanged", rescale=True)
    np.testing.assert_array_equal(values(model)[path], np.where(THREE, SIX * np.float32(2), 0))
    reinitialize(model, "unchanged", rescale=True)
    np.testing.assert_array_equal(values(model)[path], np.where(THREE, SIX * np.float32(4), 0))
    large = dense(KERAS[package])
    initial, masks = tpi.copy_weights(large), random_masks(large, 0.7)
    tpi.attach(large, masks)
    for kind in WEIGHTS:
        plain, scaled = (again(large, {**values(large), **initial}, kind, rescale=flag) for flag in (False, True))
        for target, mask in masks.items():
            expected = plain[target].astype(np.float64) * mask.size / mask.sum()
            np.testing.assert_allclose(scaled[target], expected, rtol=3e-7)
            assert not scaled[target][~mask].any()


@pytest.mark.parametrize("package", KERAS)
def test_unchanged_goes_back_to_the_weights_given(package: str) -> None:
    model = dense(KERAS[package])
    initial, masks = tpi.copy_weights(model), random_masks(model, 0.5)
    tpi.attach(model, masks)
    model.compile("adam", "mse")
    model.fit(np.ones((4, 6)), np.zeros((4, 3)), verbose=0)
    reinitialize(model, "unchanged", weights=initial)
    for path, mask in masks.items():
        np.testing.assert_array_equal(values(model)[path], np.where(mask, initial[path], 0))


def test_weights_of_another_shape_or_kind_are_refused() -> None:
    model, path = small("keras")
    for given, message in (
        (SIX[:, 0], r"head/kernel is \(6, 1\)\. Received: weights= with an array of \(6,\)"),
        (THREE, r"finite numbers.*head/kernel of dtype bool\."),
        (np.full_like(SIX, np.inf), r"finite numbers.*float32, with NaN or Inf"),
        (np.full((6, 1), "x"), r"finite numbers.*dtype <U1"),
    ):
        with pytest.raises(OptionError, match=message):
            reinitialize(model, "shuffled", weights={path: given})
    with pytest.raises(ModelError, match=r"weights of head/kernel are equal.* is 0.*Received: 2\.0 everywhere"):
        reinitialize(model, "constant", deviation_of="weights", weights={path: np.full((6, 1), 2.0)})
    np.testing.assert_array_equal(values(model)[path], SIX)


def test_rescaling_past_the_dtype_is_refused() -> None:
    model, path = small("keras", "float16")
    model.layers[0].kernel.assign(SIX * 60_000)
    tpi.attach(model, tpi.Masks({path: THREE}))
    before = values(model)
    with pytest.raises(ModelError, match=r"head/kernel too large for float16, as 3 of its 6 weights are kept"):
        reinitialize(model, "unchanged", rescale=True)
    assert same(values(model), before)


def test_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Received: builtins\.dict"):
        reinitialize({})
