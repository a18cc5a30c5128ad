"""The smaller model against the one it came from: many networks, every number, every dead channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from compaction_networks import MORE_IS_DEAD, NETWORKS, assert_same, inputs_for, made
from model_kinds import KERAS

from tfprune_init.backend.compat import walk_layers
from tfprune_init.backend.overrides import intercept_calls
from tfprune_init.compaction import Compaction, compact
from tfprune_init.graph.variables import list_variables

PACKAGES = list(KERAS)


def live_channels(model: Any, paths: Any) -> dict[str, np.ndarray]:
    """Of each layer: which channels differ between inputs where outputs answer to them, by running the model."""
    tensors: dict[str, list[tf.Tensor]] = {}
    layers = {id(target.layer): target.path.rpartition("/")[0] for target in list_variables(model)}
    leaves = [layer for layer in walk_layers(model) if layers.get(id(layer)) in paths]

    def watched(layer: Any, call: Any, args: Any, kwargs: Any) -> Any:
        output = call(*args, **kwargs)
        tensors.setdefault(layers[id(layer)], []).append(output)
        return output

    x = inputs_for(model, 40, seed=1)
    rng = np.random.default_rng(2)
    with intercept_calls(leaves, watched), tf.GradientTape(persistent=True) as tape:
        results = tf.nest.flatten(model(x, training=False))
        answer = tf.add_n([tf.reduce_sum(one * rng.normal(size=one.shape)) for one in results])
    live = {}
    for path, found in tensors.items():
        marks = []
        for tensor in found:
            slope = tape.gradient(answer, tensor)
            values, slopes = np.asarray(tensor), np.zeros(tensor.shape) if slope is None else np.asarray(slope)
            varies = np.ptp(values, axis=0) > 1e-9 * np.abs(values).max()
            seen = np.abs(slopes).max(axis=0) > 1e-13 * max(np.abs(slopes).max(), 1e-300)
            marks.append((varies & seen).reshape(-1, values.shape[-1]).any(axis=0))
        live[path] = np.any(marks, axis=0)
    return live


def check_account(model: Any, done: Compaction, all_told: bool = True) -> None:
    """No live channel went, and of the dead ones that stayed each has its reason (or is not known to be dead)."""
    live = live_channels(model, done.channels)
    rows = {row.path: row for row in done.layers}
    for path, kept in done.channels.items():
        stays = np.zeros(rows[path].before, bool)
        stays[kept] = True
        assert not (live[path] & ~stays).any(), path
        dead = (stays & ~live[path]).sum()
        assert sum(rows[path].dead.values()) == dead if all_told else sum(rows[path].dead.values()) <= dead, path
        assert rows[path].after == stays.sum()


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("seed", "sparsity"), [(0, 0.4), (100, 0.6)])
def test_outputs_are_the_same_and_nothing_dead_stays_without_a_reason(
    name: str, package: str, seed: int, sparsity: float
) -> None:
    model, _ = made(name, package, seed, sparsity)
    done = compact(model)
    assert_same(model, done.model, 1e-12)
    check_account(model, done, all_told=name not in MORE_IS_DEAD)
