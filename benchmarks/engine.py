"""Speed and memory of the engine, in ratios measured within one process, interleaved, as medians.

    python benchmarks/engine.py                     # everything; about ten minutes on 2 cores
    python benchmarks/engine.py score select        # some of it: score, again, fixed, order, select, memory, fit

Prints one JSON object. The unit of scoring is one "gradient step": forward and backward pass of the same
model, batch and loss in a bare tf.function. Absolute seconds are of the machine it ran on.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfprune_init as tpi
from tfprune_init.backend.batches import disable_autotuning
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.methods import find_method
from tfprune_init.scoring import ScoringEngine
from tfprune_init.selection import count_kept, keep_top

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def interleaved(
    runs: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each run, taken in turn; one round before that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for counted in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if counted:
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def vgg19_batch() -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    """VGG19 with 128 random images and labels."""
    model = tpi.models.vgg19(seed=0)
    model.compile("sgd", loss=LOSS)
    return model, random_batch((32, 32, 3))


def random_batch(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """128 random images and labels."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(128, *shape)).astype("float32"), rng.integers(0, 10, 128)


def bare_gradient_step(model: Any, batch: tuple[np.ndarray, np.ndarray]) -> Callable[[], Any]:
    """Forward and backward pass of the model with nothing around it."""
    x, y = (tf.constant(part) for part in batch)
    variables = [v.value for v in model.trainable_variables]

    @tf.function
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True))
        return loss, tape.gradient(loss, variables)

    return lambda: step(x, y)[0].numpy()


def choose(scores: dict[str, np.ndarray], density: float) -> dict[str, np.ndarray]:
    """Masks that keep a share of all scores together."""
    return keep_top(scores, count_kept(sum(score.size for score in scores.values()), density))


def score() -> dict[str, Any]:
    """One whole step of FORCE (mask, gradient, scores, choice) and of SNIP in gradient steps; traces of a run."""
    model, batch = vgg19_batch()
    targets = find_prunable_variables(model).prunable
    force = find_method("force").scorer
    with ScoringEngine(model, targets, data=batch) as engine:
        masks = {t.path: np.ones(t.shape, bool) for t in targets}

        def force_step() -> None:
            engine.mask(masks)
            masks.update(choose(force.score(engine), 0.1))

        def snip_step() -> None:
            choose(force.score(engine), 0.1)

        runs = {"gradient": bare_gradient_step(model, batch), "force": force_step, "snip": snip_step}
        seconds = interleaved(runs, 7)
    small = tpi.models.resnet20(seed=0)
    prunable = find_prunable_variables(small).prunable
    with ScoringEngine(small, prunable, data=batch, loss=LOSS) as engine:
        for _ in range(60):
            force.score(engine)
        traces = engine.traces
        with ScoringEngine(small, prunable, data=batch, loss=LOSS, jit_compile=True) as compiled:
            xla = interleaved({"graph": engine.gradients, "xla": compiled.gradients}, 7)
    return {
        "model": "VGG19 at 32x32, batch 128",
        "prunable_weights": sum(t.size for t in targets),
        "seconds": seconds,
        "force_step_in_gradient_steps": seconds["force"] / seconds["gradient"],
        "snip_step_in_gradient_steps": seconds["snip"] / seconds["gradient"],
        "traces_of_60_steps": traces,
        "resnet20_gradients_seconds": xla,
    }


def again() -> dict[str, Any]:
    """Time a first search on a model, which traces, and the searches after it, which do not."""
    result: dict[str, Any] = {"batch": 128}
    for name, shape in (("lenet_300_100", (28, 28, 1)), ("resnet20", (32, 32, 3))):
        batch = random_batch(shape)
        for method, options in (("snip", {}), ("force", {"steps": 10}), ("grasp", {})):
            seconds: dict[str, list[float]] = {"first": [], "second": []}
            for _ in range(5):
                model = getattr(tpi.models, name)(shape, 10, seed=0)
                for times in seconds.values():
                    start = time.perf_counter()
                    tpi.find_masks(model, batch, sparsity=0.9, method=method, loss=LOSS, verbose=0, **options)
                    times.append(time.perf_counter() - start)
            medians = {key: statistics.median(times) for key, times in seconds.items()}
            result[f"{name} {method}"] = {**medians, "ratio": medians["first"] / medians["second"]}
    return result


def fixed() -> dict[str, Any]:
    """Measure what a search of one step costs beside the least that it can: one trace and one gradient step."""
    seconds: dict[str, list[float]] = {"trace and gradient": [], "search": []}
    for counted in range(6):
        model, batch = vgg19_batch()
        other, _ = vgg19_batch()  # no trace of it is there yet
        for name, run in {
            "trace and gradient": bare_gradient_step(model, batch),
            "search": functools.partial(tpi.find_masks, other, batch, sparsity=0.8, method="snip", verbose=0),
        }.items():
            start = time.perf_counter()
            run()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "model": "VGG19 at 32x32, batch 128, SNIP",
        "seconds": medians,
        "search_to_trace_and_gradient": medians["search"] / medians["trace and gradient"],
    }


def order() -> dict[str, Any]:
    """Measure what it costs that sums have a fixed order: the same gradient step with and without."""
    seconds = {}
    for name, shape in (("resnet20", (32, 32, 3)), ("lenet_300_100", (28, 28, 1))):
        model, batch = getattr(tpi.models, name)(shape, 10, seed=0), random_batch(shape)
        runs = {
            "free": bare_gradient_step(model, batch),
            "ordered": deterministic_reductions()(bare_gradient_step(model, batch)),
        }
        seconds[name] = interleaved(runs, 31)
    ratios = {name: medians["ordered"] / medians["free"] for name, medians in seconds.items()}
    return {"batch": 128, "seconds": seconds, "ratios": ratios}


def select() -> dict[str, Any]:
    """Choosing masks from 20 million scores against one np.partition over them."""
    rng = np.random.default_rng(0)
    shapes = [t.shape for t in find_prunable_variables(tpi.models.vgg19()).prunable]
    scores = {f"{i}": np.abs(rng.normal(size=shape) * rng.normal(size=shape)).astype("float32")
              for i, shape in enumerate(shapes)}  # fmt: skip
    flat = np.concatenate([value.ravel() for value in scores.values()])
    result: dict[str, Any] = {"scores": flat.size}
    for density in (0.5, 0.1, 0.01, 0.001):
        keep = int(flat.size * density)
        runs = {
            "partition": lambda keep=keep: np.partition(flat, flat.size - keep),
            "masks": lambda keep=keep: keep_top(scores, keep),
        }
        seconds = interleaved(runs, 15)
        result[f"density {density}"] = {**seconds, "ratio": seconds["masks"] / seconds["partition"]}
    return result


def memory() -> dict[str, Any]:
    """Peak memory of a FORCE run above that of the bare gradient step, in copies of the prunable weights."""
    peaks = {}
    for what in ("memory-gradient", "memory-force"):
        done = subprocess.run([sys.executable, __file__, what], capture_output=True, text=True, check=True)
        peaks[what.removeprefix("memory-")] = json.loads(done.stdout)[what]["peak_bytes"]
    weights = 4 * find_prunable_variables(tpi.models.vgg19()).size
    return {
        "model": "VGG19 at 32x32, batch 128",
        "peak_bytes": peaks,
        "weights_bytes": weights,
        "copies_above_gradient_step": (peaks["force"] - peaks["gradient"]) / weights,
    }


def memory_gradient() -> dict[str, int]:
    """Peak memory of a process that takes five bare gradient steps."""
    step = bare_gradient_step(*vgg19_batch())
    for _ in range(5):
        step()
    return {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def memory_force() -> dict[str, int]:
    """Peak memory of a process that takes five steps of FORCE."""
    model, batch = vgg19_batch()
    tpi.find_masks(model, batch, sparsity=0.99, method="force", steps=5, verbose=0)
    return {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def mlp(K: Any) -> Any:
    """21 million weights, little arithmetic for each: the worst case for anything done to every weight."""
    layers = [K.layers.Dense(4096, activation="relu"), K.layers.Dense(4096, activation="relu")]
    return K.Sequential([K.layers.Input((784,)), *layers, K.layers.Dense(300, activation="relu"), K.layers.Dense(10)])


def fit() -> dict[str, Any]:
    """Seconds of a training step in model.fit, masked against dense, Adam; for the MLP beside TF-MOT too."""
    rng = np.random.default_rng(0)
    cases = {
        "ResNet20, batch 128": (lambda: tpi.models.resnet20(seed=0), (32, 32, 3), 128, 4),
        "LeNet-5, batch 128": (lambda: tpi.models.lenet_5(seed=0), (28, 28, 1), 128, 20),
        "MLP of 21 M weights, batch 32": (lambda: mlp(keras), (784,), 32, 12),
    }
    result = {}
    for name, (build, shape, batch, steps) in cases.items():
        x, y = rng.normal(size=(batch * steps, *shape)).astype("float32"), rng.integers(0, 10, batch * steps)
        data = disable_autotuning(tf.data.Dataset.from_tensor_slices((x, y)).batch(batch).cache())
        models = {"dense": build(), "masked": build()}
        for model in models.values():
            model.compile("adam", loss=LOSS)
        tpi.prune_at_init(models["masked"], None, sparsity=0.95, method="random")
        runs = {k: functools.partial(m.fit, data, shuffle=False, verbose=0) for k, m in models.items()}
        if name.startswith("MLP"):
            runs |= tfmot_runs(data)
        seconds = {key: value / steps for key, value in interleaved(runs, 11).items()}
        result[name] = {"seconds_a_step": seconds, "masked_to_dense": seconds["masked"] / seconds["dense"]}
        if "tfmot_pruned" in seconds:
            result[name]["tf_keras_masked_to_dense"] = seconds["tf_keras_masked"] / seconds["tf_keras_dense"]
            result[name]["wrapped_to_dense"] = seconds["tfmot_wrapped"] / seconds["tf_keras_dense"]
            result[name]["tfmot_to_dense"] = seconds["tfmot_pruned"] / seconds["tf_keras_dense"]
            result[name]["wrapped_to_tfmot"] = seconds["tfmot_wrapped"] / seconds["tfmot_pruned"]
    return result


def tfmot_runs(data: Any) -> dict[str, Callable[[], Any]]:
    """Make the same MLP in tf_keras: dense, masked, in our TF-MOT wrappers, and by prune_low_magnitude."""
    import tf_keras
    from tensorflow_model_optimization import sparsity as tfmot_sparsity

    from tfprune_init import tfmot

    sparsity = tfmot_sparsity.keras
    schedule = sparsity.ConstantSparsity(0.95, begin_step=0, frequency=1000)
    models = {
        "tf_keras_dense": mlp(tf_keras),
        "tf_keras_masked": mlp(tf_keras),
        "tfmot_wrapped": tfmot.prune_at_init(mlp(tf_keras), None, sparsity=0.95, method="random"),
        "tfmot_pruned": sparsity.prune_low_magnitude(mlp(tf_keras), pruning_schedule=schedule),
    }
    for model in models.values():
        model.compile("adam", loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tpi.prune_at_init(models["tf_keras_masked"], None, sparsity=0.95, method="random")
    callbacks = {name: [sparsity.UpdatePruningStep()] for name in ("tfmot_wrapped", "tfmot_pruned")}
    return {
        name: functools.partial(model.fit, data, verbose=0, callbacks=callbacks.get(name))
        for name, model in models.items()
    }


BENCHMARKS = {
    "score": score,
    "again": again,
    "fixed": fixed,
    "order": order,
    "select": select,
    "memory": memory,
    "fit": fit,
}
CHILDREN = {"memory-gradient": memory_gradient, "memory-force": memory_force}


def main() -> None:
    """Run the benchmarks named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, *CHILDREN, []], help="which ones; all by default")
    names = parser.parse_args().names or list(BENCHMARKS)
    result: dict[str, Any] = {name: {**BENCHMARKS, **CHILDREN}[name]() for name in names}
    if not set(names) & set(CHILDREN):
        result["machine"] = machine()
    print(json.dumps(result, indent=2))


def machine() -> dict[str, Any]:
    """Return what it ran on."""
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
    return {"cpus": os.cpu_count(), "processor": processor(), **versions}


def processor() -> str:
    """Name of the CPU, as far as the system tells."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
