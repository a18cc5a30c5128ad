"""What masks found before training are worth when all weights are one number: LeNet-300-100, nothing trained.

python examples/shared_weight.py
python examples/shared_weight.py --dataset mnist --data-dir ~/tensorflow_datasets

The masks of SNIP, FORCE and chance, at one sparsity, with every weight v, and with every weight v or -v by the sign of
its initial value. The best v is chosen, and tuned, on training data, and all accuracies are those of test data.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import tfprune_init as tpi
from tfprune_init import plots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--methods", nargs="+", default=["snip", "force", "random"])
parser.add_argument("--sparsity", type=float, default=0.9)
parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
parser.add_argument("--output", type=Path, default=Path("shared_weight"), help="folder of tables and figures")
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir)
options.output.mkdir(parents=True, exist_ok=True)


def sweep(method: str, signs: str, seed: int) -> tpi.SharedWeights:
    """Prune an untrained network, and measure it at each value."""
    model = tpi.models.lenet_300_100(data.input_shape, data.classes, seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    found = {"sparsity": options.sparsity, "method": method, "seed": seed, "verbose": 0}
    masks = tpi.find_masks(model, None if method == "random" else data.train, **found)
    return tpi.shared_weight(model, data.test, masks, signs=signs, train=data.train, tune=True)


def add_row(table: Table, name: str, numbers: list[list[float]], scale: float = 100) -> None:
    """Add a row with a cell for each method, of a number for each seed."""
    table.add_row(name, *(f"{scale * np.mean(cell):.1f} ± {scale * np.std(cell):.1f}" for cell in numbers))


console = Console()
for signs in ("equal", "present"):
    every = {method: [sweep(method, signs, seed) for seed in range(options.seeds)] for method in options.methods}
    firsts = {method: results[0] for method, results in every.items()}
    table = Table(title=f"test accuracy (%), signs: {signs}; mean ± deviation of {options.seeds} seed(s)")
    table.add_column("")
    for method in options.methods:
        table.add_column(method, justify="right")

    for place, value in enumerate(next(iter(firsts.values())).values):
        add_row(
            table, f"all weights {value:g}", [[one.accuracies[place] for one in results] for results in every.values()]
        )
    table.add_section()
    add_row(table, "mean over the values", [[one.mean_accuracy for one in results] for results in every.values()])
    add_row(table, "vote of the values", [[one.ensemble_accuracy for one in results] for results in every.values()])
    add_row(table, "best value by training data", [[one.best.measured.accuracy for one in rs] for rs in every.values()])
    add_row(table, "tuned value", [[one.tuned.measured.accuracy for one in results] for results in every.values()])
    add_row(table, "the tuned value itself", [[one.tuned.value for one in results] for results in every.values()], 1)
    console.print(table)
    for method, results in every.items():
        for seed, one in enumerate(results):
            (options.output / f"{method}_{signs}_seed{seed}.csv").write_text(one.to_csv())
    title = f"LeNet-300-100, {options.sparsity:.0%} pruned, seed 0, signs: {signs}"
    plots.shared_weight(firsts, title=title).savefig(options.output / f"{signs}.png", dpi=150)
print(f"{data.description}; wrote {options.output}")
