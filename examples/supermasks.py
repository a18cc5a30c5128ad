"""Supermasks on LeNet-300-100: how accurate a network is whose weights were never trained, by how its mask was found.

python examples/supermasks.py
python examples/supermasks.py --dataset mnist --data-dir ~/tensorflow_datasets --seeds 1

Masks of every criterion of Zhou et al. come from one training, and lie on the initial weights or on signed constants;
each is shown at the density where it is most accurate on the test data, as in the paper. Learned are Bernoulli
supermasks, with and without rescaling, and edge-popup. Minutes on two cores with MNIST.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.progress import track

import tfprune_init as tpi
from tfprune_init.scoring.training_criteria import TRAINING_CRITERIA

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--densities", type=float, nargs="+", default=[0.8, 0.6, 0.4, 0.2], help="shares to keep")
parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
parser.add_argument("--epochs", type=int, help="of training, and of learning a mask; default: 20 for digits, else 5")
parser.add_argument("--learning-rate", type=float, default=100.0, help="of Bernoulli supermasks")
parser.add_argument("--popup-rate", type=float, default=0.1, help="learning rate of edge-popup")
parser.add_argument("--output", type=Path, default=Path("supermasks"), help="folder of the table")
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir)
epochs = options.epochs or (20 if data.name == "digits" else 5)
WEIGHTS = ("initial", "signed_constant")


def build(seed: int) -> keras.Model:
    """Make the untrained network, compiled, with Glorot's normal initial weights as in the paper."""
    layers = [keras.Input(data.input_shape), keras.layers.Flatten()]
    for number, (units, activation) in enumerate(((300, "relu"), (100, "relu"), (data.classes, None))):
        initializer = keras.initializers.GlorotNormal(seed=3 * seed + number)
        layers.append(keras.layers.Dense(units, activation, kernel_initializer=initializer, name=f"dense{number}"))
    model = keras.Sequential(layers, name="lenet_300_100")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1.2e-3), loss, metrics=["accuracy"])
    return model


def evaluate(model: keras.Model) -> float:
    """Return the accuracy on the test data."""
    return float(model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"])


def find_heuristic_masks(seed: int) -> list[dict[str, Any]]:
    """Measure the masks of every criterion, from one training, on weights that are not trained."""
    model = build(seed)
    initial = tpi.copy_weights(model)
    found = [{"mask": "none, untrained", "weights": "initial", "density": 1.0, "accuracy": evaluate(model)}]
    model.fit(data.train, epochs=epochs, shuffle=False, verbose=0)
    final = tpi.copy_weights(model)
    found.append({"mask": "none, trained", "weights": "trained", "density": 1.0, "accuracy": evaluate(model)})
    model = build(seed)  # biases are 0 again
    for name, criterion in TRAINING_CRITERIA.items():
        for density in [None] if criterion.decides else options.densities:
            masks = tpi.find_masks_from_training(
                model, initial, final, criterion=name, sparsity=None if density is None else round(1 - density, 6)
            )
            tpi.attach(model, masks)
            for weights in WEIGHTS:
                constant = weights == "signed_constant"
                kind, deviation = ("constant_same_sign", "weights") if constant else ("unchanged", None)
                tpi.reinitialize(model, kind, weights=initial, deviation_of=deviation)
                row = {"mask": name, "weights": weights, "density": masks.density, "accuracy": evaluate(model)}
                found.append(row)
            tpi.strip(model)
    return found


def learn_masks(seed: int) -> list[dict[str, Any]]:
    """Learn masks over weights that are not trained, and measure them."""
    found = []
    for weights in WEIGHTS:
        for rescale in (False, True):
            learned = tpi.run(
                "supermask",
                build,
                data,
                epochs=epochs,
                seed=seed,
                weights=weights,
                rescale=rescale,
                learning_rate=options.learning_rate,
                verbose=0,
            )
            for row in learned.history:
                how = {"sampled": "drawn", "expected": "expected", "end": "p >= 0.5"}[row["event"]]
                name = f"Bernoulli{', rescaled' if rescale else ''}: {how}"
                found.append({"mask": name, "weights": weights, **{key: row[key] for key in ("density", "accuracy")}})
        for density in options.densities:
            learned = tpi.run(
                "edge_popup",
                build,
                data,
                sparsity=round(1 - density, 6),
                epochs=epochs,
                seed=seed,
                weights=weights,
                learning_rate=options.popup_rate,
                verbose=0,
            )
            accuracy = learned.history[-1]["accuracy"]
            found.append(
                {"mask": "edge-popup", "weights": weights, "density": learned.masks.density, "accuracy": accuracy}
            )
    return found


rows: list[dict[str, Any]] = []
for seed in track(range(options.seeds), "seeds"):
    rows += [{"seed": seed, **row} for row in find_heuristic_masks(seed) + learn_masks(seed)]

options.output.mkdir(parents=True, exist_ok=True)
with (options.output / "supermasks.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)

print(
    f"LeNet-300-100 on {data.description}; Glorot normal, {epochs} epochs of training (Adam 1.2e-3) and of learning "
    f"masks (SGD, momentum 0.9; learning rate {options.learning_rate:g} for Bernoulli; {options.popup_rate:g}, falling "
    f"along a cosine, and weight decay 1e-4 for edge-popup), {options.seeds} seed(s)"
)
print(f"{'mask':>32} {'weights':>16} {'kept':>7} {'accuracy':>15}")
for mask, weights in dict.fromkeys((row["mask"], row["weights"]) for row in rows):
    best: tuple[float, float, float] | None = None
    own = [row for row in rows if (row["mask"], row["weights"]) == (mask, weights)]
    places: dict[int, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):  # the densities of a mask come in the same order for each seed
        for place, row in enumerate(row for row in own if row["seed"] == seed):
            places.setdefault(place, []).append(row)
    for same in places.values():
        accuracies = [100 * row["accuracy"] for row in same]
        mean = float(np.mean(accuracies)), float(np.std(accuracies)), float(np.mean([row["density"] for row in same]))
        best = mean if best is None or mean > best else best
    assert best is not None
    print(f"{mask:>32} {weights:>16} {best[2]:>7.1%} {best[0]:>8.2f} ± {best[1]:.2f}")
print(f"wrote {options.output / 'supermasks.csv'}")
