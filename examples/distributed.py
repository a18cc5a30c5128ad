"""Prune a network before it is trained, and train it on many replicas.

python examples/distributed.py                            # two logical devices of this CPU
python examples/distributed.py --strategy multiworker     # two worker processes on this machine
python examples/distributed.py --strategy tpu             # where there is a TPU
python examples/distributed.py --strategy none            # one device, for comparison
python examples/distributed.py --dataset mnist --data-dir ~/tensorflow_datasets

With --checkpoint FOLDER, run the same command again after an interruption: training goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfprune_init as tpi

WORKERS = 2


def arguments() -> argparse.Namespace:
    """Read what was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", choices=("mirrored", "multiworker", "tpu", "none"), default="mirrored")
    parser.add_argument("--dataset", default="digits", help="digits, or a gray image data set of TFDS such as mnist")
    parser.add_argument("--data-dir", help="folder of prepared TFDS data")
    parser.add_argument("--method", default="snip", help="one of tpi.list_methods()")
    parser.add_argument("--sparsity", type=float, default=0.9, help="share of the weights to prune")
    parser.add_argument("--epochs", type=int, help="default: 20 for digits, else 3")
    parser.add_argument("--checkpoint", help="folder to write to after each epoch, and to go on from")
    parser.add_argument(
        "--tpu", default="", help="name or address of the TPU, where TensorFlow does not find it itself"
    )
    return parser.parse_args()


def start_workers() -> int:
    """Start this program once for each worker of a cluster on this machine; the first one's output is shown."""
    sockets = [socket.socket() for _ in range(WORKERS)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()

    def start(index: int) -> subprocess.Popen[bytes]:
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        return subprocess.Popen(
            [sys.executable, *sys.argv],
            env={**os.environ, "TF_CONFIG": json.dumps(config)},
            stdout=None if index == 0 else subprocess.DEVNULL,
        )

    processes = [start(index) for index in range(WORKERS)]
    try:
        return max(process.wait() for process in processes)
    finally:
        for process in processes:
            process.kill()


def strategy_of(options: argparse.Namespace) -> tf.distribute.Strategy:
    """Return the strategy asked for; end the program where there is no TPU."""
    if options.strategy == "mirrored":
        devices = tf.config.list_logical_devices("GPU")
        names = [device.name for device in devices] if len(devices) > 1 else ["CPU:0", "CPU:1"]
        return tf.distribute.MirroredStrategy(names)
    if options.strategy == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if options.strategy == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=options.tpu)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, tf.errors.OpError) as error:
            reason = str(error).strip().splitlines()[0]
            sys.exit(f"No TPU was found: {reason} Give its name with --tpu, or take --strategy mirrored.")
        return tf.distribute.TPUStrategy(resolver)
    return tf.distribute.get_strategy()


def zeros_on_every_replica(model: Any, masks: tpi.Masks) -> bool:
    """Whether every copy of every pruned weight is exactly zero."""
    held = [(target.tensor, masks[path]) for path, target in masks.check(model).items()]
    copies = [(copy, mask) for weight, mask in held for copy in getattr(weight, "values", [weight])]
    return not any(np.count_nonzero(copy.numpy()[~mask]) for copy, mask in copies)


def main(options: argparse.Namespace) -> None:
    """Prune and train, as one worker or the only one."""
    if options.strategy == "mirrored" and not tf.config.list_physical_devices("GPU"):
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    strategy = strategy_of(options)
    # The same seed on all workers: they must build the same model and find the same masks.
    keras.utils.set_random_seed(0)
    data = tpi.datasets.load(options.dataset, options.data_dir)

    with strategy.scope():
        model = tpi.models.lenet_300_100(data.input_shape, data.classes, seed=0)
        model.compile(
            optimizer=keras.optimizers.Adam(2e-3),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    report = tpi.prune_at_init(model, data.train, sparsity=options.sparsity, method=options.method, seed=0)
    print(f"{data.description}\n{strategy.num_replicas_in_sync} replica(s), masks {report.masks.fingerprint[:12]}")

    history = tpi.distribute.fit(
        model,
        data.train,
        epochs=options.epochs or (20 if data.name == "digits" else 3),
        validation_data=data.test,
        checkpoint=options.checkpoint,
    )
    print(f"loss {history['loss'][0]:.4f} -> {history['loss'][-1]:.4f}")
    print(f"test accuracy with {report.sparsity:.0%} of the weights gone: {history['val_accuracy'][-1]:.1%}")
    print(f"pruned weights exactly zero on every replica: {zeros_on_every_replica(model, report.masks)}")


if __name__ == "__main__":
    options = arguments()
    if options.strategy == "multiworker" and "TF_CONFIG" not in os.environ:
        sys.exit(start_workers())
    main(options)
