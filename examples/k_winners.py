"""Dense and sparse CNN-1 of "How can we be so dense?" (arXiv 1903.11257), and how many images they know under noise.

python examples/k_winners.py
python examples/k_winners.py --dataset mnist --data-dir ~/tensorflow_datasets
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
parser.add_argument("--dataset", default="digits", help="digits, or a gray image data set of TFDS such as mnist")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--epochs", type=int, default=15)
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument(
    "--learning-rate", type=float, help="of the first epoch; default: 0.01, the paper's, but 0.1 for digits"
)
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir, standardize=True)
images, labels = (np.concatenate(part) for part in zip(*data.train.as_numpy_iterator(), strict=True))
rate = options.learning_rate or (0.1 if data.name == "digits" else 0.01)


def train(name: str, seed: int) -> Any:
    """Train a network as in the paper: batches of 64, and a learning rate that falls to 80% after each epoch."""
    keras.utils.set_random_seed(seed)
    is_sparse = name == "sparse_cnn_1"
    model = getattr(tpi.models, name)(data.input_shape, data.classes, seed=seed)
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.0 if is_sparse else 0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    callbacks = [keras.callbacks.LearningRateScheduler(lambda epoch, _: rate * 0.8**epoch)]
    start = 0
    if is_sparse:
        # Each hidden unit keeps 30% of its inputs, drawn at random.
        sparse = {"granularity": "per_unit", "exclude": ["conv*", "head"]}
        tpi.prune_at_init(model, None, sparsity=0.7, method="random", seed=seed, **sparse)
        callbacks.append(tpi.layers.BoostDecay(0.85))
        # Duty cycles settle in a first epoch of small batches.
        model.fit(images, labels, batch_size=4, epochs=1, verbose=0, callbacks=callbacks)
        start = 1
    epochs = {"initial_epoch": start, "epochs": options.epochs}
    model.fit(images, labels, batch_size=64, **epochs, verbose=0, callbacks=callbacks)
    return tpi.strip(model) if is_sparse else model


table = Table(title=f"images put into the right class: {data.description}")
table.add_column("pixels overwritten", justify="right")
results = []
for name in ("dense_cnn_1", "sparse_cnn_1"):
    for seed in range(options.seeds):
        started = time.monotonic()
        results.append(result := tpi.run_noise_test(train(name, seed), data.test, seed=seed))
        table.add_column(f"{name}, seed {seed}", justify="right")
        seconds = time.monotonic() - started
        print(f"{name}, seed {seed}: noise score {result.score:,}, {seconds:.0f} s", flush=True)

for place, pixels in enumerate(results[0].pixels):
    table.add_row(f"{pixels}", *(f"{100 * result.accuracies[place]:.2f}%" for result in results))
table.add_section()
levels = len(results[0].levels)
table.add_row("noise score", *(f"{result.score:,} of {levels * result.examples:,}" for result in results))
Console().print(table)
