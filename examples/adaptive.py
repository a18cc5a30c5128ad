"""A network that decides for each image which channels it computes, trained to budgets of multiply-adds.

python examples/adaptive.py
python examples/adaptive.py --dataset cifar10 --data-dir ~/tensorflow_datasets --images 5000 --epochs 10
python examples/adaptive.py --export digits.tflite
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import tfprune_init as tpi

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS such as cifar10")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--images", type=int, help="train and test on so many images; default: all")
parser.add_argument("--budgets", type=float, nargs="+", default=[0.6, 0.4, 0.2])
parser.add_argument("--epochs", type=int, default=8, help="of the first stage; the third has four times as many")
parser.add_argument("--strength", type=float, default=10.0)
parser.add_argument("--noise", choices=["normal", "logistic", "none"], default="normal")
parser.add_argument("--learning-rate", type=float, default=0.003)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--export", help="write the network of the last budget to a TFLite file")
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir)


def take(part: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images of a part of the data as arrays."""
    batches = part if options.images is None else part.unbatch().take(options.images).batch(128)
    images, labels = (np.concatenate(arrays) for arrays in zip(*batches.as_numpy_iterator(), strict=True))
    return images, labels


train, test = take(data.train), take(data.test)


def build(seed: int) -> Any:
    """Build and compile LeNet-5."""
    model = tpi.models.lenet_5(data.input_shape, data.classes, seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(options.learning_rate), loss, metrics=["accuracy"])
    return model


used = f"of which {len(train[1]):,} and {len(test[1]):,} are used" if options.images else "all used"
table = Table(title=f"{data.description}, {used}")
for name in ("budget", "got", "accuracy", "before", "mean", "least", "most", "cheapest", "dearest"):
    table.add_column(name, justify="right", no_wrap=True)
for budget in options.budgets:
    started = time.monotonic()
    trained = tpi.train_adaptively(
        build,
        (train, test),
        budget=budget,
        epochs=options.epochs,
        joint_epochs=4 * options.epochs,
        strength=options.strength,
        noise=options.noise,
        seed=options.seed,
    )
    cost, classes = trained.cost, trained.cost.summarize_classes()
    ranked = sorted(classes, key=lambda label: classes[label].mean)
    table.add_row(
        f"{budget:g}",
        f"{cost.share:.3f}",
        *(f"{stage.metrics['accuracy']:.1%}" for stage in (trained.stages[-1], trained.stages[0])),
        *(f"{count / 1000:,.1f}" for count in (cost.summary.mean, cost.summary.least, cost.summary.most)),
        *(f"{label}: {classes[label].mean / 1000:,.1f}" for label in (ranked[0], ranked[-1])),
    )
    print(f"budget {budget:g}: {time.monotonic() - started:.0f} s", flush=True)
Console(width=100).print(table)
print("Accuracy in the end, and before there were decisions. Multiply-adds of a test image in thousands:")
print("mean, least, most, mean of the cheapest and of the dearest class.")
print(f"Dense: {cost.dense:,}. The modules add {cost.modules:,} to each.")
if options.export:
    print(tpi.export_tflite(trained.model, options.export, verify=test[0][:64], measure=False))
