"""tpi.distribute.fit on several logical CPU devices: against Keras's own fit on one, and against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tiers import rows
from training import data, dense, fresh_process, held, leaks, loss, random_masks, weights

import tfprune_init as tpi
from tfprune_init import distribute
from tfprune_init.distribute.sharding import ShardedEpochs
from tfprune_init.errors import CheckpointError, DataError, ModelError, OptionError

L, K3 = keras.layers, keras.optimizers

# Begins a program for `fresh_process`: its argument is the number of replicas. Everything is float64.
REPLICAS = """
import json, os, sys, tempfile
import keras, numpy as np, tensorflow as tf

count = int(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
import tfprune_init as tpi
from tfprune_init import distribute
from tfprune_init.graph.variables import find_prunable_variables

L, K3 = keras.layers, keras.optimizers
keras.config.set_floatx("float64")
rng = np.random.default_rng(0)
x, y, w = rng.normal(size=(22, 6)), np.arange(22) % 3, rng.uniform(size=22)
# 8, 8 and 6 examples: unequal shares on 4 replicas; 7, 7, 7 and 1: three of 4 replicas get none of the last.
eights, sevens = (tf.data.Dataset.from_tensor_slices((x, y, w)).batch(size) for size in (8, 7))
validation = tf.data.Dataset.from_tensor_slices((x[:5], y[:5])).batch(2)
crossentropy = lambda **options: keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def some_masks(model):
    return tpi.Masks({t.path: np.random.default_rng(i).random(t.shape) < 0.4
                      for i, t in enumerate(find_prunable_variables(model).prunable)})


def copies(variable):
    return [one.numpy() for one in getattr(variable.value, "values", [variable.value])]


class Watch(keras.callbacks.Callback):
    "Looks at every copy of every masked weight after every batch, and at the end."

    def __init__(self, masks):
        super().__init__()
        self.masks, self.looks, self.leaks, self.unequal = masks, 0, 0, 0

    def on_train_batch_end(self, batch, logs=None):
        variables = {path: target.variable for path, target in self.masks.check(self.model).items()}
        for path, variable in variables.items():
            for copy in copies(variable):
                self.looks += 1
                self.leaks += int(np.count_nonzero(copy[~self.masks[path]] != 0.0))
        for variable in self.model.variables:
            first, *others = copies(variable)
            self.unequal += sum(not np.array_equal(first, other) for other in others)

    on_epoch_end = on_train_batch_end
    on_train_end = lambda self, logs=None: self.on_train_batch_end(0)
"""

AS_ONE_DEVICE = (
    REPLICAS
    + """

def mlp():
    return keras.Sequential([
        keras.Input((6,)),
        L.Dense(16, "tanh", kernel_regularizer="l2", name="a"),
        L.Dense(12, "tanh", activity_regularizer=keras.regularizers.L2(0.05), name="b"),
        L.Dense(3, name="c"),
    ])


def conv():
    "BatchNorm with the statistics of the whole batch, which one device has anyway."
    return keras.Sequential([
        keras.Input((6,)), L.Reshape((3, 2, 1)), L.Conv2D(4, 2, padding="same", name="conv"),
        L.BatchNormalization(synchronized=True, name="bn"), L.ReLU(), L.Flatten(), L.Dense(3, name="c"),
    ])


class Adding(keras.Model):
    "A subclassed model that adds a mean over examples to its loss, and counts in a metric."

    def __init__(self):
        super().__init__()
        self.a, self.c = L.Dense(8, "tanh", name="a"), L.Dense(3, name="c")
        self.size = keras.metrics.Mean(name="size")

    def call(self, inputs):
        hidden = self.a(inputs)
        self.add_loss(keras.ops.mean(hidden ** 2))
        self.size.update_state(keras.ops.abs(hidden))
        return self.c(hidden)


def adding():
    model = Adding()
    model(x[:1])
    return model


def sequences():
    "Two outputs: time steps of which some are masked, and one label an example; a loss of each reduction."
    inputs = keras.Input((4,), dtype="int32")
    hidden = L.Embedding(9, 5, mask_zero=True, name="embedding")(inputs)
    steps = L.Dense(3, name="steps")(L.SimpleRNN(6, return_sequences=True, name="rnn")(hidden))
    flat = L.Flatten()(L.Dense(2, name="d")(L.Reshape((2, 2))(L.Rescaling(0.1)(inputs))))
    outputs = {name: L.Dense(3, name=name)(flat) for name in ("sum", "mean")}
    return keras.Model(inputs, {"steps": steps, **outputs})


tokens = rng.integers(1, 9, (22, 4))
tokens[np.arange(4) >= 2 + np.arange(22)[:, None] % 3] = 0
labels = {"steps": rng.integers(0, 3, (22, 4)), "sum": y, "mean": y[::-1].copy()}
tables = {name: w + i for i, name in enumerate(labels)}
tables["steps"] = np.repeat(w[:, None], 4, 1)
sentences = tf.data.Dataset.from_tensor_slices((tokens, labels, tables)).batch(8)
several = {
    "loss": {"steps": crossentropy(), "sum": crossentropy(reduction="sum"),
             "mean": crossentropy(reduction="mean_with_sample_weight")},
    "loss_weights": {"steps": 1.0, "sum": 0.1, "mean": 2.0},
}

follow = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"]}
callbacks = lambda: [
    keras.callbacks.ReduceLROnPlateau("loss", factor=0.3, patience=1, min_delta=10.0),
    keras.callbacks.EarlyStopping("loss", patience=2, mode="max", restore_best_weights=True),
    keras.callbacks.TerminateOnNaN(),
]
CASES = {
    "sevens": (mlp, lambda: K3.SGD(0.1, momentum=0.9), sevens, follow, list),
    "adam, ema": (mlp, lambda: K3.Adam(0.02, clipnorm=0.05, weight_decay=0.1, use_ema=True, ema_momentum=0.5,
                  ema_overwrite_frequency=2), eights, {"steps_per_execution": 2}, list),
    "ema": (mlp, lambda: K3.SGD(0.1, use_ema=True, ema_momentum=0.5), eights, {},
            lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]),
    "accumulation": (mlp, lambda: K3.Adam(0.02, gradient_accumulation_steps=2, global_clipnorm=0.05), sevens, {}, list),
    "nadam": (mlp, lambda: K3.Nadam(0.02, clipvalue=0.01, use_ema=True, ema_momentum=0.5), eights, {}, list),
    "multi": (mlp, lambda: K3.MultiOptimizer(K3.OptimizerMap(K3.SGD(0.1), {".*/a/kernel": K3.Muon(0.02)})), eights,
              {}, list),
    "batchnorm": (conv, lambda: K3.SGD(0.1), sevens, follow, list),
    "subclassed": (adding, lambda: K3.SGD(0.1), sevens, {}, list),
    "sequences": (sequences, lambda: K3.SGD(0.1), sentences, several, list),
    "callbacks": (mlp, lambda: K3.SGD(0.1), eights, {}, callbacks),
}


def trained(build, optimizer, dataset, options, callbacks, fit):
    keras.utils.set_random_seed(1)
    model = build()
    model.compile(**{"optimizer": optimizer(), "loss": crossentropy(), **options})
    masks = some_masks(model)
    tpi.attach(model, masks)
    watch = Watch(masks)
    test = validation if "metrics" in options else None
    history = fit(model, dataset, epochs=4, validation_data=test, callbacks=[*callbacks(), watch], verbose=0)
    return [v.numpy() for v in model.variables], getattr(history, "history", history), watch


result = {}
for name, case in CASES.items() if len(sys.argv) == 2 else [(n, CASES[n]) for n in sys.argv[2:]]:
    own, expected, _ = trained(*case, fit=keras.Model.fit)
    with strategy.scope():
        values, history, watch = trained(*case, fit=distribute.fit)
    result[name] = {
        "weights": max(float(np.abs(a - b).max()) for a, b in zip(own, values, strict=True)),
        "history": max(abs(a - b) for key in expected for a, b in zip(expected[key], history[key], strict=True)),
        "logged": sorted(history) == sorted(expected), "epochs": len(history["loss"]),
        "looks": watch.looks, "leaks": watch.leaks, "unequal": watch.unequal,
    }
print(json.dumps(result))
"""
)


@pytest.mark.process
@pytest.mark.parametrize(("replicas", "cases"), [(2, []), (4, ["sevens", "batchnorm"])])
def test_training_on_replicas_is_that_of_one_device_by_keras(replicas: int, cases: list[str]) -> None:
    result = fresh_process(AS_ONE_DEVICE, str(replicas), *cases)
    assert len(result) == (len(cases) or 10)
    for name, found in result.items():
        assert found["weights"] < 1e-12, name
        assert found["history"] < 1e-12, name
        assert found["logged"], name
        assert found["epochs"] == (3 if name == "callbacks" else 4), name
        assert (found["leaks"], found["unequal"]) == (0, 0), name
        assert found["looks"] >= 2 * replicas * 9, name


ALONE = (
    REPLICAS
    + """
result = {"replicas": strategy.num_replicas_in_sync}


def softmax_regression(weights, bias, xs, ys, sample_weight):
    "Loss and gradients by hand: a mean over examples of weight times cross-entropy."
    logits = xs @ weights + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    each = -np.log(p[np.arange(len(ys)), ys])
    d = (p - np.eye(3)[ys]) * sample_weight[:, None] / len(ys)
    return float((each * sample_weight).mean()), xs.T @ d, d.sum(0)


# Two steps of gradient descent by hand on batches of 5 and 1: shares of 2 and 3, of 0 and 1.
with strategy.scope():
    model = keras.Sequential([keras.Input((6,)), L.Dense(3, name="c")])
    model.compile(K3.SGD(0.5), crossentropy())
kernel, bias = (v.numpy() for v in model.variables)
mask = rng.random(kernel.shape) < 0.5
tpi.attach(model, tpi.Masks({"c/kernel": mask}))
kernel = kernel * mask
losses = []
for rows in (slice(0, 5), slice(5, 6)):
    value, by_kernel, by_bias = softmax_regression(kernel, bias, x[rows], y[rows], w[rows])
    losses.append(value)
    kernel, bias = (kernel - 0.5 * by_kernel) * mask, bias - 0.5 * by_bias
history = distribute.fit(model, tf.data.Dataset.from_tensor_slices((x[:6], y[:6], w[:6])).batch(5))
result["by hand"] = [
    max(float(np.abs(copy - value).max()) for v, value in zip(model.variables, (kernel, bias)) for copy in copies(v)),
    abs(history["loss"][0] - (5 * losses[0] + losses[1]) / 6),
]

# BatchNorm: each replica normalizes its own examples; the moving statistics are averaged, weighted by examples.
with strategy.scope():
    bn, dropout = L.BatchNormalization(momentum=0.9, name="bn"), L.Dropout(0.5, seed=5)
    model = keras.Sequential([keras.Input((6,)), bn, dropout, L.Dense(3)])
    model.compile(K3.SGD(0.0), crossentropy())
distribute.fit(model, tf.data.Dataset.from_tensor_slices((x[:5], y[:5])).batch(5))
shares = [x[:2], x[2:5]]
expected = [0.1 * sum(len(s) / 5 * s.mean(0) for s in shares), 0.9 + 0.1 * sum(len(s) / 5 * s.var(0) for s in shares)]
result["seeds after a step"] = [copy.tolist() for copy in copies(dropout.seed_generator.state)]
result["moving statistics"] = max(
    float(np.abs(copy - value).max())
    for v, value in zip((bn.moving_mean, bn.moving_variance), expected) for copy in copies(v)
)

# Dropout draws other units on each replica, and leaves equal seeds behind.
from tfprune_init.distribute.stateless_call import StatelessCall

with strategy.scope():
    model = keras.Sequential([keras.Input((200,)), L.Dropout(0.5, seed=3)])

def dropped():
    call = StatelessCall(model, tf.ones((1, 200)), training=True)
    return call.outputs, call.seeds()[0][1]

outputs, seeds = strategy.run(dropped)
first, second = (one.numpy() != 0 for one in outputs.values)
result["dropout"] = {
    "kept": [int(first.sum()), int(second.sum())], "same": float((first == second).mean()),
    "seeds": [one.numpy().tolist() for one in seeds.values],
    "before": copies(model.layers[0].seed_generator.state)[0].tolist(),
}

# Loss scaling. Of 12 steps those that overflow are skipped, and each halves the scale.
def scaled(fit, scale):
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("mixed_float16")
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), L.Dense(16, "tanh", name="a"), L.Dense(3, name="c", dtype="float32")])
    inner = K3.SGD(0.1, momentum=0.9, clipnorm=0.5)
    model.compile(K3.LossScaleOptimizer(inner, initial_scale=2.0**scale), crossentropy())
    masks = some_masks(model)
    tpi.attach(model, masks)
    watch = Watch(masks)
    fit(model, eights, epochs=4, verbose=0, callbacks=[watch])
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    skipped = scale - float(np.log2(model.optimizer.dynamic_scale.numpy()))
    return [v.numpy() for v in model.variables], skipped, int(inner.iterations.numpy()), watch.leaks + watch.unequal

own, *_ = scaled(keras.Model.fit, 8)
with strategy.scope():
    values, *found = scaled(distribute.fit, 8)
    _, *found_30 = scaled(distribute.fit, 30)
difference = max(float(np.abs(a - b).max()) for a, b in zip(own, values))
result["loss scale"] = {"weights": difference, "8": found, "30": found_30}

# A wrapped model, from a dataset that the strategy distributed, from arrays and from a function of the epoch.
def wrapped():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), L.Dense(16, "tanh", name="a"), L.Dense(3, name="c")])
    model = tpi.wrap(model, some_masks(model))
    model.compile(K3.Adam(0.02, use_ema=True), crossentropy())
    return model

def from_data(given, fit=distribute.fit, **options):
    with strategy.scope():
        model = wrapped()
    watch = Watch(get_attached_masks(model))
    history = fit(model, given, epochs=3, callbacks=[watch], verbose=0, **options)
    return np.concatenate([v.numpy().ravel() for v in model.trainable_variables]), history["loss"], watch

from tfprune_init.masking.attachment import get_attached_masks

plain, losses, watch = from_data(eights)
by_strategy, strategy_losses, _ = from_data(strategy.experimental_distribute_dataset(eights))
by_function, _, _ = from_data(lambda epoch: eights)
one, one_losses, _ = from_data((x, y))
two, _, _ = from_data((x, y), seed=0)
other, _, _ = from_data((x, y), seed=1)
result["data"] = {
    "bad": watch.leaks + watch.unequal, "looks": watch.looks,
    "by strategy": float(np.abs(plain - by_strategy).max()), "by function": float(np.abs(plain - by_function).max()),
    "same seed": bool((one == two).all()), "other seed": bool((one == other).all()),
    "losses": float(np.abs(np.subtract(losses, strategy_losses)).max()),
}

# A convolution in float32, whose kernels on CPUs fail on nothing: the last batch has one example for two replicas.
keras.config.set_floatx("float32")
images = rng.normal(size=(9, 8, 8, 3)).astype("float32")
nine = tf.data.Dataset.from_tensor_slices((images, y[:9])).batch(8)
result["one for two"] = []
for given in (nine, strategy.experimental_distribute_dataset(nine)):
    with strategy.scope():
        bn = L.BatchNormalization(momentum=0.5)
        model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), bn, L.Flatten(), L.Dense(3)])
        cross = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(K3.SGD(0.0), cross, metrics=["accuracy"])
    history = distribute.fit(model, given)
    conv = model.layers[0](images).numpy()
    expected = 0.5 * (0.5 * conv[:8].mean((0, 1, 2))) + 0.5 * conv[8].mean((0, 1))
    difference = float(np.abs(bn.moving_mean.numpy() - expected).max())
    finite = bool(np.isfinite(history["loss"]).all())
    result["one for two"].append([difference, finite, 9 * history["accuracy"][0]])

# What is refused under this strategy.
keras.config.set_floatx("float64")
def refused(act):
    try:
        act()
    except tpi.PruningError as error:
        return f"{type(error).__name__}: {error}"

def outside():
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), L.Dense(3)])
    model.compile("adam", crossentropy())
    distribute.fit(model, eights)

def with_xla():
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), L.Dense(3)])
        model.compile("adam", crossentropy(), jit_compile=True)
    distribute.fit(model, eights)

result["refused"] = [refused(outside), refused(with_xla)]
print(json.dumps(result))
"""
)


@pytest.mark.process
def test_steps_by_hand_data_of_every_kind_and_what_replicas_may_not_share() -> None:
    result = fresh_process(ALONE, "2")
    assert result["replicas"] == 2
    assert max(result["by hand"]) < 1e-14
    assert result["moving statistics"] < 1e-14
    assert result["seeds after a step"] == [[5, 1], [5, 1]]
    dropout = result["dropout"]
    assert all(70 < kept < 130 for kept in dropout["kept"])
    assert 0.3 < dropout["same"] < 0.7
    assert dropout["before"] == [3, 0]
    assert dropout["seeds"] == [[3, 1], [3, 1]]
    scale = result["loss scale"]
    assert scale["weights"] < 2e-3  # float16 within layers
    assert scale["8"] == [0, 12, 0]
    skipped, taken, bad = scale["30"]
    assert skipped >= 5
    assert skipped + taken == 12
    assert bad == 0
    found = result["data"]
    assert (found["bad"], found["looks"]) == (0, (3 * 3 + 3 + 1) * 2 * 2)
    assert max(found["by strategy"], found["by function"], found["losses"]) < 1e-12
    assert found["same seed"]
    assert not found["other seed"]
    for difference, finite, right in result["one for two"]:
        assert difference < 1e-6
        assert finite
        assert right == pytest.approx(round(right), abs=1e-5)  # of 9 examples, not 10
    outside, xla = result["refused"]
    assert outside.startswith("ModelError: What MirroredStrategy trains must be created in its scope")
    assert "optimizer of model" in outside
    assert xla.startswith("OptionError: XLA compiles no step")


RESUMED = (
    REPLICAS
    + """
from tfprune_init.backend.optimizers import get_optimizer_variables


class Interrupted(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    "Ends the process, as far as training can tell, in the middle of an epoch, before the batch is written."

    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.now = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == self.at:
            raise Interrupted


def train(folder, data, seed=1, interrupt=None, every=None, epochs=6):
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        model = keras.Sequential([
            keras.Input((6,)), L.Dense(16, "tanh", name="a"), L.BatchNormalization(name="bn"), L.Dropout(0.3),
            L.Dense(3, name="c"),
        ])
        inner = K3.Nadam(0.05, use_ema=True, ema_momentum=0.5, clipnorm=0.5)
        optimizer = K3.LossScaleOptimizer(inner, initial_scale=8.0, dynamic_growth_steps=5)
        model.compile(optimizer, crossentropy(), metrics=["accuracy"])
    masks = tpi.Masks({path: np.roll(mask, seed) for path, mask in some_masks(model).items()})
    tpi.attach(model, masks)
    watch = Watch(get_attached_masks(model))
    callbacks = [
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=2, min_delta=10.0),
        keras.callbacks.EarlyStopping("val_loss", patience=4, min_delta=10.0, restore_best_weights=True),
        keras.callbacks.CSVLogger(f"{folder}/log.csv"),
        *([] if interrupt is None else [Interrupt(*interrupt)]),
    ]
    try:
        history = distribute.fit(model, data, epochs=epochs, validation_data=validation, callbacks=callbacks,
                                 checkpoint=folder, checkpoint_steps=every)
    except Interrupted:
        return None
    watch.masks = get_attached_masks(model)
    watch.set_model(model)
    watch.on_train_end()
    state = [v.numpy() for v in [*model.variables, *get_optimizer_variables(model.optimizer)]]
    return {"state": state, "history": history, "masks": watch.masks.fingerprint, "bad": watch.leaks + watch.unequal,
            "log": open(f"{folder}/log.csv").read()}


from tfprune_init.masking.attachment import get_attached_masks

same = lambda a, b: all(np.array_equal(p, q) for p, q in zip(a["state"], b["state"], strict=True))


def shuffled():
    tf.random.set_seed(0)  # as in another process; it is part of the order in which datasets shuffle
    return tf.data.Dataset.from_tensor_slices((x, y, w)).shuffle(22, seed=4).batch(4)


result = {}
for name, source, every, stops in (
    ("shuffled anew each epoch", shuffled, 2, [(1, 4), (3, 1)]), ("arrays", lambda: (x, y, w), None, [(2, 0)])
):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        expected = train(one, source())
        # Restarted with other initial weights and other masks: all of it must come from the checkpoint.
        stopped = [train(other, source(), seed=1 + 6 * i, interrupt=stop, every=every) for i, stop in enumerate(stops)]
        found = train(other, source(), seed=3, every=every)
        again = train(other, source(), seed=5, every=every)
    result[name] = {
        "interrupted": not any(stopped), "epochs": len(found["history"]["loss"]), "bad": found["bad"],
        "state": same(expected, found), "masks": expected["masks"] == found["masks"],
        "history": expected["history"] == found["history"], "log": expected["log"] == found["log"],
        "again": same(found, again) and again["history"] == found["history"],
        "rates": len(set(found["history"]["learning_rate"])),
    }
print(json.dumps(result))
"""
)


@pytest.mark.process
def test_training_goes_on_where_it_was_interrupted() -> None:
    result = fresh_process(RESUMED, "2")
    for found in result.values():
        assert found["rates"] > 1  # the learning rate fell, which is part of the state
        assert found["bad"] == 0
        assert found["epochs"] == 5  # of 6: stopped early by what a callback remembers
        for key in ("interrupted", "state", "masks", "history", "log", "again"):
            assert found[key], key


# What Keras's own fit does, and whether `unsupported_fit_reason` knows: each row is tried under two replicas.
REFUSALS = (
    REPLICAS
    + """
import tf_keras

ROWS = {
    "plain": (keras, lambda o: o.Adam(0.01), {}),
    "ema": (keras, lambda o: o.Adam(0.01, use_ema=True), {}),
    "steps_per_execution": (keras, lambda o: o.Adam(0.01), {"steps_per_execution": 2}),
    "jit_compile": (keras, lambda o: o.Adam(0.01), {"jit_compile": True}),
    "ema_overwrite_frequency": (keras, lambda o: o.Adam(0.01, use_ema=True, ema_overwrite_frequency=2), {}),
    "gradient_accumulation_steps=3": (
        keras, lambda o: o.LossScaleOptimizer(o.Adam(0.01, gradient_accumulation_steps=3)), {}),
    "tf_keras": (tf_keras, lambda o: o.Adam(0.01, use_ema=True, ema_overwrite_frequency=2), {"steps_per_execution": 2}),
    "tf_keras cannot train": (tf_keras, lambda o: o.Adam(0.01), {"jit_compile": True}),
}
result = {}
for name, (K, optimizer, options) in ROWS.items():
    with strategy.scope():
        model = K.Sequential([K.Input((6,)), K.layers.Dense(3)])
        model.compile(optimizer(K.optimizers), K.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    refusal = distribute.unsupported_fit_reason(model)
    try:
        model.fit(x[:16].astype("float32"), y[:16], batch_size=8, verbose=0)
        result[name] = [True, refusal]
    except Exception as error:
        result[name] = [False, refusal]
print(json.dumps(result))
"""
)


@pytest.mark.process
def test_what_keras_cannot_train_is_known_beforehand() -> None:
    result = fresh_process(REFUSALS, "2")
    assert [name for name, (works, _) in result.items() if works] == ["plain", "ema", "tf_keras"]
    for name, (works, refusal) in result.items():
        assert (refusal is None) == works, name
        assert works or name in refusal
        elsewhere = name not in ("jit_compile", "tf_keras cannot train")
        assert works or ("tfprune_init.distribute.fit" in refusal) == elsewhere


def compiled(**options: Any) -> Any:
    model = dense()
    model.compile(**{"optimizer": K3.SGD(0.1), "loss": loss(), **options})
    return model


class OwnStep(keras.Sequential):
    def train_step(self, data: Any) -> Any:
        raise NotImplementedError


class OwnReduction(keras.losses.Loss):
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return keras.ops.mean(y_pred)


def own_step() -> Any:
    model = OwnStep([keras.Input((6,)), L.Dense(3)])
    model.compile("sgd", loss())
    return model


def of_tf_keras() -> Any:
    model = dense(tf_keras)
    model.compile("sgd", loss(tf_keras))
    return model


def unbuilt() -> Any:
    model = keras.Sequential([L.Dense(3)])
    model.compile("sgd", loss())
    return model


def frozen() -> Any:
    model = compiled()
    model.trainable = False
    return model


def scalar(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(y_pred)


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        (of_tf_keras, ModelError, "its model.fit works"),
        (dense, ModelError, "has no optimizer"),
        (unbuilt, ModelError, "is not built"),
        (frozen, ModelError, "no trainable variables"),
        (lambda: compiled(loss=None), ModelError, "has no loss"),
        (own_step, ModelError, "OwnStep replaces train_step"),
        (lambda: compiled(run_eagerly=True), OptionError, "run_eagerly=True"),
        (lambda: compiled(loss=scalar), ModelError, "'scalar' returns one number"),
        (lambda: compiled(loss=OwnReduction(name="own")), ModelError, "'own' reduces its values"),
        (lambda: compiled(loss=keras.losses.MeanSquaredError(reduction=None)), ModelError, "has no reduction"),
    ],
)
def test_models_it_cannot_train_are_refused(model: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        distribute.fit(model(), data())


X, Y = data()
DATASET = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
RAGGED = tf.data.Dataset.from_tensor_slices((tf.ragged.constant([[1.0], [1.0, 2.0]]), [0, 1])).batch(2)


@pytest.mark.parametrize(
    ("given", "options", "error", "says"),
    [
        (DATASET.unbatch(), {}, DataError, "not batched"),
        (DATASET.repeat(), {}, DataError, "never ends"),
        (RAGGED, {}, DataError, "dense tensors"),
        (DATASET.take(0), {}, DataError, "Epoch 1 is empty"),
        (DATASET.filter(lambda x, y: False), {}, DataError, "Epoch 1 is empty"),
        (lambda epoch: DATASET.take(1 - epoch), {"epochs": 2}, DataError, "Epoch 2 is empty"),
        (DATASET, {"validation_data": DATASET.take(0)}, DataError, "validation_data is empty"),
        (X, {}, DataError, "tuple of arrays"),
        (DATASET, {"seed": 1}, OptionError, "seed orders arrays"),
        (DATASET, {"epochs": -1}, OptionError, "epochs=-1"),
        (DATASET, {"epochs": True}, OptionError, "epochs=True"),
        (DATASET, {"initial_epoch": 0.5}, OptionError, "initial_epoch=0.5"),
        (DATASET, {"checkpoint_steps": 0}, OptionError, "positive integer"),
        (DATASET, {"checkpoint_steps": 2}, OptionError, "needs a folder"),
        (DATASET, {"verbose": 2}, OptionError, "verbose"),
        (DATASET, {"callbacks": [keras.callbacks.BackupAndRestore("x")]}, OptionError, "BackupAndRestore.*checkpoint="),
        (DATASET, {"callbacks": [keras.callbacks.TensorBoard("x")]}, OptionError, "TensorBoard.*CSVLogger"),
        (DATASET, {"callbacks": [keras.callbacks.ProgbarLogger()]}, OptionError, "ProgbarLogger.*verbose="),
        (DATASET, {"callbacks": [tf_keras.callbacks.Callback()]}, OptionError, "tf_keras"),
        (
            DATASET,
            {"callbacks": [tpi.PruneDuringTraining((X, Y), sparsity=0.5)], "checkpoint": "x"},
            OptionError,
            "PruneDuringTraining",
        ),
        (DATASET, {"callbacks": [tpi.DynamicPruning(sparsity=0.5)]}, OptionError, "DynamicPruning.*model.fit"),
    ],
)  # fmt: skip
def test_data_options_and_callbacks_it_cannot_serve_are_refused(given, options, error, says) -> None:
    model = compiled()
    before = [v.numpy() for v in model.trainable_variables]
    with pytest.raises(error, match=says):
        distribute.fit(model, given, **options)
    if "Epoch 2" not in says and "validation" not in says:
        assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, model.trainable_variables, strict=True))


@pytest.mark.parametrize("options", rows([{}, {"jit_compile": True}, {"steps_per_execution": 3}], [{}]))
def test_one_device_without_a_strategy(options: dict[str, Any]) -> None:
    own, expected = compiled(metrics=["accuracy"], **options), compiled(metrics=["accuracy"])
    ends: list[int] = []
    follow = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(batch) or logs["loss"])
    history = distribute.fit(own, DATASET.take(3), epochs=2, validation_data=(X, Y), callbacks=[follow])
    theirs = expected.fit(DATASET.take(3), epochs=2, validation_data=(X, Y), verbose=0, shuffle=False).history
    assert list(history) == list(theirs)
    for name, values in theirs.items():
        assert history[name] == pytest.approx(values, rel=1e-5), name
    assert ends == ([2] if "steps_per_execution" in options else [0, 1, 2]) * 2
    own.fit(DATASET, verbose=0)  # Keras goes on with its own training function


def test_masks_attached_while_it_trains_are_held() -> None:
    model = compiled(optimizer=K3.Adam(0.05))
    masks = random_masks(model)

    class Attach(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 0:
                tpi.attach(model, masks)
            else:
                assert held(model, masks)

    dense_weights = weights(model, masks)
    distribute.fit(model, DATASET, epochs=3, callbacks=[Attach()])
    assert not leaks(model, masks)
    assert all(values.all() for values in dense_weights.values())


def test_a_callback_can_end_training_within_an_epoch() -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 1

    model = compiled()
    assert len(distribute.fit(model, DATASET, epochs=5, callbacks=[Stop()])["loss"]) == 1
    assert int(model.optimizer.iterations) == 2
    assert len(distribute.fit(model, DATASET, epochs=2)["loss"]) == 2


def checkpointed(folder: Path, epochs: int, seed: int = 0, **options: Any) -> Any:
    model = dense(seed=seed)
    tpi.attach(model, random_masks(model))
    model.compile(K3.Adam(0.05, use_ema=True, ema_momentum=0.5), loss())
    history = distribute.fit(model, (X, Y), epochs=epochs, checkpoint=folder, **options)
    return [v.numpy() for v in model.variables], history


def test_training_on_for_more_epochs_equals_training_for_all_of_them(tmp_path: Path) -> None:
    expected, whole = checkpointed(tmp_path / "whole", 4)
    _, first = checkpointed(tmp_path / "parts", 2)
    found, history = checkpointed(tmp_path / "parts", 4, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert history == whole
    assert {name: values[:2] for name, values in whole.items()} == first
    # Arrays come in another order each epoch, and epochs can be counted from any number.
    model = compiled()
    assert len(distribute.fit(model, (X, Y), epochs=4, initial_epoch=3)["loss"]) == 1


def test_a_checkpoint_with_another_array_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    checkpointed(tmp_path, 1)
    with np.load(tmp_path / "training.npz") as file:
        arrays = dict(file)
    for change in (np.zeros(3, "float32"), arrays["variable_1"].astype("float64")):
        np.savez(tmp_path / "training.npz", **{**arrays, "variable_1": change})
        model = compiled()
        tpi.attach(model, random_masks(model))
        model.compile(K3.Adam(0.05, use_ema=True, ema_momentum=0.5), loss())
        before = [v.numpy() for v in model.variables]
        with pytest.raises(CheckpointError, match=r"damaged: variable 1 must be float32 .* Received: float"):
            distribute.fit(model, (X, Y), epochs=2, checkpoint=tmp_path)
        assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, model.variables[: len(before)], strict=True))


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpointed(tmp_path, 1, callbacks=[keras.callbacks.EarlyStopping("loss")])
    assert [path.name for path in tmp_path.iterdir()] == ["training.npz"]
    with pytest.raises(OptionError, match=r"\['EarlyStopping'\]"):
        checkpointed(tmp_path, 2)
    with pytest.raises(CheckpointError, match="another training"):
        distribute.fit(compiled(optimizer="sgd"), DATASET, checkpoint=tmp_path)
    whole = (tmp_path / "training.npz").read_bytes()
    for damaged in (whole[:1000], b"", b"x" * 100):
        (tmp_path / "training.npz").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpointed(tmp_path, 2)
    (tmp_path / "training.npz").unlink()
    distribute.fit(compiled(), DATASET, checkpoint=tmp_path)
    pruned = compiled()
    tpi.attach(pruned, random_masks(pruned))
    with pytest.raises(CheckpointError, match="without masks"):
        distribute.fit(pruned, DATASET, checkpoint=tmp_path)


def test_bfloat16_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    def train(epochs: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), L.Dense(8, dtype="bfloat16"), L.Dense(3)])
        model.compile("adam", loss())
        distribute.fit(model, DATASET, epochs=epochs, checkpoint=tmp_path / "run")
        return [np.asarray(v.numpy(), "float32") for v in model.variables]

    first = train(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, train(1), strict=True))
    assert any((a != b).any() for a, b in zip(first, train(2), strict=True))


def test_progress_is_shown_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    distribute.fit(compiled(), DATASET, epochs=2)
    assert capsys.readouterr() == ("", "")
    history = distribute.fit(compiled(), DATASET, epochs=2, verbose=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"epoch 2/2: loss {history['loss'][1]:.4g}" in err


def test_epochs_pass_over_what_they_gave_before() -> None:
    def order(passed: int) -> list[int]:
        tf.random.set_seed(0)
        dataset = tf.data.Dataset.range(10).map(lambda i: (i, i)).shuffle(10, seed=1).batch(4)
        epochs = ShardedEpochs(dataset, tf.distribute.get_strategy())
        epochs.pass_over(passed)
        orders = [[int(i) for share in epochs.of(epoch) for i in share.x] for epoch in range(passed, 3)]
        return orders[-1]

    assert sorted(order(0)) == list(range(10))
    assert order(0) == order(1) == order(2)


def test_arrays_come_in_an_order_that_seed_and_epoch_tell() -> None:
    numbers = np.arange(300)

    def orders(**options: Any) -> list[list[int]]:
        epochs = ShardedEpochs((numbers, numbers), tf.distribute.get_strategy(), **options)
        return [[int(i) for share in epochs.of(epoch) for i in share.x] for epoch in range(2)]

    first, second = orders(shuffle=True)
    assert sorted(first) == sorted(second) == numbers.tolist()
    assert first != second
    assert orders(shuffle=True, seed=0) == [first, second]
    assert orders(shuffle=True, seed=1)[0] not in (first, second)
    assert orders() == [numbers.tolist()] * 2
    batches = ShardedEpochs((numbers, numbers), tf.distribute.get_strategy(), shuffle=True).of(0)
    assert [len(share.x) for share in batches] == [128, 128, 44]
