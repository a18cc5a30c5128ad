"""The pruning tutorial of TF-MOT with one line changed: the masks are found before the network is trained.

python examples/tfmot_pipeline.py
python examples/tfmot_pipeline.py --dataset mnist --data-dir ~/tensorflow_datasets

The tutorial trains a small network, prunes it with prune_low_magnitude while it trains some more, strips and converts
it. Here the network is pruned untrained and trained once; wrappers, callback, stripping and file are as in the
tutorial. A dense network with the same initial weights, trained as long, is shown beside it; its bytes are those of
the pruned file with the zeros filled in.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tf_keras
from rich.console import Console
from rich.table import Table
from tensorflow_model_optimization import sparsity

import tfprune_init as tpi
from tfprune_init import tfmot

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS such as mnist")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--method", default="force", help="one of tpi.list_methods()")
parser.add_argument("--sparsity", type=float, default=0.8, help="share of the weights to prune")
parser.add_argument("--epochs", type=int, help="default: 40 for digits, else 3")
parser.add_argument("--output", type=Path, help="folder to write pruned.tflite to; default: a temporary one")
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir)
epochs = options.epochs or (40 if data.name == "digits" else 3)


def compiled() -> Any:
    """Make the network of the tutorial, with the same initial weights at every call."""
    tf_keras.utils.set_random_seed(0)
    model = tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer(data.input_shape),
            tf_keras.layers.Reshape(data.input_shape, name="reshape"),
            tf_keras.layers.Conv2D(12, 3, activation="relu", name="conv"),
            tf_keras.layers.MaxPooling2D(2, name="pool"),
            tf_keras.layers.Flatten(name="flatten"),
            tf_keras.layers.Dense(data.classes, name="dense"),
        ]
    )
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    return model


def accuracy(model: Any) -> str:
    """Share of the test images that a compiled model tells."""
    return f"{model.evaluate(data.test, verbose=0, return_dict=True)['accuracy']:.1%}"


def zeros(model: Any) -> int:
    """How many of the pruned weights are exactly zero."""
    return sum(np.count_nonzero(t.tensor.numpy()[~masks[path]] == 0) for path, t in masks.check(model).items())


print(data.description)
dense = compiled()
dense.fit(data.train, epochs=epochs, verbose=0)

# The line that changes. In the tutorial: sparsity.keras.prune_low_magnitude(model, pruning_schedule=...).
model = tfmot.prune_at_init(compiled(), data.train, sparsity=options.sparsity, method=options.method)
masks = tfmot.get_masks(model)
exact = {"after pruning": zeros(model)}

seen: list[int] = []
watch = tf_keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(zeros(model)))
callbacks = [*tfmot.callbacks(), sparsity.keras.UpdatePruningStep(), watch]
model.fit(data.train, epochs=epochs, verbose=0, callbacks=callbacks)
exact |= {f"fewest after any of {len(seen):,} batches": min(seen), "after training": zeros(model)}
pruned_accuracy = accuracy(model)

model = sparsity.keras.strip_pruning(model)
exact["after strip_pruning"] = zeros(model)

folder = options.output or Path(tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
edge = tpi.export_tflite(model, folder / "pruned.tflite", verify=data.test)

table = Table("", title=f"{options.method}, {epochs} epoch(s)", title_justify="left")
for column in ("dense", "pruned"):
    table.add_column(column, justify="right")
table.add_row("test accuracy", accuracy(dense), pruned_accuracy)
for path, target in masks.check(model).items():
    table.add_row(f"zeros in {path}", "-", f"{np.mean(target.tensor.numpy() == 0):.1%}")
table.add_row("zeros in the file", "-", f"{edge.sparsity:.1%}")
table.add_row("bytes of the file", f"{edge.dense_float32.raw_bytes:,}", f"{edge.raw_bytes:,}")
table.add_row("bytes gzipped", f"{edge.dense_float32.gzip_bytes:,}", f"{edge.gzip_bytes:,}")
Console().print(table)

stages = Table("pruned weights", title=f"{masks.size - masks.kept:,} of {masks.size:,} pruned", title_justify="left")
stages.add_column("exactly zero", justify="right")
for stage, count in exact.items():
    stages.add_row(stage, f"{count:,}")
Console().print(stages)
print(f"wrote {edge.path}")
