"""How many weights SNIP prunes in each layer, beside what the ICLR reproducibility report on SNIP gives for MNIST.

python examples/snip_layers.py
python examples/snip_layers.py --data-dir ~/tensorflow_datasets

The defaults are the settings of SNIP's own code: standardized images, one minibatch of 100, kernels of variance
1/fan_in, biases of zero that compete with the kernels. Each seed draws other weights and another minibatch. Of the
report only LeNet-300-100 at 95% is known here; a dash stands for the rest. Nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import tfprune_init as tpi

# Percent pruned of each layer's kernel and bias together, on MNIST.
REPORT = {("lenet_300_100", 0.95): {"dense1": 96.7, "dense2": 83.2, "head": 43.8}}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data-dir", help="folder of prepared TFDS data with mnist in it; default: scikit-learn's digits")
parser.add_argument("--seeds", type=int, default=3, help="number of initializations, each with a batch of its own")
parser.add_argument("--batch", type=int, default=100, help="images in a batch")
parser.add_argument("--batches", type=int, default=1, help="batches that the gradients are averaged over")
parser.add_argument("--inputs", choices=("standardized", "unit"), default="standardized", help="unit: 0 to 1")
parser.add_argument(
    "--variance", type=float, default=1.0, help="of a kernel, times fan_in; the models come with 2 (He)"
)
parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
options = parser.parse_args()
if options.seeds < 1 or options.batch < 1 or options.variance <= 0:
    parser.error("--seeds and --batch must be at least 1, --variance above 0")

on_mnist = options.data_dir is not None
data = tpi.datasets.load("mnist" if on_mnist else "digits", options.data_dir)
print(data.description)
if not on_mnist:
    print("The report's numbers are for MNIST and not comparable with these, so none are shown. Try --data-dir.")
images, labels = map(np.concatenate, zip(*data.train.as_numpy_iterator(), strict=True))
if options.batch * options.batches > len(labels):
    parser.error(f"--batch times --batches must be at most the {len(labels):,} training images")
if options.inputs == "standardized":
    images = (images - images.mean()) / images.std()
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def pruned_weights(name: str, sparsity: float, seed: int) -> dict[str, tuple[int, int]]:
    """Map each layer to its number of weights, biases among them, and how many of them SNIP prunes."""
    model = getattr(tpi.models, name)(data.input_shape, data.classes, seed=seed)
    layers = [layer for layer in model.layers if layer.weights]
    for layer in layers:
        layer.kernel.assign(layer.kernel * math.sqrt(options.variance / 2))
    drawn = np.random.default_rng(seed).permutation(len(labels))[: options.batch * options.batches]
    batches = tf.data.Dataset.from_tensor_slices((images[drawn], labels[drawn])).batch(options.batch)
    masks = tpi.find_masks(
        model, batches, sparsity=sparsity, method="snip", loss=loss, batches=options.batches, prune_bias=True, verbose=0
    )
    counts = {}
    for layer in layers:
        kept = np.concatenate([masks[variable.path].ravel() for variable in layer.weights])
        counts[layer.name] = kept.size, int(np.count_nonzero(~kept))
    return counts


def percent(share: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{100 * share:.1f}"


results = []
for name in ("lenet_300_100", "lenet_5"):
    for sparsity in (0.5, 0.95):
        runs = [pruned_weights(name, sparsity, seed) for seed in range(options.seeds)]
        published = REPORT.get((name, sparsity), {}) if on_mnist else {}
        table = Table(title=f"{name} at {sparsity:.0%}, {options.seeds} seed(s)", title_justify="left")
        table.add_column("layer")
        for column in ("weights", "pruned here %", "lowest to highest", "report %"):
            table.add_column(column, justify="right")
        layers = []
        for layer, (weights, _) in runs[0].items():
            pruned = [run[layer][1] for run in runs]
            lowest, mean, highest = (f(pruned) / weights for f in (min, np.mean, max))
            spread = f"{percent(lowest)} to {percent(highest)}" if len(runs) > 1 else "-"
            table.add_row(layer, f"{weights:,}", percent(mean), spread, str(published.get(layer, "-")))
            layers.append({"layer": layer, "weights": weights, "pruned": pruned, "report": published.get(layer)})
        Console().print(table)
        results.append({"model": name, "sparsity": sparsity, "layers": layers})

if options.json:
    settings = {key: getattr(options, key) for key in ("seeds", "batch", "batches", "inputs", "variance")}
    numbers = {"data": data.description, "settings": settings, "results": results}
    options.json.write_text(json.dumps(numbers, indent=1) + "\n")
