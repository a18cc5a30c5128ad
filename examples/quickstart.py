"""Prune a network before it is trained, train it, export it.

python examples/quickstart.py
python examples/quickstart.py --dataset mnist --data-dir ~/tensorflow_datasets
"""

from __future__ import annotations

import argparse

import keras

import tfprune_init as tpi

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, or a gray image data set of TFDS such as mnist")
parser.add_argument("--data-dir", help="folder of prepared TFDS data")
parser.add_argument("--epochs", type=int, help="default: 40 for digits, else 3")
parser.add_argument("--output", default="lenet_5.tflite", help="file to write")
options = parser.parse_args()

keras.utils.set_random_seed(0)
data = tpi.datasets.load(options.dataset, options.data_dir)
print(data.description)

model = tpi.models.lenet_5(data.input_shape, data.classes, seed=0)
model.compile(
    optimizer=keras.optimizers.Adam(2e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)

# 95% of the weights become zero here, and stay zero through everything that follows.
report = tpi.prune_at_init(model, data.train, sparsity=0.95, method="force")
report.print()

epochs = options.epochs or (40 if data.name == "digits" else 3)
model.fit(data.train, epochs=epochs, shuffle=False, verbose=2)
accuracy = model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
print(f"test accuracy with {report.sparsity:.0%} of the weights gone: {accuracy:.1%} ({data.description})")

# A plain Keras model again; refused if a single pruned weight had come back.
model = tpi.strip(model)
edge = tpi.export_tflite(model, options.output, quantize="int8", representative_data=data.train, verify=data.test)
edge.print()
