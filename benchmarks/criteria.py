"""What each criterion costs, in gradient steps of the same model and batch; interleaved, as medians.

    python benchmarks/criteria.py                   # VGG19 and ResNet20; some ten minutes on 2 cores
    python benchmarks/criteria.py resnet20          # one of them
    python benchmarks/criteria.py exact             # every weight of LeNet-300-100, one by one; minutes

Prints one JSON object. A "gradient step" is the forward and backward pass in a bare tf.function. A cost is that of
scoring and of choosing 10% of the weights. SynFlow's unit is the gradient step of one image; choosing is timed
beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import tensorflow as tf
from engine import LOSS, bare_gradient_step, choose, interleaved, machine

import tfprune_init as tpi
from tfprune_init.backend.overrides import compute_in_float64, override_variables
from tfprune_init.graph.variables import find_prunable_variables, list_variables
from tfprune_init.scoring import ScoringEngine
from tfprune_init.scoring.criteria import CRITERIA

DATA_DRIVEN = ("sensitivity", "gradient_norm", "gradient_power", "gradient_flow", "curvature", "second_order")
UNITS = ("unit_sensitivity",)
ESTIMATE = {"estimator": "hutchinson"}
SETTINGS: dict[str, dict[str, Any]] = {"curvature": ESTIMATE, "second_order": ESTIMATE}


def costs(name: str, rounds: int) -> dict[str, Any]:
    """Every criterion on one model, batch 128."""
    model = getattr(tpi.models, name)(seed=0)
    model.compile("sgd", loss=LOSS)
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(128, 32, 32, 3)).astype("float32"), rng.integers(0, 10, 128)
    targets = find_prunable_variables(model).prunable
    with ScoringEngine(model, targets, data=batch) as engine:

        def run(criterion: str) -> Any:
            settings = SETTINGS.get(criterion, {})
            return lambda: choose(CRITERIA[criterion].score(engine, **settings), 0.1)

        runs = {"gradient": bare_gradient_step(model, batch), **{c: run(c) for c in (*DATA_DRIVEN, *UNITS)}}
        seconds = interleaved(runs, rounds)
    return {
        "prunable_weights": sum(target.size for target in targets),
        "batch": 128,
        "seconds": seconds,
        "gradient_steps": {c: seconds[c] / seconds["gradient"] for c in runs if c != "gradient"},
        "synaptic_flow": synaptic_flow(model, targets, rounds),
    }


def synaptic_flow(model: Any, targets: Any, rounds: int) -> dict[str, Any]:
    """Time a step of SynFlow beside the gradient step of one image, in the model's float32 and in SynFlow's float64."""
    one = tf.ones((1, 32, 32, 3)), tf.zeros(1, tf.int32)
    with ScoringEngine(model, targets) as engine:
        scores = CRITERIA["synaptic_flow"].score(engine)
        masks = choose(scores, 0.9)

        def step() -> Any:
            engine.mask(masks)
            return choose(CRITERIA["synaptic_flow"].score(engine), 0.8)

        runs = {
            "gradient_float32": bare_gradient_step(model, one),
            "gradient_float64": gradient_step_in_float64(model, one),
            "score": engine.flow,
            "choose": lambda: choose(scores, 0.8),
            "step": step,
        }
        seconds = interleaved(runs, 3 * rounds)
    return {
        "seconds": seconds,
        "score_in_float32_gradient_steps": seconds["score"] / seconds["gradient_float32"],
        "score_in_float64_gradient_steps": seconds["score"] / seconds["gradient_float64"],
        "step_less_choosing_in_float64_gradient_steps": (seconds["step"] - seconds["choose"])
        / seconds["gradient_float64"],
    }


def gradient_step_in_float64(model: Any, batch: Any) -> Any:
    """Forward and backward pass of the same network in the precision that SynFlow computes in."""
    floats = [target for target in list_variables(model) if target.tensor.dtype.is_floating]
    values = {target.path: tf.constant(target.tensor.numpy().astype("float64")) for target in floats}
    kernels = [target.path for target in find_prunable_variables(model).prunable]
    x, y = tf.cast(batch[0], tf.float64), batch[1]

    @tf.function
    def step(values: dict[str, tf.Tensor]) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([values[path] for path in kernels])
            with compute_in_float64(model), override_variables(model, values):
                logits = model(x, training=False)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        return loss, tape.gradient(loss, [values[path] for path in kernels])

    return lambda: step(values)[0].numpy()


def exact() -> dict[str, Any]:
    """Seconds to try every weight of LeNet-300-100, biases included, on a batch of 100."""
    model = tpi.models.lenet_300_100(seed=0)
    model.compile("sgd", loss=LOSS)
    rng = np.random.default_rng(0)
    batch = rng.uniform(size=(100, 28, 28, 1)).astype("float32"), rng.integers(0, 10, 100)
    start = time.perf_counter()
    scores = tpi.score(model, batch, "exact", prune_bias=True)
    seconds = time.perf_counter() - start
    snip = tpi.score(model, batch, "snip", prune_bias=True)
    flat = [np.concatenate([s.ravel() for s in one.values()]) for one in (scores, snip)]
    return {
        "weights": flat[0].size,
        "seconds": seconds,
        "correlation_with_snip": float(np.corrcoef(*flat)[0, 1]),
    }


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="vgg19, resnet20, exact; the first two by default")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine()}
    for what in arguments.what or ["vgg19", "resnet20"]:
        result[what] = exact() if what == "exact" else costs(what, arguments.rounds)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
