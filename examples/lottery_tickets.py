"""Lottery tickets on LeNet-300-100: accuracy over the weights that are left, and over what it cost to find them.

python examples/lottery_tickets.py
python examples/lottery_tickets.py --dataset mnist --data-dir ~/tensorflow_datasets

At each density it compares the ticket (weights rewound to the initial ones), the same mask with weights drawn anew, the
mask moved to random places of each layer, one-shot pruning of a trained network, FORCE and SNIP. Every network trains
for as many steps. About ten minutes on two cores with MNIST.
"""

from __future__ import annotations

import argparse
import csv
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.pyplot as plt
import numpy as np
from rich.progress import track

import tfprune_init as tpi
from tfprune_init.training import Event, Prune, Rewind, Snapshot, Train

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--levels", type=int, nargs="+", default=[3, 7, 9, 12, 15, 19], help="rounds of 20%% to look at")
parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
parser.add_argument("--epochs", type=int, help="default: 10 for digits, else 2")
parser.add_argument("--output", type=Path, default=Path("lottery_tickets"), help="folder of table and figure")
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir)
epochs = options.epochs or (10 if data.name == "digits" else 2)
steps = epochs * int(data.train.cardinality())


def build(seed: int) -> keras.Model:
    """Make the untrained network, compiled."""
    model = tpi.models.lenet_300_100(data.input_shape, data.classes, seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1.2e-3), loss, metrics=["accuracy"])
    return model


class Level(Event):
    """Notes the accuracy and the masks of a level, under its number."""

    def __init__(self, number: int, seen: dict[int, Any]) -> None:
        self.number, self.seen = number, seen

    def __repr__(self) -> str:
        return f"Level({self.number})"

    def apply(self, run: Any) -> None:
        """Evaluate, and keep the masks."""
        run.evaluate(f"level {self.number}")
        self.seen[self.number] = run.state.history[-1]["accuracy"], run.state.masks


def find_tickets(seed: int) -> dict[int, tuple[float, tpi.Masks]]:
    """Prune iteratively; return the accuracy of the ticket of each level, and its masks."""
    seen: dict[int, Any] = {}
    events: list[Event] = [Snapshot("start"), Train(steps)]
    for level in range(1, max(options.levels) + 1):
        events += [Prune("magnitude", Fraction(4, 5) ** level), Rewind("start"), Train(steps), Level(level, seen)]
    tpi.run(events, build, data, steps=steps, seed=seed, verbose=0)
    return seen


def measure(model: keras.Model, masks: tpi.Masks) -> float:
    """Train a network under masks; return its accuracy."""
    tpi.attach(model, masks)
    model.fit(data.train, epochs=epochs, shuffle=False, verbose=0)
    return float(model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"])


def measure_others(level: int, masks: tpi.Masks, seed: int) -> dict[str, tuple[float, int]]:
    """Measure what the ticket of a level is compared with; return accuracy and gradient steps of each."""
    sparsity = 1 - 0.8**level
    cost = (level + 1) * steps
    model = build(seed)
    tpi.attach(model, masks)
    tpi.reinitialize(model, seed=seed + 1000)
    found = {
        "reinitialized": (measure(model, masks), cost),
        "shuffled": (measure(build(seed), masks.shuffled(seed)), cost),
    }
    for method in ("force", "snip"):
        try:
            report = tpi.prune_at_init(model := build(seed), data.train, sparsity=sparsity, method=method, verbose=0)
        except tpi.errors.NetworkCollapseError:
            continue
        found[method] = measure(model, report.masks), steps + len(report.steps) + (method == "force")
    one_shot = tpi.run(
        "lottery_ticket", build, data, sparsity=sparsity, steps=steps, seed=seed, one_shot=True, verbose=0
    )
    found["one-shot"] = one_shot.history[-1]["accuracy"], one_shot.cost.training_steps
    return found


rows: list[dict[str, Any]] = []
for seed in track(range(options.seeds), "seeds"):
    for level, (accuracy, masks) in find_tickets(seed).items():
        if level in options.levels:
            measured = {"ticket": (accuracy, (level + 1) * steps), **measure_others(level, masks, seed)}
            for name, (value, cost) in measured.items():
                row = {"method": name, "level": level, "density": masks.density, "seed": seed, "gradient_steps": cost}
                rows.append({**row, "accuracy": value})

options.output.mkdir(parents=True, exist_ok=True)
with (options.output / "tickets.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)

print(f"LeNet-300-100 on {data.description}; {steps} steps a training, Adam 1.2e-3, {options.seeds} seed(s)")
methods = list(dict.fromkeys(row["method"] for row in rows))
print(f"{'weights left':>14}", *(f"{name:>16}" for name in methods))
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for name in methods:
    points = []
    for level in options.levels:
        own = [row for row in rows if (row["method"], row["level"]) == (name, level)]
        if own:
            accuracies = [100 * row["accuracy"] for row in own]
            points.append((100 * own[0]["density"], own[0]["gradient_steps"], np.mean(accuracies), np.std(accuracies)))
    densities, costs, means, deviations = zip(*points, strict=True)
    left.errorbar(densities, means, deviations, label=name, marker="o", markersize=4, capsize=2)
    right.plot(costs, means, label=name, marker="o", markersize=4, linestyle="none")
for level in options.levels:
    cells = []
    for name in methods:
        own = [100 * row["accuracy"] for row in rows if (row["method"], row["level"]) == (name, level)]
        cells.append(f"{np.mean(own):.2f} ± {np.std(own):.2f}" if own else "collapsed")
    print(f"{100 * 0.8**level:>13.1f}%", *(f"{cell:>16}" for cell in cells))
left.set(xscale="log", xlabel="weights left (%)", ylabel="test accuracy (%)")
left.set_xticks(shown := [100 * 0.8**level for level in options.levels], [f"{share:.1f}" for share in shown])
left.minorticks_off()
left.invert_xaxis()
right.set(xscale="log", xlabel="gradient steps in all, training and scoring", ylabel="test accuracy (%)")
left.legend(fontsize="small")
figure.savefig(options.output / "tickets.png", dpi=150)
print(f"wrote {options.output / 'tickets.csv'} and tickets.png")
