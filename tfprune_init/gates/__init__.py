"""Gates: which channels a network needs, learned as factors of its channels."""

from tfprune_init.gates.discretization import Discretization, discretize
from tfprune_init.gates.insertion import insert_gates
from tfprune_init.gates.places import GateOverview, list_gate_places

__all__ = ["Discretization", "GateOverview", "discretize", "insert_gates", "list_gate_places"]
