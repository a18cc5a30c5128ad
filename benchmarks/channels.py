"""What finding channels to a budget costs on ResNet50, beside its forward pass, and what the budget gives.

    python benchmarks/channels.py out.json              # a minute on 2 cores
    python benchmarks/channels.py out.json --latency    # also a latency budget, measured in TFLite; some minutes

ResNet50 of keras.applications at 224 x 224, with weights as drawn, so nothing is downloaded. Times are medians. The
file has the forward pass of one image (a traced function), the dependency graph, the L1 norms of all channels, one
count of the cost, and whole calls of `find_channels`, with what they asked for and got.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from engine import machine

import tfprune_init as tpi
from tfprune_init.channels.judging import judge_groups
from tfprune_init.graph import build_dependency_graph
from tfprune_init.graph.cost import CostModel
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.methods import resolve_method
from tfprune_init.methods.mask_selector import make_selector

BUDGETS = [
    ("multiply_adds", 0.5, {}),
    ("multiply_adds", 0.5, {"round_to": 8}),
    ("multiply_adds", 0.5, {"allocation": "uniform"}),
    ("parameters", 0.5, {}),
    ("units", 0.5, {}),
]
ROUNDS = 7


def seconds(run: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the median time of a call, after one that is not counted."""
    run()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure_parts(model: Any) -> dict[str, float]:
    """Time the forward pass, and the parts of finding channels."""
    x = np.random.default_rng(0).random((1, 224, 224, 3), np.float32)
    forward = tf.function(lambda image: model(image, training=False))
    units = resolve_method("magnitude", None, {"granularity": "units"})
    selector = make_selector(model, find_prunable_variables(model), units, None, prune_bias=False, strict=True)
    layouts: Any = selector.layouts
    costs, nothing = CostModel(model), np.zeros(layouts.removable.size, bool)
    return {
        "forward_seconds": seconds(lambda: forward(x)),
        "graph_seconds": seconds(lambda: build_dependency_graph(model, strict=True), 3),
        "l1_seconds": seconds(lambda: judge_groups(model, layouts, "l1", "mean", None, {})),
        "cost_seconds": seconds(lambda: costs.count_without_groups(nothing, layouts.graph)),
    }


def row(model: Any, kind: str, share: float, options: dict[str, Any]) -> dict[str, Any]:
    """One budget."""
    began = time.perf_counter()
    found = tpi.find_channels(model, budget=tpi.Budget(**{kind: share}), **options)
    took = time.perf_counter() - began
    return {"options": options, "seconds": took, **asdict(found.budget), "kept_below": found.kept_below}


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file")
    parser.add_argument("--latency", action="store_true", help="measure a latency budget too")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None)
    parts = measure_parts(model)
    result = {
        "machine": machine(),
        "model": "resnet50",
        **parts,
        "l1_in_forward_passes": parts["l1_seconds"] / parts["forward_seconds"],
        "rows": [row(model, *budget) for budget in BUDGETS],
    }
    if arguments.latency:
        result["rows"].append(row(model, "latency", 0.5, {"normalize": "mean", "round_to": 8}))
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({**parts, "rows": [(one["kind"], one["got"], one["seconds"]) for one in result["rows"]]}))


if __name__ == "__main__":
    main()
