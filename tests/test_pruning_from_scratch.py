"""Pruning from Scratch: gates over random weights, and widths to a budget."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfprune_init as tpi
from tfprune_init.errors import DataError, ModelError, OptionError, ScoreError
from tfprune_init.gates.channel_choice import choose_channels
from tfprune_init.gates.places import choose_places, find_places
from tfprune_init.gates.width_search import find_widths
from tfprune_init.graph.cost import CostModel
from tfprune_init.graph.dependency_graph import build_dependency_graph
from tfprune_init.graph.variables import list_variables
from tfprune_init.layers import GateLayer
from tfprune_init.training.gate_learning import GateEpoch, choose_epoch, hold_out, learn_gates, penalize_mean

KERAS = {"keras": keras, "tf_keras": tf_keras}
CLASSES = 3


def build(width: float, seed: int = 0, package: str = "keras") -> Any:
    """A stem, a residual block, an inner convolution and a hidden layer."""
    K = KERAS[package]
    L = K.layers

    def block(x: Any, filters: float, name: str) -> Any:
        draw = K.initializers.HeNormal(seed + len(name))  # a seed in the configuration, as the networks of tpi.models
        x = L.Conv2D(round(filters * width), 3, padding="same", use_bias=False, kernel_initializer=draw, name=name)(x)
        return L.BatchNormalization(name=f"{name}_bn", gamma_initializer=K.initializers.Constant(0.5))(x)

    inputs = K.Input((6, 6, 2))
    x = L.ReLU(name="stem_relu")(block(inputs, 4, "stem"))
    y = L.ReLU(name="in_relu")(block(x, 8, "inner"))
    x = L.ReLU(name="out_relu")(L.Add(name="add")([x, block(y, 4, "out")]))
    x = L.Dense(round(4 * width), "relu", name="hidden")(L.GlobalAveragePooling2D(name="pool")(x))
    return K.Model(inputs, L.Dense(CLASSES, name="head")(x))


def data(examples: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(examples, 6, 6, 2)).astype("float32"), np.arange(examples) % CLASSES


def gated_network(package: str = "keras") -> tuple[Any, list[Any]]:
    K = KERAS[package]
    K.utils.set_random_seed(0)
    model = tpi.insert_gates(build(2.0, package=package))
    model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, [layer for layer in model.layers if isinstance(layer, GateLayer)]


def learn(model: Any, gates: list[Any], **options: Any) -> list[GateEpoch]:
    chosen = {"epochs": 1, "learning_rate": 0.01, "strength": 0.5, "target": 0.2, "seed": 0, **options}
    return learn_gates(model, gates, hold_out(data(), 0.2), advance=lambda _: None, **chosen)


def test_the_penalty_of_the_worked_example_and_its_gradient() -> None:
    factors = [tf.Variable([1.0, 0.5]), tf.Variable([0.0, 0.3])]
    with tf.GradientTape() as tape:
        penalty = penalize_mean(factors, 0.5, 0.2)
    np.testing.assert_allclose(penalty, 0.03125, atol=1e-7)
    one, other = tape.gradient(penalty, factors)
    np.testing.assert_allclose(one, [0.0625, 0.0625], atol=1e-7)
    np.testing.assert_allclose(other, [0.0, 0.0625], atol=1e-7)


@pytest.mark.parametrize("package", KERAS)
def test_a_step_follows_the_whole_loss_and_moves_gates_alone(package: str) -> None:
    model, gates = gated_network(package)
    x, y = hold_out(data(), 0.2).train
    order = np.random.default_rng([0, 0]).permutation(len(x))
    # The same loss written down once more, on a network of the same weights.
    twin, others = gated_network(package)
    twin.set_weights(model.get_weights())
    with tf.GradientTape() as tape:
        logits = tf.cast(twin(x[order], training=True), tf.float64)
        picked = tf.gather(tf.nn.log_softmax(logits), y[order], batch_dims=1)
        mean = tf.reduce_mean(tf.concat([tf.cast(tf.convert_to_tensor(g.factors), tf.float64) for g in others], 0))
        loss = -tf.reduce_mean(picked) + 0.5 * (mean - 0.2) ** 2
    gradients = tape.gradient(loss, [gate.trainable_variables[0] for gate in others])
    before = {target.path: target.tensor.numpy() for target in list_variables(model)}
    (epoch,) = learn(model, gates, learning_rate=0.25)
    np.testing.assert_allclose(epoch.loss, loss, rtol=1e-5)
    for gate, gradient in zip(gates, gradients, strict=True):
        # Adam's first step is its rate, against the sign, but for its epsilon.
        g = np.asarray(gradient, np.float64)
        np.testing.assert_allclose(epoch.factors[gate.name], np.clip(1 - 0.25 * g / (abs(g) + 1e-7), 0, 1), atol=1e-4)
    moved = {t.path for t in list_variables(model) if not np.array_equal(before[t.path], t.tensor.numpy())}
    statistics = {path for path in before if "moving" in path}
    assert moved == statistics | {path for path in before if path.endswith("factors")}


def test_gates_end_between_0_and_1_near_their_target() -> None:
    model, gates = gated_network()
    epochs = learn(model, gates, epochs=40, learning_rate=0.03, strength=5.0)
    every = np.concatenate(list(epochs[-1].factors.values()))
    assert every.min() >= 0
    assert every.max() <= 1
    assert abs(epochs[-1].mean - every.mean()) < 1e-12
    assert epochs[-1].open_share == np.count_nonzero(every) / every.size
    assert abs(every.mean() - 0.2) < 0.1


def test_the_best_of_the_epochs_with_few_open_gates_counts() -> None:
    def epoch(accuracy: float, share: float) -> GateEpoch:
        return GateEpoch(0.0, accuracy, 0.0, share, {})

    epochs = [epoch(0.9, 1.0), epoch(0.5, 0.2), epoch(0.6, 0.1), epoch(0.6, 0.2), epoch(0.7, 0.3)]
    assert choose_epoch(epochs, 0.2) == 2
    assert choose_epoch(epochs, 0.05) == 4  # none of them: the last


def test_what_is_held_out() -> None:
    x, y = data(10)
    batches = hold_out(tf.data.Dataset.from_tensor_slices((x, y)).batch(2), 0.4)
    assert [len(part) for part, _ in batches.train] == [2, 2, 2]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in batches.test]), x[6:])
    with pytest.raises(DataError, match="Nothing is left"):
        hold_out((x[:1], y[:1]), 0.5)


@pytest.mark.parametrize("kind", ["multiply_adds", "parameters"])
def test_the_search_against_all_counts(kind: str) -> None:
    model = build(2.0)
    graph, costs = build_dependency_graph(model), CostModel(model)
    places, _ = choose_places(*find_places(model, graph), "inner")
    plain = CostModel(build(1.0)).count()
    rng = np.random.default_rng(2)
    factors = {place.name: rng.integers(0, 4, place.units.size) / 4 for place in places}
    total = sum(one.size for one in factors.values())

    def cost_of(keep: int) -> int:
        """Cost of a network that is built with those widths, by a formula of its own."""
        kept = choose_channels(factors, keep)
        inner, hidden = int(kept["inner_gate"].sum()), int(kept["hidden_gate"].sum())
        weights = [(9 * 2 * 8, 36), (9 * 8 * inner, 36), (9 * inner * 8, 36), (8 * hidden, 1), (hidden * CLASSES, 1)]
        if kind == "multiply_adds":
            return sum(size * places for size, places in weights)
        return sum(size for size, _ in weights) + 4 * (8 + inner + 8) + hidden + CLASSES

    for share in (0.5, 0.6, 0.75, 0.9):
        found = find_widths(costs, graph, places, factors, tpi.Budget(**{kind: share}), plain)
        fits = [keep for keep in range(2, total + 1) if cost_of(keep) <= found.limit]
        assert getattr(found.cost, kind) == cost_of(max(fits))
        assert getattr(found.next_cost, kind) == cost_of(max(fits) + 1) > found.limit
        assert found.limit == int(getattr(plain, kind) * share)


def prune(package: str = "keras", **options: Any) -> tpi.ScratchNetwork:
    chosen = {"budget": tpi.Budget(multiply_adds=0.6), "expansion": 2.0, "epochs": 2, "learning_rate": 0.1, **options}
    return tpi.prune_from_scratch(
        lambda width, seed: build(width, seed, package), (data(), data(12, 1)), verbose=0, **chosen
    )


@pytest.mark.parametrize("package", KERAS)
def test_the_network_has_the_widths_and_fits_the_budget(package: str) -> None:
    found = prune(package)
    assert found.cost == CostModel(found.model).count()
    assert found.cost.multiply_adds <= found.limit < found.next_cost.multiply_adds
    assert found.limit == int(found.plain_cost.multiply_adds * 0.6)
    assert found.expanded_cost == CostModel(build(2.0)).count()
    layers = {layer.name: layer for layer in found.model.layers}
    assert {name: layers[name].kernel.shape[-1] for name in ("stem", "inner", "out", "hidden")} == {
        "stem": 8,  # a sum ties it
        "inner": found.widths["inner_gate"],
        "out": 8,
        "hidden": found.widths["hidden_gate"],
    }
    assert found.steps == 2
    assert found.left_whole["stem/kernel"].startswith("places='inner'")
    # Untrained: statistics as they are drawn, scales of the initializer.
    np.testing.assert_array_equal(layers["inner_bn"].moving_mean, 0)
    np.testing.assert_array_equal(layers["inner_bn"].gamma, 0.5)
    K = KERAS[package]
    found.model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True))
    found.model.fit(*data(), epochs=1, verbose=0)


def test_each_seed_draws_other_weights_and_the_same_seed_the_same() -> None:
    found = prune(epochs=1)
    one, same, other = (found.build(seed).get_weights() for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    kernels = [(a, b) for a, b in zip(one, other, strict=True) if a.ndim > 1]
    assert all((a != b).mean() > 0.9 for a, b in kernels)
    again = prune(epochs=1)
    assert found.widths == again.widths
    assert all(np.array_equal(found.gates[name], again.gates[name]) for name in found.gates)
    ran = tpi.run("magnitude", found.build, (data(), data(12, 1)), sparsity=0.5, steps=1, verbose=0)
    assert ran.masks.kept == ran.masks.size // 2


def test_channels_that_stay_although_closed_are_counted() -> None:
    found = prune(budget=tpi.Budget(multiply_adds=0.9), epochs=40, learning_rate=0.05, strength=5.0, open_share=0.1)
    closed = sum(int((factors == 0).sum()) for factors in found.gates.values())
    stay = sum(found.widths.values())
    opened = sum(one.size for one in found.gates.values()) - closed
    assert closed > 0
    assert found.closed_kept >= max(0, stay - opened)
    assert found.reached == (found.epochs[found.chosen_epoch].open_share <= 0.1)


def test_gates_that_all_close_tell_nothing() -> None:
    with pytest.raises(ScoreError, match="All gates are 0 after epoch"):
        prune(epochs=1, learning_rate=1.5, strength=50.0)


def test_other_data_to_validate_on() -> None:
    found = prune(validation=data(9, seed=2))
    assert all(epoch.accuracy * 9 == round(epoch.accuracy * 9) for epoch in found.epochs)


def test_bad_input_is_named() -> None:
    def plain(seed: int) -> Any:
        return build(1.0, seed)

    with pytest.raises(OptionError, match="The expansion has no effect"):
        tpi.prune_from_scratch(lambda width: plain(0), data(), budget=tpi.Budget(multiply_adds=0.5), verbose=0)
    with pytest.raises(OptionError, match="takes the width first"):
        tpi.prune_from_scratch(lambda: plain(0), data(), budget=tpi.Budget(multiply_adds=0.5), verbose=0)
    with pytest.raises(OptionError, match="budget= is a"):
        prune(budget=0.5)
    with pytest.raises(OptionError, match="multiply_adds= or parameters="):
        prune(budget=tpi.Budget(weights=0.5))
    with pytest.raises(OptionError, match="all channels fit into it"):
        prune(budget=tpi.Budget(multiply_adds=1.0), expansion=1)
    with pytest.raises(OptionError, match="too small: with one channel of each layer the network has"):
        prune(budget=tpi.Budget(multiply_adds=0.01))
    wrong = {"expansion": 0.5, "epochs": 0, "strength": 0, "open_share": 1, "learning_rate": 0, "validation": 1.5}
    for name, value in {**wrong, "seed": -1}.items():
        with pytest.raises(OptionError, match=name):
            prune(**{name: value})
    with pytest.raises(DataError):
        prune(validation="none")

    def without_gates(width: float) -> Any:
        return keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Flatten(), keras.layers.Dense(round(3 * width))])

    with pytest.raises(ModelError, match="no channels that can have a gate"):
        tpi.prune_from_scratch(without_gates, data(), budget=tpi.Budget(multiply_adds=0.5), verbose=0)
