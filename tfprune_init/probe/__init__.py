"""The engine: what a masked network does to data. Leaves no trace on the model.

`Network` holds the model under masks, `averaging` runs a measurement on the batches that its replicas share; each other
file is one measurement; `Probe` is what criteria see.
"""

from tfprune_init.probe.averaging import finite
from tfprune_init.probe.network import Arrays
from tfprune_init.probe.probe import Probe

__all__ = ["Arrays", "Probe", "finite"]
