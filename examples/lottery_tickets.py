"""Lottery tickets on LeNet-300-100: accuracy and speed over the weights that are left, and what it cost to find them.

python examples/lottery_tickets.py
python examples/lottery_tickets.py --dataset mnist --data-dir ~/tensorflow_datasets

At each density it compares the ticket (weights rewound to the initial ones), the same mask with weights drawn anew, the
mask moved to random places of each layer, one-shot pruning of a trained network, FORCE and SNIP. Every network trains
for as many steps. Speed is the step of the smallest test loss, as in the paper; small is fast. Ten minutes and more on
two cores with MNIST.
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
from tfprune_init.training import Evaluate, Event, Prune, Rewind, Snapshot, Train

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--levels", type=int, nargs="+", default=[3, 7, 9, 12, 15, 19], help="rounds of 20%% to look at")
parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
parser.add_argument("--epochs", type=int, help="default: 10 for digits, else 2")
parser.add_argument("--watch", type=int, help="steps between two looks at the test loss; default: 10 looks a training")
parser.add_argument("--output", type=Path, default=Path("lottery_tickets"), help="folder of table and figure")
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir)
epochs = options.epochs or (10 if data.name == "digits" else 2)
steps = epochs * int(data.train.cardinality())
watch = options.watch or max(1, steps // 10)


def build(seed: int) -> keras.Model:
    """Make the untrained network, compiled."""
    model = tpi.models.lenet_300_100(data.input_shape, data.classes, seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1.2e-3), loss, metrics=["accuracy"])
    return model


class Begin(Event):
    """Begins under masks that were found before, with other weights if there is a seed to draw them from."""

    def __init__(self, masks: tpi.Masks, redraw: int | None = None) -> None:
        self.masks, self.redraw = masks, redraw

    def apply(self, run: Any) -> None:
        """Attach the masks, and draw the weights."""
        tpi.attach(run.model, self.masks)
        run.state.masks = self.masks
        if self.redraw is not None:
            tpi.reinitialize(run.model, seed=self.redraw)


class KeepMasks(Event):
    """Keeps the masks of each level in a list."""

    def __init__(self, kept: list[tpi.Masks]) -> None:
        self.kept = kept

    def apply(self, run: Any) -> None:
        """Keep them."""
        self.kept.append(run.state.masks)


def run(events: Any, seed: int, **others: Any) -> tpi.training.RunResult:
    """Run a procedure on the data."""
    return tpi.run(events, build, data, steps=steps, seed=seed, verbose=0, **others)


def measure(events: list[Event], seed: int, **others: Any) -> tuple[dict[str, Any], tpi.training.TrainingCost]:
    """Train a network after some events; return what it reached, and what that cost."""
    found = run([*events, Train(steps, watch=watch)], seed, **others)
    return note(found.history[-1], found.find_best_steps()[-1]), found.cost


def note(end: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """Return what a row of the table says of a training."""
    return {"accuracy": end["accuracy"], "best_step": best["step"], "accuracy_at_best_step": best["accuracy"]}


def find_tickets(seed: int) -> list[tuple[dict[str, Any], tpi.Masks]]:
    """Prune iteratively; return what the ticket of each level reached, and its masks."""
    kept: list[tpi.Masks] = []
    events: list[Event] = [Snapshot("start"), Train(steps)]
    for level in range(1, max(options.levels) + 1):
        events += [Prune("magnitude", Fraction(4, 5) ** level), Rewind("start"), KeepMasks(kept)]
        events += [Train(steps, watch=watch), Evaluate("ticket")]
    found = run(events, seed)
    ends = [record for record in found.history if record["event"] == "ticket"]
    return [(note(*pair), masks) for *pair, masks in zip(ends, found.find_best_steps(), kept, strict=True)]


def measure_others(level: int, masks: tpi.Masks, seed: int) -> dict[str, tuple[dict[str, Any], int]]:
    """Measure what the ticket of a level is compared with; return what it reached, and the gradient steps of each."""
    sparsity = 1 - 0.8**level
    found = {
        "reinitialized": (measure([Begin(masks, redraw=seed + 1000)], seed)[0], (level + 1) * steps),
        "shuffled": (measure([Begin(masks.shuffled(seed))], seed)[0], (level + 1) * steps),
    }
    for method in ("force", "snip"):
        try:
            reached, cost = measure([Prune(method)], seed, sparsity=sparsity)
        except tpi.errors.NetworkCollapseError:
            continue
        found[method] = reached, cost.training_steps + cost.scoring_steps
    one_shot = run("lottery_ticket", seed, sparsity=sparsity, one_shot=True, watch=watch)
    found["one-shot"] = note(one_shot.history[-1], one_shot.find_best_steps()[-1]), one_shot.cost.training_steps
    return found


rows: list[dict[str, Any]] = []
for seed in track(range(options.seeds), "seeds"):
    for level, (reached, masks) in enumerate(find_tickets(seed), 1):
        if level in options.levels:
            measured = {"ticket": (reached, (level + 1) * steps), **measure_others(level, masks, seed)}
            for name, (numbers, cost) in measured.items():
                row = {"method": name, "level": level, "density": masks.density, "seed": seed, "gradient_steps": cost}
                rows.append({**row, **numbers})

options.output.mkdir(parents=True, exist_ok=True)
with (options.output / "tickets.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)

methods = list(dict.fromkeys(row["method"] for row in rows))


def select(name: str, level: int) -> list[dict[str, Any]]:
    """Return the rows of a method at a level, a seed each."""
    return [row for row in rows if (row["method"], row["level"]) == (name, level)]


def print_table(title: str, column: str, scale: float, digits: int) -> None:
    """Print mean and standard deviation of a column, a row a level."""
    print(f"\n{title}")
    print(f"{'weights left':>14}", *(f"{name:>16}" for name in methods))
    for level in options.levels:
        cells = []
        for name in methods:
            own = [scale * row[column] for row in select(name, level)]
            cells.append(f"{np.mean(own):.{digits}f} ± {np.std(own):.{digits}f}" if own else "collapsed")
        print(f"{100 * 0.8**level:>13.1f}%", *(f"{cell:>16}" for cell in cells))


print(f"LeNet-300-100 on {data.description}; {steps} steps a training, Adam 1.2e-3, {options.seeds} seed(s)")
print_table("test accuracy at the end (%)", "accuracy", 100, 2)
print_table(f"step of the smallest test loss, looked at every {watch} steps", "best_step", 1, 0)
print_table("test accuracy at that step (%)", "accuracy_at_best_step", 100, 2)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
shares = [100 * 0.8**level for level in options.levels]
for name in methods:
    found = [(share, own) for share, level in zip(shares, options.levels, strict=True) if (own := select(name, level))]
    densities = [share for share, _ in found]
    accuracies = [[100 * row["accuracy"] for row in own] for _, own in found]
    best = [[row["best_step"] for row in own] for _, own in found]
    for axes, values in ((left, accuracies), (middle, best)):
        means, deviations = [np.mean(own) for own in values], [np.std(own) for own in values]
        axes.errorbar(densities, means, deviations, label=name, marker="o", markersize=4, capsize=2)
    costs = [own[0]["gradient_steps"] for _, own in found]
    right.plot(costs, [np.mean(own) for own in accuracies], label=name, marker="o", markersize=4, linestyle="none")
for axes in (left, middle):
    axes.set(xscale="log", xlabel="weights left (%)")
    axes.set_xticks(shares, [f"{share:.1f}" for share in shares])
    axes.minorticks_off()
    axes.invert_xaxis()
left.set_ylabel("test accuracy (%)")
middle.set_ylabel("step of the smallest test loss")
right.set(xscale="log", xlabel="gradient steps in all, training and scoring", ylabel="test accuracy (%)")
left.legend(fontsize="small")
figure.savefig(options.output / "tickets.png", dpi=150)
print(f"wrote {options.output / 'tickets.csv'} and tickets.png")
