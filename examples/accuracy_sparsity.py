"""The figures of the field: accuracy after training against sparsity, and against what the training cost.

python examples/accuracy_sparsity.py
python examples/accuracy_sparsity.py --dataset mnist --data-dir ~/tensorflow_datasets --model lenet_5 --epochs 2
python examples/accuracy_sparsity.py --dataset cifar10 --data-dir ~/tensorflow_datasets --model small_resnet --seeds 1
python examples/accuracy_sparsity.py --dataset cifar10 --data-dir ~/tensorflow_datasets --model resnet20 --full
python examples/accuracy_sparsity.py --sparsities 0.9 --methods snip gradual_pruning lottery_ticket:rate=0.5

The defaults take a few minutes on two cores. Methods that train are given by name too, and options of a method after a
colon. A run that is stopped goes on where it was when started again with the
same options and --output. --full trains as the papers do: 3 seeds, 160 epochs (30 on small gray images), SGD with
momentum 0.9 whose rate falls from 0.1 by 10 at half and three quarters of them, and weight decay 5e-4. It needs a
faster machine.
"""

from __future__ import annotations

import argparse
import ast
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import small_networks

import tfprune_init as tpi

METHODS = ["force", "snip", "grasp", "synflow", "magnitude", "random"]
SPARSITIES = [0.9, 0.95, 0.98, 0.99, 0.995]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--model", default="lenet_300_100", help="one of tpi.models, small_resnet or small_vgg")
parser.add_argument("--methods", nargs="+", default=METHODS, help="names, with options as in force:steps=10,batches=2")
parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
parser.add_argument("--seeds", type=int, help="number of seeds (default: 3)")
parser.add_argument("--epochs", type=int, help="default: 20 for digits, else 3")
parser.add_argument("--learning-rate", type=float, help="of Adam (default: 0.002)")
parser.add_argument("--full", action="store_true", help="the papers' training")
parser.add_argument("--output", type=Path, default=Path("accuracy_sparsity"), help="folder of runs and figure")
options = parser.parse_args()
if options.full and options.learning_rate:
    parser.error("--full has a learning rate of its own")

data = tpi.datasets.load(options.dataset, options.data_dir)
builder = getattr(small_networks if options.model.startswith("small_") else tpi.models, options.model)
full_epochs = 30 if data.input_shape[-1] == 1 else 160
epochs = options.epochs or (full_epochs if options.full else 20 if data.name == "digits" else 3)


def parse_method(text: str) -> dict[str, Any]:
    """Return a method and its options, of text such as "force:steps=10"."""
    name, _, given = text.partition(":")
    pairs = [pair.split("=", 1) for pair in given.split(",") if pair]
    values = {key: value.isalpha() and value not in ("True", "False", "None") for key, value in pairs}
    return {"method": name, **{key: value if values[key] else ast.literal_eval(value) for key, value in pairs}}


def build(seed: int) -> keras.Model:
    """Make the untrained network."""
    return builder(data.input_shape, data.classes, seed=seed)


def optimizer() -> keras.optimizers.Optimizer:
    """Make a new optimizer for each run."""
    if not options.full:
        return keras.optimizers.Adam(options.learning_rate or 2e-3)
    steps = -(-data.train_size // 128) * epochs
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([steps // 2, 3 * steps // 4], [0.1, 0.01, 0.001])
    return keras.optimizers.SGD(rates, momentum=0.9, weight_decay=5e-4)


print(f"{options.model} on {data.description}; {epochs} epochs")
results = tpi.compare(
    build,
    data,
    methods=[parse_method(text) for text in options.methods],
    sparsities=options.sparsities,
    seeds=options.seeds or 3,
    epochs=epochs,
    optimizer=optimizer,
    out=options.output,
    verbose=1,
)
results.print()
figure = tpi.plots.accuracy_curve(results, title=f"{options.model} on {data.description.partition(':')[0]}")
figure.savefig(options.output / "accuracy_sparsity.png", dpi=150)
costs = [f"cost_{100 * sparsity:g}.png" for sparsity in results.sparsities]
for sparsity, name in zip(results.sparsities, costs, strict=True):
    tpi.plots.cost_curve(results, sparsity=sparsity).savefig(options.output / name, dpi=150)
print(f"wrote accuracy_sparsity.png, {', '.join(costs)}, results.csv and results.jsonl to {options.output}")
