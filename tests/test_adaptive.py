"""Networks that decide for each example which channels they compute: insertion, cost, training, export."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tflite_files import operators
from training import fresh_process

import tfprune_init as tpi
from tfprune_init.adaptive.channel_flow import ChannelFlow, follow_channels
from tfprune_init.errors import DataError, ModelError, OptionError
from tfprune_init.layers import ApplyDecisions, ChannelDecisions

L = keras.layers
RNG = np.random.default_rng(0)
# Means of their own, by which modules tell them apart.
IMAGES = (RNG.normal(size=(24, 8, 8, 3)) + RNG.normal(size=(24, 1, 1, 3))).astype("float32")
LABELS = np.arange(24) % 3


def sequential() -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(6, 3, name="one"),
            L.BatchNormalization(name="one_bn"),
            L.Activation("sigmoid", name="one_sigmoid"),
            L.AveragePooling2D(2, name="pool"),
            L.Conv2D(8, 3, padding="same", activation="elu", name="two"),
            L.Flatten(name="flatten"),
            L.Dense(3, name="head"),
        ]
    )


def branched() -> Any:
    """A sum, a product with a gate of the network's own, channels side by side; depthwise, grouped, separable."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = L.BatchNormalization(name="stem_bn")(x)
    y = L.Conv2D(8, 3, padding="same", name="branch")(L.LeakyReLU()(x))
    x = L.Add(name="add")([x, y])
    gate = L.Dense(8, "sigmoid", name="gate")(L.GlobalAveragePooling2D(keepdims=True)(x))
    x = L.Multiply()([x, gate])
    x = L.DepthwiseConv2D(3, name="depthwise")(x)
    left = L.Conv2D(6, 3, groups=2, name="grouped")(x)
    right = L.SeparableConv2D(4, 3, name="separable")(x)
    x = L.Concatenate(name="beside")([left, right])
    x = L.BatchNormalization(name="last_bn")(x)
    x = L.LayerNormalization(name="mixed")(L.Conv2D(4, 1, name="point")(x))
    return keras.Model(inputs, L.Dense(3, name="head")(L.GlobalMaxPooling2D()(x)))


MODELS = {"sequential": sequential, "branched": branched}


def randomize(model: Any) -> None:
    """Weights with which nothing is zero by chance, and decisions that differ between examples."""
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.3, size=variable.shape))
    for layer in model.layers:
        if isinstance(layer, ChannelDecisions):
            layer.decision_bias.assign(np.zeros(layer.channels))


def make(build: Any = sequential, **options: Any) -> tuple[Any, Any]:
    keras.utils.set_random_seed(0)
    model = build()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model, tpi.insert_saliency(model, **options)


def names(model: Any, kind: type) -> list[str]:
    return [layer.name for layer in model.layers if isinstance(layer, kind)]


def watch_tensors(model: Any, ends: list[Any]) -> list[np.ndarray]:
    return [np.asarray(one) for one in tf.nest.flatten(keras.Model(model.input, ends)(IMAGES))]


def is_open(values: np.ndarray) -> np.ndarray:
    """Whether each channel of each example has anything in it."""
    return values.reshape(len(values), -1, values.shape[-1]).any(axis=1)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_with_all_channels_open_the_copy_computes_what_the_model_computes(build: Any) -> None:
    model, adaptive = make(build, kernel_initializer="zeros")
    np.testing.assert_allclose(model(IMAGES), adaptive(IMAGES), rtol=1e-5, atol=1e-6)
    originals = {path: value for path, value in tpi.copy_variables(model).items() if "seed" not in path}
    copied = tpi.copy_variables(adaptive)
    assert all((copied[path] == value).all() for path, value in originals.items())
    assert adaptive.optimizer is not model.optimizer
    assert type(adaptive.optimizer) is type(model.optimizer)
    cost = tpi.measure_adaptive_cost(adaptive, IMAGES)
    assert cost.share == 1.0
    assert (cost.multiply_adds == cost.dense).all()


def test_every_convolution_has_a_module_or_a_reason() -> None:
    _, adaptive = make(branched)
    assert names(adaptive, ChannelDecisions) == [
        f"{name}_decisions" for name in ("stem", "branch", "grouped", "separable", "point")
    ]
    # Also where something would be made of closed channels: normalization, a bias of each channel.
    assert set(names(adaptive, ApplyDecisions)) == {
        f"{name}_decided"
        for name in ("stem", "stem_bn", "branch", "depthwise", "grouped", "separable", "last_bn", "point")
    }
    assert tpi.measure_adaptive_cost(adaptive, IMAGES).left_alone == {
        "depthwise": "depthwise: its channels are open where those that it takes are"
    }
    _, adaptive = make(sequential)
    assert names(adaptive, ApplyDecisions) == ["one_decided", "one_bn_decided", "one_sigmoid_decided", "two_decided"]


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_closed_channels_are_exactly_zero_wherever_they_are_taken(build: Any) -> None:
    """And the multiply-adds are those of a count of channels that have anything in them, weight by weight."""
    _, adaptive = make(build, hidden=0)
    randomize(adaptive)
    kernels = [layer for layer in adaptive.layers if not isinstance(layer, ChannelDecisions) and layer.name in SIZES]
    taken = dict(
        zip(
            [layer.name for layer in kernels],
            watch_tensors(adaptive, [layer.input for layer in kernels]),
            strict=True,
        )
    )
    made = {}
    for layer in kernels:
        if f"{layer.name}_decided" in names(adaptive, ApplyDecisions):
            made[layer.name] = watch_tensors(adaptive, [adaptive.get_layer(f"{layer.name}_decided").output])[0]
    cost = tpi.measure_adaptive_cost(adaptive, (IMAGES, LABELS))
    expected = np.zeros(len(IMAGES), np.int64)
    for layer in kernels:
        ins = is_open(taken[layer.name]).astype(np.int64)
        outs = is_open(made[layer.name]).astype(np.int64) if layer.name in made else None
        expected += SIZES[layer.name](ins, outs)
    np.testing.assert_array_equal(cost.multiply_adds, expected)
    assert len(set(cost.multiply_adds.tolist())) > 5
    assert 0.1 < cost.share < 0.9
    # The loss has the mean of the same shares.
    adaptive(IMAGES)
    assert float(adaptive.losses[0]) == pytest.approx((cost.share - 1) ** 2, rel=1e-4)


def by_groups(ins: np.ndarray, outs: np.ndarray, groups: int) -> Any:
    parts = zip(np.split(ins, groups, axis=1), np.split(outs, groups, axis=1), strict=True)
    return sum(i.sum(1) * o.sum(1) for i, o in parts)


# Multiply-adds by hand: places * window * channels that are open.
SIZES: dict[str, Any] = {
    "one": lambda ins, outs: 36 * 9 * ins.sum(1) * outs.sum(1),
    "two": lambda ins, outs: 9 * 9 * ins.sum(1) * outs.sum(1),
    "stem": lambda ins, outs: 64 * 9 * ins.sum(1) * outs.sum(1),
    "branch": lambda ins, outs: 64 * 9 * ins.sum(1) * outs.sum(1),
    "gate": lambda ins, outs: 8 * ins.sum(1),
    "depthwise": lambda ins, outs: 36 * 9 * ins.sum(1),
    "grouped": lambda ins, outs: 16 * 9 * by_groups(ins, outs, 2),
    "separable": lambda ins, outs: 16 * 9 * ins.sum(1) + 16 * ins.sum(1) * outs.sum(1),
    "point": lambda ins, outs: 16 * ins.sum(1) * outs.sum(1),
    "head": lambda ins, outs: 3 * ins.sum(1),
}


def test_the_flattened_input_of_a_dense_layer_counts_by_channel() -> None:
    """A closed channel takes all its places with it."""
    _, adaptive = make(sequential)
    randomize(adaptive)
    decisions, flat = watch_tensors(
        adaptive, [adaptive.get_layer("two_decisions").output, adaptive.get_layer("head").input]
    )
    assert not flat.reshape(24, 9, 8)[np.repeat(decisions[:, None] == 0, 9, axis=1)].any()
    cost = adaptive.get_layer("decision_cost")
    (term,) = [term for term in cost.terms if term.kernel == "head/kernel"]
    number = [term.kernel for term in cost.terms if term.made is not None].index("two/kernel")
    assert term.taken == number
    found = term.count([np.ones((24, 6)), decisions])
    np.testing.assert_array_equal(found, 27 * decisions.sum(1))


@pytest.mark.parametrize(
    ("merge", "opened"),
    [
        (lambda a, b, x: L.Add()([a, b]), lambda a, b: np.maximum(a, b).sum(1)),
        (lambda a, b, x: L.Multiply()([a, b]), lambda a, b: (a * b).sum(1)),
        (lambda a, b, x: L.Multiply()([a, x]), lambda a, b: a.sum(1)),
        (lambda a, b, x: L.Add()([a, a]), lambda a, b: a.sum(1)),
        (lambda a, b, x: L.Concatenate()([b, a]), lambda a, b: a.sum(1) + b.sum(1)),
        # All that is not known to be closed counts as open.
        (lambda a, b, x: L.Add()([a, x]), 6),
        (lambda a, b, x: L.Concatenate(axis=1)([a, b]), 6),
        (lambda a, b, x: a + b, 6),
        (lambda a, b, x: L.Concatenate()([a, x]), 12),
        (lambda a, b, x: L.LayerNormalization()(a), 6),
    ],
    ids=["add", "multiply", "gate", "itself", "beside", "add input", "rows", "operator", "beside input", "mixed"],
)
def test_what_is_open_behind_layers_of_several_inputs(merge: Any, opened: Any) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 6))
    a, b = (L.Conv2D(6, 1, name=name)(inputs) for name in "ab")
    x = L.Conv2D(4, 1, name="last")(merge(a, b, inputs))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))
    adaptive = tpi.insert_saliency(model, hidden=0)
    randomize(adaptive)
    cost = adaptive.get_layer("decision_cost")
    images = np.random.default_rng(2).normal(size=(16, 1, 1, 6)) + np.zeros((16, 8, 8, 6))
    modules = [f"{name}_decisions" for name in ("a", "b")]
    ends = [adaptive.get_layer(name).output for name in modules if name in names(adaptive, ChannelDecisions)]
    # The second is not there where it leads nowhere.
    one, *others = (np.asarray(end) for end in tf.nest.flatten(keras.Model(adaptive.input, ends)(images)))
    assert 0 < one.mean() < 1
    (term,) = [term for term in cost.terms if term.kernel == "last/kernel"]
    arrays = [np.asarray(end) for end in tf.nest.flatten(keras.Model(adaptive.input, cost.input[1:])(images))]
    made = arrays[term.made].sum(1)
    expected = opened if isinstance(opened, int) else opened(one, others[0] if others else None)
    places = np.prod(model.get_layer("last").output.shape[1:3])
    np.testing.assert_array_equal(term.count(arrays), places * expected * made)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (L.ReLU(6.0), ChannelFlow(3, True, True)),
        (L.Activation("softplus"), ChannelFlow(3, True, False)),
        (L.Activation("softmax"), None),
        (L.MaxPooling2D(2), ChannelFlow(3, True, True)),
        (L.ZeroPadding2D(1), ChannelFlow(3, True, True)),
        (L.UpSampling2D(2), ChannelFlow(3, True, True)),
        (L.GlobalMaxPooling2D(), ChannelFlow(1, True, True)),
        (L.Flatten(), ChannelFlow(1, False, True)),
        (L.BatchNormalization(), ChannelFlow(3, True, False)),
        (L.BatchNormalization(gamma_initializer="zeros"), ChannelFlow(3, True, False)),
        (L.GroupNormalization(1), None),
        (L.DepthwiseConv2D(3), ChannelFlow(3, True, False)),
        (L.DepthwiseConv2D(3, use_bias=False), ChannelFlow(3, True, True)),
        (L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), ChannelFlow(3, False, True)),
        (L.Conv2D(5, 1, kernel_initializer="zeros"), None),
        (L.Dropout(0.5), ChannelFlow(3, True, True)),
        (L.Permute((3, 1, 2)), None),
    ],
    ids=lambda given: getattr(given, "name", None),
)
def test_what_becomes_of_channels_in_a_layer(layer: Any, expected: ChannelFlow | None) -> None:
    keras.Sequential([keras.Input((4, 4, 5)), layer])
    before = [np.asarray(weight) for weight in layer.weights]
    assert follow_channels(layer, (4, 4, 5), 3) == expected
    assert all((one == np.asarray(other)).all() for one, other in zip(before, layer.weights, strict=True))


def test_outputs_and_what_is_excluded_get_no_module() -> None:
    keras.utils.set_random_seed(0)
    shared = L.Conv2D(4, 3, padding="same", name="shared")
    inputs = keras.Input((8, 8, 4))
    x = shared(shared(inputs))
    x = L.Conv2D(4, 3, name="middle")(L.Conv2D(4, 3, name="left_out")(x))
    model = keras.Model(inputs, L.Softmax()(L.GlobalAveragePooling2D()(L.Conv2D(3, 1, name="classes")(x))))
    adaptive = tpi.insert_saliency(model, exclude="left*")
    assert names(adaptive, ChannelDecisions) == ["middle_decisions"]
    cost = tpi.measure_adaptive_cost(adaptive, np.ones((2, 8, 8, 4), "float32"))
    assert cost.left_alone == {
        "shared": "is called several times",
        "left_out": "excluded",
        "classes": "makes outputs of the model",
    }
    assert cost.dense == 2 * 64 * 9 * 16 + 36 * 9 * 16 + 16 * 9 * 16 + 16 * 12


def test_channels_first_and_half_precision_are_followed() -> None:
    layers = [
        L.Conv2D(4, 3, data_format="channels_first", name="one"),
        L.BatchNormalization(axis=1, name="bn"),
        L.GlobalAveragePooling2D(data_format="channels_first"),
        L.Dense(3, dtype="float32"),
    ]
    model = keras.Sequential([keras.Input((2, 6, 6)), *layers])
    adaptive = tpi.insert_saliency(model)
    assert names(adaptive, ApplyDecisions) == ["one_decided", "bn_decided"]
    assert {layer.data_format for layer in adaptive.layers if isinstance(layer, ApplyDecisions)} == {"channels_first"}
    layers = [L.Conv2D(4, 3, dtype="mixed_float16", name="one"), L.Flatten(), L.Dense(2, dtype="mixed_float16")]
    adaptive = tpi.insert_saliency(keras.Sequential([keras.Input((6, 6, 2)), *layers]))
    assert adaptive.get_layer("one_decided").output.dtype == "float16"
    assert adaptive.get_layer("one_decisions").output.dtype == "float32"
    assert adaptive.output.dtype == "float16"


def test_a_copy_is_pruned_at_initialization_like_any_model() -> None:
    _, adaptive = make()
    report = tpi.prune_at_init(adaptive, (IMAGES, LABELS), sparsity=0.5, method="snip", verbose=0)
    assert sorted(report.masks) == ["head/kernel", "one/kernel", "two/kernel"]
    adaptive.fit(IMAGES, LABELS, verbose=0)
    for path, target in report.masks.check(adaptive).items():
        assert not target.tensor.numpy()[~report.masks[path]].any()


def test_frozen_layers_stay_frozen_and_modules_train() -> None:
    model = sequential()
    model.trainable = False
    adaptive = tpi.insert_saliency(model)
    assert {path.split("/")[0] for path in (v.path for v in adaptive.trainable_variables)} == {
        "one_decisions",
        "two_decisions",
    }


def test_several_inputs_and_outputs_keep_their_names_and_order() -> None:
    keras.utils.set_random_seed(0)
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((4,), name="right")
    x = L.GlobalAveragePooling2D()(L.Conv2D(6, 3, name="conv")(left))
    joined = L.Concatenate()([x, right])
    outputs = {"classes": L.Dense(3, name="classes")(joined), "size": L.Dense(1, name="size")(x)}
    model = keras.Model({"left": left, "right": right}, outputs)
    adaptive = tpi.insert_saliency(model, kernel_initializer="zeros")
    given = {"right": RNG.normal(size=(24, 4)).astype("float32"), "left": IMAGES}
    expected, found = model(given), adaptive(given)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(values, found[name], rtol=1e-5)
    data = tf.data.Dataset.from_tensor_slices((given, {"classes": LABELS, "size": np.zeros(24)})).batch(10)
    cost = tpi.measure_adaptive_cost(adaptive, data)
    # The two inputs side by side count as open, as one of them is.
    assert cost.multiply_adds.tolist() == [36 * 27 * 6 + 3 * 10 + 6] * 24
    assert cost.labels is None


def test_masks_stay_on_the_copy() -> None:
    keras.utils.set_random_seed(0)
    model = sequential()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    report = tpi.prune_at_init(model, None, sparsity=0.7, method="magnitude", verbose=0)
    adaptive = tpi.insert_saliency(model)
    adaptive.fit(IMAGES, LABELS, epochs=2, verbose=0)
    for path, target in report.masks.check(adaptive).items():
        values = target.tensor.numpy()
        assert not values[~report.masks[path]].any()
        assert values[report.masks[path]].any()


def test_budget_falls_linearly_and_stays() -> None:
    _, adaptive = make()
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(float(adaptive.get_layer("decision_cost").budget.numpy()))
    )
    fall = tpi.BudgetSchedule(0.2, steps=4)
    for _ in range(2):
        adaptive.fit(IMAGES, LABELS, batch_size=8, verbose=0, callbacks=[fall, watch])
    assert seen == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    with pytest.raises(OptionError, match="BudgetSchedule has no effect"):
        make()[0].fit(IMAGES, LABELS, verbose=0, callbacks=[tpi.BudgetSchedule(0.5, 2)])


TRAINED: list[list[str]] = []
"""Paths of the variables that each optimizer was made for."""


@keras.saving.register_keras_serializable("tests")
class NotingAdam(keras.optimizers.Adam):
    """Notes what it is asked to train."""

    def build(self, variables: Any) -> None:
        TRAINED.append([variable.path for variable in variables])
        super().build(variables)


def build_small(seed: int) -> Any:
    layers = [L.Conv2D(6, 3, activation="relu", name="one"), L.BatchNormalization(name="bn")]
    layers += [L.Conv2D(8, 3, name="two"), L.GlobalAveragePooling2D(), L.Dense(3, name="head")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(NotingAdam(0.01), loss, metrics=["accuracy"])
    return model


def train(**options: Any) -> tpi.AdaptiveTraining:
    data = (IMAGES, LABELS), (IMAGES, LABELS)
    return tpi.train_adaptively(
        build_small, data, **{"budget": 0.5, "epochs": 2, "joint_epochs": 6, "strength": 2.0, **options}
    )


def test_a_strong_cost_brings_the_mean_near_the_budget() -> None:
    """Without noise, so that inference decides as training does."""
    _, adaptive = make(lambda: build_small(0), strength=50.0, budget=0.4, seed=0, noise="none", forward="hard")
    adaptive.compile(keras.optimizers.Adam(0.03), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    adaptive.fit(tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat(80), shuffle=False, verbose=0)
    assert tpi.measure_adaptive_cost(adaptive, IMAGES).share == pytest.approx(0.4, abs=0.1)


@pytest.fixture(scope="module")
def trained() -> tpi.AdaptiveTraining:
    TRAINED.clear()
    return train()


def test_three_stages(trained: tpi.AdaptiveTraining) -> None:
    steps = [(stage.name, stage.steps, len(stage.epochs)) for stage in trained.stages]
    assert steps == [("backbone", 2, 2), ("modules", 1, 1), ("joint", 6, 6)]
    assert trained.stages[0].share == 1
    assert trained.stages[-1].share == trained.cost.share < 1
    assert float(trained.model.get_layer("decision_cost").budget.numpy()) == 0.5 == trained.budget
    assert all(layer.trainable for layer in trained.model.layers)
    assert trained.stages[0].metrics.keys() == {"loss", "accuracy"}


def test_the_backbone_is_frozen_while_the_modules_learn(trained: tpi.AdaptiveTraining) -> None:
    own = [["_decisions/" in path for path in paths] for paths in TRAINED]
    backbone, both = [False] * 8, sorted([False] * 8 + [True] * 8)
    # The first copy with modules only shows what can be done; the second one is trained in two ways.
    assert [sorted(one) for one in own] == [both, backbone, both, [True] * 8, both]


def test_without_the_second_stage_there_are_two() -> None:
    found = train(epochs=1, module_epochs=0, joint_epochs=1, fall=1.0)
    assert [stage.name for stage in found.stages] == ["backbone", "joint"]
    assert float(found.model.get_layer("decision_cost").budget.numpy()) == 1  # the budget of the only step


def test_the_same_arguments_give_the_same_bits(trained: tpi.AdaptiveTraining) -> None:
    again = train()
    for one, other in zip(trained.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert trained.stages == again.stages


def test_costs_are_told_by_class_and_in_tables(trained: tpi.AdaptiveTraining) -> None:
    cost = trained.cost
    classes = cost.summarize_classes()
    assert sorted(classes) == [0, 1, 2]
    for label, summary in classes.items():
        own = cost.multiply_adds[label == LABELS]
        assert (summary.examples, summary.mean, summary.least, summary.most) == (8, own.mean(), own.min(), own.max())
    # 3 -> 1 -> 6 and 6 -> 1 -> 8 units.
    assert cost.modules == 3 + 6 + 6 + 8
    assert cost.share == cost.multiply_adds.mean() / cost.dense
    assert json.loads(json.dumps(cost.to_dict()))["classes"]["1"]["examples"] == 8
    shown = io.StringIO()
    cost.print(shown)
    assert "class 2" in shown.getvalue()
    assert "The modules that decide add 23 to each example." in shown.getvalue()


def test_an_adaptive_model_is_saved_loaded_and_measured(trained: tpi.AdaptiveTraining, tmp_path: Path) -> None:
    trained.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(trained.model.predict(IMAGES, verbose=0), loaded.predict(IMAGES, verbose=0))
    found = tpi.measure_adaptive_cost(loaded, (IMAGES, LABELS))
    np.testing.assert_array_equal(found.multiply_adds, trained.cost.multiply_adds)
    assert found.to_dict() == trained.cost.to_dict()


@pytest.mark.process
def test_another_process_loads_it_with_the_package_alone(trained: tpi.AdaptiveTraining, tmp_path: Path) -> None:
    trained.model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    code = """
import json, sys
import keras, numpy as np
import tfprune_init as tpi
model = keras.models.load_model(sys.argv[1] + "/model.keras", compile=False)
print(json.dumps(tpi.measure_adaptive_cost(model, np.load(sys.argv[1] + "/images.npy")).multiply_adds.tolist()))
"""
    assert fresh_process(code, str(tmp_path)) == trained.cost.multiply_adds.tolist()


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_export_decides_inside_with_built_in_operators(build: Any, export: Any, tmp_path: Path) -> None:
    _, adaptive = make(build, hidden=0)
    randomize(adaptive)
    data = tf.data.Dataset.from_tensor_slices(IMAGES).batch(24)
    edge = export(adaptive, tmp_path / "model.tflite", verify=data, measure=False)
    assert (edge.examples, edge.top1_agreement) == (24, 1.0)
    file = schema.ModelT.InitFromPackedBuf((tmp_path / "model.tflite").read_bytes(), 0)
    assert operators(file, "CUSTOM") == []
    assert len(operators(file, "GREATER")) == len(names(adaptive, ChannelDecisions))


@pytest.mark.parametrize(
    ("build", "options", "error", "message"),
    [
        (lambda: keras.Sequential([keras.Input((4,)), L.Dense(2)]), {}, ModelError, "no convolution to decide on"),
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), sequential()]), {}, ModelError, "models without models"),
        (
            lambda: keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(2, 3), L.Conv2D(2, 3)]),
            {},
            ModelError,
            "give the input a fixed height and width",
        ),
        (sequential, {"exclude": "tow"}, OptionError, "exclude='tow' matches no convolution. Did you mean 'two'"),
        (sequential, {"hiden": 3}, OptionError, "has no option 'hiden'. Did you mean 'hidden'"),
        (sequential, {"noise": "x"}, OptionError, "noise must be one of"),
        (sequential, {"budget": 1.5}, OptionError, "budget must be"),
        (sequential, {"seed": -1}, OptionError, "seed must be"),
        (lambda: "model", {}, ModelError, "Received"),
    ],
    ids=["no convolution", "nested", "open", "exclude", "option", "value", "budget", "seed", "no model"],
)
def test_bad_input_of_insertion(build: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tpi.insert_saliency(build(), **options)


def test_models_of_other_kinds_are_refused() -> None:
    class Own(keras.Model):
        def train_step(self, data: Any) -> Any:
            return super().train_step(data)

    plain = sequential()
    with pytest.raises(ModelError, match="has decisions already"):
        tpi.insert_saliency(tpi.insert_saliency(plain))
    with pytest.raises(ModelError, match="would lack train_step of its class"):
        tpi.insert_saliency(Own(plain.inputs, plain.outputs))
    tf_keras = pytest.importorskip("tf_keras")
    legacy = tf_keras.Sequential([tf_keras.Input((8, 8, 3)), tf_keras.layers.Conv2D(2, 3), tf_keras.layers.Flatten()])
    with pytest.raises(ModelError, match="takes models of Keras 3"):
        tpi.insert_saliency(legacy)


def test_bad_input_of_training_and_measuring() -> None:
    for options, message in (
        ({"budget": 0.0}, "budget must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"module_epochs": -1}, "module_epochs must be"),
        ({"fall": 0}, "fall must be"),
        ({"strength": -1.0}, "strength must be"),
        ({"colour": 1}, "has no option 'colour'"),
    ):
        with pytest.raises(OptionError, match=message):
            train(**options)
    with pytest.raises(ModelError, match="has no decisions"):
        tpi.measure_adaptive_cost(sequential(), IMAGES)
    with pytest.raises(DataError, match="need data with labels"):
        tpi.measure_adaptive_cost(make()[1], IMAGES).summarize_classes()
    with pytest.raises(DataError):
        tpi.measure_adaptive_cost(make()[1], tf.data.Dataset.from_tensor_slices(IMAGES).batch(8).take(0))
