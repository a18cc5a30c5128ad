"""The scoring engine: measures of a masked network on data. The model is left unchanged.

`Network` holds the model under masks, `averaging` runs a measurement on the batches that its replicas share; each other
file is one measurement; `ScoringEngine` is what criteria see.
"""

from tfprune_init.scoring.accumulation import is_all_finite
from tfprune_init.scoring.engine import ScoringEngine
from tfprune_init.scoring.masked_model import Arrays

__all__ = [
    "Arrays",
    "ScoringEngine",
    "is_all_finite",
]
