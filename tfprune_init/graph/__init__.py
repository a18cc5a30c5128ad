"""The structure of a network: which weights belong to which unit, so that whole units can be removed, and its cost.

A network is run once on an example, or its graph is read, as calls of layers in order (`trace`); labels of channels
travel along the tensors by the rule of each kind of layer (`layer_rules`) into one union-find (`channel_groups`). What
comes out is a `DependencyGraph`; `compaction` follows constants and use by the same rules; `cost` counts.
"""

from tfprune_init.graph.dependency_graph import DependencyGraph, build_dependency_graph

__all__ = [
    "DependencyGraph",
    "build_dependency_graph",
]
