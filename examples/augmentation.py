"""Your own images through keras-cv's augmentation, into a network that was pruned before it is trained.

python examples/augmentation.py
python examples/augmentation.py --dataset cifar10 --data-dir ~/tensorflow_datasets
"""

from __future__ import annotations

import argparse

import keras
import keras_cv
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import tfprune_init as tpi


def arguments() -> argparse.Namespace:
    """Read the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS such as cifar10")
    parser.add_argument("--data-dir", help="folder of prepared TFDS data")
    parser.add_argument("--sparsity", type=float, default=0.9, help="share of the weights to prune, default: 0.9")
    parser.add_argument("--epochs", type=int, default=10)
    return parser.parse_args()


def colored(images: tf.Tensor, labels: tf.Tensor, classes: int) -> dict[str, tf.Tensor]:
    """Give keras-cv's layers what they take: images of three channels, and labels that two images can share."""
    images = tf.image.grayscale_to_rgb(images) if images.shape[-1] == 1 else images
    return {"images": images, "labels": tf.one_hot(labels, classes)}


def pairs(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Give Keras and tfprune_init what they take."""
    return batch["images"], batch["labels"]


def augmentation(dataset: str) -> keras_cv.layers.Augmenter:
    """Layers that make a new batch of a batch; a mirrored photo shows the same thing, a mirrored digit does not."""
    flips = [] if dataset == "digits" else [keras_cv.layers.RandomFlip("horizontal", seed=1)]
    moves = keras_cv.layers.RandomTranslation(0.1, 0.1, fill_mode="nearest", seed=2)
    holes = keras_cv.layers.RandomCutout(0.25, 0.25, seed=3)
    return keras_cv.layers.Augmenter([*flips, moves, holes, keras_cv.layers.MixUp(alpha=0.2, seed=4)])


def network(data: tpi.datasets.Dataset) -> keras.Model:
    """Make the same untrained network every time, for labels that are shares."""
    model = tpi.models.resnet20((*data.input_shape[:2], 3), data.classes, seed=0)
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


options = arguments()
data = tpi.datasets.load(options.dataset, options.data_dir)
console = Console()
table = Table(title=f"ResNet20, {options.epochs} epochs, {data.description}", title_justify="left")
for name in ("network", "test accuracy", "zeros", "of weights"):
    table.add_column(name, justify="left" if name == "network" else "right")

plain, test = (part.map(lambda x, y: colored(x, y, data.classes)) for part in (data.train, data.test))
for sparsity in (None, options.sparsity):
    keras.utils.set_random_seed(0)
    model = network(data)
    if sparsity is not None:
        # Pruned on plain images: they come out the same in every pass, and so do the masks; they are also what the
        # network will be tested on. Augmentation is for the weights that are left.
        tpi.prune_at_init(model, plain.map(pairs), sparsity=sparsity, method="force")
    model.fit(plain.map(augmentation(data.name)).map(pairs), epochs=options.epochs, shuffle=False, verbose=0)
    accuracy = model.evaluate(test.map(pairs), verbose=0, return_dict=True)["accuracy"]
    # Counted in the trained model, without its masks.
    left = tpi.Masks.from_zeros(tpi.strip(model) if sparsity is not None else model)
    title = "dense" if sparsity is None else f"pruned {sparsity:.0%} by FORCE"
    table.add_row(title, f"{accuracy:.1%}", f"{left.size - left.kept:,}", f"{left.size:,}")
console.print(table)
