"""Are all layers equal? Trained networks, one layer of which forgets what it has learned (arXiv 1902.01996).

python examples/layer_robustness.py
python examples/layer_robustness.py --dataset mnist --data-dir ~/tensorflow_datasets
python examples/layer_robustness.py --dataset cifar10 --data-dir ~/tensorflow_datasets --model small_vgg --epochs 10

Trains a dense network and one that was pruned before training, and gives one layer at a time the weights that it had at
some epoch, or weights drawn anew. It writes heat maps, layers x epochs, and a table with all numbers. The defaults take
a minute on two cores, MNIST takes five.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import small_networks

import tfprune_init as tpi

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument(
    "--model", default="mlp", help="mlp (5 layers of 256 units), small_vgg, small_resnet, or of tpi.models"
)
parser.add_argument("--method", default="force", help="how the sparse network is pruned")
parser.add_argument("--sparsity", type=float, default=0.9)
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--learning-rate", type=float, default=0.05, help="of SGD with momentum 0.9, falling as a cosine")
parser.add_argument("--draws", type=int, default=3, help="how often each layer is drawn anew")
parser.add_argument("--with-normalization", action="store_true", help="a normalization goes with the layer before it")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output", type=Path, default=Path("layer_robustness"), help="folder of table and figures")
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir, standardize=True)
steps = options.epochs * int(data.train.cardinality())
epochs = [epoch for epoch in (0, 1, 2, 3, 5, 10, 20, 50) if epoch < options.epochs]


def build() -> keras.Model:
    """Make the untrained network, compiled."""
    if options.model == "mlp":
        keras.utils.set_random_seed(options.seed)
        hidden = [
            keras.layers.Dense(256, "relu", kernel_initializer="he_normal", name=f"dense{i}") for i in range(1, 6)
        ]
        flat, head = keras.layers.Flatten(name="flat"), keras.layers.Dense(data.classes, name="head")
        model = keras.Sequential([keras.Input(data.input_shape), flat, *hidden, head])
    else:
        builder = getattr(small_networks if options.model.startswith("small_") else tpi.models, options.model)
        model = builder(data.input_shape, data.classes, seed=options.seed)
    rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, metrics=["accuracy"])
    return model


def judge(sparsity: float) -> tpi.LayerRobustness:
    """Train a network, pruned before if the sparsity is not 0, and judge its layers."""
    model = build()
    if sparsity:
        tpi.prune_at_init(model, data.train, sparsity=sparsity, method=options.method, verbose=0)
    keep = tpi.KeepCheckpoints(epochs=epochs)
    model.fit(data.train, epochs=options.epochs, shuffle=False, verbose=0, callbacks=[keep])
    return tpi.measure_layer_robustness(
        model,
        data.test,
        keep.checkpoints,
        with_normalization=options.with_normalization,
        draws=options.draws,
        seed=options.seed,
    )


print(f"{options.model} on {data.description}; {options.epochs} epochs, seed {options.seed}", flush=True)
names = {"dense": 0.0, f"{options.method} at {100 * options.sparsity:g}%": options.sparsity}
results = {name: judge(sparsity) for name, sparsity in names.items()}
options.output.mkdir(parents=True, exist_ok=True)
lines = []
for name, result in results.items():
    print(f"\n{name}: {100 * result.error:.2f}% of the test images wrong; with one layer's weights replaced:")
    print(f"{'layer':>24}", *(f"{column:>9}" for column in result.columns))
    for layer in result.layers:
        errors = [result.get(layer, column).error for column in result.columns]
        print(f"{layer:>24}", *(f"{100 * error:>8.2f}%" for error in errors))
    header, *rows = result.to_csv().splitlines()
    lines += [f"network,seed,{header}"] * (not lines) + [f"{name},{options.seed},{row}" for row in rows]
(options.output / "layer_robustness.csv").write_text("\n".join(lines) + "\n")
for quantity in ("error", "normalized_l2", "linf"):
    tpi.plots.layer_robustness(results, quantity=quantity).savefig(options.output / f"{quantity}.png", dpi=150)
print(f"\nwrote {options.output / 'layer_robustness.csv'}, error.png, normalized_l2.png and linf.png")
