"""What replicas and size cost: scoring time on one and two replicas, and the memory of a model of 100 million weights.

    python benchmarks/distributed.py            # both; a few minutes on 2 cores
    python benchmarks/distributed.py memory     # one of them: time, memory

Prints one JSON object. Replicas here are logical devices of one CPU, which share its cores: the ratio shows what the
exchange between them costs, not what a second device brings.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from engine import bare_gradient_step, interleaved, machine

import tfprune_init as tpi
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.scoring import ScoringEngine

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def time() -> dict[str, Any]:
    """Seconds of one gradient of ResNet20 and of an MLP on 128 examples: a model alone, and one on two replicas."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    rng = np.random.default_rng(0)
    cases = {"ResNet20": (tpi.models.resnet20, (32, 32, 3)), "LeNet-300-100": (tpi.models.lenet_300_100, (28, 28, 1))}
    result = {}
    for name, (build, shape) in cases.items():
        batch = rng.normal(size=(128, *shape)).astype("float32"), rng.integers(0, 10, 128)
        alone = build(shape, seed=0)
        with strategy.scope():
            spread = build(shape, seed=0)
        engines = {
            key: ScoringEngine(model, find_prunable_variables(model).prunable, data=batch, loss=LOSS)
            for key, model in {"one": alone, "two": spread}.items()
        }
        with engines["one"], engines["two"]:
            seconds = interleaved({key: engine.gradients for key, engine in engines.items()}, 15)
        result[name] = {"seconds": seconds, "two_to_one": seconds["two"] / seconds["one"]}
    return result


def large() -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    """Make an MLP of 100 million weights, and a batch of 32."""
    Dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((2_000,)), Dense(8_000, "relu"), Dense(10_000, "relu"), Dense(400)])
    model.compile("sgd", loss=LOSS)
    rng = np.random.default_rng(0)
    return model, (rng.normal(size=(32, 2_000)).astype("float32"), rng.integers(0, 400, 32))


def memory() -> dict[str, Any]:
    """Peak memory above that of bare gradient steps, in copies of the weights, each in a process of its own."""
    peaks = {}
    for name in CHILDREN:
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        peaks[name] = json.loads(done.stdout)["peak_bytes"]
    weights = 4 * find_prunable_variables(large()[0]).size
    above = {name: (peaks[name] - peaks["gradient"]) / weights for name in peaks if name != "gradient"}
    return {"weights": weights // 4, "peak_bytes": peaks, "copies_above_gradient_step": above}


def gradient() -> None:
    """Two bare gradient steps."""
    step = bare_gradient_step(*large())
    for _ in range(2):
        step()


def scores() -> None:
    """Scores of SNIP."""
    tpi.score(*large(), "snip", verbose=0)


def masks() -> None:
    """Masks of SNIP."""
    tpi.find_masks(*large(), sparsity=0.99, method="snip", verbose=0)


def force() -> None:
    """Masks of FORCE in two steps."""
    tpi.find_masks(*large(), sparsity=0.99, method="force", steps=2, verbose=0)


BENCHMARKS = {"time": time, "memory": memory}
CHILDREN = {"gradient": gradient, "scores": scores, "masks": masks, "force": force}


def main() -> None:
    """Run the benchmarks named on the command line, both by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, *CHILDREN, []], help="which ones; both by default")
    names = parser.parse_args().names or list(BENCHMARKS)
    if names[0] in CHILDREN:
        CHILDREN[names[0]]()
        print(json.dumps({"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
        return
    print(json.dumps({**{name: BENCHMARKS[name]() for name in names}, "machine": machine()}, indent=2))


if __name__ == "__main__":
    main()
