"""Real clusters: two worker processes on this machine, one of which is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster

# Begins every program: its argument is a folder that all workers see.
WORKER = """
import hashlib, json, os, sys, time
from contextlib import nullcontext
import keras, numpy as np, tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
import tfprune_init as tpi
from tfprune_init import distribute
from tfprune_init.backend.optimizers import get_optimizer_variables
from tfprune_init.backend.compat import get_replica_variables
from tfprune_init.graph.variables import find_prunable_variables

L, K3 = keras.layers, keras.optimizers
keras.config.set_floatx("float64")
folder, worker = sys.argv[1], strategy.cluster_resolver.task_id
rng = np.random.default_rng(0)
x, y, w = rng.normal(size=(22, 6)), np.arange(22) % 3, rng.uniform(size=22)
crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def some_masks(model):
    return tpi.Masks({t.path: np.random.default_rng(i).random(t.shape) < 0.4
                      for i, t in enumerate(find_prunable_variables(model).prunable)})


def leaks(model, masks):
    held = [(masks[path], get_replica_variables(target.variable)) for path, target in masks.check(model).items()]
    return sum(int(np.count_nonzero(copy.numpy()[~mask])) for mask, copies in held for copy in copies)


def digest(arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def watch(K, get_masks, stage=None, at=None):
    "Counts leaks after every batch. On worker 1 it waits forever at one batch, the first time that it gets there."

    class Watch(K.callbacks.Callback):
        looks = leaks = epoch = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            self.looks += 1
            self.leaks += leaks(self.model, get_masks(self.model))
            marker = os.path.join(folder, f"waited_{stage}")
            if stage and worker == 1 and (self.epoch, batch) == at and not os.path.exists(marker):
                open(marker, "w").close()
                print("waiting in", stage, flush=True)
                time.sleep(600)

        def on_train_end(self, logs=None):
            self.looks += 1
            self.leaks += leaks(self.model, get_masks(self.model))

    return Watch()
"""

TOGETHER = (
    WORKER
    + """
def compiled():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([
        keras.Input((6,)), L.Dense(16, "tanh", kernel_regularizer="l2", name="a"),
        L.BatchNormalization(synchronized=True, name="bn"), L.Dense(3, name="c"),
    ])
    optimizer = K3.Adam(0.02, use_ema=True, ema_momentum=0.5, clipnorm=0.1, gradient_accumulation_steps=2)
    model.compile(optimizer, crossentropy, weighted_metrics=["accuracy"], steps_per_execution=2)
    return model


def trained(fit, data, writing=False):
    with strategy.scope() if fit is distribute.fit else nullcontext():
        model = compiled()
    masks = some_masks(model)
    tpi.attach(model, masks)
    watching = watch(keras, lambda model: masks)
    name = f"{folder}/{worker}"
    files = [keras.callbacks.CSVLogger(f"{name}.csv"), keras.callbacks.ModelCheckpoint(f"{name}.keras")]
    callbacks = [*(files if writing else []), watching]
    history = fit(model, data, epochs=3, validation_data=validation, callbacks=callbacks, verbose=0)
    return [v.numpy() for v in model.variables], getattr(history, "history", history), watching, model


def refused(act):
    try:
        act()
    except tpi.PruningError as error:
        return f"{type(error).__name__}: {error}"


dataset = tf.data.Dataset.from_tensor_slices((x, y, w)).batch(7)  # 7, 7, 7 and 1
validation = tf.data.Dataset.from_tensor_slices((x[:5], y[:5])).batch(2)
own, expected, *_ = trained(keras.Model.fit, dataset)
values, history, watching, model = trained(distribute.fit, dataset, writing=True)
# BatchNorm over workers: one that is left without examples by the strategy's own division would count zeros.
sevens = dataset.take(3)
by_rows, *_ = trained(distribute.fit, sevens)
by_strategy, _, _, other_model = trained(distribute.fit, strategy.experimental_distribute_dataset(sevens))
other = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(22, seed=worker).batch(7)
unequal_data = refused(lambda: trained(distribute.fit, other))
model.layers[0].kernel.assign(model.layers[0].kernel * (1 + worker))
unequal_weights = refused(lambda: distribute.fit(model, dataset))
distribute.fit(other_model, dataset, checkpoint=f"{folder}/run")
elsewhere = refused(lambda: distribute.fit(other_model, dataset, checkpoint=f"{folder}/{'run' * (1 - worker)}"))
with strategy.scope():
    in_scope = refused(lambda: distribute.fit(model, dataset))
print(json.dumps({
    "workers": strategy.num_replicas_in_sync, "digest": digest(values), "history": history,
    "weights": max(float(np.abs(a - b).max()) for a, b in zip(own, values, strict=True)),
    "by strategy": max(float(np.abs(a - b).max()) for a, b in zip(by_rows, by_strategy, strict=True)),
    "logs": max(abs(a - b) for key in expected for a, b in zip(expected[key], history[key], strict=True)),
    "leaks": watching.leaks, "looks": watching.looks, "keras": distribute.unsupported_fit_reason(model),
    "data": unequal_data, "unequal": unequal_weights, "scope": in_scope, "elsewhere": elsewhere,
}))
"""
)


@pytest.mark.cluster
def test_two_workers_train_as_one_device_does(tmp_path: Path) -> None:
    with Cluster(TOGETHER, str(tmp_path)) as cluster:
        first, second = cluster.results()
    assert first == second
    assert first["workers"] == 2
    assert max(first["weights"], first["by strategy"], first["logs"]) < 1e-12
    assert (first["leaks"], first["looks"]) == (0, 3 * 2 + 1)
    assert "several workers" in first["keras"]
    assert "tfprune_init.distribute.fit" in first["keras"]
    assert first["data"].startswith("ReplicaError: The 2 workers hold different batches in epoch 1.")
    assert first["unequal"].startswith("ReplicaError: The 2 workers hold different weights.")
    assert first["elsewhere"].startswith("ReplicaError: The 2 workers hold different checkpoints.")
    assert first["scope"].startswith("ReplicaError: With several workers, tpi.distribute.fit is called after")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.csv", "0.keras", "run"]


KILLED = (
    WORKER
    + """
waits = len(sys.argv) > 2
stage = lambda name: name if waits else None
described = lambda arrays, masks, model, watching: {
    "digest": digest(arrays), "leaks": watching.leaks + leaks(model, masks), "masks": masks.fingerprint}


def keras_3():
    keras.utils.set_random_seed(1)
    dataset = tf.data.Dataset.from_tensor_slices((x, y, w)).shuffle(22, seed=4).batch(5)
    with strategy.scope():
        model = keras.Sequential([
            keras.Input((6,)), L.Dense(16, "tanh", name="a"), L.BatchNormalization(name="bn"), L.Dropout(0.3),
            L.Dense(3, name="c"),
        ])
        model.compile(K3.Adam(0.02, use_ema=True, clipnorm=0.5), crossentropy, metrics=["accuracy"])
    masks = some_masks(model)
    tpi.attach(model, masks)
    watching = watch(keras, lambda model: masks, stage("keras_3"), at=(1, 2))
    history = distribute.fit(model, dataset, epochs=3, callbacks=[watching], checkpoint=f"{folder}/keras_3")
    state = [v.numpy() for v in [*model.variables, *get_optimizer_variables(model.optimizer)]]
    return described(state, masks, model, watching) | {"loss": history["loss"]}


def with_tf_keras(name, wrapped):
    import tf_keras
    from tensorflow_model_optimization import sparsity
    from tfprune_init import tfmot

    tf_keras.utils.set_random_seed(1)
    dataset = tf.data.Dataset.from_tensor_slices((x.astype("float32"), y)).batch(6)
    with strategy.scope():
        model = tf_keras.Sequential([
            tf_keras.Input((6,)), tf_keras.layers.Dense(16, "tanh", name="a"), tf_keras.layers.Dense(3, name="c")])
        masks = some_masks(model)
        model = tfmot.wrap(model, masks) if wrapped else model
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.Adam(0.02, clipnorm=0.5), loss)
    if not wrapped:
        tpi.attach(model, masks)
    watching = watch(tf_keras, lambda model: masks, stage(name), at=(1, 2))
    backup = tf_keras.callbacks.BackupAndRestore(f"{folder}/{name}", delete_checkpoint=False)
    own = [*tfmot.callbacks(), sparsity.keras.UpdatePruningStep()] if wrapped else []
    model.fit(dataset, epochs=3, verbose=0, callbacks=[*own, backup, watching])
    state = [v.numpy() for v in [*model.weights, *model.optimizer.variables]]
    return described(state, masks, model, watching)


result = {"keras_3": keras_3(), "tfmot": with_tf_keras("tfmot", True), "attach": with_tf_keras("attach", False)}
print(json.dumps(result))
"""
)


@pytest.mark.cluster
def test_a_worker_killed_mid_epoch_loses_nothing(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    with Cluster(KILLED, str(whole)) as cluster:
        expected, of_second = cluster.results()
    assert expected == of_second
    for stage in ("keras_3", "tfmot", "attach"):
        with Cluster(KILLED, str(broken), "wait") as cluster:
            cluster.wait_for(1, f"waiting in {stage}")
            cluster.processes[1].kill()
            assert cluster.processes[1].wait() == -9
    with Cluster(KILLED, str(broken), "wait") as cluster:
        found, of_second = cluster.results()
    assert found == of_second
    assert found == expected
    assert [stage["leaks"] for stage in found.values()] == [0, 0, 0]
    assert len(found["keras_3"]["loss"]) == 3
