"""Wiring: which weights belong to which unit of a network, so that whole units can be removed.

The network runs once on an example while the calls of its layers are recorded (`record`); then labels of units travel
along the recorded tensors by the rule of each layer (`rules`, `ledger`); what they passed becomes a `Wiring`.
"""

from tfprune_init.wiring.wiring import Wiring, find_wiring

__all__ = ["Wiring", "find_wiring"]
