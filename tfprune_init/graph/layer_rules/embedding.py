"""Embedding tables: their width is not cut, nor is the residual stream that has it."""

from __future__ import annotations

import numpy as np

from tfprune_init.backend.protocols import Layer
from tfprune_init.graph.channel_groups import ChannelGroups, spread_labels
from tfprune_init.graph.layer_rules.contexts import ChannelRecord, LabelContext, SignalContext
from tfprune_init.graph.layer_rules.rule import LayerRule, register_rule
from tfprune_init.graph.signals import Signal, make_signal


@register_rule("Embedding")
class Embedding(LayerRule):
    """A row of a table for each index. Tables are not pruned, so what is added to a row has to keep its width."""

    def label(self, groups: ChannelGroups, use: LabelContext) -> np.ndarray:
        """Label the width, and let it stay."""
        labels = _pin_width(groups, use.variables["embeddings"].path, use.shape[-1])
        return spread_labels(labels, len(use.shape) - 1, use.shape)

    def find_reason(self, layer: Layer) -> str | None:
        """Return why such a layer is left whole, or None."""
        return None

    def follow(self, record: ChannelRecord, use: SignalContext) -> Signal:
        """Label the width, and let it stay."""
        target = use.variables["embeddings"]
        labels = _pin_width(record.groups, target.path, target.shape[-1])
        record.left_whole.setdefault(use.path, "Embedding keeps its width, and so does what is added to it")
        shape = (*use.first.shape, target.shape[-1])
        return make_signal(np.ones(shape, bool), np.zeros(shape), use.unsized, len(shape) - 1, labels)

    def find_used(self, use: SignalContext, output: Signal) -> list[np.ndarray]:
        """Return that each index is used."""
        return [np.ones(use.first.shape, bool)]


def _pin_width(groups: ChannelGroups, path: str, width: int) -> np.ndarray:
    labels = groups.make_labels_of(path, width)
    groups.pin(labels, f"has the width of {path}, which is not cut")
    return labels
