"""Which layers each method empties: weights kept by layer in VGG19 and ResNet50 at 99.9%. Nothing is trained.

python examples/layers_figure.py
python examples/layers_figure.py --dataset cifar10 --data-dir ~/tensorflow_datasets
python examples/layers_figure.py --dataset cifar10 --data-dir ~/tensorflow_datasets --full

The default takes 20 steps with FORCE and Iter-SNIP on batches of 32 images, --full 300 steps on batches of 128. A
method whose network collapses is drawn too, marked in the legend.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfprune_init as tpi
from tfprune_init.errors import NetworkCollapseError

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits (enlarged to 32x32x3), or an image data set of TFDS")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--models", nargs="+", default=["vgg19", "resnet50"], help="some of tpi.models")
parser.add_argument("--methods", nargs="+", default=["snip", "iter_snip", "force", "synflow", "random"])
parser.add_argument("--sparsity", type=float, default=0.999)
parser.add_argument("--steps", type=int, help="of FORCE and Iter-SNIP (default: 20, with --full 300)")
parser.add_argument("--full", action="store_true", help="300 steps, batches of 128")
parser.add_argument("--output", type=Path, default=Path("layers_figure"), help="folder of the figures")
options = parser.parse_args()

batch_size = 128 if options.full else 32
steps = options.steps or (300 if options.full else 20)
data = tpi.datasets.load(options.dataset, options.data_dir, batch_size=batch_size)
batches = data.train
if data.input_shape[-1] == 1:
    batches = batches.map(lambda x, y: (tf.image.grayscale_to_rgb(tf.image.resize(x, (32, 32))), y))
shape = tuple(batches.element_spec[0].shape[1:])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
options.output.mkdir(parents=True, exist_ok=True)

print(f"{options.sparsity:.2%} on {data.description}; {steps} steps of {batch_size} images")
for name in options.models:
    found = {}
    for method in options.methods:
        model = getattr(tpi.models, name)(shape, data.classes, seed=0)
        model.compile(loss=loss)
        settings = {"steps": steps} if method in ("iter_snip", "force") else {}
        try:
            found[method] = tpi.find_masks(model, batches, sparsity=options.sparsity, method=method, **settings)
        except NetworkCollapseError as error:
            found[method] = error.masks
            print(f"{name}, {method}: {str(error).partition('. ')[0]}")
        empty = [path for path, mask in found[method].items() if not np.any(mask)]
        print(
            f"{name}, {method}: {found[method].kept:,} weights kept, {len(empty)} of {len(found[method])} layers empty"
        )
    figure = tpi.plots.layer_densities(found)
    figure.suptitle(f"{name} at {100 * options.sparsity:.10g}%", fontsize=10)
    figure.savefig(options.output / f"{name}.png", dpi=150)
    print(f"wrote {options.output / f'{name}.png'}")
