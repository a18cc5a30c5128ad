"""Scopes: how scores compete. Scores and a density in, masks out: exact count, deterministic.

`selection` keeps exactly so many of the highest scores, `on_device` does so where the scores are. `layout` knows how
the weights of a variable lie: which axes are inputs and which outputs. A scope is a function of scores, a density,
candidates and layouts; single weights compete in `unstructured`, layers have shares of their own in
`layer_densities`, blocks, channels and groups compete in `structured`, whole units in `whole_units`. A new one is such
a function with the `scope` decorator, in a file of its family imported below.
"""

from tfprune_init.scopes.layer_densities import balanced, er, erk, layer_densities
from tfprune_init.scopes.layout import Layout
from tfprune_init.scopes.on_device import keep_top_on_device
from tfprune_init.scopes.registry import SCOPES, Scope, scope, scope_named
from tfprune_init.scopes.selection import keep_top, kept_count
from tfprune_init.scopes.structured import block, channel, n_m
from tfprune_init.scopes.tflite import tflite
from tfprune_init.scopes.unstructured import everywhere, layerwise
from tfprune_init.scopes.whole_units import UnitLayouts

__all__ = [
    "SCOPES",
    "Layout",
    "Scope",
    "UnitLayouts",
    "balanced",
    "block",
    "channel",
    "er",
    "erk",
    "everywhere",
    "keep_top",
    "keep_top_on_device",
    "kept_count",
    "layer_densities",
    "layerwise",
    "n_m",
    "scope",
    "scope_named",
    "tflite",
]
