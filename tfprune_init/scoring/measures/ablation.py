"""Actual change of the loss when single weights are set to zero, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.batches import Batch
from tfprune_init.backend.overrides import compute_in_float64, override_variables
from tfprune_init.errors import DataError, ModelError, PruningError, ScoreError
from tfprune_init.graph.variables import ModelVariable, list_variables
from tfprune_init.progress import make_progress
from tfprune_init.scoring.masked_model import Arrays, MaskedModel, label_errors

# Copies of a variable that are held at once: at most so many, and so many bytes.
_MOST = 256
_MEMORY = 2**28


def measure_loss_changes(network: MaskedModel, chosen: Mapping[str, np.ndarray]) -> Arrays:
    """Measure the loss without a weight minus the loss with it, averaged over batches by examples.

    Computed in float64: in float32 the differences are lost in the rounding of the losses.

    Args:
        network: An entered network.
        chosen: Flat positions of the weights to look at, by path.

    Returns:
        The differences, by path, in the order of the positions.
    """
    _refuse_fresh_dropout(network)
    network.write_masked_weights()
    batches = network.take(fresh=True)
    examples = sum(batch.examples for batch in batches)
    changes = {path: np.zeros(len(positions)) for path, positions in chosen.items()}
    with make_progress(shown=network.show_progress) as progress:
        task = progress.add_task("weights left out", total=sum(map(len, chosen.values())) * len(batches))
        for batch in batches:
            share = (1 if network.loss.sums_examples else batch.examples) / examples
            whole = _losses(network, batch, None, np.zeros(1, np.int64))[0]
            if not np.isfinite(whole):
                raise DataError(f"The loss of batch {batch.number} is {whole}. Check that the labels suit the loss.")
            for target, places in _chunks(network, chosen):
                losses = _losses(network, batch, target.path, chosen[target.path][places])
                changes[target.path][places] += (losses - whole) * share
                progress.advance(task, losses.size)
    return changes


def _chunks(network: MaskedModel, chosen: Mapping[str, np.ndarray]) -> Iterator[tuple[ModelVariable, slice]]:
    for target in network.targets:
        many = len(chosen.get(target.path, ()))
        at_once = _at_once(target)
        yield from ((target, slice(first, min(first + at_once, many))) for first in range(0, many, at_once))


def _at_once(target: ModelVariable) -> int:
    return max(1, min(_MOST, _MEMORY // (8 * target.size)))


def _losses(network: MaskedModel, batch: Batch, path: str | None, positions: np.ndarray) -> np.ndarray:
    target = next((t for t in network.targets if t.path == path), None)
    # Always the same number of positions, so that there is one trace.
    padded = np.resize(positions, _at_once(target)) if target else positions
    measure = network.trace(_losses_without, path)
    try:
        losses = measure(batch.x, batch.y, batch.sample_weight, tf.constant(padded))
    except PruningError:
        raise
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        with label_errors(batch, network.loss.advice):
            network.compute_loss(batch.x, batch.y, batch.sample_weight)
        raise ScoreError(
            f"Model {network.model.name!r} could not be computed in float64, as 'exact' does: it probably makes "
            f"tensors of a fixed dtype by itself. Let its layers cast them to the dtype of their inputs. Cause: {error}"
        ) from error
    return np.asarray(losses)[: positions.size]


def _losses_without(
    network: MaskedModel, x: Any, y: Any, sample_weight: Any, positions: tf.Tensor, path: str | None
) -> tf.Tensor:
    x, y, sample_weight = tf.nest.map_structure(_to_float64, (x, y, sample_weight))
    floats = [target for target in list_variables(network.model) if target.tensor.dtype.is_floating]
    whole = {target.path: tf.cast(target.tensor, tf.float64) for target in floats}

    def loss_without(position: tf.Tensor) -> tf.Tensor:
        values = dict(whole)
        if path is not None:
            places = tf.reshape(tf.range(tf.size(whole[path], tf.int64)), whole[path].shape)
            values[path] = tf.where(places == position, tf.zeros((), tf.float64), whole[path])
        with (
            compute_in_float64(network.model),
            override_variables(network.model, list_variables(network.model), values),
            network.loss.in_float64(),
        ):
            return tf.cast(network.compute_loss(x, y, sample_weight), tf.float64)

    return tf.vectorized_map(loss_without, positions)


def _to_float64(leaf: Any) -> Any:
    return tf.cast(leaf, tf.float64) if leaf is not None and leaf.dtype.is_floating else leaf


def _refuse_fresh_dropout(network: MaskedModel) -> None:
    layers = compat.walk_layers(network.model)
    random = [layer.name for layer in layers if any(w in type(layer).__name__ for w in ("Dropout", "Noise"))]
    if network.training and random and not compat.is_keras3(network.model):
        raise ModelError(
            f"tf_keras draws new noise in {', '.join(random)} for each weight that is left out, so losses cannot be "
            "compared. Use training=False, or Keras 3. Received: training=True."
        )
