"""What refitting the next layer is worth: accuracy right after channels went, and after a little training.

    python benchmarks/reconstruction.py out.json --seeds 3   # some minutes on 2 cores

LeNet-5 on the offline digits, trained for 5 epochs with Adam (1e-3), keeps 5 of 20 filters, 10 of 50 and 50 of 500
neurons, and trains for 2 more epochs. Rows that are in the file are not measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import keras

import tfprune_init as tpi

WIDTHS = {"conv1": 5, "conv2": 10, "dense": 50}
CASES = (
    ("l1", "none"),
    ("l1", "least_squares"),
    ("thinet", "scale"),
    ("thinet_forward", "scale"),
    ("thinet_forward", "least_squares"),
    ("lasso", "least_squares"),
)


def build(digits: Any, seed: int) -> Any:
    """Build the network, compiled."""
    model = tpi.models.lenet_5(digits.input_shape, digits.classes, seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def accuracy(model: Any, digits: Any) -> float:
    """Measure a network on the test data."""
    return float(model.evaluate(digits.test, verbose=0, return_dict=True)["accuracy"])


def measure(digits: Any, seed: int, done: list[dict[str, Any]], out: Path) -> None:
    """Add the rows of one seed that are not there yet."""
    keras.utils.set_random_seed(seed)
    dense = build(digits, seed)
    dense.fit(digits.train, epochs=5, shuffle=False, verbose=0)
    for method, refit in CASES:
        if any((row["method"], row["refit"], row["seed"]) == (method, refit, seed) for row in done):
            continue
        model = build(digits, seed)
        model.set_weights(dense.get_weights())
        data = None if (method, refit) == ("l1", "none") else digits.train
        tpi.reconstruct_channels(model, data, method=method, refit=refit, keep=WIDTHS, verbose=0).apply(model)
        row = {"method": method, "refit": refit, "seed": seed, "before": accuracy(dense, digits)}
        row["pruned"] = accuracy(model, digits)
        model.fit(digits.train, epochs=2, shuffle=False, verbose=0)
        row["trained"] = accuracy(model, digits)
        done.append(row)
        out.write_text(json.dumps(done, indent=1))
        print(row, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    for number in range(arguments.seeds):
        measure(tpi.datasets.load("digits"), number, rows, arguments.out)
