"""Pruning while a network trains against pruning before: ResNet-20, accuracy at 90% and 95% sparsity, and its cost.

python examples/dynamic_pruning.py --data-dir ~/tensorflow_datasets
python examples/dynamic_pruning.py --dataset digits --epochs 2 --seeds 1

Dynamic pruning with feedback (DPF) chooses masks every 16 steps, gradual magnitude pruning (GMP) prunes every 100, both
until 75% of the training and more often if it is short; FORCE and random masks are there before it begins. Every
network trains for as many steps, by SGD with momentum 0.9 and Nesterov, weight decay 1e-4, and a learning rate of 0.1
that is divided by 10 at 50% and 75% of the steps.
There is no augmentation, and the images come in the same order in every epoch.

Each run has a folder of its own. A run that ended is not repeated, and one that was stopped begins at the event it was
in: the training as a whole. The table is made of the runs that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.pyplot as plt
import numpy as np

import tfprune_init as tpi
from tfprune_init.files import write_json

METHODS = {"DPF": "dynamic_pruning", "GMP": "gradual_pruning", "FORCE": "force", "random": "random"}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="cifar10", help="digits, or an image data set of TFDS")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument(
    "--methods", nargs="+", choices=METHODS, default=list(METHODS), help="which methods; all by default"
)
parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.95], help="shares to remove")
parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
parser.add_argument("--epochs", type=int, default=30, help="walks through the training data")
parser.add_argument("--steps", type=int, help="gradient steps in place of epochs, for a look at how it works")
parser.add_argument("--output", type=Path, default=Path("dynamic_pruning"), help="folder of runs, table and figure")
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir, standardize=True)
per_epoch = int(data.train.cardinality())
steps = options.steps or options.epochs * per_epoch
settings = {"DPF": {"every": min(16, max(1, steps // 8))}, "GMP": {"every": min(100, max(1, steps // 8))}}


def build(seed: int) -> keras.Model:
    """Make the untrained network, compiled."""
    model = tpi.models.resnet20(data.input_shape, data.classes, seed=seed)
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([steps // 2, steps * 3 // 4], [0.1, 0.01, 0.001])
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def measure(method: str, sparsity: float, seed: int) -> dict[str, Any]:
    """Return what a run reached, from its folder if it ended before."""
    folder = options.output / f"{data.name}_{method}_{sparsity:g}_{steps}_{seed}"
    file = folder / "result.json"
    if file.is_file():
        return dict(json.loads(file.read_text()))
    began = time.perf_counter()
    try:
        found = tpi.run(
            METHODS[method],
            build,
            data,
            sparsity=sparsity,
            steps=steps,
            seed=seed,
            folder=folder / "run",
            verbose=0,
            **settings.get(method, {}),
        )
    except tpi.errors.NetworkCollapseError:
        return {"accuracy": None}
    seconds = time.perf_counter() - began
    assert found.masks is not None
    result = {
        "accuracy": found.history[-1]["accuracy"],
        "kept": found.masks.kept,
        "seconds": seconds,
        "seconds_an_epoch": seconds / steps * per_epoch,
        **asdict(found.cost),
    }
    write_json(file, result)
    return result


results = {
    (method, sparsity): [measure(method, sparsity, seed) for seed in range(options.seeds)]
    for sparsity in options.sparsities
    for method in options.methods
}

print(f"ResNet-20 on {data.description}; {steps} steps of 128, {options.seeds} seed(s), the optimizer as above")
print(
    f"{'method':>8} {'sparsity':>9} {'kept':>9} {'accuracy (%)':>16} {'scoring':>8} "
    f"{'multiply-adds':>14} {'s/epoch':>8}"
)
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for method in options.methods:
    points = []
    for sparsity in options.sparsities:
        ended = [one for one in results[method, sparsity] if one["accuracy"] is not None]
        if not ended:
            print(f"{method:>8} {sparsity:>9g} {'collapsed':>26}")
            continue
        accuracies = [100 * one["accuracy"] for one in ended]
        points.append((100 * sparsity, np.mean(accuracies), np.std(accuracies)))
        cells = f"{np.mean(accuracies):.2f} ± {np.std(accuracies):.2f}"
        took = np.mean([one["seconds_an_epoch"] for one in ended])
        one = ended[0]
        print(
            f"{method:>8} {sparsity:>9g} {one['kept']:>9,} {cells:>16} {one['scoring_steps']:>8} "
            f"{one['multiply_adds']:>14.3g} {took:>8.1f}"
        )
    if points:
        shares, means, deviations = zip(*points, strict=True)
        axes.errorbar(shares, means, deviations, label=method, marker="o", markersize=4, capsize=2)
axes.set(xlabel="sparsity (%)", ylabel="test accuracy (%)", title=data.description)
axes.title.set_fontsize("small")
if axes.get_legend_handles_labels()[0]:
    axes.legend(fontsize="small")
figure.savefig(options.output / "accuracy.png", dpi=150)
print(f"wrote the runs and accuracy.png to {options.output}")
