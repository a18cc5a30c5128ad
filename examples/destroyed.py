"""How many networks pruning destroys: LeNet-5 at 75 to 96%, trained and counted, as in the SNIP reproduction report.

python examples/destroyed.py
python examples/destroyed.py --dataset mnist --data-dir ~/tensorflow_datasets
python examples/destroyed.py --dataset mnist --data-dir ~/tensorflow_datasets --full

A network is destroyed if, after training, it is not clearly better than guessing the most frequent class, or if pruning
cut its outputs off from its inputs. --full trains 20 networks a cell for 20 epochs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from rich.console import Console
from rich.table import Table

import tfprune_init as tpi

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, mnist or fashion_mnist")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--methods", nargs="+", default=["snip", "magnitude", "random"])
parser.add_argument("--sparsities", type=float, nargs="+", default=[0.75, 0.8, 0.85, 0.9, 0.93, 0.96])
parser.add_argument("--seeds", type=int, help="networks a cell (default: 3, with --full 20)")
parser.add_argument("--epochs", type=int, help="default: 10 for digits, else 1, with --full 20")
parser.add_argument("--prune-bias", action="store_true", help="biases compete with the kernels, as in the report")
parser.add_argument("--full", action="store_true", help="20 networks a cell, 20 epochs")
parser.add_argument("--output", type=Path, default=Path("destroyed"), help="folder of the runs")
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir)
seeds = options.seeds or (20 if options.full else 3)
epochs = options.epochs or (20 if options.full else 10 if data.name == "digits" else 1)


def build(seed: int) -> keras.Model:
    """Make the untrained network."""
    return tpi.models.lenet_5(data.input_shape, data.classes, seed=seed)


extra = {"prune_bias": True} if options.prune_bias else {}
results = tpi.compare(
    build,
    data,
    methods=[{"method": method, "label": method, **extra} for method in options.methods],
    sparsities=options.sparsities,
    seeds=seeds,
    epochs=epochs,
    optimizer=lambda: keras.optimizers.Adam(2e-3),
    out=options.output,
    verbose=1,
)
rows = {(row.label, row.sparsity): row for row in results.summary()}
table = Table(title=f"LeNet-5 on {data.description}", title_justify="left")
table.add_column("destroyed networks")
for sparsity in results.sparsities:
    table.add_column(f"{100 * sparsity:.4g}%", justify="right")
for method in options.methods:
    cells = [rows[method, sparsity] for sparsity in results.sparsities]
    table.add_row(method, *[f"{row.destroyed} of {row.runs}\n{100 * (row.mean or 0):.1f}%" for row in cells])
Console().print(table)
print(f"Below the counts: mean accuracy of all {seeds} networks after {epochs} epoch{'s' * (epochs > 1)}.")
