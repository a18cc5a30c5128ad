"""Gates: which channels a network needs, learned as factors of its channels."""

from tfprune_init.gates.discretization import Discretization, discretize
from tfprune_init.gates.insertion import insert_gates
from tfprune_init.gates.places import GateOverview, list_gate_places
from tfprune_init.gates.slimming import Slimming, find_slimming_masks, penalize_scales

__all__ = [
    "Discretization",
    "GateOverview",
    "Slimming",
    "discretize",
    "find_slimming_masks",
    "insert_gates",
    "list_gate_places",
    "penalize_scales",
]
