"""Selection: scores and a density in, masks out: exact count, deterministic.

`granularities` say what is kept or pruned as one, a new one in a file of its own; `allocation` says how the budget is
shared out among layers; `top_k` keeps exactly so many of the highest scores; `mask_selection` puts them together.
"""

from tfprune_init.selection import granularities
from tfprune_init.selection.allocation import (
    ALLOCATIONS,
    Allocation,
    PerLayer,
    find_allocation,
    layer_densities,
    register_allocation,
)
from tfprune_init.selection.budget import Budget, count_kept
from tfprune_init.selection.granularities.whole_units import UnitLayouts
from tfprune_init.selection.granularity import GRANULARITIES, Granularity, register_granularity
from tfprune_init.selection.mask_selection import check_combination, choose_masks
from tfprune_init.selection.matrix_layout import Layout
from tfprune_init.selection.top_k import keep_top
from tfprune_init.selection.top_k_on_device import keep_top_on_device

__all__ = [
    "ALLOCATIONS",
    "GRANULARITIES",
    "Allocation",
    "Budget",
    "Granularity",
    "Layout",
    "PerLayer",
    "UnitLayouts",
    "check_combination",
    "choose_masks",
    "count_kept",
    "find_allocation",
    "granularities",
    "keep_top",
    "keep_top_on_device",
    "layer_densities",
    "register_allocation",
    "register_granularity",
]
