"""What the steps of FORCE buy: accuracy against the number of steps, exponential and linear schedule.

python examples/steps_figure.py
python examples/steps_figure.py --dataset mnist --data-dir ~/tensorflow_datasets --model lenet_5 --sparsity 0.99
python examples/steps_figure.py --full --dataset cifar10 --data-dir ~/tensorflow_datasets --model resnet50

Takes a few minutes on two cores; --full takes the steps to 300 and trains for 160 epochs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import small_networks

import tfprune_init as tpi

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--model", default="lenet_300_100", help="one of tpi.models, small_resnet or small_vgg")
parser.add_argument("--method", default="force", help="force or iter_snip")
parser.add_argument("--sparsity", type=float, default=0.99)
parser.add_argument("--steps", type=int, nargs="+", help="default: 1 3 10 30 100, with --full 300 too")
parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
parser.add_argument("--epochs", type=int, help="default: 20 for digits, else 2; with --full 160")
parser.add_argument("--full", action="store_true", help="the size of the paper")
parser.add_argument("--output", type=Path, default=Path("steps_figure"), help="folder of runs and figure")
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir)
builder = getattr(small_networks if options.model.startswith("small_") else tpi.models, options.model)
steps = options.steps or ([1, 3, 10, 30, 100, 300] if options.full else [1, 3, 10, 30, 100])
epochs = options.epochs or (160 if options.full else 20 if data.name == "digits" else 2)


def build(seed: int) -> keras.Model:
    """Make the untrained network."""
    return builder(data.input_shape, data.classes, seed=seed)


print(f"{options.method} at {options.sparsity:.2%}, {options.model} on {data.description}; {epochs} epochs")
results = tpi.compare(
    build,
    data,
    methods=[
        {"method": options.method, "steps": count, "schedule": schedule, "label": f"{schedule}, {count} steps"}
        for schedule in ("exponential", "linear")
        for count in steps
    ],
    sparsities=[options.sparsity],
    seeds=options.seeds,
    epochs=epochs,
    optimizer=lambda: keras.optimizers.Adam(2e-3),
    out=options.output,
    verbose=1,
)
results.print()
tpi.plots.steps_curve(results).savefig(options.output / "steps.png", dpi=150)
print(f"wrote {options.output / 'steps.png'}, results.csv and results.jsonl")
