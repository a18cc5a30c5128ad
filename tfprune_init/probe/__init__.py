"""The engine: what a masked network does to data. Leaves no trace on the model.

`Network` holds the model under masks and runs measurements on batches; each file beside it is one measurement;
`Probe` is what criteria see.
"""

from tfprune_init.probe.network import Arrays, finite
from tfprune_init.probe.probe import Probe

__all__ = ["Arrays", "Probe", "finite"]
