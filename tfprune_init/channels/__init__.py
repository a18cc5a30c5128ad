"""Channels to a budget: which groups of channels stay, so that the network that is left costs no more than asked for.

An importance judges channels (`importances/`, one file each), a reduction makes one number of all channels that stand
or fall together (`reductions`), a ranking puts these groups in one order (`ranking`), and `budget_search` keeps the
longest beginning of that order whose cost fits. `finding` puts them together, `account` says what came of it.
`reconstruction/` chooses channels by what the next layer gets, and refits it; `published_widths` has widths of papers.
"""

from tfprune_init.channels import importances
from tfprune_init.channels.account import FoundChannels, LayerWidth
from tfprune_init.channels.finding import find_channels
from tfprune_init.channels.importance_registry import IMPORTANCES, Importance, register_importance
from tfprune_init.channels.network import ChannelNetwork
from tfprune_init.channels.reductions import REDUCTIONS

__all__ = [
    "IMPORTANCES",
    "REDUCTIONS",
    "ChannelNetwork",
    "FoundChannels",
    "Importance",
    "LayerWidth",
    "find_channels",
    "importances",
    "register_importance",
]
