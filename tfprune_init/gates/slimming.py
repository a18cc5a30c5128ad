"""Network Slimming: the scales of BatchNorm are the gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.weight_penalties import add_penalties
from tfprune_init.checks import check_number
from tfprune_init.errors import ModelError, ScoreError
from tfprune_init.gates.channel_choice import choose_channels
from tfprune_init.gates.model_calls import ModelCalls
from tfprune_init.graph.channel_groups import NO_LABEL, spread_labels
from tfprune_init.graph.dependency_graph import DependencyGraph, build_dependency_graph
from tfprune_init.graph.variables import ModelVariable, list_variables
from tfprune_init.masks import Masks
from tfprune_init.selection.budget import count_kept, parse_sparsity


@dataclass(frozen=True, eq=False)
class Slimming:
    """Which channels of a model have large scales, and masks that prune the others.

    Attributes:
        masks: What is kept: a channel goes with its incoming weights, bias, scale, offset, and outgoing weights.
        channels: For each kernel, by its path, whether each of its channels is kept; for each BatchNorm that selects
            inputs, by the path of its scale, whether each channel is.
        scales: For each of them the absolute scale of each channel, float64.
        left_whole: Why channels of each other kernel are not pruned, by path.
    """

    masks: Masks
    channels: dict[str, np.ndarray]
    scales: dict[str, np.ndarray]
    left_whole: dict[str, str]


@contextmanager
def penalize_scales(model: Model, strength: float = 1e-4) -> Iterator[None]:
    """Add strength * sum(abs(scale)) over all BatchNorm layers to the loss of a model, inside of a `with` block.

    The penalty is in `model.losses`: part of what `fit` minimizes, and of the loss that it shows. On leaving it is
    gone.

    Args:
        model: A built model, Keras 3 or tf_keras.
        strength: A positive number; the paper has 1e-4 for VGG, and 1e-5 for ResNet-164, DenseNet-40 and ImageNet.

    Raises:
        OptionError: If the strength is no positive number.
        ModelError: If the model has no BatchNorm with a scale that trains.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> L = keras.layers
        >>> model = keras.Sequential([keras.Input((4,)), L.Dense(8), L.BatchNormalization(), L.Dense(2)])
        >>> with tpi.penalize_scales(model, 0.25):
        ...     print([float(loss) for loss in model.losses])
        [2.0]
        >>> model.losses
        []

    Reference:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017,
        https://arxiv.org/abs/1708.06519
    """
    check_number("strength", strength, "a number above 0", lambda given: given > 0)
    compat.check_model(model)
    trainable = {id(one) for one in model.trainable_variables}
    scales = [target for target in _list_scales(model) if id(target.variable) in trainable]
    if not scales:
        raise ModelError(
            f"Model {model.name!r} has no BatchNorm with a scale that trains, so there is nothing to penalize. "
            "Network Slimming needs a network with BatchNorm; tpi.insert_gates gives others gates."
        )

    def penalize(scale: Any) -> tf.Tensor:
        return strength * tf.reduce_sum(tf.abs(tf.convert_to_tensor(scale)))

    with add_penalties(model, [(target.layer, target.variable) for target in scales], penalize):
        yield


def find_slimming_masks(model: Model, sparsity: float | Fraction, *, example: Any = None) -> Slimming:
    """Find the channels with the largest absolute scales in BatchNorm, of all layers together, and prune the others.

    Exactly floor(channels * (1 - sparsity)) stay, ties go to the lower position, and each layer keeps its best channel,
    also where more stay for it. A channel with several scales, as an expansion and the depthwise convolution behind it,
    counts with the largest.

    Where a sum ties channels to others they stay. A BatchNorm that reads the sum, as in pre-activation networks,
    selects inputs in their place: the layers behind it lose the weights on its channels of small scales, and the sum
    does not change. Channels without either, such as those of a network that adds behind BatchNorm, are left whole.

    Args:
        model: A built model, Keras 3 or tf_keras, best trained under `tpi.penalize_scales`. It stays as it is.
        sparsity: Share of the channels that goes, in [0, 1).
        example: One batch of inputs; only a subclassed model needs it.

    Returns:
        Slimming; its masks are for `tpi.attach` and `tpi.compact`.

    Raises:
        OptionError: If the sparsity is out of range.
        ModelError: If no channel can be pruned by its scale, or the model is subclassed and there is no example.
        ScoreError: If scales are NaN or infinite.
        DataError: If the model cannot run on the example.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> L = keras.layers
        >>> layers = [L.Dense(5, name="hidden"), L.BatchNormalization(name="bn"), L.ReLU(), L.Dense(2)]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> scales = layers[1].gamma.assign([0.1, 0.2, 0.3, 0.4, 0.5])
        >>> tpi.find_slimming_masks(model, 0.4).channels["hidden/kernel"].tolist()
        [False, False, True, True, True]

    Reference:
        As `tpi.penalize_scales`, whose code removes one channel more than that, and ties with it, and can empty layers.
    """
    share = parse_sparsity(sparsity)
    graph = build_dependency_graph(model, example)
    scales, left = _find_scaled(model, graph)
    selections = _find_selections(model, graph, scales)
    scales |= {one.path: one.scales for one in selections}
    if not scales:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(left.items())[:8])
        raise ModelError(f"Model {model.name!r} has no channel that can be pruned by its scale. Received: {reasons}.")
    kept = choose_channels(scales, count_kept(sum(values.size for values in scales.values()), 1 - share))
    removed = np.zeros(graph.removable.size, bool)
    for path, stays in kept.items():
        if path in graph.units:
            removed[graph.units[path][~stays]] = True
    masks = graph.masks(removed)
    for selection in selections:
        selection.apply(masks, kept[selection.path])
    return Slimming(Masks(masks), kept, scales, left)


@dataclass(frozen=True, eq=False)
class _InputSelection:
    """A BatchNorm that reads a sum, whose channels stay: what takes its outputs does without some of them.

    Attributes:
        path: Its scale.
        scales: The absolute scales, float64.
        places: Variables and axes that are indexed by its channels, with the channel at each index.
    """

    path: str
    scales: np.ndarray
    places: tuple[tuple[str, int, np.ndarray], ...]

    def apply(self, masks: dict[str, np.ndarray], kept: np.ndarray) -> None:
        """Prune the scale and offset of channels that are not kept, and the weights that take them."""
        for path, axis, channels in self.places:
            masks[path] = masks[path] & spread_labels(kept[channels], axis, masks[path].shape)


def check_scales(model: Model, example: Any = None) -> None:
    """Refuse a model without a channel that could be pruned by its scale.

    Raises:
        ModelError: If there is none.
        DataError: If the model cannot run on the example.
    """
    find_slimming_masks(model, Fraction(0), example=example)


def _list_scales(model: Model) -> list[ModelVariable]:
    """Return the scales of all BatchNorm layers."""
    return [
        target
        for target in list_variables(model)
        if target.name == "gamma" and "BatchNormalization" in compat.get_class_names(target.layer)
    ]


def _find_scaled(model: Model, graph: DependencyGraph) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the scale of each channel of each kernel whose channels may go by it; why others may not."""
    largest = np.full(graph.removable.size, -np.inf)
    for target in _list_scales(model):
        sizes = np.abs(target.tensor.numpy().astype(np.float64))
        if not np.isfinite(sizes).all():
            raise ScoreError(f"Scales of {target.path} are NaN or infinite. Try a lower learning rate.")
        for _, labels in graph.entries.get(target.path, ()):
            np.maximum.at(largest, labels[labels >= 0], sizes[labels >= 0])
    owners = np.zeros(graph.removable.size, int)
    for units in graph.units.values():
        owners[np.unique(units)] += 1
    scales, left = {}, dict(graph.unlabelled)
    for path, units in graph.units.items():
        stuck = units[~graph.removable[units]]
        if stuck.size:
            left[path] = f"it {graph.reasons.get(int(stuck[0]), 'has to stay')}"
        elif (owners[units] > 1).any():
            left[path] = "a sum ties its channels to others"
        elif len(np.unique(units)) < len(units):
            left[path] = "several of its channels are one unit"
        elif np.isneginf(largest[units]).any():
            left[path] = "no BatchNorm with a scale is behind it"
        else:
            scales[path] = largest[units]
    return scales, left


def _find_selections(model: Model, graph: DependencyGraph, scaled: Mapping[str, np.ndarray]) -> list[_InputSelection]:
    """Return the BatchNorms whose channels stay, and whose outputs are taken by layers with weights alone."""
    if not compat.is_symbolic(model):
        return []
    calls, variables = ModelCalls(model), list_variables(model)
    whole = np.unique(np.concatenate([graph.units[path] for path in scaled])) if scaled else np.zeros(0, int)
    found = []
    for target in _list_scales(model):
        labels = next((labels for _, labels in graph.entries.get(target.path, ())), np.zeros(0, int))
        takers = calls.find_takers(target.layer)
        if isinstance(takers, str) or not labels.size or np.isin(labels, [NO_LABEL, *whole]).any():
            continue
        if len(np.unique(labels)) < len(labels):
            continue
        order = np.argsort(labels)
        own = [one for one in variables if one.layer is target.layer and one.name in ("gamma", "beta")]
        places = [(one.path, 0, np.arange(len(labels))) for one in own]
        taken = []
        for one in variables:
            if any(one.layer is taker for taker in takers):
                rows = [(axis, at) for axis, at in graph.entries.get(one.path, ()) if np.isin(at, labels).all()]
                taken += [(one.path, axis, order[np.searchsorted(labels[order], at)]) for axis, at in rows]
        if len(taken) == len(takers) > 0:
            sizes = np.abs(target.tensor.numpy().astype(np.float64))
            found.append(_InputSelection(target.path, sizes, (*places, *taken)))
    return found
