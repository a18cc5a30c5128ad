"""What is decided on the channels of a tensor, and on those of a sum, a product, or channels side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfprune_init.graph.layer_rules import find_rule
from tfprune_init.graph.layer_rules.merging import Concatenate, Product
from tfprune_init.graph.layer_rules.rule import find_axes
from tfprune_init.graph.trace import LayerCall


@dataclass(frozen=True)
class DecidedChannels:
    """The decisions on the channels of a tensor.

    Attributes:
        decisions: Symbolic tensor of shape (examples, channels).
        axis: Axis of the channels, with the batch as axis 0.
        is_aligned: Whether there is one decision for each channel; else each decides on the same number of them.
    """

    decisions: Any
    axis: int
    is_aligned: bool = True


def merge_decided(call: LayerCall, known: Sequence[DecidedChannels | None], name: str) -> DecidedChannels | None:
    """Return what is decided on the output of a layer that puts several inputs together.

    A channel of a sum is open where one of the terms is. One factor of 0 is enough for a product.

    Args:
        call: Call of a layer whose rule is `Merge` or `Concatenate`.
        known: What is decided on each input; None where all channels are open.
        name: Name of the layer that puts decisions together, if one is needed.
    """
    rule, rank = find_rule(call.layer), len(call.outputs[0].shape)
    pairs = [(one, tensor) for one, tensor in zip(known, call.inputs, strict=True) if one is not None]
    whole = [one for one, tensor in pairs if one.is_aligned and len(tensor.shape) == rank]
    if len({one.axis for one in whole}) != 1 or (len(whole) < len(known) and not isinstance(rule, Product)):
        return None
    axis = whole[0].axis
    if isinstance(rule, Concatenate):
        if find_axes(call.layer, rank - 1) != [axis - 1]:
            return None
        kind = keras.layers.Concatenate
    else:
        if any(one.decisions.shape[1] != call.outputs[0].shape[axis] for one in whole):
            return None
        kind = keras.layers.Multiply if isinstance(rule, Product) else keras.layers.Maximum
        whole = list({id(one.decisions): one for one in whole}.values())
    if len(whole) == 1:
        return whole[0]
    return DecidedChannels(kind(name=name)([one.decisions for one in whole]), axis)
