"""Train a Keras 3 model on many replicas: `fit`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from tfprune_init.checks import check_integer
from tfprune_init.distribute.callbacks import Callbacks
from tfprune_init.distribute.checkpoints import Checkpoint
from tfprune_init.distribute.sharding import ShardedEpochs
from tfprune_init.distribute.trainer import Trainer
from tfprune_init.distribute.validation import build, check_trainable, is_chief
from tfprune_init.errors import OptionError
from tfprune_init.progress import is_progress_shown, make_progress


def fit(
    model: Any,
    data: Any,
    *,
    epochs: int = 1,
    validation_data: Any = None,
    callbacks: Iterable[Any] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_steps: int | None = None,
    initial_epoch: int = 0,
    seed: int | None = None,
    verbose: str | int | bool = "auto",
) -> dict[str, list[Any]]:
    """Train a Keras 3 model on all replicas of its strategy, also where `model.fit` cannot.

    Every step takes the gradient of one whole batch. Its examples are divided among replicas as equally as possible,
    and the replicas' contributions are added up, so training equals that on one device up to the order of additions.
    Losses, metrics, sample weights, gradient clipping and accumulation, averaged weights (EMA), loss scaling,
    regularizers and steps_per_execution are those of `compile`. Masks are held after every step on every replica.

    Two things differ from one device. BatchNorm normalizes each replica's examples by their own statistics, unless it
    was made with synchronized=True; its moving statistics are the mean over replicas, weighted by examples. Dropout and
    other random layers draw different numbers on each replica.

    Args:
        model: A model built and compiled within `strategy.scope()`: OneDevice, Mirrored, MultiWorkerMirrored or TPU; or
            under no strategy.
        data: A tf.data.Dataset of whole batches, (x, y) or (x, y, sample_weight), the same on all workers; a dataset
            that the strategy distributed; a tuple of arrays, batched by 128 in a new order each epoch; or a function
            that returns one of these for the number of an epoch, counted from 0.
        epochs: The epoch to end with.
        validation_data: The same, evaluated at the end of each epoch; arrays are taken in their order.
        callbacks: Keras 3 callbacks. What writes files is called on one worker only.
        checkpoint: Folder, seen by all workers, to write to at the end of each epoch. If it holds a checkpoint,
            training goes on from there and ends with the same weights, bit for bit, as if it had not been
            interrupted. A dataset is read again from its beginning then, so that what it shuffles goes on where
            it stood; a function of the epoch needs no such reading.
        checkpoint_steps: Write within epochs too, every so many steps.
        initial_epoch: The epoch to begin with.
        seed: Seed of the order of arrays; 0 by default.
        verbose: 0 shows nothing, 1 a progress bar and a line an epoch, "auto" that on a terminal.

    Returns:
        What was logged at the end of each epoch: lists by name, "loss" and the metrics, "val_loss" and so on.

    Raises:
        ModelError: If the model is unbuilt, not compiled, of tf_keras, was not created in the strategy's scope, or
            has a training step or a loss that cannot be divided.
        OptionError: If an option is out of range or has no effect, or a callback needs the trainer of Keras.
        DataError: If the data is empty, unbatched, never ends, or cannot be divided.
        ReplicaError: If workers have different weights, batches or checkpoints.
        CheckpointError: If the checkpoint is damaged or of another training.

    Example:
        >>> import keras, numpy as np, tensorflow as tf, tfprune_init as tpi
        >>> with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        ...     model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
        ...     model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x, y = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 3
        >>> report = tpi.prune_at_init(model, (x, y), sparsity=0.75, method="snip")
        >>> history = tpi.distribute.fit(model, (x, y), epochs=2)
        >>> len(history["loss"]), int((model.layers[0].kernel.numpy() != 0).sum() <= report.masks.kept)
        (2, 1)
    """
    _check_counts(epochs=epochs, initial_epoch=initial_epoch, checkpoint_steps=checkpoint_steps)
    if checkpoint_steps is not None and checkpoint is None:
        raise OptionError(f"checkpoint_steps needs a folder, checkpoint=... Received: {checkpoint_steps=}.")
    check_trainable(model)
    strategy = model.distribute_strategy
    train = ShardedEpochs(data, strategy, shuffle=True, seed=seed)
    validation = None if validation_data is None else ShardedEpochs(validation_data, strategy)
    build(model, train.spec())
    chief = is_chief(strategy)
    hooks = Callbacks(
        callbacks, model, chief=chief, resumable=checkpoint is not None,
        epochs=epochs, steps=train.steps(initial_epoch), verbose=int(is_progress_shown(verbose)),
    )  # fmt: skip
    saved = None if checkpoint is None else Checkpoint(checkpoint, model, writes=chief)
    with make_progress(shown=chief and is_progress_shown(verbose)) as progress:
        loop = Trainer(model, train, validation, hooks, progress, saved, checkpoint_steps)
        return loop.run(initial_epoch, epochs)


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        least = 1 if name == "checkpoint_steps" else 0
        if value is not None:
            check_integer(name, value, least)
