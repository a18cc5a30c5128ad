"""Gates: layers, where they stand, and what is left of a network once they are gone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfprune_init as tpi
from tfprune_init.backend import compat
from tfprune_init.errors import EnforcementError, ModelError, OptionError, ScoreError
from tfprune_init.gates.channel_choice import choose_channels
from tfprune_init.graph.variables import list_variables
from tfprune_init.layers import GateLayer

KERAS = {"keras": keras, "tf_keras": tf_keras}


def block(K: Any, x: Any, filters: int, name: str, activation: str = "relu", **options: Any) -> Any:
    x = K.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name, **options)(x)
    x = K.layers.BatchNormalization(name=f"{name}_bn")(x)
    return K.layers.Activation(activation, name=f"{name}_act")(x)


def stack(K: Any) -> Any:
    """Convolutions, pooling, Flatten, and Dense with an activation of its own."""
    inputs = K.Input((8, 8, 2))
    x = block(K, inputs, 5, "one")
    x = K.layers.MaxPooling2D(name="pool")(x)
    x = K.layers.Conv2D(4, 3, activation="relu", name="two")(x)
    x = K.layers.Flatten(name="flat")(x)
    x = K.layers.Dense(6, "relu", name="hidden")(x)
    return K.Model(inputs, K.layers.Dense(3, name="head")(x))


def residual(K: Any) -> Any:
    """A stem and two blocks whose sums tie channels."""
    inputs = K.Input((8, 8, 2))
    x = block(K, inputs, 6, "stem")
    for name in ("a", "b"):
        y = block(K, x, 4, f"{name}_in")
        y = K.layers.Conv2D(6, 3, padding="same", name=f"{name}_out")(y)
        y = K.layers.BatchNormalization(name=f"{name}_out_bn")(y)
        x = K.layers.ReLU(name=f"{name}_relu")(K.layers.Add(name=f"{name}_add")([x, y]))
    x = K.layers.GlobalAveragePooling2D(name="pool")(x)
    return K.Model(inputs, K.layers.Dense(3, name="head")(x))


def inverted(K: Any) -> Any:
    """An expansion whose depthwise convolution goes along."""
    inputs = K.Input((8, 8, 2))
    x = block(K, inputs, 6, "expand", "sigmoid")
    x = K.layers.DepthwiseConv2D(3, padding="same", name="depth")(x)
    x = K.layers.BatchNormalization(name="depth_bn")(x)
    x = K.layers.ReLU(6.0, name="depth_relu")(x)
    x = K.layers.Conv2D(3, 1, name="project")(x)
    return K.Model(inputs, K.layers.Dense(3, name="head")(K.layers.Flatten(name="flat")(x)))


def squashed(K: Any) -> Any:
    """Activations that make something else of 0."""
    inputs = K.Input((8, 8, 2))
    x = block(K, inputs, 5, "conv", "sigmoid")
    x = K.layers.Dense(6, "softplus", name="hidden")(K.layers.Flatten(name="flat")(x))
    return K.Model(inputs, K.layers.Dense(3, name="head")(x))


def nested(K: Any) -> Any:
    """Channels inside of a model that is called twice."""
    inner = K.Sequential(
        [K.layers.Input((6,)), K.layers.Dense(5, "relu", name="inside"), K.layers.Dense(6, name="back")], name="inner"
    )
    inputs = K.Input((8, 8, 2))
    x = K.layers.Dense(6, name="first")(K.layers.GlobalAveragePooling2D(name="pool")(inputs))
    return K.Model(inputs, K.layers.Dense(3, name="head")(inner(inner(x))))


NETWORKS = {one.__name__: one for one in (stack, residual, inverted, squashed, nested)}
# Networks tell places apart, and tf_keras the copying of models, which one network of each kind shows.
CASES = [
    pytest.param(network, package, marks=() if usual else pytest.mark.exhaustive)
    for network, package in itertools.product(NETWORKS, KERAS)
    for usual in [package == "keras" or network in ("residual", "nested")]
]
INPUTS = np.random.default_rng(5).normal(size=(6, 8, 8, 2)).astype("float32")


def build(network: str, package: str = "keras") -> Any:
    """A network whose weights, statistics and offsets are all random, as after a training."""
    K = KERAS[package]
    K.utils.set_random_seed(3)
    model = NETWORKS[network](K)
    rng = np.random.default_rng(1)
    for target in list_variables(model):
        if len(target.shape) == 1:
            low = 0.5 if "variance" in target.name or target.name == "gamma" else -0.5
            target.tensor.assign(rng.uniform(low, 1.0, target.shape))
    return model


def gates_of(model: Any) -> dict[str, Any]:
    return {layer.name: layer for layer in compat.walk_layers(model) if isinstance(layer, GateLayer)}


def draw_factors(gated: Any, values: tuple[float, ...], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, gate in gates_of(gated).items():
        factors = rng.choice(values, gate.channels)
        factors[0], factors[-1] = 0.0, max(values)
        gate.set_weights([factors])
        drawn[name] = factors
    return drawn


@pytest.mark.parametrize(("network", "package"), CASES)
def test_open_gates_change_nothing_and_names_and_weights_stay(network: str, package: str) -> None:
    model = build(network, package)
    gated = tpi.insert_gates(model, places="all")
    np.testing.assert_array_equal(model(INPUTS), gated(INPUTS))
    weights = {target.path: target.tensor.numpy() for target in list_variables(gated)}
    for target in list_variables(model):
        np.testing.assert_array_equal(weights.pop(target.path), target.tensor.numpy())
    assert {path.split("/")[-2] for path in weights} == gates_of(gated).keys()
    assert not gates_of(model)


@pytest.mark.parametrize(("network", "package"), CASES)
def test_closed_gates_become_masks_that_compact_cuts_out(network: str, package: str) -> None:
    gated = tpi.insert_gates(build(network, package), places="all")
    drawn = draw_factors(gated, (0.0, 1.0))
    expected = gated(INPUTS).numpy()
    found = tpi.discretize(gated)
    assert not gates_of(found.model)
    given = {layer.name for layer in gated.layers} - gates_of(gated).keys()
    assert {layer.name for layer in found.model.layers} == given
    assert {name: kept.tolist() for name, kept in found.channels.items()} == {
        name: (factors > 0).tolist() for name, factors in drawn.items()
    }
    np.testing.assert_array_equal(gated(INPUTS).numpy(), expected)  # no trace
    smaller = tpi.compact(found.model, found.masks)
    np.testing.assert_allclose(smaller.model(INPUTS), expected, rtol=1e-5, atol=1e-6)
    assert smaller.after.parameters < smaller.before.parameters
    tpi.attach(found.model, found.masks)
    np.testing.assert_allclose(found.model(INPUTS), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", ["stack", "residual", "nested"])
def test_factors_of_open_gates_go_into_the_weights(network: str) -> None:
    gated = tpi.insert_gates(build(network), places="all")
    draw_factors(gated, (0.0, 0.3, 0.7, 1.0))
    found = tpi.discretize(gated)
    smaller = tpi.compact(found.model, found.masks).model
    np.testing.assert_allclose(smaller(INPUTS), gated(INPUTS), rtol=1e-4, atol=1e-5)
    # Without folding the network computes with open gates.
    opened = tpi.discretize(gated, fold=False)
    for name, gate in gates_of(gated).items():
        gate.set_weights([opened.channels[name].astype("float32")])
    tpi.attach(opened.model, opened.masks)
    np.testing.assert_allclose(opened.model(INPUTS), gated(INPUTS), rtol=1e-5, atol=1e-6)


def test_an_activation_that_does_not_pass_factors_on_is_named() -> None:
    gated = tpi.insert_gates(build("squashed"))
    draw_factors(gated, (0.0, 0.5))
    with pytest.raises(ModelError, match=r"gate \w+_gate cannot go into layer .*fold=False"):
        tpi.discretize(gated)
    assert tpi.discretize(gated, fold=False).masks.density < 1


def place_of(model: Any, name: str) -> list[str]:
    """The layers before and after a gate."""
    order = [layer.name for layer in model.layers]
    place = order.index(name)
    return [order[place - 1], order[place + 1]]


def test_gates_stand_where_a_zero_stays_a_zero() -> None:
    gated = tpi.insert_gates(build("stack"))
    assert list(gates_of(gated)) == ["one_gate", "two_gate", "hidden_gate"]
    assert place_of(gated, "one_gate") == ["one_bn", "one_act"]  # behind BatchNorm, before the activation
    assert place_of(gated, "two_gate") == ["two", "flat"]
    # The depthwise convolution and its BatchNorm go along.
    assert place_of(tpi.insert_gates(build("inverted"), places=["expand"]), "expand_gate") == ["depth_bn", "depth_relu"]
    # Of 0 a sigmoid makes a half.
    assert place_of(tpi.insert_gates(build("squashed")), "conv_gate") == ["conv_act", "flat"]


def test_channels_that_stand_together_have_one_gate() -> None:
    model = build("residual")
    inner, every = tpi.insert_gates(model), tpi.insert_gates(model, places="all")
    assert list(gates_of(inner)) == ["a_in_gate", "b_in_gate"]
    assert len(gates_of(every)) == 3
    (shared,) = set(gates_of(every)) - set(gates_of(inner))
    tied = tpi.list_gate_places(model).gates[shared]
    assert set(tied) == {"stem", "a_out", "b_out"}
    assert [tuple(one.shape) for one in gates_of(every)[shared].weights] == [(6,)]
    reasons = tpi.list_gate_places(model, "inner").left_whole
    assert reasons["stem/kernel"] == "places='inner' leaves out channels that a sum ties to others"
    assert reasons["head/kernel"] == "it is an output of the model"


def test_what_cannot_have_a_gate_is_told() -> None:
    L = keras.layers
    inputs = keras.Input((8, 4))
    x = L.LayerNormalization(name="norm")(L.Dense(6, name="normed")(inputs))
    x = L.LSTM(5, name="memory")(x)
    y = L.Dense(5, name="before_bn")(x)
    x = L.BatchNormalization(name="sum_bn")(L.Add(name="add")([L.Dense(5, name="beside")(x), y]))
    x = L.Dense(4, name="free")(x)
    left = tpi.list_gate_places(keras.Model(inputs, L.Dense(2, name="head")(x))).left_whole
    assert "norm" in left["normed/kernel"]
    assert left["memory/lstm_cell/kernel"].startswith("units of LSTMCell act on each other")
    assert left["before_bn/kernel"] == "sum_bn makes something else of a channel that is 0"
    assert "free/kernel" not in left


@pytest.mark.parametrize("package", KERAS)
def test_gates_train_within_their_bounds_and_their_regularizer_is_in_the_loss(package: str) -> None:
    K = KERAS[package]
    model = build("stack", package)
    model.compile(K.optimizers.SGD(5.0), K.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = np.arange(6) % 3
    plain = model.evaluate(INPUTS, y, verbose=0)
    gated = tpi.insert_gates(model, regularizer=K.regularizers.L1(0.25))
    # Fifteen open gates.
    np.testing.assert_allclose(gated.evaluate(INPUTS, y, verbose=0), plain + 0.25 * 15, rtol=1e-5)
    gated.fit(INPUTS, y, epochs=1, verbose=0)
    factors = np.concatenate([gate.read_factors() for gate in gates_of(gated).values()])
    assert factors.min() == 0
    assert factors.max() <= 1


def test_the_gradient_of_a_factor_is_that_of_its_channel() -> None:
    gate = tpi.layers.ChannelGate(axis=1)
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 4, 2)), tf.float32)
    gate(x)
    gate.set_weights([np.array([0.0, 0.5, 1.0, 0.25])])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(gate(x) ** 2)
    expected = 2 * np.array([0.0, 0.5, 1.0, 0.25]) * (x.numpy().astype(float) ** 2).sum((0, 2))
    np.testing.assert_allclose(tape.gradient(total, gate.trainable_variables[0]), expected, rtol=1e-6)


@pytest.mark.parametrize("package", KERAS)
def test_a_model_with_gates_is_saved_and_loaded(package: str, tmp_path: Path) -> None:
    K = KERAS[package]
    gated = tpi.insert_gates(build("residual", package), places="all", regularizer=K.regularizers.L1(0.5))
    draw_factors(gated, (0.0, 0.5, 1.0))
    gated.save(tmp_path / "gated.keras")
    loaded = K.models.load_model(tmp_path / "gated.keras")
    np.testing.assert_array_equal(loaded(INPUTS), gated(INPUTS))
    np.testing.assert_array_equal(loaded.losses, gated.losses)
    one, other = tpi.discretize(gated), tpi.discretize(loaded)
    assert all(np.array_equal(one.masks[path], other.masks[path]) for path in one.masks)


def test_a_model_with_gates_is_exported(export: Any, tmp_path: Path) -> None:
    gated = tpi.insert_gates(build("stack"))
    draw_factors(gated, (0.0, 0.5, 1.0))
    assert export(gated, tmp_path / "gated.tflite").relative_difference < 1e-5


def test_gates_compute_in_half_precision() -> None:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        gated = tpi.insert_gates(build("stack"))
    finally:
        keras.config.set_dtype_policy(policy)
    gate = gates_of(gated)["one_gate"]
    assert gate(tf.zeros((1, 2, 2, 5), tf.float16)).dtype == tf.float16
    assert gate.factors.dtype == "float32"


def test_a_share_of_all_channels_goes_and_each_layer_keeps_its_best() -> None:
    gated = tpi.insert_gates(build("stack"))
    for name, factors in {"one": [0.9, 0.5, 0.5, 0.5, 0.4], "two": [0.1, 0.0, 0.2, 0.1], "hidden": [0.5] * 6}.items():
        gates_of(gated)[f"{name}_gate"].set_weights([np.array(factors)])
    kept = tpi.discretize(gated, sparsity=0.6).channels  # 6 of 15
    assert kept["one_gate"].tolist() == [True, True, True, True, False]
    assert kept["two_gate"].tolist() == [False, False, True, False]
    assert kept["hidden_gate"].tolist() == [True] + [False] * 5


def test_a_layer_whose_gates_are_all_closed_keeps_one_channel() -> None:
    gated = tpi.insert_gates(build("stack"))
    gates_of(gated)["hidden_gate"].set_weights([np.zeros(6)])
    found = tpi.discretize(gated)
    assert found.channels["hidden_gate"].tolist() == [True] + [False] * 5
    tpi.attach(found.model, found.masks)
    np.testing.assert_allclose(found.model(INPUTS), gated(INPUTS), atol=1e-6)


def test_choice_of_channels_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = {name: rng.integers(0, 4, size).astype(float) for name, size in zip("abc", (3, 1, 5), strict=True)}
        keep = int(rng.integers(1, 10))
        flat = [(-value, order, place) for order, v in enumerate(scores.values()) for place, value in enumerate(v)]
        best = {min(one for one in flat if one[1] == order) for order in range(3)}
        others = sorted(set(flat) - best)[: max(0, keep - 3)]
        expected = {(order, place) for _, order, place in [*best, *others]}
        kept = choose_channels(scores, keep)
        assert expected == {(o, int(p)) for o, one in enumerate(kept.values()) for p in np.flatnonzero(one)}
    with pytest.raises(ScoreError, match="channels of b are NaN"):
        choose_channels({"a": np.ones(2), "b": np.array([np.nan])}, 2)


def test_bad_input_is_named() -> None:
    model = build("stack")
    gated = tpi.insert_gates(model)
    with pytest.raises(ModelError, match=r"has gates already\. Received: one_gate"):
        tpi.insert_gates(gated)
    with pytest.raises(ModelError, match="has no gates"):
        tpi.discretize(model)
    with pytest.raises(OptionError, match=r"no kind of gate 'plane'\. Did you mean 'plain'"):
        tpi.insert_gates(model, "plane")
    with pytest.raises(OptionError, match=r"did you mean \['one'\]"):
        tpi.insert_gates(model, places="one")
    with pytest.raises(OptionError, match=r"no layer with channels\. Did you mean 'two'"):
        tpi.insert_gates(model, places=["tow"])
    with pytest.raises(OptionError, match="no gate for the channels of head/kernel: it is an output of the model"):
        tpi.insert_gates(model, places=["head"])
    with pytest.raises(OptionError, match="does not take these options"):
        tpi.insert_gates(model, strength=1)
    with pytest.raises(OptionError, match="follows from its place"):
        tpi.insert_gates(model, axis=1)
    with pytest.raises(OptionError, match=r"initial must be a number in \[0, 1\]"):
        tpi.insert_gates(model, initial=2)
    with pytest.raises(OptionError, match="fold must be"):
        tpi.discretize(gated, fold=1)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="sparsity"):
        tpi.discretize(gated, sparsity=1.0)
    with pytest.raises(ModelError, match="no channels that can have a gate"):
        tpi.insert_gates(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")]))
    with pytest.raises(OptionError, match="axis"):
        tpi.layers.ChannelGate(axis=0)
    with pytest.raises(ModelError, match="fixed number of channels"):
        tpi.layers.ChannelGate().build((None, None))
    with pytest.raises(ModelError, match="not built"):
        tpi.layers.ChannelGate().read_factors()
    gates_of(gated)["two_gate"].set_weights([np.full(4, np.nan)])
    with pytest.raises(ScoreError, match="two_gate"):
        tpi.discretize(gated)


def test_models_in_other_hands_are_refused() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.layer = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.layer(x)

    own = Own()
    own(np.zeros((1, 3)))
    with pytest.raises(ModelError, match="Received: Own"):
        tpi.insert_gates(own)
    pruned = build("stack")
    tpi.attach(pruned, tpi.find_masks(pruned, None, sparsity=0.5, method="magnitude"))
    with pytest.raises(ModelError, match="carries masks"):
        tpi.insert_gates(pruned)
    frozen = build("stack")
    masks = tpi.find_masks(frozen, None, sparsity=0.5, method="magnitude")
    tpi.freeze(frozen, masks, tpi.copy_weights(frozen))
    with pytest.raises(EnforcementError):
        tpi.insert_gates(frozen)
    # A gate put where no channel can be removed.
    x = keras.Input((3,))
    odd = keras.Model(x, tpi.layers.ChannelGate(name="own_gate")(keras.layers.Dense(2, name="head")(x)))
    with pytest.raises(ModelError, match=r"'own_gate' stands behind head.*head/kernel: it is an output"):
        tpi.discretize(odd)
    taken = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="a"), keras.layers.Dense(2, name="a_gate")])
    with pytest.raises(ModelError, match="Rename"):
        tpi.insert_gates(taken)


def test_the_proximal_step_of_the_worked_example_and_of_many() -> None:
    rng = np.random.default_rng(0)
    factors, velocity = np.array([0.05, 1.0, 0.0, 0.3]), np.zeros(4)
    gate = tpi.layers.ChannelGate(upper=None)
    gate.build((None, 4))
    gate.set_weights([factors])
    optimizer = tpi.layers.ProximalSGD(0.1, momentum=0.9, penalty=0.2)
    for step in range(5):
        gradient = np.array([0.1, -2.0, -0.5, 0.7]) if step == 0 else rng.normal(size=4)
        optimizer.apply([tf.constant(gradient, tf.float32)], gate.trainable_variables)
        moved = factors - 0.1 * gradient
        near = np.sign(moved) * np.maximum(np.abs(moved) - 0.02, 0)
        velocity = near - factors + 0.9 * velocity
        factors = np.maximum(0, near + 0.9 * velocity)
        np.testing.assert_allclose(gate.read_factors(), factors, atol=1e-6)
        if step == 0:  # the example of the reference: z .02, v -.03, and 0 for max(0, -.007)
            np.testing.assert_allclose([near[0], velocity[0], gate.read_factors()[0]], [0.02, -0.03, 0], atol=1e-9)


def test_proximal_sgd_closes_gates_and_trains_weights_as_sgd(tmp_path: Path) -> None:
    y = np.arange(6) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    gated = tpi.insert_gates(build("stack"), upper=None)
    twin = tpi.insert_gates(build("stack"), upper=None)
    twin.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), loss)
    gated.compile(tpi.layers.ProximalSGD(0.1, penalty=5.0), loss)
    for model in (gated, twin):
        model.train_on_batch(INPUTS, y)
    np.testing.assert_allclose(gated.get_layer("head").kernel, twin.get_layer("head").kernel, atol=1e-7)
    gated.fit(INPUTS, y, epochs=3, verbose=0)
    factors = np.concatenate([gate.read_factors() for gate in gates_of(gated).values()])
    assert (factors == 0).any()
    gated.save(tmp_path / "gated.keras")
    loaded = keras.models.load_model(tmp_path / "gated.keras")
    for model in (gated, loaded):
        model.fit(INPUTS, y, epochs=1, shuffle=False, verbose=0)
    for one, other in zip(gated.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    plain = build("stack")
    plain.compile(tpi.layers.ProximalSGD(), loss)
    with pytest.raises(OptionError, match="none of 9 variables is the factors of a gate"):
        plain.train_on_batch(INPUTS, y)
    with pytest.raises(OptionError, match="penalty"):
        tpi.layers.ProximalSGD(penalty=0)
    with pytest.raises(OptionError, match="upper must be"):
        tpi.layers.ChannelGate(upper=0)


def test_another_kind_is_a_registered_class() -> None:
    @tpi.layers.register_gate("squared")
    class SquaredGate(GateLayer, keras.layers.Layer):
        def build_gate(self, channels: int) -> None:
            self.root = self.add_weight(shape=(channels,), initializer="ones", name="root")

        def make_factors(self, training: Any) -> Any:
            return tf.square(tf.convert_to_tensor(self.root))

    try:
        gated = tpi.insert_gates(build("stack"), "squared")
        draw_factors(gated, (0.0, -0.5, 1.0))
        found = tpi.discretize(gated)
        np.testing.assert_allclose(
            tpi.compact(found.model, found.masks).model(INPUTS), gated(INPUTS), rtol=1e-4, atol=1e-5
        )
        with pytest.raises(ModelError, match="no SquaredGate for tf_keras"):
            tpi.insert_gates(build("stack", "tf_keras"), "squared")
        with pytest.raises(OptionError, match="of that name already"):
            tpi.layers.register_gate("squared")(SquaredGate)
    finally:
        del tpi.layers.GATE_KINDS["squared"]
