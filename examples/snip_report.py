"""The reproducibility report on SNIP: its tables and figures, measured here, each beside the claim that it tests.

python examples/snip_report.py
python examples/snip_report.py --dataset mnist --data-dir ~/tensorflow_datasets
python examples/snip_report.py --parts layers vgg

Networks, initialization and saliency are the report's: LeNet-300-100 and LeNet-5 with 6, 16, 120 and 84 units, Glorot
kernels, biases that are drawn and prunable, standardized images, gradients averaged over 12 batches of 1,000. Trainings
are short: the report's took 80 epochs. Published numbers are for MNIST, and shown beside measurements on it alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import tfprune_init as tpi
from tfprune_init.errors import NetworkCollapseError

# Pruned by SNIP in %, kernel and bias in turn, layer by layer.
LAYERS = {
    ("lenet_300_100", 0.50): [52.5, 41.3, 31.7, 15.0, 9.5, 0.0],
    ("lenet_300_100", 0.95): [96.7, 99.3, 83.2, 60.0, 43.8, 20.0],
    ("lenet_5", 0.50): [4.7, 0.0, 11.8, 0.0, 52.5, 21.7, 50.2, 21.4, 33.0, 0.0],
    ("lenet_5", 0.95): [29.3, 50.0, 72.3, 62.5, 97.5, 81.7, 92.4, 51.2, 69.9, 30.0],
}
# Error in % without pruning, at 50% and at 95%.
ERRORS = {"lenet_300_100": [1.30, 1.46, 2.16], "lenet_5": [0.65, 0.55, 1.33]}
# Destroyed ones of 10 LeNet-5, at the sparsities below.
SPARSITIES = (0.75, 0.85, 0.90, 0.93, 0.96)
DESTROYED = {
    "exact": [0, 0, 0, 0, 0],
    "snip": [0, 0, 0, 0, 0],
    "magnitude": [0, 0, 4, 10, 10],
    "hessian": [1, 0, 0, 0, 0],
    "random": [0, 0, 0, 0, 0],
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, mnist or fashion_mnist")
parser.add_argument("--data-dir", help="folder of prepared TFDS data (default: TFDS_DATA_DIR)")
parser.add_argument("--parts", nargs="+", default=["layers", "errors", "destroyed", "weights", "vgg"])
parser.add_argument("--seeds", type=int, default=3, help="initializations, for layers and errors")
parser.add_argument("--epochs", type=int, default=2, help="of the trainings for errors")
parser.add_argument("--networks", type=int, default=10, help="networks a cell, for destroyed")
parser.add_argument("--methods", nargs="+", default=list(DESTROYED), choices=list(DESTROYED), help="for destroyed")
parser.add_argument("--images", type=int, default=10_000, help="that networks see in training, for destroyed")
parser.add_argument("--judged-by", type=int, default=20, help="images that the exact saliency is measured on")
parser.add_argument("--output", type=Path, default=Path("snip_report"), help="folder of figures and numbers")
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir, batch_size=1000, standardize=True)
on_mnist = data.name == "mnist"
batches = min(12, -(-data.train_size // 1000))
images, labels = (np.concatenate(part) for part in zip(*data.train.as_numpy_iterator(), strict=True))
test_images, test_labels = (np.concatenate(part) for part in zip(*data.test.as_numpy_iterator(), strict=True))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
options.output.mkdir(parents=True, exist_ok=True)
console = Console()
logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each network is traced anew, which TensorFlow warns of


def build_lenet_300_100(seed: int) -> keras.Model:
    """Dense layers of 300, 100 and as many units as there are classes."""
    stack = [layers.Dense(units, "relu", name=f"full{i}") for i, units in enumerate((300, 100), 1)]
    outputs = layers.Dense(data.classes, name="full3")
    return draw(keras.Sequential([keras.Input(data.input_shape), layers.Flatten(), *stack, outputs]), seed)


def build_lenet_5(seed: int) -> keras.Model:
    """LeNet-5 of 1998 with ReLU and max pooling: 61,706 weights on 28x28 pixels."""
    second = "valid" if data.input_shape[0] >= 16 else "same"  # of smaller images nothing would be left
    stack = [
        *(layers.Conv2D(6, 5, padding="same", activation="relu", name="conv1"), layers.MaxPooling2D()),
        *(layers.Conv2D(16, 5, padding=second, activation="relu", name="conv2"), layers.MaxPooling2D()),
        *(layers.Flatten(), layers.Dense(120, "relu", name="full1"), layers.Dense(84, "relu", name="full2")),
    ]
    return draw(
        keras.Sequential([keras.Input(data.input_shape), *stack, layers.Dense(data.classes, name="full3")]), seed
    )


def build_vgg16(seed: int) -> keras.Model:
    """VGG-16 with batch normalization, biases, and one hidden dense layer of 512 units."""
    inputs = keras.Input(data.input_shape)
    x = inputs
    for block, widths in enumerate(((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3), 1):
        for conv, filters in enumerate(widths, 1):
            x = layers.Conv2D(filters, 3, padding="same", name=f"block{block}_conv{conv}")(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.MaxPooling2D(2, padding="same")(x)
    x = layers.Dense(512, "relu", name="full1")(layers.GlobalAveragePooling2D()(x))
    return draw(keras.Model(inputs, layers.Dense(data.classes, name="full2")(x)), seed)


def draw(model: keras.Model, seed: int) -> keras.Model:
    """Draw kernels as Glorot and biases between -1/sqrt(fan_in) and 1/sqrt(fan_in), both uniform."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            *places, inputs, outputs = layer.kernel.shape
            widest = math.sqrt(6 / (math.prod(places) * (inputs + outputs)))
            layer.kernel.assign(rng.uniform(-widest, widest, layer.kernel.shape))
            widest = 1 / math.sqrt(math.prod(places) * inputs)
            layer.bias.assign(rng.uniform(-widest, widest, layer.bias.shape))
    return model


BUILD: dict[str, Callable[[int], keras.Model]] = {"lenet_300_100": build_lenet_300_100, "lenet_5": build_lenet_5}


def make_table(title: str, first: str, *columns: str) -> Table:
    """Return an empty table."""
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def find_by_snip(model: keras.Model, sparsity: float) -> tpi.Masks:
    """Return SNIP's masks, biases among them."""
    return tpi.find_masks(
        model, data.train, sparsity=sparsity, method="snip", loss=loss, batches=batches, prune_bias=True
    )


def show_layers() -> Any:
    """Table: what SNIP prunes of each layer. Claim: the seed hardly matters."""
    numbers = []
    for (name, sparsity), published in LAYERS.items():
        masks = [find_by_snip(BUILD[name](seed), sparsity) for seed in range(options.seeds)]
        table = make_table(f"{name} at {sparsity:.0%}", "variable", "weights", "pruned %", "spread", "report %")
        away = []
        for path, given in zip(masks[0], published, strict=True):
            pruned = [100 * (1 - float(one[path].mean())) for one in masks]
            spread = f"{min(pruned):.1f} to {max(pruned):.1f}"
            told = f"{given:.1f}" if on_mnist else "-"
            table.add_row(path, f"{masks[0][path].size:,}", f"{np.mean(pruned):.1f}", spread, told)
            away += [abs(np.mean(pruned) - given)] if path.endswith("kernel") else []
            about = {"network": name, "sparsity": sparsity, "variable": path, "weights": masks[0][path].size}
            numbers.append({**about, "pruned_percent": pruned})
        console.print(table)
        if on_mnist:
            console.print(f"Kernels are {np.mean(away):.1f} points from the report on average.")
    return numbers


def show_errors() -> Any:
    """Table: error after training. Claim: hardly more at 50%, at 95% about twice as many."""
    numbers = []
    title = f"error %, {options.epochs} epochs, {options.seeds} networks"
    table = make_table(title, "network", "dense", "50%", "95%", "report: dense", "50%", "95%")
    for name, published in ERRORS.items():
        results = tpi.compare(
            BUILD[name],
            tpi.datasets.load(options.dataset, options.data_dir, standardize=True),
            methods=[{"method": "snip", "prune_bias": True, "batches": -(-1000 * batches // 128)}],
            sparsities=[0.5, 0.95],
            seeds=options.seeds,
            epochs=options.epochs,
            optimizer=lambda: keras.optimizers.Adam(1.2e-3),
            out=options.output / name,
        )
        errors = [[100 * (1 - (run.accuracy or 0)) for run in results if run.sparsity == s] for s in (0.0, 0.5, 0.95)]
        told = [f"{error:.2f}" if on_mnist else "-" for error in published]
        table.add_row(name, *(f"{np.mean(error):.2f}" for error in errors), *told)
        numbers.append({"network": name, "error_percent": errors})
    console.print(table)
    return numbers


def measure_error(model: keras.Model, masks: tpi.Masks | None) -> float:
    """Return the error in % of one network after training under masks."""
    if masks is not None:
        tpi.attach(model, masks)
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.Adam(1.2e-3), loss, metrics=["accuracy"])
    seen = -(-options.images // len(labels))
    model.fit(images[: options.images], labels[: options.images], batch_size=64, epochs=seen, verbose=0)
    logits = model.predict(test_images, batch_size=1000, verbose=0)
    return 100 * float(np.mean(logits.argmax(-1) != test_labels))


def keep_largest(scores: dict[str, np.ndarray], sparsity: float) -> tpi.Masks:
    """Return masks of the largest scores: one measurement serves all sparsities."""
    flat = np.concatenate([score.ravel() for score in scores.values()])
    kept = np.zeros(flat.size, bool)
    kept[np.argsort(-flat, kind="stable")[: int((1 - sparsity) * flat.size + 1e-6)]] = True
    ends = np.cumsum([score.size for score in scores.values()])
    return tpi.Masks(
        {p: kept[end - s.size : end].reshape(s.shape) for (p, s), end in zip(scores.items(), ends, strict=True)}
    )


def show_destroyed() -> Any:
    """Table: LeNet-5 destroyed by pruning. Claims: magnitude destroys networks, random and SNIP do not."""
    guess = np.bincount(test_labels).max() / len(test_labels)
    needed = guess + 5 * math.sqrt(guess * (1 - guess) / len(test_labels))
    errors: dict[str, list[list[float]]] = {method: [[] for _ in SPARSITIES] for method in options.methods}
    dense = []
    for seed in range(options.networks):
        dense.append(measure_error(build_lenet_5(seed), None))
        for method, cells in errors.items():
            model = build_lenet_5(seed)
            judged = (images[: options.judged_by], labels[: options.judged_by]) if method == "exact" else data.train
            own: dict[str, Any] = {"batches": batches} if method in ("snip", "hessian") else {}
            own |= {} if method == "magnitude" or method == "random" else {"loss": loss}
            own |= {"seed": seed} if method in ("random", "hessian") else {}
            scores = tpi.score(model, judged, method, prune_bias=True, verbose=0, **own)
            for cell, sparsity in zip(cells, SPARSITIES, strict=True):
                cell.append(measure_error(build_lenet_5(seed), keep_largest(scores, sparsity)))
            keras.backend.clear_session()
        console.print(f"{seed + 1} of {options.networks} networks a cell", highlight=False)
    title = f"destroyed LeNet-5 of {options.networks}{' (report: of 10)' * on_mnist}, and mean error % of all"
    table = make_table(title, "method", *(f"{s:.0%}" for s in SPARSITIES))
    for method, cells in errors.items():
        lost = [sum(1 - error / 100 < needed for error in cell) for cell in cells]
        told = [f" ({count})" if on_mnist else "" for count in DESTROYED[method]]
        shown = zip(lost, told, cells, strict=True)
        table.add_row(method, *(f"{n}{given}\n{np.mean(cell):.1f}" for n, given, cell in shown))
    console.print(table)
    console.print(f"Without pruning: {np.mean(dense):.1f}. Destroyed: {100 * needed:.1f} % right, or less.")
    return {"dense": dense, "error_percent": errors, "sparsities": SPARSITIES, "right_needed": needed}


def draw_weights() -> Any:
    """Figures: which weights of LeNet-300-100 SNIP keeps at 95%, and what that leaves to pixels and units."""
    model = build_lenet_300_100(0)
    masks = find_by_snip(model, 0.95)
    kernels = [path for path in masks if path.endswith("kernel")]
    figure = tpi.plots.weight_histograms(model, masks, paths=kernels)
    save(figure, "histograms")
    save(tpi.plots.connections_per_neuron(model, masks, paths=kernels), "neurons")
    first = masks["full1/kernel"]
    pixels = first.sum(1).reshape(data.input_shape)[..., 0]
    figure = Figure((4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(np.ma.masked_equal(pixels, 0), cmap="viridis")
    axes.set_facecolor("#dddddd")
    axes.set_title(f"Connections of each pixel\ngray: none ({np.count_nonzero(pixels == 0)} of {pixels.size})")
    figure.colorbar(shown, ax=axes, label=f"kept connections, of {first.shape[1]}")
    save(figure, "pixels")
    magnitudes = abs(model.get_layer("full1").kernel.numpy())
    bounds = np.quantile(magnitudes, (0.2, 0.8))
    center, rim = 100 * first[magnitudes < bounds[0]].mean(), 100 * first[magnitudes > bounds[1]].mean()
    console.print(
        f"full1/kernel: SNIP keeps {center:.2f} % of the fifth of weights nearest to 0, {rim:.2f} % of the fifth "
        f"farthest from it. {np.count_nonzero(pixels == 0)} of {pixels.size} pixels have no connection, and "
        f"{np.count_nonzero(first.sum(0) == 0)} of {first.shape[1]} units. A unit has {first.sum(0).mean():.1f} "
        f"± {first.sum(0).std():.1f} connections, a pixel {pixels.mean():.1f} ± {pixels.std():.1f}."
    )
    return {"kept_near_0_percent": center, "kept_far_percent": rim, "pixels": pixels.tolist()}


def draw_vgg() -> Any:
    """Figures and table: VGG-16 at 99%. Claims: nearly no bias is left, and the largest kernels lose 99.6 to 99.9%."""
    model = build_vgg16(0)
    small = data.train.unbatch().batch(100)
    found = {}
    for statistics, training in (("batch", True), ("moving", False)):
        try:
            found[statistics] = tpi.find_masks(
                model, small, sparsity=0.99, method="snip", loss=loss, prune_bias=True, training=training
            )
        except NetworkCollapseError as error:  # it carries what was found
            found[statistics] = error.masks
            console.print(f"With {statistics} statistics VGG-16 collapses; its masks are shown all the same.")
    table = make_table("VGG-16 at 99%, pruned %", "variable", "weights", *(f"{name} statistics" for name in found))
    numbers = []
    for path in found["moving"]:
        lost = {name: 100 * (1 - float(masks[path].mean())) for name, masks in found.items()}
        size = found["moving"][path].size
        table.add_row(path, f"{size:,}", *(f"{share:.2f}" for share in lost.values()))
        numbers.append({"variable": path, "weights": size, "pruned_percent": lost})
    console.print(table)
    for layer in ("block1_conv2", "block4_conv2", "block5_conv3"):
        save(tpi.plots.kernel_heat_map(found["moving"], f"{layer}/kernel", model=model), f"vgg16_{layer}")
    return numbers


def save(figure: Figure, name: str) -> None:
    """Write a figure."""
    figure.savefig(options.output / f"{name}.png", dpi=150)
    console.print(f"wrote {options.output / name}.png", highlight=False)


PARTS = {
    "layers": show_layers,
    "errors": show_errors,
    "destroyed": show_destroyed,
    "weights": draw_weights,
    "vgg": draw_vgg,
}
unknown = [part for part in options.parts if part not in PARTS]
if unknown:
    parser.error(f"--parts are some of {', '.join(PARTS)}. Received: {', '.join(unknown)}")
console.print(data.description, highlight=False, soft_wrap=True)
if not on_mnist:
    console.print("The report's numbers are for MNIST, so none are shown. Try --dataset mnist.", highlight=False)
numbers = {"data": data.description}
for part in options.parts:
    numbers[part] = PARTS[part]()
    (options.output / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
