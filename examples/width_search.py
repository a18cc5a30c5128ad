"""Search the widths of a small ResNet at a part of its cost, and teach the found network by the full one.

python examples/width_search.py
python examples/width_search.py --dataset cifar10 --data-dir ~/tensorflow_datasets

It compares, each trained anew for as many epochs: the largest network; the searched one, by labels alone and taught by
the largest; and one with the same share of all widths at no more cost, taught too. A minute with digits; with CIFAR-10
it uses 20,000 training and 5,000 test images, standardized, and takes a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tfprune_init as tpi

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--ratio", type=float, default=0.5, help="share of the largest network's multiply-adds")
parser.add_argument("--blocks", type=int, default=1, help="blocks of each of the three stages; 3 is ResNet-20")
parser.add_argument("--search-epochs", type=int, help="default: 20 for digits, else 4")
parser.add_argument("--epochs", type=int, help="epochs of each training; default: 10 for digits, else 4")
parser.add_argument("--batch-size", type=int, help="of the search; default: 64 for digits, else 256")
parser.add_argument("--logit-learning-rate", type=float, default=0.02, help="so short a search needs a large one")
parser.add_argument("--learning-rate", type=float, default=0.1, help="of SGD, in search and training")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output", type=Path, default=Path("width_search.json"), help="file of all numbers")
options = parser.parse_args()

LIMITS = (20_000, 5_000)
"""Training and test images that are used of a large data set."""


def read(split: Any, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images and labels of a split as arrays."""
    parts = zip(*split.unbatch().batch(limit).take(1).as_numpy_iterator(), strict=True)
    images, labels = (part[0] for part in parts)
    return images, labels


data = tpi.datasets.load(options.dataset, options.data_dir, standardize=options.dataset != "digits")
small = data.name == "digits"
train, test = (read(split, limit) for split, limit in zip((data.train, data.test), LIMITS, strict=True))
search_epochs = options.search_epochs or (20 if small else 4)
epochs = options.epochs or (10 if small else 4)
batch_size = options.batch_size or (64 if small else 256)
print(f"{data.name}: {len(train[1]):,} training and {len(test[1]):,} test images")

space = tpi.ResNetSpace(data.input_shape, data.classes, tuple((options.blocks, width) for width in (16, 32, 64)))
began = time.perf_counter()
found = tpi.search_widths(
    space,
    train,
    epochs=search_epochs,
    ratio=options.ratio,
    batch_size=batch_size,
    learning_rate=options.learning_rate,
    logit_learning_rate=options.logit_learning_rate,
    seed=options.seed,
)
seconds = time.perf_counter() - began
print(f"searched for {seconds:.0f} s: {found.describe()}", flush=True)
print(found.cost.describe())


def narrow(most: int) -> tpi.ResNetWidths:
    """Return the widest network with one share of all widths that costs no more."""
    networks = []
    for percent in range(1, 101):
        stages = [((max(1, width * percent // 100),) * 2,) * blocks for blocks, width in space.stages]
        networks.append(tpi.ResNetWidths(space.input_shape, space.classes, stages[0][0][0], tuple(stages)))
    return max(
        (one for one in networks if one.count_multiply_adds() <= most), key=lambda one: one.count_multiply_adds()
    )


def fit(network: tpi.ResNetWidths, teacher: keras.Model | None) -> tuple[keras.Model, dict[str, Any]]:
    """Train a network, by a teacher if there is one; return it with what it costs and reaches."""
    model = network.build(options.seed)
    steps = epochs * -(-len(train[1]) // 128)
    rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9, nesterov=True), loss, metrics=["accuracy"])
    if teacher is None:
        keras.utils.set_random_seed(options.seed)
        model.fit(*train, batch_size=128, epochs=epochs, verbose=0)
    else:
        tpi.distill(model, teacher, train, temperature=4, weight=0.9, epochs=epochs, seed=options.seed)
    accuracy = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    cost = network.count_multiply_adds()
    return model, {"widths": str(network), "multiply_adds": cost, "accuracy": accuracy}


teacher, full = fit(space.largest, None)
rows = {
    "largest, by labels": full,
    "searched, by labels": fit(found.network, None)[1],
    "searched, taught": fit(found.network, teacher)[1],
    "one share of all widths, taught": fit(narrow(found.asked), teacher)[1],
}
print(f"\n{'network':<32} {'multiply-adds':>14} {'accuracy':>9}  widths")
for name, row in rows.items():
    print(f"{name:<32} {row['multiply_adds']:>14,} {row['accuracy']:>9.2%}  {row['widths']}")
options.output.write_text(json.dumps({"rows": rows, "search": found.history, "seconds": seconds}, indent=1))
