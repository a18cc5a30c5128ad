"""Scores of a model on several replicas: those of the whole batch on one device."""

from __future__ import annotations

from typing import Any

import pytest
from cluster import Cluster
from training import fresh_process

# In float64 on one device and on replicas: what the arguments name, on batches that do not divide evenly.
SCORING = """
import json, sys
import numpy as np, tensorflow as tf
which, count, everything = sys.argv[1], int(sys.argv[2]), sys.argv[1:3] == ["keras", "2"]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
import keras, tf_keras
import tfprune_init as tpi
from tfprune_init.backend.compat import get_local_copies, get_tf_variable
from tfprune_init.backend.replicas import find_replicas
K = {"keras": keras, "tf_keras": tf_keras}[which]
L = K.layers
result = {}

def build(dtype, synchronized=False):
    def layer(kind, *args, **kwargs):
        return getattr(L, kind)(*args, dtype=dtype, **kwargs)
    K.backend.set_floatx(dtype)  # losses compute in it
    K.utils.set_random_seed(0)
    inputs = K.Input((6, 6, 2), dtype=dtype)
    x = layer("Conv2D", 4, 3, use_bias=False, name="conv")(inputs)
    x = layer("BatchNormalization", name="bn", synchronized=synchronized)(x)
    x = layer("Conv2D", 4, 3, activation="tanh", name="conv2")(x)
    x = layer("BatchNormalization", name="bn2", center=False)(x)
    x = layer("LayerNormalization", name="ln")(layer("Flatten", name="flat")(x))
    x = layer("Dense", 6, activation="tanh", name="hidden")(x)
    model = K.Model(inputs, layer("Dense", 3, name="head")(x))
    model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model

def twins(dtype, **options):
    with strategy.scope():
        spread = build(dtype, **options)
    alone = build(dtype)
    alone.set_weights(spread.get_weights())
    return alone, spread

def furthest(one, other):
    return max(float(np.nanmax(np.abs(one[path] - other[path])) / np.nanmax(np.abs(one[path]))) for path in one)

rng = np.random.default_rng(0)
x, y, weight = rng.normal(size=(23, 6, 6, 2)), np.arange(23) % 3, rng.uniform(0.1, 2, 23)
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(13)
alone, spread = twins("float64")

replicas = find_replicas(spread)
result["replicas"] = [replicas.count, replicas.workers]
result["parts"] = [[part.start, part.stop] for part in replicas.split_examples(13)]
def compared(method, data=data, **options):
    return furthest(*(tpi.score(model, data, method, **options) for model in (alone, spread)))

result["scores"] = {"snip": compared("snip", batches=2)}
if count == 2:
    result["scores"] |= {method: compared(method, batches=2) for method in ("grasp", "snap_it")}
if everything:
    result["scores"] |= {"synflow": compared("synflow"), "exact": compared("exact", sample=50)}
weighted = (x[:13], y[:13], weight[:13])
result["scores"]["sample weights"] = compared("snip", weighted)
summed = K.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
result["scores"]["summed"] = compared("snip", loss=summed, batches=2)
result["scores"]["inference"] = compared("snip", training=False)
copies = [copy for v in spread.variables for copy in get_local_copies(get_tf_variable(v))]
for i, copy in enumerate(copies):  # statistics of replicas may differ, and must come back
    if "moving" in copy.name:
        copy.assign(copy + 1e-3 * i)
before = [copy.numpy() for copy in copies]
tpi.score(spread, data, "snip")
result["statistics"] = sum("moving" in copy.name for copy in copies)
result["no trace"] = all(np.array_equal(value, copy.numpy()) for value, copy in zip(before, copies))

spread.set_weights(spread.get_weights())
alone.set_weights(spread.get_weights())

distributed = strategy.experimental_distribute_dataset(data)
found = {}
for method in ("force", "iter_snip", "synflow") if everything else ("force",):
    one = tpi.find_masks(alone, data, sparsity=0.7, method=method, steps=7)
    found[method] = one == tpi.find_masks(spread, data, sparsity=0.7, method=method, steps=7)
with strategy.scope():
    inside = tpi.find_masks(spread, data, sparsity=0.7, steps=3)
found["within the scope"] = inside == tpi.find_masks(alone, data, sparsity=0.7, steps=3)
found["a distributed dataset"] = inside == tpi.find_masks(spread, distributed, sparsity=0.7, steps=3)
result["masks"] = found

K.backend.clear_session()
alone, spread = twins("float64", synchronized=True)
result["scores"]["synchronized layer"] = compared("snip")
K.backend.clear_session()
alone, spread = twins("float32")
result["float32"] = compared("snip")

report = tpi.prune_at_init(spread, data, sparsity=0.7, method="snip")
result["kept"] = report.masks.kept == (report.masks.size * 3) // 10
held = report.masks.check(spread)
copies = [(p, c) for p, t in held.items() for c in get_local_copies(t.tensor)]
result["zeros"] = all((c.numpy()[~report.masks[p]] == 0).all() for p, c in copies)

def refusal(call):
    try:
        call()
    except tpi.PruningError as error:
        return f"{type(error).__name__}: {error}"

result["refused"] = {
    "few examples": refusal(lambda: tpi.score(spread, (x[:1], y[:1]), "snip")),
    "compiled": refusal(lambda: tpi.score(spread, data, "snip", jit_compile=True)),
    "one by one": refusal(lambda: strategy.run(lambda: tpi.score(spread, data, "snip"))),
}
with strategy.scope():
    result["refused"]["elsewhere"] = refusal(lambda: tpi.score(alone, data, "snip"))
print(json.dumps(result))
"""


@pytest.fixture(scope="module", params=[("keras", "2"), ("tf_keras", "2"), ("keras", "4")], ids="-".join)
def scoring(request: Any) -> dict[str, Any]:
    return {**fresh_process(SCORING, *request.param), "asked": int(request.param[1])}


@pytest.mark.process
def test_replicas_take_equal_parts(scoring: dict[str, Any]) -> None:
    assert scoring["replicas"] == [scoring["asked"], 1]
    assert scoring["parts"] == {2: [[0, 6], [6, 13]], 4: [[0, 3], [3, 6], [6, 9], [9, 13]]}[scoring["asked"]]


@pytest.mark.process
def test_scores_are_those_of_one_device_on_the_whole_batch(scoring: dict[str, Any]) -> None:
    assert {what: worst for what, worst in scoring["scores"].items() if not worst < 1e-12} == {}
    assert len(scoring["scores"]) >= 5
    assert scoring["float32"] < 1e-5


@pytest.mark.process
def test_masks_are_those_of_one_device(scoring: dict[str, Any]) -> None:
    assert all(scoring["masks"].values()), scoring["masks"]
    assert scoring["kept"]
    assert scoring["zeros"]


@pytest.mark.process
def test_every_replica_is_left_as_it_was(scoring: dict[str, Any]) -> None:
    assert scoring["no trace"]
    assert scoring["statistics"] == 4 * scoring["asked"]


@pytest.mark.process
def test_what_replicas_cannot_do_is_refused(scoring: dict[str, Any]) -> None:
    refused = scoring["refused"]
    assert refused["few examples"].startswith("DataError: A batch must have an example for each replica. Received: 1")
    assert refused["compiled"].startswith("OptionError: jit_compile=True works on one device")
    assert refused["one by one"].startswith("ReplicaError: Connections are scored by all replicas together")
    assert "was built outside of the scope of the MirroredStrategy" in refused["elsewhere"]


# On two worker processes, with Keras 3 models in float64: scores, masks, and what must not go unnoticed.
SCORING_IN_A_CLUSTER = """
import json, os
import numpy as np, tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
import keras
import tfprune_init as tpi
from tfprune_init.backend.replicas import find_replicas
keras.config.set_dtype_policy("float64")
keras.config.set_floatx("float64")
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
L = keras.layers

def build():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((6, 6, 2)), L.Conv2D(4, 3, use_bias=False, name="conv"), L.BatchNormalization(name="bn"),
        L.Activation("tanh", name="tanh"), L.Flatten(name="flat"), L.Dense(3, name="head"),
    ])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model

with strategy.scope():
    spread = build()
alone = build()
rng = np.random.default_rng(0)
x, y = rng.normal(size=(19, 6, 6, 2)), np.arange(19) % 3
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(11)
distributed = strategy.experimental_distribute_dataset(data)
replicas = find_replicas(spread)
result = {"replicas": [replicas.count, replicas.workers]}
for method in ("snip", "grasp"):
    one, other = (tpi.score(model, data, method, batches=2) for model in (alone, spread))
    result[method] = max(float(np.abs(one[path] - other[path]).max() / np.abs(one[path]).max()) for path in one)
masks = tpi.find_masks(alone, data, sparsity=0.7, steps=5)
result["plain"] = masks == tpi.find_masks(spread, data, sparsity=0.7, steps=5)
result["distributed"] = tpi.find_masks(spread, distributed, sparsity=0.7, method="snip").kept == masks.kept

def refusal(*arguments, **options):
    try:
        tpi.find_masks(*arguments, sparsity=0.7, **options)
    except tpi.PruningError as error:
        return f"{type(error).__name__}: {error}"

other_data = tf.data.Dataset.from_tensor_slices((x + index, y)).batch(11)
result["other data"] = refusal(spread, other_data)
result["other seeds"] = refusal(spread, None, method="random", seed=index)
tpi.prune_at_init(spread, data, sparsity=0.7, method="snip")
try:
    spread.fit(x, y, verbose=0)
except tpi.PruningError as error:
    result["fit"] = str(error)
print(json.dumps(result))
"""


@pytest.mark.cluster
def test_scoring_in_a_cluster_of_workers() -> None:
    with Cluster(SCORING_IN_A_CLUSTER) as cluster:
        results = cluster.results()
    assert results[0] == results[1]
    result = results[0]
    assert result["replicas"] == [2, 2]
    assert max(result["snip"], result["grasp"]) < 1e-12
    assert result["plain"]
    assert result["distributed"]
    assert result["other data"].startswith("ReplicaError: The 2 workers hold different examples in batch 1")
    assert result["other seeds"].startswith("ReplicaError: The 2 workers hold different masks")
    assert "tfprune_init.distribute.fit" in result["fit"]
