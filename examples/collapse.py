"""Which methods still find a network that passes signals, and where they collapse. Nothing is trained.

python examples/collapse.py
python examples/collapse.py --model vgg19 --dataset cifar10 --data-dir ~/tensorflow_datasets --steps 20
"""

from __future__ import annotations

import argparse

import keras
from rich.console import Console
from rich.table import Table

import tfprune_init as tpi
from tfprune_init.errors import NetworkCollapseError

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="lenet_300_100", help="one of tfprune_init.models")
parser.add_argument("--dataset", default="digits", help="digits, or an image data set of TFDS")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--steps", type=int, default=60, help="steps of the iterative methods")
parser.add_argument("--sparsities", type=float, nargs="+", default=[0.95, 0.98, 0.99, 0.995, 0.999])
options = parser.parse_args()

data = tpi.datasets.load(options.dataset, options.data_dir)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
print(f"Layers emptied: {options.model} on {data.description}")
table = Table()
for name in ("sparsity", "snip", "iter_snip", "force"):
    table.add_column(name, justify="right")

for sparsity in options.sparsities:
    cells = []
    for method in ("snip", "iter_snip", "force"):
        model = getattr(tpi.models, options.model)(data.input_shape, data.classes, seed=0)
        steps = None if method == "snip" else options.steps
        try:
            report = tpi.prune_at_init(model, data.train, sparsity=sparsity, method=method, loss=loss, steps=steps)
            cells.append(f"{len(report.empty)} of {len(report.layers)}")
        except NetworkCollapseError:
            cells.append("collapsed")
    table.add_row(f"{100 * sparsity:g}%", *cells)
Console().print(table)
