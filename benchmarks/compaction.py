"""What compaction removes of networks pruned before training, and what that is worth in training and in TFLite.

    python benchmarks/compaction.py out.json --data-dir DIR           # all models and sparsities; an hour on 2 cores
    python benchmarks/compaction.py out.json lenet_5 --data-dir DIR   # some models

DIR holds TFDS's mnist and cifar10, prepared. Masks are found by FORCE, untrained. Training steps are `train_on_batch`
with masks attached, latencies those of tf.lite with one thread and one image; larger and smaller model in turn, as
medians. Each row is written to the file as soon as it is there; rows that are in it already are not measured again.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from engine import LOSS, interleaved, machine

import tfprune_init as tpi
from tfprune_init.compaction import compact
from tfprune_init.errors import NetworkCollapseError

SPARSITIES = (0.9, 0.95, 0.99, 0.995)
STEPS = 20

# Data; images in a batch, for the masks and in training; rounds of training steps and of latencies.
MODELS = {
    "lenet_5": ("mnist", 128, 31, 201),
    "vgg19": ("cifar10", 128, 5, 31),
    "resnet20": ("cifar10", 128, 11, 101),
    "resnet50": ("cifar10", 16, 5, 31),
}


def row(name: str, sparsity: float, data_dir: str | None) -> dict[str, Any]:
    """One model at one sparsity."""
    data, batch, rounds, latencies = MODELS[name]
    train = tpi.datasets.load(data, data_dir, batch_size=batch).train
    model = getattr(tpi.models, name)(seed=0)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss=LOSS)
    x, y = (np.asarray(part) for part in next(iter(train)))
    about = {"model": name, "sparsity": sparsity, "data": data, "method": "force", "steps": STEPS, "batch": batch}
    try:
        masks = tpi.find_masks(model, train, sparsity=sparsity, method="force", steps=STEPS, verbose=0)
    except NetworkCollapseError as error:
        return {**about, "collapsed": str(error)}
    tpi.attach(model, masks)
    started = time.perf_counter()
    done = compact(model)
    seconds = time.perf_counter() - started
    before, after = (np.asarray(one(x[:8], training=False)) for one in (model, done.model))
    files = {"large": tflite(model), "small": tflite(done.model)}
    runs = {key: latency(file, x[:1]) for key, file in files.items()}
    in_tflite = interleaved(runs, latencies)
    steps = {
        "large": lambda: model.train_on_batch(x, y),
        "small": lambda: done.model.train_on_batch(x, y),
    }
    in_training = interleaved(steps, rounds)
    return {
        **about,
        "kept_weights": masks.kept,
        "parameters": [done.before.parameters, done.after.parameters],
        "multiply_adds": [done.before.multiply_adds, done.after.multiply_adds],
        "channels": [sum(one.before for one in done.layers), sum(one.after for one in done.layers)],
        "dead_that_stay": sum(sum(one.dead.values()) for one in done.layers),
        "largest_difference": float(np.abs(before - after).max()),
        "largest_output": float(np.abs(before).max()),
        "compaction_seconds": seconds,
        "training_step_seconds": in_training,
        "tflite_seconds": in_tflite,
        "tflite_bytes": {key: len(file) for key, file in files.items()},
        "ratios": {
            "parameters": done.before.parameters / done.after.parameters,
            "multiply_adds": done.before.multiply_adds / done.after.multiply_adds,
            "training_step": in_training["large"] / in_training["small"],
            "tflite": in_tflite["large"] / in_tflite["small"],
        },
    }


def tflite(model: Any) -> bytes:
    """Convert the model in float32, as the converter does by itself."""
    return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def latency(file: bytes, x: np.ndarray) -> Any:
    """One run of a file on one image, in one thread."""
    interpreter = tf.lite.Interpreter(model_content=file, num_threads=1)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, x)
    return interpreter.invoke


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file; rows that are in it are kept")
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], help="which ones; all by default")
    parser.add_argument("--data-dir", help="folder of prepared TFDS data; TFDS's own by default")
    parser.add_argument("--sparsity", type=float, nargs="+", default=SPARSITIES, help="which ones; all by default")
    arguments = parser.parse_args()
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"machine": machine(), "rows": []}
    there = {(one["model"], one["sparsity"]) for one in result["rows"]}
    for name in arguments.models or MODELS:
        for sparsity in arguments.sparsity:
            if (name, sparsity) not in there:
                result["rows"].append(row(name, sparsity, arguments.data_dir))
                arguments.out.write_text(json.dumps(result, indent=2) + "\n")
                print(json.dumps(result["rows"][-1].get("ratios", "collapsed")), name, sparsity, flush=True)
                keras.backend.clear_session()
                gc.collect()


if __name__ == "__main__":
    main()
