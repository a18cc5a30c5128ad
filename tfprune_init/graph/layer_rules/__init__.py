"""The one table of layer rules: what each kind of layer does to units, constants and use, and what it costs.

A new kind of layer is one class in a file of its family (or one more name at the decorator of a class that is there)
and one test. `build_dependency_graph` asks a rule what goes with which unit, `compact` which channels can be cut out,
`CostModel` how often each weight is multiplied.
"""

from tfprune_init.graph.layer_rules.contexts import ChannelRecord, LabelContext, SignalContext
from tfprune_init.graph.layer_rules.rule import (
    LayerRule,
    find_channel_rule,
    find_rule,
    is_elementwise,
    register_rule,
)
from tfprune_init.registry import import_modules

__all__ = [
    "ChannelRecord",
    "LabelContext",
    "LayerRule",
    "SignalContext",
    "find_channel_rule",
    "find_rule",
    "is_elementwise",
    "register_rule",
]

import_modules(__name__, __path__)
